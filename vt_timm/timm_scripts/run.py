"""Run timm's own scripts in this process, with our models, recipes and teacher: `vt-timm run train ...`.

The scripts stay as they are; what we add goes around the functions that they call. Every script uses the device that
there is; `validate`, `benchmark` and `inference` also take a training run for a model. `train` takes recipes by name,
and `around_train` says what else it gets.

The scripts are in timm's repository, not in its wheel. They are looked for in this order: a path given, the environment
variable VT_TIMM_SCRIPTS, the checkout that an editable timm lies in, and a download of the tag that matches the
installed timm, kept in a cache.
"""

import base64
import functools
import importlib.util
import inspect
import json
import os
import re
import sys
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import timm
import torch
from huggingface_hub.utils.sha import git_hash
from timm.data import CustomDatasetInfo

from ..errors import UserError, did_you_mean, first_line, say
from ..files import whole_file
from ..recipes import find_recipe
from ..runs.train_run import is_run, load_run, read_description
from ..weights.download import check_reachable
from . import SCRIPTS
from .around_train import (
    ScriptError,
    check_checkpoints,
    check_data_folder,
    check_same_classes,
    create_or_say,
    prepare_training,
    read_dataset,
)
from .reading import finding_photos, reading_photos

REPOSITORY = "https://github.com/huggingface/pytorch-image-models"
SCRIPTS_VARIABLE = "VT_TIMM_SCRIPTS"
# GitHub's contents interface: unlike the plain file it also tells the hash, so that a cut download is noticed.
CONTENTS_VARIABLE = "VT_TIMM_SCRIPTS_URL"
CONTENTS = "https://api.github.com/repos/huggingface/pytorch-image-models/contents"
TIMEOUT = 20  # seconds
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
    sys.argv = [str(path), *_with_recipe_path(arguments)]
    _refuse_in_one_line(script, name)
    _choose_device(script)
    if name == "train":
        say_what_it_reached = prepare_training(script)
        _run_main(script, name)
        say_what_it_reached()
        return
    if hasattr(script, "create_model"):
        script.create_model = create_or_say(script.create_model)  # type: ignore[attr-defined]
    args = script.parser.parse_known_args()[0]
    if name == "onnx_export":  # which calls timm.create_model itself
        if not args.checkpoint:
            check_reachable(args.model)
    else:
        check_data_folder(args)
        check_checkpoints(args)
        if hasattr(script, "create_dataset"):
            script.create_dataset = _of_one_split(finding_photos(script.create_dataset))  # type: ignore[attr-defined]
        _use_training_run(script)
    if hasattr(script, "create_loader"):
        script.create_loader = reading_photos(script.create_loader)  # type: ignore[attr-defined]
    if hasattr(timm.data, "create_naflex_loader"):  # which validate.py imports when it needs it
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


def _run_main(script: ModuleType, name: str) -> None:
    """Run the script; whatever it raises, or a worker of its loader, becomes one line."""
    try:
        script.main()
    except (OSError, UserError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        from_worker = any(line.startswith("Traceback") for line in lines)  # its own line is the last
        reason = lines[-1] if from_worker else f"{type(error).__name__}: {first_line(error)}"
        raise ScriptError(f"timm's {name}.py stopped, {reason}; VT_TIMM_DEBUG=1 shows where") from error


def _with_recipe_path(arguments: list[str]) -> list[str]:
    """Make `--config NAME`, where NAME is not a file, the path of our recipe of that name."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("-c", "--config") and (equals or i + 1 < len(arguments)):
            path = find_recipe(value if equals else arguments[i + 1])
            arguments[i : i + (1 if equals else 2)] = [option, str(path)]
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
    run = named[0]
    model = load_run(run)
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
    sys.argv += ["--model", architecture, "--checkpoint", ""]
    script.create_model = lambda *args, **kwargs: model  # type: ignore[attr-defined]
    own: Any = model.pretrained_cfg
    if hasattr(script, "infer_imagenet_subset") and own.get("label_names"):  # else probabilities of nobody knows what
        info = CustomDatasetInfo(own["label_names"], own["label_descriptions"])
        vars(script).update(infer_imagenet_subset=lambda *_: "run", ImageNetInfo=lambda *_: info)
    if hasattr(script, "create_dataset") and script.__name__ != "timm_inference":  # which asks for no classes
        names = read_description(run if run.is_dir() else run.parent).get("classes")
        script.create_dataset = _with_the_runs_classes(names, script.create_dataset)  # type: ignore[attr-defined]


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


def find_script(name: str, given: str | None = None) -> Path:
    """Return the file of one of timm's scripts.

    Args:
        name: one of `SCRIPTS`.
        given: the script, or a folder that it lies in.

    Raises:
        ScriptError: if it is none of timm's scripts, or is nowhere to be had.
    """
    if name not in SCRIPTS:
        raise ScriptError(f"timm has no script {name!r} that runs here: choose one of {', '.join(SCRIPTS)}")
    for origin, place in (("--from", given), (SCRIPTS_VARIABLE, os.environ.get(SCRIPTS_VARIABLE))):
        if place:
            path = Path(place).expanduser()
            path = path / f"{name}.py" if path.is_dir() else path
            if not path.is_file():
                raise ScriptError(f"{origin} {place}: there is no {path}; {_how_to_get_them()}")
            return path
    checkout = Path(timm.__file__).parents[1]
    if (checkout / f"{name}.py").is_file() and script_version(checkout / f"{name}.py"):
        return checkout / f"{name}.py"
    return _cached(name) or _download(name)


def script_version(script: Path) -> str | None:
    """Return the version of timm that a script came with, None where it does not lie in a checkout or our cache."""
    version = script.parent / "timm" / "version.py"
    if version.is_file():
        found = re.search(r"__version__ = '(.+)'", version.read_text())
        return found[1] if found else None
    return script.parent.name.removeprefix("timm-") if script.parent.parent == _cache() else None


def _cache() -> Path | None:
    """Return the folder of our downloads, None for a user without a home, as some containers have."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if folder.startswith("~") else Path(folder) / "vt_timm"


def _cached(name: str) -> Path | None:
    """Return a download whose content still has the hash in its name."""
    folder = _cache()
    for path in folder.glob(f"timm-{timm.__version__}/{name}.*.py") if folder else ():
        if git_hash(path.read_bytes()) == path.name.split(".")[1]:
            return path
    return None


def _download(name: str) -> Path:
    folder = _cache()
    if folder is None:
        raise ScriptError(
            f"timm's {name}.py is not on this machine, and this user has no home folder to keep it in: set "
            f"XDG_CACHE_HOME to a folder that can be written, or {_how_to_get_them()}"
        )
    url = f"{os.environ.get(CONTENTS_VARIABLE, CONTENTS)}/{name}.py?ref=v{timm.__version__}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            answer = json.load(response)
        content, sha = base64.b64decode(answer["content"]), answer["sha"]
    except (OSError, HTTPException, KeyError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ScriptError(
            f"timm's {name}.py is not on this machine and {url} gives none ({reason}); {_how_to_get_them()}"
        ) from error
    if git_hash(content) != sha:
        raise ScriptError(f"{url} gave a damaged file; try again, or {_how_to_get_them()}")
    path = folder / f"timm-{timm.__version__}" / f"{name}.{sha}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:  # several processes may download at once
            file.write_bytes(content)
    except OSError as error:
        raise ScriptError(
            f"cannot keep timm's {name}.py in {folder} ({error}): set XDG_CACHE_HOME to a folder that can be "
            f"written, or {_how_to_get_them()}"
        ) from error
    return path


def _how_to_get_them() -> str:
    return (
        f"run `git clone --branch v{timm.__version__} {REPOSITORY}` "
        f"and set {SCRIPTS_VARIABLE}=pytorch-image-models, or say `vt-timm run --from pytorch-image-models ...`"
    )
