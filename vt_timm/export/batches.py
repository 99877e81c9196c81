"""The photos that a file is calibrated with and compared on, as batches."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..images import MODES, ImageError, find_images, sample_photo
from ..pipelines.pipeline import Pipeline, inputs
from ..segmentation.labels import LAYOUTS


def photos_below(folder: str) -> list[Path]:
    """Return the photos anywhere below a folder; where it is a data set for segmentation, its masks are not photos.

    Raises:
        ImageError: if there are none.
    """
    root = Path(folder)
    masks = {layout.folders(root, split)[1] for layout in LAYOUTS.values() for split in ("train", "val")}
    masks.add(root / "labels")  # one split of the layout "folder"
    return [path for path in find_images([folder]) if masks.isdisjoint(path.parents)]


def batches(model: Pipeline, paths: list[Path], number: int, size: int = 16) -> Iterator[Tensor]:
    """Yield some of the photos, spread evenly over their names, as normalised batches of one shape each.

    What cannot be read is named on stderr and skipped.

    Raises:
        CommandError: if none can be read.
    """
    number = min(number, len(paths))
    waiting: list[Tensor] = []
    for _, image in inputs(model, [paths[i * len(paths) // number] for i in range(number)]):
        if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(image)
    yield torch.cat(waiting)


def samples(model: Pipeline) -> Iterator[Tensor]:
    """Yield what a file is compared on where the user names no photos: those of installed libraries, and noise."""
    for sample in ("person", "photo") if model.channels in MODES else ():
        try:
            yield from batches(model, [sample_photo(sample)], 1)
        except ImageError:  # the library is not installed
            continue
    yield model.example()
