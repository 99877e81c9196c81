"""The settings of a segmenter's training, as a recipe's YAML file and `--set` name them."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Settings", "SettingsError"]


class SettingsError(Exception):
    """What is wrong with the settings, in one line."""


@dataclasses.dataclass
class Settings:
    """Every setting of a run, as a recipe's YAML file and `--set` name them.

    Sizes in pixels; `batch_size` is of one process; `recipe` is what a model card calls these settings. The learning
    rate rises over `warmup_updates`, then falls as (1 - done)^0.9 ("poly") or by 10 at each of `milestones` ("step").
    """

    recipe: str = ""
    layout: str = "folder"
    data_dir: str = ""
    neck: str = "vt_fpn"
    backbone: str = "resnet50"
    pretrained_backbone: bool = False
    neck_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    backbone_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    crop_size: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    short_sides: list[int] | None = None
    max_long_side: int | None = None
    eval_size: int | list[int] | None = None

    updates: int = 1000
    batch_size: int = 8
    lr: float = 0.01
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
    seed: int = 42
    workers: int = 2

    @classmethod
    def from_yaml(cls, path: Path, changes: dict[str, Any]) -> "Settings":
        """A recipe with changes.

        Raises:
            SettingsError: for a file that holds no settings, a key that is none, with the closest one, and a value
                that its setting cannot have.
        """
        recipe = yaml.safe_load(path.read_text())
        if not isinstance(recipe, dict):
            raise SettingsError(f"{path}: no settings in this file; it holds lines of KEY: VALUE")
        values = {**recipe, **changes}
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                close = difflib.get_close_matches(key, fields, n=1)
                raise SettingsError(f"no setting is called {key}" + (f"; did you mean {close[0]}?" if close else ""))
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        if self.schedule not in ("poly", "step"):
            raise SettingsError(f"schedule={self.schedule!r}: choose 'poly' or 'step'")
        if self.precision not in ("no", "bf16", "fp16"):
            raise SettingsError(f"precision={self.precision!r}: choose 'no', 'bf16' or 'fp16'")
        for name in ("updates", "batch_size", "crop_size", "evaluate_every"):
            self._check_number(name, int, 1)
        for name in ("warmup_updates", "seed", "workers"):
            self._check_number(name, int, 0)
        for name in ("lr", "momentum", "weight_decay"):
            self._check_number(name, (int, float), 0)
        for name in ("clip_grad", "ema_decay", "max_long_side"):
            if getattr(self, name) is not None:
                self._check_number(name, (int, float), 0)
        for name in ("pretrained_backbone", "sync_bn"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name}={getattr(self, name)!r} must be true or false")
        if not self.data_dir:
            raise SettingsError("no data: name the data set's folder with --data-dir")

    def _check_number(self, name: str, kind: type | tuple[type, ...], least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, kind) or isinstance(value, bool) or value < least:  # type: ignore[operator]
            number = "whole number" if kind is int else "number"
            hint = " (in YAML, 1.0e-4 and not 1e-4)" if isinstance(value, str) else ""
            raise SettingsError(f"{name}={value!r} must be a {number} of at least {least}{hint}")

    def short_side(self) -> int | None:
        """Of the images that are evaluated, in pixels; None for their own."""
        return min(self.eval_size) if isinstance(self.eval_size, list) else self.eval_size

    def learning_rate(self, update: int) -> float:
        """Before the update of that number, counted from 0."""
        if update < self.warmup_updates:
            return self.lr * (update + 1) / self.warmup_updates
        if self.schedule == "poly":
            return self.lr * (1 - update / self.updates) ** 0.9
        return self.lr * 0.1 ** sum(update >= milestone for milestone in self.milestones)
