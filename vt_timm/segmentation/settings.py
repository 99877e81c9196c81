"""The settings of a segmenter's training, as a recipe's YAML file and `--set` name them."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from timm.optim import list_optimizers

from ..errors import UserError, did_you_mean
from ..files import read_text

LEAST_SCALE = 0.01


class SettingsError(UserError):
    """An error that says in one line what is wrong with the settings."""


def _is_number(value: Any, least: float = 0) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least


def _numbers(value: Any, least: float = 0, count: int | None = None) -> bool:
    """True if it is a list of numbers, `count` of them."""
    right_count = isinstance(value, (list, tuple)) and len(value) > 0 and count in (None, len(value))
    return right_count and all(_is_number(one, least) for one in value)


def _are_whole(values: Iterable[Any]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in values)


def _whole_numbers(value: Any, least: int, count: int | None = None) -> bool:
    return _numbers(value, least, count) and _are_whole(value)


def _are_groups(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values()
    )


# For each setting that is a list or a mapping: whether a value that is not null has its form, and an example of it.
FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (_are_groups, "'{top: [shirt, blouse], other: [bag]}'"),
    "values": (lambda v: isinstance(v, dict) and _are_whole([*v, *v.values()]), "'{255: 1}'"),
    "colours": (
        lambda v: isinstance(v, list) and all(_whole_numbers(colour, 0, 3) for colour in v),
        "'[[0, 0, 0], [128, 0, 0]]', one [red, green, blue] per class",
    ),
    "ignore_colour": (lambda v: _whole_numbers(v, 0, 3), "'[224, 224, 192]'"),
    "mask_suffix": (lambda v: isinstance(v, str), "_mask"),
    "background_photos": (lambda v: isinstance(v, list) and all(isinstance(p, str) for p in v), "'[FOLDER, FOLDER]'"),
    "scale": (lambda v: _numbers(v, LEAST_SCALE, 2), "'[0.5, 2.0]'"),
    "short_sides": (lambda v: _whole_numbers(v, 1), "'[480, 512, 544]'"),
    "eval_size": (lambda v: _whole_numbers([v], 1) or _whole_numbers(v, 1, 2), "512, '[height, width]' or null"),
    "milestones": (lambda v: isinstance(v, list) and _are_whole(v), "'[800, 1200]'"),
    "class_weights": (lambda v: isinstance(v, dict) and all(map(_is_number, v.values())), "'{shoes: 2.0}'"),
    "neck_options": (lambda v: isinstance(v, dict), "'{tokens: 16}'"),
    "backbone_options": (lambda v: isinstance(v, dict), "'{in_chans: 4}'"),
    "opt_kwargs": (lambda v: isinstance(v, dict), "'{betas: [0.9, 0.95]}'"),
}
AT_LEAST_1 = {"updates", "batch_size", "crop_size", "evaluate_every"}


def _check_type(name: str, value: Any, types: tuple[Any, ...]) -> None:
    """Check that the value of a setting is of one of its types, and in `FORMS` of the form given there."""
    if value is None and NoneType in types:
        return
    if name in FORMS:
        fits, example = FORMS[name]
        if not fits(value):
            raise SettingsError(f"{name}={value!r}: write it as {name}={example}")
    elif types == (str,) and not isinstance(value, str):
        raise SettingsError(f"{name}={value!r} must be a name; one of digits stands in quotes")
    elif types == (bool,) and not isinstance(value, bool):
        raise SettingsError(f"{name}={value!r} must be true or false")
    elif int in types or float in types:
        least, whole = int(name in AT_LEAST_1), int in types
        if not _is_number(value, least) or (whole and not isinstance(value, int)):
            number = "whole number" if whole else "number"
            hint = " (in YAML, 1.0e-4 and not 1e-4)" if isinstance(value, str) else ""
            raise SettingsError(f"{name}={value!r} must be a {number} of at least {least}{hint}")


@dataclasses.dataclass
class Settings:
    """Every setting of a run, as a recipe's YAML file and `--set` name them.

    Sizes are in pixels; `batch_size` is that of one process; `recipe` is what a model card calls these settings. The
    learning rate rises over `warmup_updates`, then falls as (1 - done)^0.9 ("poly") or by a factor of 10 at each of
    `milestones` ("step").

    Images: `crop_size`, `scale`, `short_sides` and `max_long_side` are those of `training_transform`; `eval_size` is
    the short side or [height, width] of the validation images, null for their own. `evaluate_every` counts updates.

    Labels: `classes` merges the data set's classes into groups, {group: [names]}, `rest` names the group of all others
    (without it they are ignored); `reduce_zero_label` takes 0 for "no class"; `values` renames values of the masks,
    {255: 1}; `ignore_label` is the value that means "no class"; `colours` lists [red, green, blue] per class for masks
    in colour, `ignore_colour` is the colour that means "no class"; `mask_suffix` is what a mask's name has after its
    image's, "_mask" for photo.jpg and photo_mask.png.

    Background: `background_photos` lists folders of photos that show none of the other classes and need no masks,
    `background_share` is their share of the samples, `background_crowds` the share of these onto which several figures
    cut from training photos are pasted, `background_swap` the share of the training photos on which a part of one of
    them stands for the background.

    Start: `pretrained_backbone` takes the backbone's weights from timm, `initial_checkpoint` all weights from a trained
    segmenter of the same backbone and neck, for the classes of the same name also those that classify; `start_share`
    is the share that these keep in the weights that are evaluated and kept: the mean of before and after keeps more of
    what the training's photos do not show (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).

    Training: `color_jitter` is the strength of a random change of brightness, contrast and saturation, as timm's; `opt`
    is any optimizer of timm's; `backbone_lr` the backbone's own learning rate; `freeze_backbone` keeps
    it as it is; `class_weights` {name: weight} of the cross entropy, 1 where none is given; `dice` the weight of the
    Dice loss beside it; `clip_grad` the largest norm of the gradient; `ema_decay` the decay of averaged weights, which
    are then evaluated and kept; `precision` "no" (float32), "bf16" or "fp16"; `patience` how many evaluations without a
    better mIoU end the run, 0 for none.
    """

    recipe: str = ""
    layout: str = "folder"
    data_dir: str = ""
    neck: str = "vt_fpn"
    backbone: str = "resnet50"
    pretrained_backbone: bool = False
    initial_checkpoint: str = ""
    start_share: float = 0.0
    neck_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    backbone_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    classes: dict[str, list[str]] | None = None
    rest: str | None = None
    reduce_zero_label: bool = False
    values: dict[int, int] | None = None
    ignore_label: int | None = 255
    colours: list[list[int]] | None = None
    ignore_colour: list[int] | None = None
    mask_suffix: str = ""
    background_photos: list[str] = dataclasses.field(default_factory=list)
    background_share: float = 0.25
    background_crowds: float = 0.0
    background_swap: float = 0.0

    crop_size: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    short_sides: list[int] | None = None
    max_long_side: int | None = None
    color_jitter: float = 0.0
    eval_size: int | list[int] | None = None

    updates: int = 1000
    batch_size: int = 8
    opt: str = "sgd"
    opt_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    lr: float = 0.01
    backbone_lr: float | None = None
    freeze_backbone: bool = False
    class_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    dice: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_updates: int = 0
    schedule: str = "poly"
    milestones: list[int] = dataclasses.field(default_factory=list)
    clip_grad: float | None = None
    ema_decay: float | None = None
    sync_bn: bool = False
    precision: str = "no"
    evaluate_every: int = 500
    patience: int = 0
    seed: int = 42
    workers: int = 2

    @classmethod
    def from_yaml(cls, path: Path, changes: dict[str, Any]) -> "Settings":
        """Return a recipe with changes.

        Raises:
            SettingsError: for a file that holds no settings, a key that is no setting (the closest is named), and a
                value that its setting cannot have.
        """
        try:
            recipe = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise SettingsError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
        if not isinstance(recipe, dict):
            raise SettingsError(f"{path}: no settings in this file; it holds lines of KEY: VALUE")
        values = {**recipe, **changes}
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise SettingsError(f"no setting is called {key}{did_you_mean(str(key), fields)}")
        if values.get("precision") is False:  # YAML's no
            values["precision"] = "no"
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        if self.schedule not in ("poly", "step"):
            raise SettingsError(f"schedule={self.schedule!r}: choose 'poly' or 'step'")
        if self.precision not in ("no", "bf16", "fp16"):
            raise SettingsError(f"precision={self.precision!r}: choose 'no', 'bf16' or 'fp16'")
        for name in ("background_share", "start_share"):
            value = getattr(self, name)
            if not _is_number(value) or value >= 1:
                raise SettingsError(f"{name}={value!r} must be a number from 0, below 1")
        for name in ("background_crowds", "background_swap"):
            value = getattr(self, name)
            if not _is_number(value) or value > 1:
                raise SettingsError(f"{name}={value!r} must be a number from 0 to 1")
            if value and not self.background_photos:
                raise SettingsError(f"{name} needs photos: name their folders by background_photos")
        if self.start_share and not self.initial_checkpoint:
            raise SettingsError("start_share needs a start: name a trained segmenter by initial_checkpoint")
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), get_args(field.type) or (field.type,))
        for name in ("clip_grad", "max_long_side"):
            if getattr(self, name) == 0:
                raise SettingsError(f"{name}=0 would leave nothing; null sets no limit")
        if self.ema_decay is not None and self.ema_decay >= 1:
            raise SettingsError(f"ema_decay={self.ema_decay} must be below 1")
        channels = self.backbone_options.get("in_chans", 3)
        if self.color_jitter and channels not in (1, 3):
            raise SettingsError(f"color_jitter={self.color_jitter} needs photos of 1 or 3 channels, not {channels}")
        known = [str(name) for name in list_optimizers()]
        if self.opt not in known:
            raise SettingsError(f"opt={self.opt!r} is not an optimizer of timm's{did_you_mean(self.opt, known)}")
        if not self.data_dir:
            raise SettingsError("no data: name the data set's folder with --data-dir")

    def label_options(self) -> dict[str, Any]:
        """Return what `Labels` takes; a setting that is not given leaves the layout's own."""
        options = dict(
            groups=self.classes, rest=self.rest, reduce_zero=self.reduce_zero_label, ignore=self.ignore_label,
            colours=self.colours, ignore_colour=self.ignore_colour,
        )  # fmt: skip
        return options if self.values is None else {**options, "values": self.values}

    def schedule_factor(self, update: int) -> float:
        """Return the factor of all learning rates before an update, counted from 0."""
        if update < self.warmup_updates:
            return (update + 1) / self.warmup_updates
        if self.schedule == "poly":
            return (1 - update / self.updates) ** 0.9
        return 0.1 ** sum(update >= milestone for milestone in self.milestones)
