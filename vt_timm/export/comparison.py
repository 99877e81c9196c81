"""How a file compares with the model that it was made from: its outputs, its accuracy and its speed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import CommandError
from ..pipelines.pipeline import Pipeline

if TYPE_CHECKING:
    from ..pipelines.validation import Validation

# Tolerances by precision: difference of the logits, as a share of their own size, and share of a segmenter's pixels
# that get another label.
LOGITS = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 0.1, "int8": 0.5}
LABELS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2, "int8": 0.1}


@dataclass(frozen=True)
class Difference:
    """The difference of a file's logits from the model's, as a share of their own size, and the share of pixels with
    another label, None where there is one label per photo.
    """

    logits: float
    labels: float | None

    def __str__(self) -> str:
        pixels = "" if self.labels is None else f", {100 * (1 - self.labels):.2f} % of the pixels with the same label"
        return f"logits within {self.logits:.1g} of the model's{pixels}"


def measure_difference(model: Callable[[Tensor], Tensor], file: nn.Module, images: Iterable[Tensor]) -> Difference:
    """Return the root mean square of the logits' difference, as a share of the logits' own about their mean, and where
    there is a label per pixel the share of labels that differ.
    """
    apart = own = 0.0
    changed = pixels = 0
    with torch.inference_mode():
        for batch in images:
            expected, actual = model(batch), file(batch)
            if expected.ndim > 2:
                changed += int((expected.argmax(dim=1) != actual.argmax(dim=1)).sum())
                pixels += expected[:, 0].numel()
            apart += (actual.double() - expected).square().sum().item()
            about = expected.mean(dim=1, keepdim=True) if expected.shape[1] > 1 else 0.0  # one class: yes or no
            own += (expected - about).double().square().sum().item()
    logits = float("inf") if apart != apart else (apart / max(own, 1e-12)) ** 0.5
    return Difference(logits, changed / pixels if pixels else None)


def check_difference(path: Path, found: Difference, precision: str, tolerance: float | None) -> None:
    """Raise a CommandError for a file that answers differently.

    Args:
        path: the file.
        found: how differently it answers.
        precision: the file's, a key of `LOGITS`.
        tolerance: the largest difference of logits and of labels; None for those of the precision.
    """
    logits, labels = (limits[precision] if tolerance is None else tolerance for limits in (LOGITS, LABELS))
    if not found.logits <= logits:
        raise CommandError(
            f"{path} is not written: its logits differ from the model's by {found.logits:.2g} of their size, more than "
            f"the tolerance of {logits:g}"
        )
    if found.labels is not None and not found.labels <= labels:
        raise CommandError(
            f"{path} is not written: {found.labels:.2g} of the pixels get another label than from the model, more than "
            f"the tolerance of {labels:g}"
        )


@dataclass(frozen=True)
class Scores:
    """The accuracies of the model and its file in percent, by their name, and their images per second."""

    images: int
    model: dict[str, float]
    file: dict[str, float]
    model_speed: float
    file_speed: float

    def __str__(self) -> str:
        accuracy = ", ".join(f"{what} {value:.2f} % -> {self.file[what]:.2f} %" for what, value in self.model.items())
        return f"on {self.images} photos: {accuracy}, images per second {self.model_speed:.1f} -> {self.file_speed:.1f}"


def score(model: Pipeline, file: nn.Module, validation: "Validation") -> Scores:
    """Score both on all photos, one at a time.

    Args:
        model: the model, on the CPU.
        file: its file as a module with the same outputs.
        validation: the photos, as `model.validation` gives them.
    """
    clocks = _Timed(model.run), _Timed(file)
    with torch.inference_mode():
        of_model, of_file = validation.accuracies(clocks)
    speeds = [clock.images / clock.seconds for clock in clocks]
    return Scores(len(validation.photos), of_model, of_file, *speeds)


class _Timed:
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self.run, self.images, self.seconds = run, 0, 0.0

    def __call__(self, images: Tensor) -> Tensor:
        start = time.perf_counter()
        output = self.run(images)
        self.seconds += time.perf_counter() - start
        self.images += len(images)
        return output
