"""Wrappers around the functions that timm's train.py calls, so that the script stays as it is.

They add a teacher at its own image size, randomness that depends on seed and epoch alone, so that a resumed run goes
on as if it had not stopped, arguments that the data decides, a description of the model beside its checkpoints, and
one clear line for what would otherwise fail late, train nonsense, or overwrite an earlier run. The photos that a
training is given are found, counted, their classes named, and the batch fitted to them.
"""

import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import yaml
from timm.data import ImageDataset
from timm.utils import random_seed
from torch import nn

from ..distillation import create_teacher
from ..errors import UserError, did_you_mean, first_line, say
from ..files import find_circle, near, read_text
from ..run_files import ARGUMENTS, CHECKPOINTS, LAST
from ..runs.train_run import read_description, write_description
from ..token_overlap import add_token_overlap
from ..weights.download import check_reachable
from .best import MEASURED, prefer_lower_loss, report
from .reading import finding_photos, reading_photos

OUTPUT = "output/train"  # train.py's default
RANK = int(os.environ.get("RANK", "0"))  # set by torchrun, as the next
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
UPDATES_PER_EPOCH = 4  # at least, unless the batch would become smaller than SMALLEST_BATCH
NO_FOLDER = "photos that lie in no class folder"  # which timm takes for a class without a name
SMALLEST_BATCH = 8  # below it, a batch norm's statistics are mostly noise


class ScriptError(UserError):
    """An error that says in one line what keeps a script from running."""


def prepare_training(script: ModuleType) -> Callable[[], None]:
    """Check the command line of a loaded train.py, complete it, and wrap what its `main` calls.

    Returns:
        What to call when `main` has ended: it says what the run has reached.
    """
    _add_options(script.parser)
    _check_settings(script)
    args, _ = script._parse_args()
    check_data_folder(args)
    check_checkpoints(args)
    _resume_where_it_stopped(args)
    _check_output(args)
    _check_metric(args)
    script.create_dataset = finding_photos(script.create_dataset)  # type: ignore[attr-defined]
    batch_is_typed = any(a.startswith(("-b", "--batch-size")) for a in sys.argv)
    sys.argv += fit_to_photos(args, script.create_dataset, PROCESSES, batch_is_typed)
    run = TrainingRun(script, args)
    vars(script).update(
        create_model=run.create_model,
        resolve_data_config=run.resolve_data_config,
        create_dataset=run.create_dataset,
        # New workers for every epoch: old ones would carry on random state that no checkpoint has.
        create_loader=functools.partial(reading_photos(script.create_loader), persistent_workers=False),
        train_one_epoch=run.train_one_epoch,
        print=_print_no_json,
    )
    if hasattr(script, "create_naflex_loader"):
        script.create_naflex_loader = reading_photos(script.create_naflex_loader)  # type: ignore[attr-defined]
    for name in ("ClassificationTask", "LogitDistillationTask", "TokenDistillationTask", "FeatureDistillationTask"):
        if hasattr(script, name):  # which of them there are depends on timm's version
            setattr(script, name, run.with_teacher_and_overlap(name, getattr(script, name)))
    return run.report


def _print_no_json(*values: Any, **options: Any) -> None:
    """Print, but not train.py's last words, which are meant for programs; `report` takes their place."""
    if not (values and str(values[0]).startswith("--result\n")):
        print(*values, **options)


def _add_options(parser: Any) -> None:
    """Add the options that `train.py` lacks: for a teacher of more classes than the student, and for its tokens."""
    group = parser.add_argument_group("Teacher (vt_timm)")
    group.add_argument(
        "--kd-classes",
        metavar="auto|FILE",
        help="the teacher's classes that answer: those that the class folders are called (auto), or a text file with "
        "one name or number per line, in the student's order",
    )
    group.add_argument("--kd-img-size", type=int, metavar="N", help="side of the teacher's images (default: its own)")
    group = parser.add_argument_group("Tokens (vt_timm)")
    group.add_argument(
        "--token-overlap",
        type=float,
        default=0.0,
        metavar="W",
        help="add W times the overlap of the tokens' maps to the loss, so that tokens look at different places "
        "(default: 0)",
    )


def _check_settings(script: ModuleType) -> None:
    """Refuse a key that train.py does not know: timm takes any from a YAML file, and a mistyped one has no effect."""
    config, _ = script.config_parser.parse_known_args()
    if not config.config:
        return
    try:
        settings = yaml.safe_load(read_text(Path(config.config))) or {}
    except yaml.YAMLError as error:
        raise ScriptError(f"{config.config}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise ScriptError(f"{config.config}: no settings in this file; it holds lines of KEY: VALUE")
    known = {action.dest for action in script.parser._actions} | {"recipe"}
    for key in settings:
        if key not in known:
            raise ScriptError(f"{config.config}: this train.py has no setting {key}{did_you_mean(str(key), known)}")


def _resume_where_it_stopped(args: Any) -> None:
    """Let `--resume auto` go on from the last finished epoch of this experiment, from the start if there is none."""
    if args.resume != "auto":
        return
    if not args.experiment:
        raise ScriptError("--resume auto needs --experiment NAME, to find the run again")
    last = Path(args.output or OUTPUT) / args.experiment / CHECKPOINTS[LAST]
    args.resume = str(last) if last.is_file() else ""
    sys.argv += ["--resume", args.resume]


def _check_output(args: Any) -> None:
    """Refuse an experiment that holds a run already: its best model would be overwritten."""
    if not args.experiment or args.resume:
        return
    folder = Path(args.output or OUTPUT) / args.experiment
    if (folder / ARGUMENTS).is_file() and any((folder / name).is_file() for name in CHECKPOINTS.values()):
        raise ScriptError(f"{folder} holds a run already: go on with --resume auto, or name another --experiment")


def _check_metric(args: Any) -> None:
    """Refuse a metric that train.py does not measure, which it would notice when the first epoch has ended."""
    metric = getattr(args, "eval_metric", MEASURED[0])
    if metric not in MEASURED:
        near = did_you_mean(metric, MEASURED) or f"; there are {', '.join(MEASURED)}"
        raise ScriptError(f"--eval-metric {metric}: train.py measures no such thing{near}")


def _classes_of(checkpoint: str) -> dict[str, int] | None:
    """Return the classes of a run that is resumed, if it says them."""
    names = read_description(Path(checkpoint).parent).get("classes") if checkpoint else None
    return {name: i for i, name in enumerate(names)} if names else None


def create_or_say(create_model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return timm's `create_model`, which asks the Hub once and says in one line what is wrong with a model's name."""

    @functools.wraps(create_model)
    def create(name: str, *args: Any, **kwargs: Any) -> nn.Module:
        _check_folder_is_there(name)
        try:
            if kwargs.get("pretrained"):
                check_reachable(name)
            return create_model(name, *args, **kwargs)
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            hint = did_you_mean(name, timm.list_models(), 3) if "Unknown model" in str(error) else ""
            raise ScriptError(f"cannot create {name}: {first_line(error)}{hint}") from error

    return create


def _check_folder_is_there(name: str) -> None:
    """Refuse a model's name that looks like a folder and is none; timm says how it would be written in Python."""
    if "/" in name and ":" not in name:
        raise ScriptError(
            f"there is no model at {name}{near(Path(name)) or f'; a repository of the Hub is called hf-hub:{name}'}"
        )


class TrainingRun:
    """A run of train.py: what its script made, and our methods in place of the functions that it calls.

    Args:
        script: the loaded train.py, with timm's own functions.
        args: its arguments.
    """

    def __init__(self, script: ModuleType, args: Any) -> None:
        self.timms: dict[str, Callable[..., Any]] = dict(vars(script))
        self.args = args
        self.metric = getattr(args, "eval_metric", "top1")
        self.resumed = _classes_of(args.resume)
        self.name = ""
        self.model: Any = None
        self.data_config: dict[str, Any] = {}
        self.first: tuple[dict[str, int], str] | None = None  # the classes of the first data set, and its split
        self.class_to_idx: dict[str, int] | None = None
        self.folder: Path | None = None  # where it is known; in the first process alone

    def create_model(self, name: str, **kwargs: Any) -> nn.Module:
        self.name, self.model = name, create_or_say(self.timms["create_model"])(name, **kwargs)
        return self.model

    def resolve_data_config(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.data_config = self.timms["resolve_data_config"](*args, **kwargs)
        return self.data_config

    def create_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Create a data set whose classes are those of the model, of the other split, and of the run that goes on."""
        dataset = read_dataset(self.timms["create_dataset"], *args, **kwargs)
        _check_batch(dataset, kwargs)
        classes, split = getattr(getattr(dataset, "reader", None), "class_to_idx", None), str(kwargs.get("split"))
        if not classes:
            return dataset
        self.first = self.first or (classes, split)
        check_same_classes(self.first[0], classes, (self.first[1], split))
        if len(classes) != self.model.num_classes:
            raise ScriptError(
                f"the data has {len(classes)} classes ({', '.join(list(classes)[:3])}, ...) and {self.name} "
                f"{self.model.num_classes}: pass --num-classes {len(classes)}, or another --data-dir"
            )
        if self.resumed:
            check_same_classes(self.resumed, classes, ("the run to resume", split))
        self.class_to_idx = classes
        return dataset

    def train_one_epoch(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
        """Train with random numbers of the epoch's own.

        Beside the checkpoints, before the first of them, stands what it takes to use them; the best is chosen by us.
        """
        if kwargs.get("output_dir") is not None and self.folder is None:
            self.folder = Path(kwargs["output_dir"])
            write_description(self.folder, self.model, self.data_config, self.class_to_idx)
            if kwargs.get("saver") is not None:
                prefer_lower_loss(kwargs["saver"], self.metric)
        seed = self.args.seed + 1_000_003 * (epoch + 1)  # a prime apart, so that no two ranks' seeds meet
        random_seed(seed % 2**31, RANK)
        return self.timms["train_one_epoch"](epoch, *args, **kwargs)

    def with_teacher_and_overlap(self, name: str, task: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Return timm's task with our teacher, if it has one, and the overlap of tokens in its loss, if asked for."""

        @functools.wraps(task)
        def create(**kwargs: Any) -> nn.Module:
            if "teacher_model" in kwargs:
                kwargs["teacher_model"] = self._teacher(by_class=not name.startswith("Feature"), **kwargs)
            created = task(**kwargs)
            if self.args.token_overlap:
                student = kwargs["student_model" if "student_model" in kwargs else "model"]
                try:
                    add_token_overlap(created, student, self.args.token_overlap)
                except ValueError as error:
                    raise ScriptError(f"--token-overlap: {error}") from error
            return created

        return create

    def _teacher(
        self, by_class: bool, student_model: Any, teacher_model: str, device: Any = None, dtype: Any = None, **_: Any
    ) -> nn.Module:
        """Return a teacher at its own size; `by_class`: the student learns its answers, not its features."""
        try:
            return create_teacher(
                teacher_model,
                student_model.num_classes if by_class else None,
                student_model.in_chans,
                device,
                dtype,
                classes=_names_for_teacher(self.args.kd_classes, self.class_to_idx) if by_class else None,
                img_size=self.args.kd_img_size,
            )
        except (RuntimeError, ValueError) as error:
            raise ScriptError(str(error)) from error

    def report(self) -> None:
        if self.folder is not None:
            report(self.folder, self.metric)
        elif self.args.resume and RANK == 0:
            done = f"{self.args.resume} has all of its {self.args.epochs} epochs"
            print(f"nothing was left to train: {done}; --epochs N says more")


def _names_for_teacher(option: str | None, class_to_idx: dict[str, int] | None) -> list[str] | None:
    """Return the student's classes in the teacher's words, from `--kd-classes`."""
    if option is None:
        return None
    if option != "auto":
        try:
            return [line.strip() for line in read_text(Path(option)).splitlines() if line.strip()]
        except OSError as error:
            raise ScriptError(f"--kd-classes {option}: {first_line(error)}") from error
    if not class_to_idx:
        raise ScriptError("--kd-classes auto needs data in class folders: name a file with the classes instead")
    return sorted(class_to_idx, key=class_to_idx.__getitem__)


def _check_batch(dataset: Any, options: Mapping[str, Any]) -> None:
    """Refuse a batch that is larger than the data of a reader, whose photos nobody has counted before."""
    batch = options.get("batch_size") or 1
    photos = len(dataset) // PROCESSES if isinstance(dataset, ImageDataset) else batch
    if options.get("is_training") and photos < batch:
        raise ScriptError(f"{photos} photos per process give no batch of {batch}: pass --batch-size {max(photos, 1)}")


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
        f"only {name} has {', '.join(one or NO_FOLDER for one in sorted(own)[:3])}{', ...' if len(own) > 3 else ''}"
        for name, own in ((names[0], set(first) - set(other)), (names[1], set(other) - set(first)))
        if own
    ] or ["the same classes are in another order"]
    raise ScriptError(f"{names[0]} and {names[1]} differ in their classes: {'; '.join(lacking)}")


def fit_to_photos(args: Any, create_dataset: Callable[..., Any], processes: int, batch_is_typed: bool) -> list[str]:
    """Return arguments that the data decides and the command leaves open; each is printed.

    Args:
        args: train.py's arguments.
        create_dataset: timm's function of this name.
        processes: number of processes that share the data.
        batch_is_typed: whether the batch size stands on the command line; it then shrinks only if it has to.

    Returns:
        What to append to the command line: `--num-classes` if none is given, `--batch-size` if it is too large.
    """
    if args.dataset not in ("", "folder"):  # to count what a reader of timm's has could mean to download it
        return []
    root = args.data_dir or args.data
    photos = read_dataset(
        create_dataset, args.dataset, root=root, split=args.train_split, is_training=True, class_map=args.class_map
    )
    found = []
    classes = getattr(photos.reader, "class_to_idx", None)
    if classes and len(classes) < 2:
        (name,) = classes
        raise ScriptError(
            f"the photos of {root} are of one class ({name or NO_FOLDER}), with nothing to tell apart: sort them as "
            "PHOTOS/train/CLASS/*.jpg and PHOTOS/val/CLASS/*.jpg"
        )
    _check_splits(args, Path(root), photos, create_dataset)
    if args.num_classes is None and classes:
        say(f"{len(classes)} classes: {', '.join(list(classes)[:5])}{', ...' if len(classes) > 5 else ''}")
        found += ["--num-classes", str(len(classes))]
    share = len(photos) // processes
    batch = fitted_batch(share, args.batch_size, batch_is_typed)
    if batch != args.batch_size and not args.train_img_sizes:  # each of those sizes has a batch of its own
        say(f"{len(photos)} photos: batches of {batch} instead of {args.batch_size}")
        found += ["--batch-size", str(batch)]
    return found


def _check_splits(args: Any, root: Path, photos: Any, create_dataset: Callable[..., Any]) -> None:
    """Refuse a data folder without one of its splits: timm takes the whole of it then, and validates on what it trains.

    Args:
        args: train.py's arguments.
        root: the data folder.
        photos: its split to train on.
        create_dataset: timm's function of this name.
    """
    if args.train_split == args.val_split or type(photos.reader).__name__ != "ReaderImageFolder":
        return
    validation = read_dataset(
        create_dataset, args.dataset, root=str(root), split=args.val_split, class_map=args.class_map
    )
    missing = [
        split
        for split, dataset in ((args.train_split, photos), (args.val_split, validation))
        if Path(dataset.reader.root) == root
    ]
    if missing:
        raise ScriptError(
            f"{root} has no folder {' and no folder '.join(missing)}, so that photos would be trained on and validated "
            "with: sort them as PHOTOS/train/CLASS/*.jpg and PHOTOS/val/CLASS/*.jpg"
        )


def fitted_batch(photos: int, batch: int, is_typed: bool) -> int:
    """Return the batch, smaller where the photos of a process would give no update, or too few to learn from."""
    wanted = photos if is_typed else max(photos // UPDATES_PER_EPOCH, min(photos, SMALLEST_BATCH))
    if batch < 1:
        raise ScriptError(f"--batch-size {batch}: a batch has at least one photo")
    if wanted >= batch:
        return batch
    if wanted < 2:
        raise ScriptError(f"{photos} photos per process are too few to train on: a batch needs two")
    return wanted - wanted % 2  # mixup takes even batches only
