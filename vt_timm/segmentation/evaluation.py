"""Mean intersection over union and pixel accuracy of a segmenter."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .data import SegmentationDataset
from .labels import IGNORE

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module, dataset: SegmentationDataset, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """mIoU and pixel accuracy in percent over a whole data set, scored at the size of the masks.

    Every image counts once, also where processes hold different numbers of them: each takes its own, and torchmetrics
    adds up the counts. mIoU is the mean over the classes that occur in a mask or a prediction.

    Args:
        model: a segmenter, in eval mode.
        dataset: with a transform that leaves the mask at its size.
        device: where the model is.
        rank, world: this process and how many there are.

    Returns:
        "miou", "pixel_accuracy", "iou" (one per class, None for one that does not occur) and "images".
    """
    from torchmetrics.classification import MulticlassConfusionMatrix

    num_classes: int = model.num_classes  # type: ignore[assignment]
    confusion = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE).to(device)
    with torch.inference_mode():
        for index in range(rank, len(dataset), world):
            image, mask = dataset[index]
            logits = F.interpolate(model(image[None].to(device)).float(), mask.shape[-2:], mode="bilinear")
            confusion.update(logits.argmax(dim=1), mask[None].to(device))
    counts = confusion.compute().double()
    hits, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    union = labelled + predicted - hits
    iou = [100 * (h / u).item() if u else None for h, u in zip(hits, union, strict=True)]
    occurring = [value for value in iou if value is not None]
    return {
        "miou": sum(occurring) / max(len(occurring), 1),
        "pixel_accuracy": 100 * (hits.sum() / counts.sum().clamp(min=1)).item(),
        "iou": iou,
        "images": len(dataset),
    }
