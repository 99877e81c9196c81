"""Run timm's own scripts in this process, with our models, recipes and teacher: `vt-timm run train ...`.

The scripts stay as they are; what we add goes around the functions that they call. Every script uses the device that
there is; `validate`, `benchmark` and `inference` also take a training run for a model. `train` takes recipes by name,
and `around_train` says what else it gets.
"""

import functools
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import timm
import torch
from timm.data import CustomDatasetInfo
from timm.utils import ParseKwargs
from torch import nn

from ..errors import UserError, did_you_mean, first_line, say, some
from ..pipelines.classification import class_names, labels_of_folders
from ..recipes import find_recipe
from ..run_files import SETTINGS
from ..runs.train_run import is_run, load_run
from ..weights.download import check_reachable
from .around_train import prepare_training, wrap
from .checks import (
    ParsePairs,
    ScriptError,
    check_checkpoints,
    check_data_folder,
    check_strays,
    classes_of,
    create_or_say,
    read_dataset,
)
from .find import find_script, script_version
from .reading import finding_photos, reading_photos

LEAST_BENCH_ITER = 5  # benchmark.py says how far it is after every fifth of its steps
SPLITS = ("train", "training", "val", "valid", "validation", "eval", "evaluation", "test")  # as folders are called


def run_script(name: str, arguments: list[str], given: str | None = None) -> None:
    """Run a script of timm's as `python NAME.py ARGUMENTS` would, with what this module adds.

    Args:
        name: one of `SCRIPTS`.
        arguments: the script's command line.
        given: where the script is, if not where `find_script` would look.

    Raises:
        ScriptError: for a script that is not there, and for input that cannot work.
    """
    path = find_script(name, given)
    version = script_version(path)
    if version not in (None, timm.__version__):
        say(f"warning: {path} is of timm {version}, installed is {timm.__version__}")
    script = _load(name, path)
    sys.argv = [str(path), *_with_recipe_path(script, arguments)]
    _refuse_in_one_line(script, name)
    _choose_device(script)
    if name == "train":
        with ExitStack() as held:
            run = prepare_training(script, held)
            try:
                _run_main(script, name)
            except KeyboardInterrupt:
                run.say_how_to_go_on()
                raise
            run.report()
        return
    wrap(script, create_or_say, "create_model")
    args = script.parser.parse_known_args()[0]
    if name == "benchmark" and args.num_bench_iter < LEAST_BENCH_ITER:
        raise ScriptError(f"--num-bench-iter {args.num_bench_iter}: at least {LEAST_BENCH_ITER}")
    if name == "onnx_export":  # which calls timm.create_model itself
        _refuse_training_run(args)
        if not args.checkpoint:
            check_reachable(args.model)
    else:
        check_data_folder(args)
        check_checkpoints(args)
        if name == "inference":  # which calls photos by their names alone, and fails where folders share some
            script.parser.set_defaults(fullname=True)
        wrap(script, finding_photos, "create_dataset")
        wrap(script, _of_one_split, "create_dataset")
        _use_training_run(script)
        # --valid-labels says the classes of the folders' numbers.
        if name == "validate" and hasattr(script, "create_model") and not args.valid_labels:
            _number_as_the_model(script)
    wrap(script, reading_photos, "create_loader")
    # validate.py imports it when it needs it.
    timm.data.create_naflex_loader = reading_photos(inspect.unwrap(timm.data.create_naflex_loader))
    _run_main(script, name)


def _refuse_in_one_line(script: ModuleType, name: str) -> None:
    """Let the script's parser refuse a command line with the closest option, where it would list two hundred."""
    parser = script.parser

    def error(message: str) -> NoReturn:
        unknown = re.match("unrecognized arguments: ([^ =]+)", message)
        near = did_you_mean(unknown[1], parser._option_string_actions) if unknown else ""
        raise ScriptError(f"{name}: {message}{near or f'; `vt-timm run {name} --help` lists the options'}")

    parser.error, parser.prog = error, f"vt-timm run {name}"
    for action in parser._actions:
        if isinstance(action, ParseKwargs):
            action.__class__ = ParsePairs


def _run_main(script: ModuleType, name: str) -> None:
    """Run the script; whatever it raises, or a worker of its loader, becomes one line."""
    try:
        script.main()
    except Exception as error:
        lines = str(error).strip().splitlines()
        from_worker = any("Traceback (most recent" in line for line in lines)  # its own line is the last
        if isinstance(error, UserError) and from_worker:
            raise ScriptError(lines[-1].partition(": ")[2]) from error
        if isinstance(error, (OSError, UserError)) and not from_worker:
            raise
        reason = lines[-1] if from_worker else f"{type(error).__name__}: {first_line(error)}"
        raise ScriptError(f"timm's {name}.py stopped, {reason}; VT_TIMM_DEBUG=1 shows where") from error


def _with_recipe_path(script: ModuleType, arguments: list[str]) -> list[str]:
    """Let `--config NAME`, where NAME is not a file, mean the path of our recipe of that name."""
    if not hasattr(script, "config_parser"):  # which train.py alone has
        return arguments
    config = script.config_parser.parse_known_args(arguments)[0].config  # in any spelling; of several the last counts
    return [*arguments, "--config", str(find_recipe(config))] if config else arguments


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
    """Give timm's scripts, which want CUDA unless told, the device that there is where CUDA is not, and say so."""
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
    """Let `--model RUN` and `--checkpoint RUN/model_best.pth.tar` mean the run's model, with photos as evaluated."""
    args, _ = script.parser.parse_known_args()
    named = [Path(place) for place in (getattr(args, "checkpoint", ""), args.model) if place and is_run(Path(place))]
    if not named:
        return
    model = load_run(named[0])
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
    sys.argv += ["--model", architecture]
    if hasattr(args, "checkpoint"):  # which benchmark.py does not know
        sys.argv += ["--checkpoint", ""]
    script.create_model = lambda *args, **kwargs: model  # type: ignore[attr-defined]
    own: Any = model.pretrained_cfg
    if hasattr(script, "infer_imagenet_subset") and own.get("label_names"):  # else probabilities of nobody knows what
        info = CustomDatasetInfo(own["label_names"], own["label_descriptions"])
        vars(script).update(infer_imagenet_subset=lambda *_: "run", ImageNetInfo=lambda *_: info)


def _refuse_training_run(args: Any) -> None:
    """Refuse a run for onnx_export.py, which knows neither its classes nor its size: our own command does."""
    for name in filter(None, (args.checkpoint, args.model)):
        path = Path(name.removeprefix("local-dir:"))
        if is_run(path) or any((folder / SETTINGS).is_file() for folder in (path, path.parent)):
            command = shlex.join(["vt-timm", "export", name, "-o", args.output])
            raise ScriptError(f"{name} is a training run, of which onnx_export.py knows too little: say `{command}`")


def _of_one_split(create_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a split that a folder of other splits lacks: timm takes all of it, what was trained on included."""

    @functools.wraps(create_dataset)
    def create(*args: Any, **kwargs: Any) -> Any:
        dataset = read_dataset(create_dataset, *args, **kwargs)
        root, split, reader = kwargs.get("root"), kwargs.get("split"), getattr(dataset, "reader", None)
        if root and reader and type(reader).__name__ == "ReaderImageFolder" and Path(reader.root) == Path(root):
            there = [name for name in SPLITS if Path(root, name).is_dir()]
            if there:
                raise ScriptError(f"{root} has no folder {split}: choose another --split, it has {', '.join(there)}")
        return dataset

    return create


def _number_as_the_model(script: ModuleType) -> None:
    """Give class folders the numbers of the model's classes: timm counts them by name, some of them from 0 too."""
    create_model, create_dataset = script.create_model, script.create_dataset
    models: list[nn.Module] = []

    def create(*args: Any, **kwargs: Any) -> nn.Module:
        models[:] = [create_model(*args, **kwargs)]
        return models[0]

    def create_numbered(*args: Any, **kwargs: Any) -> Any:
        dataset = read_dataset(create_dataset, *args, **kwargs)
        folders = classes_of(dataset)
        if not folders or kwargs.get("class_map"):
            return dataset
        labels = labels_of_folders(folders, models[0])
        if labels is None:
            check_strays(dataset)
            names = class_names(models[0])
            raise ScriptError(
                f"{kwargs.get('root')}: its folders ({some(folders)}) are not the model's {len(names)} classes "
                f"({some(names)}): give it the folders' names as --class-map FILE.txt, one a line, in the model's order"
            )
        return dataset if labels == folders else read_dataset(create_dataset, *args, **{**kwargs, "class_map": labels})

    vars(script).update(create_model=create, create_dataset=create_numbered)
