"""A file beside the model that it was made from: how far apart their outputs are on the same photos, and how
accurate and fast both are on labelled ones.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CommandError
from ..images import ImageError, find_images, read_image
from ..pipelines.pipeline import Pipeline, read_mode
from ..pipelines.segmentation import SegmentationPipeline
from ..segmentation.data import SegmentationDataset, evaluation_transform
from ..segmentation.evaluation import Confusion
from ..segmentation.labels import LAYOUTS
from ..segmentation.settings import Settings
from ..segmentation.training_data import label_options_of

__all__ = [
    "Difference",
    "Scores",
    "batches",
    "check_difference",
    "difference",
    "open_validation",
    "photos_below",
    "score",
]

# Tolerances by precision: difference of the logits, as a share of their own size, and share of a segmenter's pixels
# that get another label.
LOGITS = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 0.1, "int8": 0.5}
LABELS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2, "int8": 0.1}


@dataclass(frozen=True)
class Difference:
    """How far a file's logits are from the model's, as a share of their own size, and the share of pixels with another
    label, None where there is one label per photo.
    """

    logits: float
    labels: float | None

    def __str__(self) -> str:
        pixels = "" if self.labels is None else f", {100 * (1 - self.labels):.2f} % of the pixels with the same label"
        return f"logits within {self.logits:.1g} of the model's{pixels}"


def photos_below(folder: str) -> list[Path]:
    """Photos anywhere below a folder; where it is a data set for segmentation, its masks are not photos.

    Raises:
        ImageError: if there are none.
    """
    root = Path(folder)
    masks = {layout.folders(root, split)[1] for layout in LAYOUTS.values() for split in ("train", "val")}
    masks.add(root / "labels")  # one split of the layout "folder"
    return [path for path in find_images([folder]) if masks.isdisjoint(path.parents)]


def batches(model: Pipeline, paths: list[Path], number: int, size: int = 16) -> Iterator[Tensor]:
    """Some of the photos, spread evenly over their names, as normalised batches of one shape each.

    What cannot be read is named on stderr and skipped.

    Raises:
        CommandError: if none can be read.
    """
    step = max(1, len(paths) // number)
    channels = read_mode(model)
    waiting: list[Tensor] = []
    for path in paths[::step][:number]:
        try:
            image = model.input(model.view(read_image(path, channels=channels)))
        except ImageError as error:
            print(f"vt-timm: skipped {error}", file=sys.stderr)
            continue
        if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(image)
    if not waiting:
        raise CommandError("none of the images could be read")
    yield torch.cat(waiting)


def difference(module: nn.Module, file: nn.Module, images: Iterable[Tensor]) -> Difference:
    """The root mean square of the logits' difference, as a share of the logits' own about their mean; and, where there
    is a label per pixel, the share of labels that differ.
    """
    apart = own = 0.0
    changed = pixels = 0
    with torch.inference_mode():
        for batch in images:
            expected, actual = module(batch), file(batch)
            if expected.ndim > 2:
                changed += int((expected.argmax(dim=1) != actual.argmax(dim=1)).sum())
                pixels += expected[:, 0].numel()
            apart += (actual.double() - expected).square().sum().item()
            own += (expected - expected.mean(dim=1, keepdim=True)).double().square().sum().item()
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
    """What the model and its file reach: accuracies in percent by their name, and images per second."""

    images: int
    model: dict[str, float]
    file: dict[str, float]
    model_speed: float
    file_speed: float

    def __str__(self) -> str:
        accuracy = ", ".join(f"{what} {value:.2f} % -> {self.file[what]:.2f} %" for what, value in self.model.items())
        return f"on {self.images} photos: {accuracy}, images per second {self.model_speed:.1f} -> {self.file_speed:.1f}"


def score(model: Pipeline, file: nn.Module, validation: "dict[Path, int] | SegmentationDataset") -> Scores:
    """Score both on all photos, one at a time.

    Args:
        model: the model, on the CPU.
        file: its file as a module with the same outputs.
        validation: the photos as `open_validation` gives them.
    """
    clocks = _Timed(model.module), _Timed(file)
    with torch.inference_mode():
        if isinstance(validation, SegmentationDataset):
            of_model, of_file = _segmented(clocks, validation)
        else:
            of_model, of_file = _classified(model, clocks, validation)
    speeds = [clock.images / clock.seconds for clock in clocks]
    return Scores(len(validation), of_model, of_file, *speeds)


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


def _classified(model: Pipeline, runs: tuple[_Timed, _Timed], labels: dict[Path, int]) -> list[dict[str, float]]:
    hits, channels = [0, 0], read_mode(model)
    for path, label in labels.items():
        image = model.input(model.view(read_image(path, channels=channels)))
        for i, run in enumerate(runs):
            hits[i] += int(run(image).argmax(dim=1).item() == label)
    return [{"top-1": 100 * hit / len(labels)} for hit in hits]


def _segmented(runs: tuple[_Timed, _Timed], data: SegmentationDataset) -> list[dict[str, float]]:
    confusions = [Confusion(len(data.classes)) for _ in runs]
    for image, mask in data:  # type: ignore[attr-defined]
        for run, confusion in zip(runs, confusions, strict=True):
            confusion.add(run(image[None]), mask)
    return [
        {"mIoU": found["miou"], "pixel accuracy": found["pixel_accuracy"]}
        for found in (confusion.summary() for confusion in confusions)
    ]


def open_validation(
    model: Pipeline, folder: str, settings: Settings | None = None
) -> "dict[Path, int] | SegmentationDataset":
    """The labelled photos that a model is scored on.

    Args:
        model: a classifier or a segmenter.
        folder: for a classifier one folder of photos per class; for a segmenter a data set with a validation split.
        settings: settings of a segmenter's training, which say what the masks mean; None for the layout "folder" with
            the model's own classes.

    Raises:
        CommandError: if the classes are not the model's.
        UserError: for what is missing.
    """
    if not isinstance(model, SegmentationPipeline):
        classes = _label_of_folder(model, Path(folder))
        return {path: label for name, label in classes.items() for path in find_images([str(Path(folder) / name)])}
    if util.find_spec("torchmetrics") is None:
        raise CommandError("scoring a segmenter needs torchmetrics: pip install 'vt_timm[segmentation]'")
    transform = evaluation_transform(model.module.short_side, **model.module.normalization)  # type: ignore[arg-type]
    settings = replace(settings or Settings(), data_dir=folder)
    if settings.classes and set(settings.classes) == set(model.class_names):  # older runs kept them sorted by name
        settings = replace(settings, classes={name: settings.classes[name] for name in model.class_names})
    try:
        labels = label_options_of(settings)
        data = SegmentationDataset(
            settings.layout, folder, "val", transform, labels, model.channels, settings.mask_suffix
        )
    except ValueError as error:
        raise CommandError(f"--validate {folder}: {error}") from error
    if list(data.classes) != list(model.class_names):
        raise CommandError(
            f"--validate {folder}: its {len(data.classes)} classes are not the model's {len(model.class_names)}; name "
            "the recipe or the settings.yaml that they were trained with: --config NAME"
        )
    return data


def _label_of_folder(model: Pipeline, folder: Path) -> dict[str, int]:
    """The class of each folder of photos: by the class's name or description, else by the order of the names."""
    if not folder.is_dir():
        raise CommandError(f"--validate {folder}: there is no such folder")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    config: Any = getattr(model.module, "pretrained_cfg", {})
    for known in (config.get("label_names") or [], model.class_names):
        if found and set(found) <= set(known):
            return {name: list(known).index(name) for name in found}
    if len(found) == len(model.class_names):
        return {name: i for i, name in enumerate(found)}
    raise CommandError(
        f"--validate {folder}: {len(found)} folders whose names are not those of the model's {len(model.class_names)} "
        "classes; name a folder with one folder of photos per class"
    )
