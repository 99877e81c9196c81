"""Wrappers around the functions that timm's train.py calls, so that the script stays as it is.

They add a teacher at its own image size, randomness that depends on seed and epoch alone, so that a resumed run goes
on as if it had not stopped, a description of the model beside its checkpoints, and one clear line for what would
otherwise fail late, train nonsense, or overwrite an earlier run.
"""

import functools
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from timm.utils import random_seed
from torch import nn

from ..distillation import create_teacher
from ..errors import did_you_mean, first_line, from_torchrun, say, some
from ..files import alone_in, read_text
from ..run_files import ARGUMENTS, CHECKPOINTS, LAST
from ..runs.run import RunError, read_settings
from ..runs.train_run import TrainRun, read_description, read_state, read_weights, write_description
from ..token_overlap import add_token_overlap
from .best import MEASURED, keep_best, report
from .checks import (
    ParsePairs,
    ScriptError,
    check_checkpoints,
    check_data_folder,
    check_same_classes,
    classes_of,
    create_or_say,
    newest_beside,
    read_dataset,
    resume_or_say,
)
from .fitting import check_batch, fit_to_photos
from .rates import check_factors, scale_rates
from .reading import finding_photos, reading_photos

OUTPUT = "output/train"  # train.py's default
RANK, PROCESSES = from_torchrun("RANK", 0), from_torchrun("WORLD_SIZE", 1)


def prepare_training(script: ModuleType, held: ExitStack) -> "TrainingRun":
    """Check the command line of a loaded train.py, complete it, and wrap what its `main` calls.

    Args:
        script: the loaded train.py.
        held: keeps other trainings out of the run's folder until it is closed.

    Returns:
        The run, which says what it has reached once `main` has ended.
    """
    _add_options(script.parser)
    _check_settings(script)
    args, _ = script._parse_args()
    _check_numbers(args, script.parser)
    check_data_folder(args)
    check_checkpoints(args)
    _resume_where_it_stopped(args)
    _check_resumed(args)
    _check_output(args, held)
    _check_metric(args)
    check_factors(args.lr_scale, args.sched)
    script.create_dataset = finding_photos(script.create_dataset)  # type: ignore[attr-defined]
    batch_is_typed = any(a.startswith(("-b", "--batch-size")) for a in sys.argv)
    sys.argv += fit_to_photos(args, script.create_dataset, PROCESSES, batch_is_typed)
    _check_mixing(script._parse_args()[0])
    run = TrainingRun(script, args, held)
    vars(script).update(
        create_model=run.create_model,
        resolve_data_config=run.resolve_data_config,
        create_dataset=run.create_dataset,
        create_optimizer_v2=run.create_optimizer,
        # New workers for every epoch: old ones would carry on random state that no checkpoint has.
        create_loader=functools.partial(reading_photos(script.create_loader), persistent_workers=False),
        train_one_epoch=run.train_one_epoch,
        print=_print_no_json,
        KeyboardInterrupt=(),  # which train.py would catch, and end as if it had finished
    )
    wrap(script, resume_or_say, "resume_checkpoint", "resume_task_checkpoint")
    wrap(script, reading_photos, "create_naflex_loader")
    tasks = ("ClassificationTask", "LogitDistillationTask", "TokenDistillationTask", "FeatureDistillationTask")
    wrap(script, run.with_teacher_and_overlap, *tasks)
    return run


def wrap(script: ModuleType, around: Callable[[Any], Any], *names: str) -> None:
    """Put a wrapper around those of a script's functions that it has, which depends on its version."""
    for name in names:
        if hasattr(script, name):
            setattr(script, name, around(getattr(script, name)))


def _print_no_json(*values: Any, **options: Any) -> None:
    """Print, but not train.py's last words, which are meant for programs; `report` takes their place."""
    if not (values and str(values[0]).startswith("--result\n")):
        print(*values, **options)


def _add_options(parser: Any) -> None:
    """Add the options that `train.py` lacks: for a teacher of more classes than the student, its tokens and rates."""
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
    group = parser.add_argument_group("Rates (vt_timm)")
    group.add_argument(
        "--lr-scale",
        nargs="+",
        default={},
        action=ParsePairs,
        metavar="PART=FACTOR",
        help="train a part of the network, such as vt_stage.blocks, at FACTOR times the rate",
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


def _check_numbers(args: Any, parser: Any) -> None:
    """Refuse a training of no epochs, and values that are no numbers, with which all weights would be none."""
    if args.epochs < 1:
        raise ScriptError(f"--epochs {args.epochs}: a training has at least one epoch")
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ScriptError(f"{action.option_strings[0]} {number}: give a finite number")


def _check_mixing(args: Any) -> None:
    """Refuse an odd batch for mixup and cutmix, which mix its photos two by two."""
    mixes = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    if mixes and args.batch_size % 2 and not getattr(args, "naflex_loader", False):  # whose batches have other sizes
        raise ScriptError(
            f"--batch-size {args.batch_size}: --mixup and --cutmix mix the photos of a batch two by two; give an even "
            "number"
        )


def _resume_where_it_stopped(args: Any) -> None:
    """Let `--resume auto` go on from the last finished epoch of this experiment, from the start if there is none."""
    if args.resume != "auto":
        return
    if not args.experiment:
        raise ScriptError("--resume auto needs --experiment NAME, to find the run again")
    last = Path(args.output or OUTPUT) / args.experiment / CHECKPOINTS[LAST]
    args.resume = str(last) if last.is_file() else ""
    sys.argv += ["--resume", args.resume]


def _check_resumed(args: Any) -> None:
    """Refuse a damaged checkpoint to go on from, and another model or rate than those of its run."""
    if not args.resume:
        return
    path = Path(args.resume)
    try:
        read_weights(path)
    except RunError as error:
        other = newest_beside(path)
        advice = f"go on with --resume {shlex.quote(str(other))}" if other else "train again under another --experiment"
        raise ScriptError(f"{error}; {advice}") from error
    before = path.with_name(ARGUMENTS)
    settings = read_settings(before, TrainRun.named) if before.is_file() else {}
    trained = settings.get("model", args.model)
    # A name behind a prefix, as of the Hub, does not say which network it is.
    if ":" not in trained + args.model and trained.partition(".")[0] != args.model.partition(".")[0]:
        raise ScriptError(f"--resume {path}: the run is of {trained}, not of {args.model}; say --model {trained}")
    if not getattr(args, "no_resume_opt", False):
        _check_rates(args, settings)


def _check_rates(args: Any, settings: Mapping[str, Any]) -> None:
    """Refuse other rates for a run that goes on: train.py takes the checkpoint's, and writes down the other ones."""
    factors = settings.get("lr_scale") or {}
    if factors and not args.lr_scale:
        args.lr_scale = factors
        sys.argv += ["--lr-scale", *(f"{part}={factor}" for part, factor in factors.items())]
    rate = settings.get("lr")
    for option, now, before in (
        ("lr", args.lr, None if rate is None else float(rate)),
        ("lr-scale", args.lr_scale, factors if settings else None),
    ):
        if now is not None and before is not None and now != before:
            raise ScriptError(
                f"--{option} {now}: the run goes on at the rate of its checkpoint, {before}; leave the option out, or "
                "say --no-resume-opt to begin with a new optimizer"
            )


def _check_output(args: Any, held: ExitStack) -> None:
    """Refuse an experiment that holds a run already, or gets one just now: its best model would be overwritten."""
    if not args.experiment:
        return
    last = Path(args.output or OUTPUT) / args.experiment / CHECKPOINTS[LAST]
    held.enter_context(alone_in(last.parent))
    if args.resume:
        return
    kept = "auto" if last.is_file() else newest_beside(last)
    if (last.parent / ARGUMENTS).is_file() and kept:
        resume = shlex.join(["--resume", str(kept)])
        raise ScriptError(f"{last.parent} holds a run already: go on with {resume}, or name another --experiment")


def _check_metric(args: Any) -> None:
    """Refuse a metric that train.py does not measure, which it would notice when the first epoch has ended."""
    metric = getattr(args, "eval_metric", MEASURED[0])
    if metric not in MEASURED:
        near = did_you_mean(metric, MEASURED) or f"; there are {', '.join(MEASURED)}"
        raise ScriptError(f"--eval-metric {metric}: train.py measures no such thing{near}")


class TrainingRun:
    """A run of train.py: what its script made, and our methods in place of the functions that it calls.

    Args:
        script: the loaded train.py, with timm's own functions.
        args: its arguments.
        held: keeps other trainings out of the run's folder until it is closed.
    """

    def __init__(self, script: ModuleType, args: Any, held: ExitStack) -> None:
        self.timms: dict[str, Callable[..., Any]] = dict(vars(script))
        self.args, self.held = args, held
        self.metric = getattr(args, "eval_metric", "top1")
        names = read_description(Path(args.resume).parent).get("classes") if args.resume else None
        self.resumed = {name: i for i, name in enumerate(names or ())}  # the classes of a run that goes on, if it says
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

    def create_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        optimizer = self.timms["create_optimizer_v2"](model, *args, **kwargs)
        if self.args.lr_scale:
            scale_rates(optimizer, model, self.args.lr_scale)
        return optimizer

    def create_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Create a data set whose classes are those of the model, of the other split, and of the run that goes on."""
        dataset = read_dataset(self.timms["create_dataset"], *args, **kwargs)
        check_batch(dataset, kwargs, PROCESSES)
        classes, split = classes_of(dataset), str(kwargs.get("split"))
        if not classes:
            return dataset
        self.first = self.first or (classes, split)
        check_same_classes(self.first[0], classes, (self.first[1], split))
        if len(classes) != self.model.num_classes:
            raise ScriptError(
                f"the data has {len(classes)} classes ({some(classes)}) and {self.name} {self.model.num_classes}: "
                f"pass --num-classes {len(classes)}, or another --data-dir"
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
            if not self.args.experiment:  # two of one model that start in the same second get the same name of train.py
                self.held.enter_context(alone_in(self.folder))
            write_description(self.folder, self.model, self.data_config, self.class_to_idx)
            if kwargs.get("saver") is not None:
                keep_best(kwargs["saver"], self.metric)
        seed = self.args.seed + 1_000_003 * (epoch + 1)  # a prime apart, so that no two ranks' seeds meet
        random_seed(seed % 2**31, RANK)
        return self.timms["train_one_epoch"](epoch, *args, **kwargs)

    def with_teacher_and_overlap(self, task: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Return timm's task with our teacher, if it has one, and the overlap of tokens in its loss, if asked for."""

        @functools.wraps(task)
        def create(**kwargs: Any) -> nn.Module:
            if "teacher_model" in kwargs:
                kwargs["teacher_model"] = self._teacher(by_class=not task.__name__.startswith("Feature"), **kwargs)
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

    def say_how_to_go_on(self) -> None:
        """Say after an interruption which epoch is kept, if one is."""
        if self.folder is not None and (last := self.folder / CHECKPOINTS[LAST]).is_file():
            again = "--resume auto" + ("" if self.args.experiment else f" --experiment {self.folder.name}")
            say(f"interrupted after epoch {read_state(last)['epoch']} (the first is 0): go on with {again}")


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
