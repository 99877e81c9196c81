"""Mean intersection over union and pixel accuracy of a segmenter."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import SegmentationDataset
from .labels import BACKGROUND, IGNORE

# In percent; the last two only where a class is called "background".
SCORES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "miou_without_background": "mIoU without background",
    "foreground_accuracy": "foreground accuracy",
}


class Confusion:
    """A count of how often each class was taken for each other, over the pixels of as many images as are added.

    Args:
        classes: what the classes are called.
        device: where the logits are.
    """

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu") -> None:
        from torchmetrics import SumMetric
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.foreground = [i for i, name in enumerate(classes) if name != BACKGROUND]
        self.matrix = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE).to(device)
        self.images = SumMetric().to(device)

    def add(self, logits_1KHW: Tensor, mask_HW: Tensor) -> None:
        """Add one image, scored at the size of its mask."""
        logits_1KHW = F.interpolate(logits_1KHW.float(), mask_HW.shape[-2:], mode="bilinear")
        self.add_labels(logits_1KHW.argmax(dim=1)[0], mask_HW)

    def add_labels(self, labels_HW: Tensor, mask_HW: Tensor) -> None:
        """Add one image, as `pipelines.segmentation.segment` labels it."""
        self.matrix.update(labels_HW, mask_HW.to(labels_HW.device))
        self.images.update(1)

    def summary(self) -> dict[str, Any]:
        """Return over all processes `SCORES`, "iou" (one per class, None for one that does not occur), and "images".

        mIoU is the mean over the classes that occur in a mask or a prediction, "miou_without_background" that of all
        others than the background; "foreground_accuracy" is the share of right pixels among those that the masks give
        another class. Most pixels of most photos are background, which hides how well the rest is seen.
        """
        counts = self.matrix.compute().double()
        hits, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = labelled + predicted - hits
        iou = [100 * (h / u).item() if u else None for h, u in zip(hits, union, strict=True)]
        scores = {"miou": _mean(iou), "pixel_accuracy": _share(hits, labelled)}
        if len(self.foreground) < len(iou):
            scores["miou_without_background"] = _mean([iou[i] for i in self.foreground])
            scores["foreground_accuracy"] = _share(hits[self.foreground], labelled[self.foreground])
        return {**scores, "iou": iou, "images": int(self.images.compute())}


def _mean(iou: Sequence[float | None]) -> float:
    """Return the mean of those that occur."""
    occurring = [value for value in iou if value is not None]
    return sum(occurring) / max(len(occurring), 1)


def _share(hits: Tensor, labelled: Tensor) -> float:
    return 100 * (hits.sum() / labelled.sum().clamp(min=1)).item()


def evaluate(
    model: nn.Module, dataset: SegmentationDataset, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """Return mIoU and pixel accuracy in percent over a whole data set, scored at the size of the masks.

    Every image counts once, but for those that cannot be used, also where processes hold different numbers of them:
    each process counts its own images, and torchmetrics adds up the counts.

    Args:
        model: a segmenter, in eval mode.
        dataset: a data set whose transform leaves the mask at its size.
        device: where the model is.
        rank, world: the number of this process, and how many processes there are.

    Returns:
        What `Confusion.summary` does.
    """
    confusion = Confusion(dataset.classes, device)
    with torch.inference_mode():
        for image, mask in dataset.usable(rank, world):
            confusion.add(model(image[None].to(device)), mask)
    return confusion.summary()
