"""Labelled photos that a model is scored on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.utils import accuracy
from torch import Tensor

from ..errors import CommandError, some
from ..images import ImageError, find_images, is_hidden
from ..segmentation.data import SegmentationDataset, evaluation_transform
from ..segmentation.evaluation import SCORES, Confusion
from ..segmentation.settings import Settings
from ..segmentation.training_data import label_options_of
from .classification import labels_of_folders
from .pipeline import inputs

if TYPE_CHECKING:
    from ..pipelines.classification import ClassificationPipeline
    from ..pipelines.segmentation import SegmentationPipeline

Run = Callable[[Tensor], Tensor]  # a normalised batch in, logits out


class Validation(ABC):
    """Photos and what is right of them."""

    photos: list[Path]

    @abstractmethod
    def accuracies(self, runs: Sequence[Run]) -> list[dict[str, float]]:
        """Return the accuracies in percent, by their name, of several runs that see each photo in turn."""


class ClassFolders(Validation):
    """One folder of photos per class, as `labels_of_folders` knows them.

    Raises:
        CommandError: if the folders are not the model's classes.
    """

    def __init__(self, model: "ClassificationPipeline", folder: str) -> None:
        self.model = model
        self.labels = {
            path: label
            for name, label in self._label_of_folder(Path(folder)).items()
            for path in self._photos_in(Path(folder) / name)
        }
        if not self.labels:
            raise CommandError(f"{folder}: no images in this folder")
        self.photos = list(self.labels)

    def _photos_in(self, folder: Path) -> list[Path]:
        try:
            return find_images([str(folder)])
        except ImageError:  # a folder without photos, which a training leaves out too
            return []

    def _label_of_folder(self, folder: Path) -> dict[str, int]:
        if not folder.is_dir():
            raise CommandError(f"{folder}: there is no such folder")
        found = (path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(Path(path.name)))
        names, classes = sorted(found), self.model.class_names
        labels = labels_of_folders(names, self.model.module)
        if labels is not None:
            return labels
        raise CommandError(
            f"{folder}: its folders ({some(names)}) are not the model's {len(classes)} classes "
            f"({some(classes)}); name a folder with one folder of photos per class"
        )

    def accuracies(self, runs: Sequence[Run]) -> list[dict[str, float]]:
        ranks = (1, 5) if len(self.model.class_names) > 5 else (1,)  # of five classes all are among the first five
        hits = []  # of each photo, by run and rank
        for path, image in inputs(self.model, self.photos):
            label = torch.tensor([self.labels[path]], device="cpu")
            hits.append([accuracy(run(image), label, ranks) for run in runs])
        means = torch.tensor(hits, dtype=torch.double, device="cpu").mean(dim=0)
        names = [f"top-{rank}" for rank in ranks]
        return [dict(zip(names, row, strict=True)) for row in means.tolist()]


class LabelledPixels(Validation):
    """The split "val" of a data set for segmentation.

    Args:
        model: a segmenter.
        folder: the data set.
        settings: settings of its training, which say what the masks mean; None for the layout "folder" with the
            model's own classes.

    Raises:
        CommandError: if the classes are not the model's.
        UserError: for what is missing.
    """

    def __init__(self, model: "SegmentationPipeline", folder: str, settings: Settings | None = None) -> None:
        if util.find_spec("torchmetrics") is None:
            raise CommandError("scoring a segmenter needs torchmetrics: pip install 'vt_timm[segmentation]'")
        transform = evaluation_transform(model.module.short_side, **model.module.normalization)  # type: ignore[arg-type]
        settings = replace(settings or Settings(), data_dir=folder)
        if settings.classes and set(settings.classes) == set(model.class_names):  # older runs kept them sorted by name
            settings = replace(settings, classes={name: settings.classes[name] for name in model.class_names})
        try:
            labels = label_options_of(settings)
            self.data = SegmentationDataset(
                settings.layout, folder, "val", transform, labels, model.channels, settings.mask_suffix
            )
        except ValueError as error:
            raise CommandError(f"{folder}: {error}") from error
        if list(self.data.classes) != list(model.class_names):
            raise CommandError(
                f"{folder}: its {len(self.data.classes)} classes are not the model's "
                f"{len(model.class_names)}; name the recipe or the settings.yaml that they were trained with: "
                "--config NAME"
            )
        self.photos = [photo for photo, _ in self.data.pairs]

    def accuracies(self, runs: Sequence[Run]) -> list[dict[str, float]]:
        confusions = [Confusion(self.data.classes) for _ in runs]
        for image, mask in self.data.usable():
            for run, confusion in zip(runs, confusions, strict=True):
                confusion.add(run(image[None]), mask)
        summaries = [confusion.summary() for confusion in confusions]
        if not summaries[0]["images"]:
            raise CommandError("none of the images could be read")
        return [{said: summary[name] for name, said in SCORES.items() if name in summary} for summary in summaries]
