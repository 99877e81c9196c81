"""A file against the model that it was made from: the same photos, in turn, in one run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CommandError
from ..images import find_images, read_image
from ..photos.models import PhotoModel, read_mode

__all__ = ["TOLERANCE", "Scores", "batches", "difference", "score"]

TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "int8": 0.5}  # of the logits, as a share of their own size


@dataclass
class Scores:
    """Of the model and of its file: top-1 in percent, and images per second."""

    images: int
    model: float
    file: float
    model_speed: float
    file_speed: float

    def __str__(self) -> str:
        return (
            f"top-1 on {self.images} photos {self.model:.2f} % -> {self.file:.2f} %, "
            f"images per second {self.model_speed:.1f} -> {self.file_speed:.1f}"
        )


def batches(model: PhotoModel, folder: str, number: int, size: int = 16) -> Iterator[Tensor]:
    """Photos below a folder, spread evenly over their names, as normalised batches of one shape each."""
    paths = find_images([folder])
    step = max(1, len(paths) // number)
    channels = read_mode(model)
    waiting: list[Tensor] = []
    for path in paths[::step][:number]:
        image = model.input(model.view(read_image(path, channels=channels)))
        if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.cat(waiting)


def difference(module: nn.Module, file: nn.Module, images: Iterator[Tensor]) -> float:
    """Root of the mean square difference of the logits, as a share of that of the logits about their mean."""
    apart = own = 0.0
    with torch.inference_mode():
        for batch in images:
            expected, actual = module(batch).double(), file(batch).double()
            apart += (actual - expected).square().sum().item()
            own += (expected - expected.mean(dim=1, keepdim=True)).square().sum().item()
    return float("inf") if apart != apart else (apart / max(own, 1e-12)) ** 0.5


def score(model: PhotoModel, file: nn.Module, folder: str) -> Scores:
    """Both over a folder that holds one folder of photos per class."""
    clocks = _Timed(model.module), _Timed(file)
    values, number = _top1(model, clocks, folder)
    speeds = [clock.images / clock.seconds for clock in clocks]
    return Scores(number, *values, *speeds)


class _Timed(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run, self.images, self.seconds = run, 0, 0.0

    def forward(self, images: Tensor) -> Tensor:
        start = time.perf_counter()
        output = self.run(images)
        self.seconds += time.perf_counter() - start
        self.images += len(images)
        return output


def _top1(model: PhotoModel, runs: tuple["_Timed", "_Timed"], folder: str) -> tuple[list[float], int]:
    labels = _label_of_folder(model, Path(folder))
    hits, number, channels = [0, 0], 0, read_mode(model)
    with torch.inference_mode():
        for name, label in labels.items():
            for path in find_images([str(Path(folder) / name)]):
                image = model.input(model.view(read_image(path, channels=channels)))
                for i, run in enumerate(runs):
                    hits[i] += int(run(image).argmax(dim=1).item() == label)
                number += 1
    return [100 * hit / number for hit in hits], number


def _label_of_folder(model: PhotoModel, folder: Path) -> dict[str, int]:
    """The class of each folder of photos: by the class's name or description, else by the order of the names."""
    if not folder.is_dir():
        raise CommandError(f"--validate {folder}: there is no such folder")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names: list[str] = model.class_names  # type: ignore[attr-defined]
    config: Any = getattr(model.module, "pretrained_cfg", {})
    for known in (config.get("label_names") or [], names):
        if found and set(found) <= set(known):
            return {name: list(known).index(name) for name in found}
    if len(found) == len(names):
        return {name: i for i, name in enumerate(found)}
    raise CommandError(
        f"--validate {folder}: {len(found)} folders whose names are not those of the model's {len(names)} classes; "
        "name a folder with one folder of photos per class"
    )
