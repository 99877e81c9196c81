"""What a run leaves on disk, each file and folder whole or not at all: killed in between, the old one stays."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from .model import Segmenter

__all__ = ["Progress", "append_row", "check_new", "save_best", "save_state"]

BEST, LAST, SUMMARY = "best", "last", "summary.csv"
CARD = """\
---
library_name: vt_timm
pipeline_tag: image-segmentation
license: apache-2.0
tags: [semantic-segmentation, visual-transformer]
---

# {neck} on {backbone}

A segmenter of [vt_timm](https://arxiv.org/abs/2006.03677) for {number} classes: {classes}.

mIoU {miou:.2f} %, pixel accuracy {pixel_accuracy:.2f} % on {images} validation images, after update {update}.

```python
from vt_timm.segmentation.inference import load_segmenter, segment
```

`vt-timm segment PHOTO -o segmented.png --model FOLDER` colours a photo with it. `vt-timm train-segmenter` wrote this
card; `settings.yaml` beside the folder has every setting of the run.
"""


class Progress:
    """What a checkpoint holds beside model, optimizer and random state."""

    def __init__(self) -> None:
        self.updates = 0
        self.best: dict[str, Any] = {}
        self.since_best = 0  # evaluations without a better mIoU

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "best": self.best, "since_best": self.since_best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.best, self.since_best = state["updates"], state["best"], state["since_best"]


def check_new(output: Path) -> None:
    """Refuse a folder in which an earlier run left something, so that its best model is never overwritten.

    Raises:
        UserError: if there is a run in it.
    """
    left = [name for name in (BEST, LAST, SUMMARY) if (output / name).exists()]
    if left:
        raise UserError(
            f"{output} holds a run already ({', '.join(left)}): go on with it by --resume, or name another folder"
        )


def save_best(output: Path, model: Segmenter, metrics: dict[str, Any]) -> None:
    """`best/`: the model as a Hub folder with its metrics and a card."""

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        card = CARD.format(
            neck=model.neck_name, backbone=model.backbone_name, number=model.num_classes,
            classes=", ".join(model.class_names), **metrics,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read

    _save_whole(output / BEST, save)


def save_state(accelerator: Any, output: Path) -> None:
    """`last/`: the whole state, for --resume."""
    folder = output / LAST
    new = folder.with_name(f"{folder.name}.new")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))  # every process saves its random state
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _put_in_place(new, folder)
    accelerator.wait_for_everyone()


def _save_whole(folder: Path, save: Callable[[Path], None]) -> None:
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    save(new)
    _put_in_place(new, folder)


def _put_in_place(new: Path, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def append_row(output: Path, row: dict[str, Any]) -> None:
    """One row per evaluation in summary.csv; rows after the one resumed from are replaced."""
    path, rows = output / SUMMARY, []
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if int(r["update"]) < row["update"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
