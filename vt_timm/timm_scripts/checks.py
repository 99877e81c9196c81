"""What keeps a script of timm's from running, said in one line."""

import argparse
import functools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from timm.utils import ParseKwargs
from timm.utils.misc import natural_key
from torch import nn

from ..errors import UserError, first_line, some
from ..files import find_circle, identity, near
from ..run_files import ARGUMENTS, BEST, CHECKPOINT, CHECKPOINTS
from ..runs.train_run import is_run, read_weights
from ..weights.download import check_reachable
from ..weights.published import name_that_was_meant


class ScriptError(UserError):
    """An error that says in one line what keeps a script from running."""


class ParsePairs(ParseKwargs):
    """timm's parser of KEY=VALUE, which itself shows a traceback for anything else."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for value in filter(None, values):
            if "=" not in value:
                raise argparse.ArgumentError(self, f"{value} is no {self.metavar or 'KEY=VALUE'}")
        super().__call__(parser, namespace, values, option_string)


def check_data_folder(args: Any) -> None:
    """Refuse a folder that is missing or goes round; a reader of timm's (`--dataset`) knows its own place."""
    if getattr(args, "dataset", "") or not hasattr(args, "data_dir"):
        return
    folder = args.data_dir or args.data
    if not folder:
        raise ScriptError("no data: name the folder that holds train and validation images with --data-dir")
    if not Path(folder).exists():
        raise ScriptError(f"--data-dir {folder}: there is no such folder")
    circle = find_circle(Path(folder)) if Path(folder).is_dir() else None
    if circle:
        raise ScriptError(
            f"{circle} leads back to a folder that it lies in, so that timm would read the same photos again and again "
            "under the names of other classes: delete this link"
        )


def check_checkpoints(args: Any) -> None:
    """Refuse a checkpoint that is not there; timm says so without a name, once a network is built."""
    for option in ("initial_checkpoint", "resume", "checkpoint"):
        value = str(getattr(args, option, "") or "")
        if value and not (option == "resume" and value == "auto") and ":" not in value and not Path(value).exists():
            raise ScriptError(f"--{option.replace('_', '-')} {value}: there is no such file")
        if value and option != "checkpoint" and Path(value).is_dir():  # of which validate.py takes all
            raise ScriptError(
                f"--{option.replace('_', '-')} {value}: this is a folder; name a checkpoint in it, such as "
                f"{Path(value, CHECKPOINTS[BEST])}"
            )


def newest_beside(lost: Path) -> Path | None:
    """Return what a run can go on from without one of its checkpoints: the newest other one, else the best."""
    best = lost.with_name(CHECKPOINTS[BEST])
    numbered = sorted(lost.parent.glob(f"checkpoint-*{CHECKPOINT}"), key=lambda path: natural_key(path.name))
    # timm keeps an epoch under several names of one file.
    others = [path for path in (best, *numbered) if path.is_file() and identity(path) != identity(lost)]
    return others[-1] if others else None


def create_or_say(create_model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return timm's `create_model`, which asks the Hub once and says in one line what is wrong with a model's name."""

    @functools.wraps(create_model)
    def create(name: str, *args: Any, **kwargs: Any) -> nn.Module:
        _check_folder(name)
        try:
            if kwargs.get("pretrained"):
                check_reachable(name)
            return create_model(name, *args, **kwargs)
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            reason, checkpoint = first_line(error), kwargs.get("checkpoint_path")
            if checkpoint:
                read_weights(Path(checkpoint))  # which says that it is damaged, if it is
            if checkpoint and "size mismatch" in reason:
                raise ScriptError(
                    f"--initial-checkpoint {checkpoint} does not fit {name} with {kwargs.get('num_classes')} classes: "
                    "to begin with weights of other classes, without their head, say --pretrained --pretrained-path "
                    f"{checkpoint} instead ({reason})"
                ) from error
            raise ScriptError(f"cannot create {name}: {reason}{name_that_was_meant(name, reason)}") from error

    return create


def resume_or_say(resume: Callable[..., Any]) -> Callable[..., Any]:
    """Return timm's function that goes on from a checkpoint, which says in one line that it does not fit."""

    @functools.wraps(resume)
    def go_on(network: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return resume(network, path, *args, **kwargs)
        except (KeyError, RuntimeError, ValueError) as error:  # whose text lists every weight
            raise ScriptError(
                f"--resume {path} does not fit the model, its options or the optimizer of this command: go on with "
                f"those of {Path(path).with_name(ARGUMENTS)}"
            ) from error

    return go_on


def _check_folder(name: str) -> None:
    """Refuse a folder that is not written as timm wants it, and a name that looks like a folder and is none."""
    if ":" in name or timm.is_model(name):
        return
    if is_run(Path(name)):
        run = Path(name) if Path(name).is_dir() else Path(name).parent
        kept = [run / file for file in CHECKPOINTS.values() if (run / file).is_file()]
        raise ScriptError(
            f"{name} is a training run: to go on from its weights name its architecture as --model, and say "
            f"--initial-checkpoint {shlex.quote(str(kept[0] if run == Path(name) and kept else name))}"
        )
    if Path(name).is_dir():
        raise ScriptError(f"{name} is a folder: say {shlex.quote(f'local-dir:{name}')}")
    if "/" in name:
        raise ScriptError(
            f"there is no model at {name}{near(Path(name)) or f'; a repository of the Hub is called hf-hub:{name}'}"
        )


def read_dataset(create_dataset: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return a data set of timm's, or raise one line that says which split cannot be read."""
    name = str(args[0] if args else kwargs.get("name", ""))
    if "/" in name and not name.partition("/")[2]:
        raise ScriptError(f"--dataset {name}: name the data set behind the slash, as in {name}NAME")
    try:
        return create_dataset(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:  # whatever its reader raises: no images, a missing package, a tar that is cut off
        reason = first_line(error).partition(". Supported image extensions")[0]  # a list of sixty
        if isinstance(error, TypeError) and not kwargs.get("root"):
            reason = "it lies in a folder, which --data-dir has to name"
        raise ScriptError(f"cannot read the data of split {kwargs.get('split')}: {reason}") from error


def classes_of(dataset: Any) -> dict[str, int] | None:
    """Return the number of each class of a data set of timm's, None where its reader knows no names."""
    reader = getattr(dataset, "reader", None)
    # The reader of tar files has another name for it.
    return getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None) or None


def check_same_classes(first: Mapping[str, int], other: Mapping[str, int], names: tuple[str, str]) -> None:
    """Refuse other class folders: timm numbers classes by the folders' names, so that each number would mean another.

    Args:
        first: the number of each class.
        other: the numbers to compare with.
        names: where each comes from, for the message.
    """
    if dict(first) == dict(other):
        return
    lacking = [
        f"only {name} has photos of {some(map(_named, sorted(own)))}"
        for name, own in ((names[0], set(first) - set(other)), (names[1], set(other) - set(first)))
        if own
    ] or ["the same classes are in another order, which a --class-map gives them"]
    raise ScriptError(f"{names[0]} and {names[1]} differ in their classes: {'; '.join(lacking)}")


def _named(one: str) -> str:
    """Return a class's name in a list of names, where one with a comma would be two, and an empty one none."""
    return f"'{one}'" if "," in one or not one else one


def check_strays(dataset: Any) -> None:
    """Refuse photos beside the class folders, which timm takes for a class without a name."""
    if "" in (classes_of(dataset) or {}):
        index = next(i for i, name in enumerate(dataset.filenames()) if Path(name).parent == Path())
        stray = dataset.filename(index, absolute=True)
        raise ScriptError(f"{stray} lies in no class folder: move it into one, or out of the data")
