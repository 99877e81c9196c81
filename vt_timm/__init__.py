"""Visual Transformers (Wu et al., 2020) for timm. Importing this package registers the models with timm."""

import os
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
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
    """True if `vt-timm` or `python -m vt_timm` is what runs: torch is slow to import, and `--help` does not need it.

    The file of the running program says so, not its name in sys.argv, which any program may have. There "-m" stands
    only while Python looks for the module to run.
    """
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:
        return sys.orig_argv[sys.orig_argv.index("-m") + 1] == __name__
    program = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    program = program.parent if program.name == "__main__.py" else program  # vt-timm.exe is a zip file
    if program.name not in ("vt-timm", "vt-timm.exe"):
        return False
    places = (sysconfig.get_path("scripts"), sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    return any(os.path.realpath(program) == os.path.realpath(Path(place, program.name)) for place in places)


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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # what is imported later, too


def __getattr__(name: str) -> Any:
    """Return a name of `__all__` that was not imported at once; `cli.main` asks for a model before a command runs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in (_LATER[name],) if name in _LATER else _AT_ONCE:
        names = vars(import_module(f".{module}", __name__))
        globals().update({public: names[public] for public in __all__ if public in names})
    return globals()[name]
