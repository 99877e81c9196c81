"""The way in which a run is published."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Publication"]


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
    """

    name: str
    repository: str
    checkpoint: str = "best"
    class_folders: Path | None = None
    test_size: int | None = None
    half: bool = False
    licence: str = "apache-2.0"
    ships: bool = False

    @property
    def dtype(self) -> str:
        """The kind of the numbers that are stored, as a card calls it."""
        return "16-bit floats" if self.half else "32-bit floats"

    @property
    def source(self) -> str:
        """The name by which the model is loaded."""
        return self.name if self.ships else f"hf-hub:{self.repository}"
