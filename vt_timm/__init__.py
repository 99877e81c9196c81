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
    "load",
    "record_attention",
    "sample_photo",
    "vt_resnet18",
    "vt_resnet34",
    "vt_resnet50",
    "vt_resnet101",
    "vt_resnet_micro",
]


def _is_command() -> bool:
    """Whether `vt-timm` or `python -m vt_timm` starts: torch is slow to import, and `--help` does not need it."""
    return PurePath(sys.argv[0] if sys.argv else "").stem == "vt-timm" or ("-m", "vt_timm") in pairwise(sys.orig_argv)


# What is imported when it is first asked for. To look at photos takes more than to build a model does.
_LATER = {"load": "pipelines.sources", "sample_photo": "images"}
_AT_ONCE = ("attention_maps", "distillation", "segmentation.model", "vt_resnet")

if TYPE_CHECKING or not _is_command():
    from .attention_maps import record_attention
    from .distillation import create_teacher, distillation_task
    from .segmentation.model import Segmenter, create_segmenter
    from .vt_resnet import VTResNet, vt_resnet18, vt_resnet34, vt_resnet50, vt_resnet101, vt_resnet_micro
if TYPE_CHECKING:
    from .images import sample_photo
    from .pipelines.sources import load


def __getattr__(name: str) -> Any:
    """The names of `__all__` that were not imported at once; `cli.main` asks for a model before a command runs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in (_LATER[name],) if name in _LATER else _AT_ONCE:
        names = vars(import_module(f".{module}", __name__))
        globals().update({public: names[public] for public in __all__ if public in names})
    return globals()[name]
