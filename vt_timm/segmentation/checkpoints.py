"""The files that a run leaves on disk, each file and folder replaced whole: if the run is killed, the old one stays."""

import csv
import dataclasses
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cards.card import segmenter_card, segmenter_name
from ..cost import count_parameters
from ..errors import UserError, first_line, some
from ..files import put_in_place, restore, whole_file, whole_folder, writing
from ..run_files import BEST, CARD, CONFIG, LAST, METRICS, SETTINGS, SUMMARY
from .model import Segmenter
from .settings import Settings


class Progress:
    """The part of a checkpoint beside model, optimizer and random state.

    Args:
        classes: the names of the classes, by which each label means what it meant.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.updates = 0
        self.best: dict[str, Any] = {}
        self.since_best = 0  # evaluations without a better mIoU

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a run of the same classes.

        Raises:
            UserError: if they are called otherwise, or stand in another order.
        """
        classes = state.get("classes", self.classes)  # which earlier versions did not keep
        if classes != self.classes:
            other = [
                f"{ours} was {theirs}" for ours, theirs in zip(self.classes, classes, strict=False) if ours != theirs
            ]
            raise UserError(
                f"the run to resume has other classes than the data ({some(other)}): go on with the data that it was "
                "trained on, or name another folder"
            )
        self.updates, self.best, self.since_best = state["updates"], state["best"], state["since_best"]


def check_new(output: Path, advice: str = "go on with it by --resume, or name another folder") -> None:
    """Refuse a folder in which an earlier run left something, so that its best model is never overwritten.

    Raises:
        UserError: if there is a run in it, or it is a file.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a folder for the run")
    left = [name for name in (BEST, LAST, SUMMARY) if (output / name).exists()]
    if left:
        raise UserError(f"{output} holds a run already ({', '.join(left)}): {advice}")


def save_best(output: Path, model: Segmenter, metrics: dict[str, Any], settings: Settings) -> None:
    """Write `best/`: the model as a Hub folder, with its metrics and a card."""
    with writing(str(output / BEST)), whole_folder(output / BEST) as folder:
        model.save_pretrained(folder)
        (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CARD).write_text(_card(model, config, metrics, settings), encoding="utf-8")


def _card(model: Segmenter, config: dict[str, Any], metrics: dict[str, Any], settings: Settings) -> str:
    data = Path(settings.data_dir).name
    measured = {
        **metrics,
        "origin": f"one run, as the training itself measured after update {metrics['update']} of {settings.updates}",
        "params": count_parameters(model) / 1e6,
        "dtype": "32-bit floats",
    }
    name = segmenter_name(model.neck_name, model.backbone_name, data)
    return segmenter_card(config, dataclasses.asdict(settings), measured, name, data, "FOLDER")


def load_state(accelerator: Any, output: Path) -> None:
    """Go on from `last/`, if the folder holds a run; a new folder starts from nothing.

    Raises:
        UserError: if there is a best model without the state to go on from, which a new start would overwrite, if the
            state is of a run with other settings, and if its files are damaged.
    """
    if accelerator.is_main_process:
        restore(output / BEST)
        restore(output / LAST)
    accelerator.wait_for_everyone()
    if not (output / LAST).is_dir():
        check_new(output, "there is no last/ to go on from; name another folder")
        return
    _read_rows(output)
    try:
        accelerator.load_state(str(output / LAST))
    except UserError:
        raise
    except Exception as error:  # safetensors, pickle and zip files have kinds of their own
        if isinstance(error, (RuntimeError, ValueError, KeyError)) and "PytorchStreamReader" not in str(error):
            raise UserError(
                f"{output / LAST} does not fit these settings: {first_line(error)}; go on with the settings of "
                f"{output / SETTINGS}"
            ) from error
        raise UserError(
            f"{output / LAST} is damaged ({first_line(error)}): bring it back, or start another run from the best "
            f"weights, in another folder with the setting {shlex.quote(f'initial_checkpoint={output}')}"
        ) from error


def save_state(accelerator: Any, output: Path) -> None:
    """Write `last/`: the whole state, for --resume.

    Raises:
        UserError: if it cannot be written, and if another training writes to the same folder.
    """
    folder = output / LAST
    new = folder.with_name(f".{folder.name}.new")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with writing(str(folder)):
            accelerator.save_state(str(new))  # every process saves its random state
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                put_in_place(new, folder)
    except (RuntimeError, UserError) as error:
        lost = "No such file" in str(error) or "does not exist" in str(error)  # which torch says
        if not lost or not output.is_dir():
            raise
        raise UserError(  # nobody else moves or deletes what is written here
            f"{output} is written by another training too: give each a folder of its own, and start this one again"
        ) from error
    accelerator.wait_for_everyone()


def _read_rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of summary.csv, none where there is no such file.

    Raises:
        UserError: if they are no longer what was written.
    """
    path = output / SUMMARY
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["update"])
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is no longer what the training wrote: bring it back, or move it away") from error
    return rows


def append_row(output: Path, row: dict[str, Any]) -> None:
    """Add the row of an evaluation to summary.csv; a resumed run replaces the rows after the update it went on from."""
    rows = [earlier for earlier in _read_rows(output) if int(earlier["update"]) < row["update"]]
    with whole_file(output / SUMMARY) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
