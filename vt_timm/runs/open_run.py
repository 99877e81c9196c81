"""The way from a folder to the run in it."""

from pathlib import Path

from .run import Run
from .segmenter_run import SegmenterRun
from .train_run import TrainRun

__all__ = ["open_run"]


def open_run(folder: Path) -> Run:
    """Return the run of train.py or of train-segmenter that lies in a folder.

    Raises:
        RunError: if there is none, naming the file that is missing.
    """
    return SegmenterRun(folder) if (folder / SegmenterRun.settings_file).is_file() else TrainRun(folder)
