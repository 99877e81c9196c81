"""Run timm's own scripts in this process, with our models, recipes and teacher: `vt-timm run train ...`.

The scripts stay as they are; what is added goes around the functions that they call. For `train`: recipes by name,
`--resume auto`, a teacher at its own image size, randomness that depends on seed and epoch alone so that a resumed run
goes on as if it had not stopped, and one clear line for what would otherwise fail late or train nonsense.
"""

import argparse
import difflib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import yaml
from timm.utils import random_seed
from torch import nn

from ..distillation import create_teacher
from ..errors import first_line
from ..recipes import find_recipe
from .find import ScriptError, find_script, script_version

__all__ = ["run_script"]

RANK = int(os.environ.get("RANK", "0"))  # set by torchrun


def run_script(name: str, arguments: list[str], given: str | None = None) -> None:
    """Run a script of timm's as `python NAME.py ARGUMENTS` would, after the checks above.

    Args:
        name: one of `timm_scripts.SCRIPTS`.
        arguments: its command line.
        given: where the script is, if not where `find_script` would look.

    Raises:
        ScriptError: for a script that is not there, and for input that cannot work.
    """
    path = find_script(name, given)
    _warn_of_another_version(path)
    arguments = _with_recipe_path(arguments)
    script = _load(name, path)
    sys.argv = [str(path), *arguments]
    if name == "train":
        _prepare_training(script)
    elif name != "onnx_export":
        _check_data_folder(script.parser.parse_known_args()[0])
    script.main()


def _warn_of_another_version(path: Path) -> None:
    version = script_version(path)
    if version not in (None, timm.__version__) and RANK == 0:
        print(f"vt-timm: warning: {path} is of timm {version}, installed is {timm.__version__}", file=sys.stderr)


def _with_recipe_path(arguments: list[str]) -> list[str]:
    """`--config NAME` where NAME is no file becomes the path of our recipe of that name."""
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


def _prepare_training(script: ModuleType) -> None:
    _add_teacher_options(script.parser)
    _check_settings(script)
    args, _ = script._parse_args()
    _check_data_folder(args)
    _resume_where_it_stopped(args)
    student: dict[str, Any] = {}
    vars(script).update(
        create_model=_remembering(student, script.create_model),
        create_dataset=_checking_classes(student, script.create_dataset),
        create_loader=_without_persistent_workers(script.create_loader),
        train_one_epoch=_seeded_by_epoch(args.seed, script.train_one_epoch),
        LogitDistillationTask=_with_our_teacher(student, args, script.LogitDistillationTask),
    )


def _add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """What `train.py` lacks for a teacher of a thousand classes and a student of ten."""
    group = parser.add_argument_group("Teacher (vt_timm)")
    group.add_argument(
        "--kd-classes",
        metavar="auto|FILE",
        help="the teacher's classes that answer: those that the class folders are called (auto), or a text file with "
        "one name or number per line, in the student's order",
    )
    group.add_argument("--kd-img-size", type=int, metavar="N", help="side of the teacher's images (default: its own)")


def _names_for_teacher(option: str | None, class_to_idx: dict[str, int] | None) -> list[str] | None:
    """The student's classes in the teacher's words, from `--kd-classes`."""
    if option is None:
        return None
    if option != "auto":
        try:
            return Path(option).read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"--kd-classes {option}: {first_line(error)}") from error
    if not class_to_idx:
        raise ScriptError("--kd-classes auto needs data in class folders: name a file with the classes instead")
    return sorted(class_to_idx, key=class_to_idx.__getitem__)


def _check_settings(script: ModuleType) -> None:
    """timm takes any key from a YAML file, so that a mistyped one would have no effect without a word."""
    config, _ = script.config_parser.parse_known_args()
    if not config.config:
        return
    settings = yaml.safe_load(Path(config.config).read_text()) or {}
    known = {action.dest for action in script.parser._actions} | {"recipe"}
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ScriptError(f"{config.config}: this train.py has no setting {key}{hint}")


def _check_data_folder(args: Any) -> None:
    if getattr(args, "dataset", "") or not hasattr(args, "data_dir"):  # a reader of timm's that knows its own place
        return
    folder = args.data_dir or args.data
    if not folder:
        raise ScriptError("no data: name the folder that holds train and validation images with --data-dir")
    if not Path(folder).exists():
        raise ScriptError(f"--data-dir {folder}: there is no such folder")


def _resume_where_it_stopped(args: Any) -> None:
    """`--resume auto`: from the last finished epoch of this experiment, from the start if there is none."""
    if args.resume != "auto":
        return
    if not args.experiment:
        raise ScriptError("--resume auto needs --experiment NAME, to find the run again")
    last = Path(args.output or "output/train") / args.experiment / "last.pth.tar"
    sys.argv += ["--resume", str(last) if last.is_file() else ""]


def _remembering(student: dict[str, Any], create_model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    @functools.wraps(create_model)
    def create(name: str, **kwargs: Any) -> nn.Module:
        try:
            model = create_model(name, **kwargs)
        except (RuntimeError, ValueError, TypeError) as error:
            close = difflib.get_close_matches(name, timm.list_models(), n=3) if "Unknown model" in str(error) else []
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ScriptError(f"cannot create {name}: {first_line(error)}{hint}") from error
        student.update(name=name, num_classes=model.num_classes)
        return model

    return create


def _checking_classes(student: dict[str, Any], create_dataset: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(create_dataset)
    def create(*args: Any, **kwargs: Any) -> Any:
        try:
            dataset = create_dataset(*args, **kwargs)
        except Exception as error:  # whatever its reader raises: no images, a missing package, a tar that is cut off
            raise ScriptError(f"cannot read the data of split {kwargs.get('split')}: {first_line(error)}") from error
        classes = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
        if classes and len(classes) != student["num_classes"]:
            raise ScriptError(
                f"the data has {len(classes)} classes ({', '.join(list(classes)[:3])}, ...) and {student['name']} "
                f"{student['num_classes']}: pass --num-classes {len(classes)}, or another --data-dir"
            )
        student.setdefault("class_to_idx", classes)
        return dataset

    return create


def _without_persistent_workers(create_loader: Callable[..., Any]) -> Callable[..., Any]:
    """Workers that live on carry random state from epoch to epoch that no checkpoint has."""
    return functools.partial(create_loader, persistent_workers=False)


def _seeded_by_epoch(seed: int, train_one_epoch: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(train_one_epoch)
    def train(epoch: int, *args: Any, **kwargs: Any) -> Any:
        random_seed((seed + 1_000_003 * (epoch + 1)) % 2**31, RANK)  # a prime apart, so that no two ranks' seeds meet
        return train_one_epoch(epoch, *args, **kwargs)

    return train


def _with_our_teacher(student: dict[str, Any], args: Any, task: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(task)
    def create(student_model: nn.Module, teacher_model: str, **kwargs: Any) -> Any:
        try:
            teacher = create_teacher(
                teacher_model,
                student_model.num_classes,  # type: ignore[arg-type]
                student_model.in_chans,  # type: ignore[arg-type]
                kwargs.get("device"),
                kwargs.get("dtype"),
                classes=_names_for_teacher(args.kd_classes, student.get("class_to_idx")),
                img_size=args.kd_img_size,
            )
        except (RuntimeError, ValueError) as error:
            raise ScriptError(str(error)) from error
        return task(student_model=student_model, teacher_model=teacher, **kwargs)

    return create
