"""Mean intersection over union and pixel accuracy of a segmenter."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import SegmentationDataset
from .labels import IGNORE

__all__ = ["Confusion", "evaluate"]


class Confusion:
    """How often each class was taken for each other, over the pixels of as many images as are added.

    Args:
        num_classes: number of classes.
        device: where the logits are.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.matrix = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE).to(device)

    def add(self, logits_1KHW: Tensor, mask_HW: Tensor) -> None:
        """One image, scored at the size of its mask."""
        logits_1KHW = F.interpolate(logits_1KHW.float(), mask_HW.shape[-2:], mode="bilinear")
        self.add_labels(logits_1KHW.argmax(dim=1)[0], mask_HW)

    def add_labels(self, labels_HW: Tensor, mask_HW: Tensor) -> None:
        """One image, as `inference.segment` labels it."""
        self.matrix.update(labels_HW, mask_HW.to(labels_HW.device))

    def summary(self) -> dict[str, Any]:
        """Over all processes: "miou" and "pixel_accuracy" in percent, "iou" (one per class, None for one that does not
        occur). mIoU is the mean over the classes that occur in a mask or a prediction.
        """
        counts = self.matrix.compute().double()
        hits, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = labelled + predicted - hits
        iou = [100 * (h / u).item() if u else None for h, u in zip(hits, union, strict=True)]
        occurring = [value for value in iou if value is not None]
        return {
            "miou": sum(occurring) / max(len(occurring), 1),
            "pixel_accuracy": 100 * (hits.sum() / counts.sum().clamp(min=1)).item(),
            "iou": iou,
        }


def evaluate(
    model: nn.Module, dataset: SegmentationDataset, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """mIoU and pixel accuracy in percent over a whole data set, scored at the size of the masks.

    Every image counts once, also where processes hold different numbers of them: each process counts its own images,
    and torchmetrics adds up the counts.

    Args:
        model: a segmenter, in eval mode.
        dataset: a data set whose transform leaves the mask at its size.
        device: where the model is.
        rank, world: the number of this process, and how many processes there are.

    Returns:
        What `Confusion.summary` does, and "images".
    """
    confusion = Confusion(model.num_classes, device)  # type: ignore[arg-type]
    with torch.inference_mode():
        for index in range(rank, len(dataset), world):
            image, mask = dataset[index]
            confusion.add(model(image[None].to(device)), mask)
    return {**confusion.summary(), "images": len(dataset)}
