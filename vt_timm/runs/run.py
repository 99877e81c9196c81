"""A finished training, whatever it trained, and the choices of who publishes it."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from huggingface_hub.utils import validate_repo_id
from torch import nn

from ..errors import UserError, first_line
from ..files import near, read_text
from ..run_files import ARGUMENTS, BEST, SETTINGS, SUMMARY


class RunError(UserError):
    """A run that cannot be used, with what it lacks in one line."""


@dataclass(frozen=True)
class Publication:
    """The choices of a person who publishes a run.

    Args:
        name: MODEL.TAG of a classifier, any name of a segmenter.
        repository: ORG/NAME on the Hub.
        checkpoint: which weights of a run of train.py, "best" or "last".
        class_folders: folder whose subfolders are the classes, where the run of train.py names none.
        test_size: image size in pixels at which a classifier is evaluated, if it differs from the training's.
        half: True to store 16-bit floats.
        licence: licence of the weights.
        ships: True for a folder that comes with vt_timm.
        dry_run: True to check and say everything, and write nothing.
        folder: where it lies, if that is its only place: the card then names it.

    Raises:
        RunError: for a name that the Hub does not take.
    """

    name: str
    repository: str
    checkpoint: str = BEST
    class_folders: Path | None = None
    test_size: int | None = None
    half: bool = False
    licence: str = "apache-2.0"
    ships: bool = False
    dry_run: bool = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        with suppress(ValueError):
            validate_repo_id(self.repository)
            if "/" in self.repository and self.repository.isascii():
                return
        raise RunError(
            f"{self.repository}: the Hub takes ORG/NAME, of at most 96 letters, digits, '-', '_' and '.', none of "
            "these three twice in a row or at an end: give another NAME, or another --push"
        )

    @property
    def dtype(self) -> str:
        """The kind of the numbers that are stored, as a card calls it."""
        return "16-bit floats" if self.half else "32-bit floats"

    @property
    def source(self) -> str:
        """The name by which the model is loaded."""
        if self.ships:
            return self.name
        return f"hf-hub:{self.repository}" if self.folder is None else f"local-dir:{self.folder.resolve().name}"


class Run(ABC):
    """The folder of a training, with its settings and evaluations.

    Raises:
        RunError: if the folder is not a finished run, naming the file that is missing.
    """

    settings_file: ClassVar[str]
    keeps_checkpoints: ClassVar[bool]  # True where last weights are kept beside the best, and classes may have no names
    needed: ClassVar[tuple[str, ...]]  # files without which a run is not finished
    named: ClassVar[tuple[str, ...]]  # settings without which nobody knows what was trained

    def __init__(self, folder: Path) -> None:
        _check_folder(folder)
        for name in self.needed:
            if not (folder / name).is_file():
                raise RunError(
                    f"{folder} is not a finished run of train.py or vt-timm train-segmenter: it has no {name}"
                )
        self.folder = folder
        self.settings = read_settings(folder / self.settings_file, self.named)
        self.evaluations = read_evaluations(folder / SUMMARY)

    @contextmanager
    def naming_what_is_missing(self) -> Iterator[None]:
        """Turn a setting that is not there, where a file was cut off, into one line.

        Raises:
            RunError: in place of a KeyError.
        """
        try:
            yield
        except KeyError as error:
            path = self.folder / self.settings_file
            raise RunError(f"{path} does not say {error}: bring it back, or train again") from error

    @property
    def data(self) -> str:
        """The last part of the data folder's name, or the data set's name in timm's terms."""
        s = self.settings
        return Path(s.get("data_dir") or s.get("data") or "").name or s.get("dataset") or "unknown"

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that the run is published by where the user says no other."""

    @abstractmethod
    def save(self, folder: Path, how: Publication) -> nn.Module:
        """Write config.json and model.safetensors, and return the network as stored.

        Raises:
            RunError: in one line, for a run that cannot be published so.
        """

    @abstractmethod
    def metrics(self, config: dict[str, Any], how: Publication) -> dict[str, Any]:
        """Return what the run measured of the weights of a folder, whose config is given, for a card."""

    @abstractmethod
    def card(self, config: dict[str, Any], metrics: dict[str, Any], how: Publication) -> str:
        """Return the model card.

        Args:
            config: what config.json says.
            metrics: as `metrics` returns them, or measured anew.
            how: how the run is published.
        """


def _check_folder(folder: Path) -> None:
    """Refuse a name that is no folder of a run, and say which run was meant."""
    inside = folder.parent
    if any((inside / name).is_file() for name in (ARGUMENTS, SETTINGS)):
        raise RunError(f"{folder} is a part of a run: name the run, {inside}")
    if not folder.is_dir():
        raise RunError(
            f"there is no folder {folder}{near(folder) or ': name one that train.py or train-segmenter wrote'}"
        )


def read_settings(path: Path, named: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that a training has written.

    Args:
        path: a YAML file.
        named: settings that it must hold.

    Raises:
        RunError: if it is empty, cut off, or no longer what was written.
    """
    try:
        settings = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise RunError(f"{path} is not YAML ({first_line(error)}): bring it back, or train again") from error
    missing = [name for name in named if not isinstance(settings, dict) or not settings.get(name)]
    if missing:
        raise RunError(f"{path} does not say {' and '.join(missing)}: bring it back, or train again")
    return settings


def read_evaluations(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's summary.csv, none before the first evaluation.

    timm writes the header once more where a run was resumed.

    Raises:
        RunError: if it is no table of numbers.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if any(key != value for key, value in row.items())]
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is not the table of numbers that a training writes: {first_line(error)}") from error


def in_16_bits(model: nn.Module, folder: Path) -> None:
    """Make the weights 16-bit floats.

    Raises:
        RunError: if one is beyond what they can hold.
    """
    for name, tensor in model.half().state_dict().items():
        if not tensor.isfinite().all():
            raise RunError(f"{folder}: {name} is beyond what 16-bit floats can hold: leave --half out")
