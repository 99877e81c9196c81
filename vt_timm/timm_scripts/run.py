"""Run timm's own scripts in this process, with our models, recipes and teacher: `vt-timm run train ...`.

The scripts stay as they are; what we add goes around the functions that they call. Every script uses the device that
there is; `validate`, `benchmark` and `inference` also take a training run for a model. `train` takes recipes by name,
and `around_train` says what else it gets.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch

from ..errors import say
from ..recipes import find_recipe
from ..weights.training_run import is_run, load_run, read_description
from .around_train import prepare_training
from .find import ScriptError, find_script, script_version
from .photos import check_data_folder, check_same_classes, read_dataset

__all__ = ["run_script"]


def run_script(name: str, arguments: list[str], given: str | None = None) -> None:
    """Run a script of timm's as `python NAME.py ARGUMENTS` would, with what this module adds.

    Args:
        name: one of `find.SCRIPTS`.
        arguments: the script's command line.
        given: where the script is, if not where `find_script` would look.

    Raises:
        ScriptError: for a script that is not there, and for input that cannot work.
    """
    path = find_script(name, given)
    _warn_of_another_version(path)
    script = _load(name, path)
    sys.argv = [str(path), *_with_recipe_path(arguments)]
    _choose_device(script)
    if name == "train":
        prepare_training(script)
    elif name != "onnx_export":
        check_data_folder(script.parser.parse_known_args()[0])
        _use_training_run(script)
    script.main()


def _warn_of_another_version(path: Path) -> None:
    version = script_version(path)
    if version not in (None, timm.__version__):
        say(f"warning: {path} is of timm {version}, installed is {timm.__version__}")


def _with_recipe_path(arguments: list[str]) -> list[str]:
    """`--config NAME` where NAME is not a file becomes the path of our recipe of that name."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("-c", "--config") and (equals or i + 1 < len(arguments)):
            value = value if equals else arguments[i + 1]
            if not Path(value).is_file():
                try:
                    value = str(find_recipe(value))
                except ValueError as error:
                    raise ScriptError(f"--config {value}: {error}") from error
            arguments[i : i + (1 if equals else 2)] = [option, value]
            break
    return arguments


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"timm_{name}", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    try:
        spec.loader.exec_module(script)
    except ImportError as error:
        raise ScriptError(f"{path} does not run with the installed timm {timm.__version__}: {error}") from error
    return script


def _choose_device(script: ModuleType) -> None:
    """timm's scripts want CUDA unless told; on a machine without it they get the device that there is, and say so."""
    parser = script.parser
    if not any(action.dest == "device" for action in parser._actions) or torch.cuda.is_available():
        return
    if str(parser.get_default("device")).startswith("cuda"):
        found = "mps" if torch.backends.mps.is_available() else "cpu"
        parser.set_defaults(device=found)
        if not any(argument.startswith("--device") for argument in sys.argv):
            say(f"no CUDA device here: running on {found}")
    asked = parser.parse_known_args()[0].device
    if asked.startswith("cuda"):
        raise ScriptError(f"--device {asked}: there is no CUDA device here; leave the option out to use what there is")


def _use_training_run(script: ModuleType) -> None:
    """`--model RUN` and `--checkpoint RUN/model_best.pth.tar` mean the run's model, with photos as it was evaluated."""
    args, _ = script.parser.parse_known_args()
    named = [Path(place) for place in (getattr(args, "checkpoint", ""), args.model) if place and is_run(Path(place))]
    if not named:
        return
    run = named[0]
    model = load_run(run)
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
    sys.argv += ["--model", architecture, "--checkpoint", ""]
    script.create_model = lambda *args, **kwargs: model  # type: ignore[attr-defined]
    if hasattr(script, "create_dataset"):
        names = read_description(run if run.is_dir() else run.parent).get("classes")
        script.create_dataset = _with_the_runs_classes(names, script.create_dataset)  # type: ignore[attr-defined]


def _with_the_runs_classes(names: list[str] | None, create_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse other class folders than the run's: classes would have other numbers, and every score would be wrong."""

    @functools.wraps(create_dataset)
    def create(*args: Any, **kwargs: Any) -> Any:
        dataset = read_dataset(create_dataset, *args, **kwargs)
        classes = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
        if names and classes and not kwargs.get("class_map"):
            check_same_classes({n: i for i, n in enumerate(names)}, classes, ("the run", str(kwargs.get("root"))))
        return dataset

    return create
