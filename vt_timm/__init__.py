"""Visual Transformers (Wu et al., 2020) for timm. Importing this package registers the models with timm."""

import sys
from importlib import import_module
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Segmenter",
    "VTResNet",
    "create_segmenter",
    "create_teacher",
    "distillation_task",
    "record_attention",
    "vt_resnet18",
    "vt_resnet34",
    "vt_resnet50",
    "vt_resnet101",
    "vt_resnet_micro",
]


def _is_command() -> bool:
    """Whether `vt-timm` or `python -m vt_timm` starts: torch is slow to import, and `--help` does not need it."""
    return PurePath(sys.argv[0] if sys.argv else "").stem == "vt-timm" or ("-m", "vt_timm") in pairwise(sys.orig_argv)


if TYPE_CHECKING or not _is_command():
    from .attention_maps import record_attention
    from .distillation import create_teacher, distillation_task
    from .segmentation.model import Segmenter, create_segmenter
    from .vt_resnet import VTResNet, vt_resnet18, vt_resnet34, vt_resnet50, vt_resnet101, vt_resnet_micro
else:

    def __getattr__(name: str) -> Any:
        """The same names, imported when the first is asked for; `cli.main` asks before a command runs."""
        if name in __all__:
            for module in ("attention_maps", "distillation", "segmentation.model", "vt_resnet"):
                names = vars(import_module(f".{module}", __name__))
                globals().update({public: names[public] for public in __all__ if public in names})
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
