"""Keep which photos a run has right, so that any two runs can be paired over them."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..common.records import line_of_facts, read_rows, replace_rows, table
from ..tokens import paired
from . import runs

FILE = "right.csv"
# What the networks were asked for, by how the names of their runs are made.
ASKED = {
    "{}_seed42": "labels",
    "answers_{}": "a teacher's answers",
    "answers192_{}": "a teacher's answers, at 192 px in the end",
    "mixed_{}": "a teacher's answers on mixtures of photos",
}
OTHERS = {"pooled": "average pooling", "one_filter": "one filter token", "resnet18": "`resnet18`"}
SIZES = (128, 160, 192, 224)


def keep_right(name: str, right: Mapping[int, np.ndarray], **facts: Any) -> None:
    """Keep which of the validation photos, in the order of their paths, a run has right at each size in pixels."""
    rows = [
        {
            "name": name,
            "size": size,
            "photos": len(right_N),
            "right": base64.b64encode(np.packbits(right_N).tobytes()).decode(),  # a bit per photo
            **line_of_facts(),
            **facts,
        }
        for size, right_N in right.items()
    ]
    replace_rows(runs.ACCURACY / FILE, rows, name=name)


def right_of(name: str, size: int) -> torch.Tensor | None:
    """Return which photos a run has right at a size, a bool per photo; None if that was not kept."""
    for row in read_rows(runs.ACCURACY / FILE, name=name, size=size):
        bits = np.frombuffer(base64.b64decode(row["right"]), np.uint8)
        return torch.from_numpy(np.unpackbits(bits, count=row["photos"]).astype(bool))
    return None


def difference(name: str, other: str, size: int) -> dict[str, float] | None:
    """Return what a run has over another in top-1, and the standard error, paired; None where either is missing."""
    right, others = right_of(name, size), right_of(other, size)
    return None if right is None or others is None else paired(right, others)


def pairs() -> str:
    """Tabulate what VT with an awake projector has over the other networks, paired over the photos."""
    rows = []
    for form, asked in ASKED.items():
        for other, called in OTHERS.items():
            found = [difference(form.format("awake"), form.format(other), size) for size in SIZES]
            if any(found):
                cells = [one and f"{one['difference']:+.2f} +- {one['standard_error']:.2f}" for one in found]
                rows.append([asked, called, *cells])
    return table(["asked for", "VT's top-1 less that of", *(f"at {size} px" for size in SIZES)], rows)
