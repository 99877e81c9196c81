"""The accuracy and speed of a file, and of the model that it was made from, on labelled photos."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pipelines.pipeline import Pipeline
from ..pipelines.validation import Validation

__all__ = ["Scores", "score"]


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


def score(model: Pipeline, file: nn.Module, validation: Validation) -> Scores:
    """Score both on all photos, one at a time.

    Args:
        model: the model, on the CPU.
        file: its file as a module with the same outputs.
        validation: the photos, as `model.validation` gives them.
    """
    clocks = _Timed(model.module), _Timed(file)
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
