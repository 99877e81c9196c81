"""A data set of images with their masks, in one of the published folder layouts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..errors import check_choice
from ..images import ImageError, exif_upright, is_picture, read_channels
from .labels import IGNORE, LabelError, Labels
from .layouts import LAYOUTS, DataError

__all__ = ["SegmentationDataset", "class_shares"]

SPLITS = ("train", "val")
ENOUGH_MASKS = 200  # that are read to say how frequent each class is


class SegmentationDataset(Dataset):
    """Images with their masks.

    An image is read as every command of ours reads it (`images.read_channels`): upright, 16 bits scaled to 8. A mask is
    read as it is, and turned as its image where it carries the same EXIF flag.

    Args:
        layout: a name in `LAYOUTS`: "folder", "lip" or "coco_stuff".
        root: the data set's folder.
        split: "train" or "val".
        transform: of an image and its mask together; their types are torchvision's `tv_tensors`.
        label_options: more for `Labels`: groups, rest, reduce_zero, values, ignore, colours.
        channels: of the images, as the network takes them: 3 for RGB.

    Shapes: image (channels, H, W) uint8, mask (H, W) int64 of 0 to the number of classes - 1, or `IGNORE`.

    Raises:
        DataError: naming the folder or file, for a missing folder, no images, an image without a mask; on reading,
            for a mask of another size than its image or a label beyond the classes.
        ValueError: for an unknown layout or split, or options about labels that do not fit.
    """

    def __init__(
        self,
        layout: str,
        root: str | Path,
        split: str,
        transform: Callable[..., Any] | None = None,
        label_options: dict[str, Any] | None = None,
        channels: int = 3,
    ) -> None:
        check_choice("layout", layout, LAYOUTS)
        check_choice("split", split, SPLITS)
        self.layout, self.root, self.channels, self.transform = LAYOUTS[layout], Path(root), channels, transform
        images, masks = self.layout.folders(self.root, split)
        for folder in (self.root, images, masks):
            if not folder.is_dir():
                raise DataError(f"{folder}: there is no such folder (layout {layout!r})")
        names = self.layout.classes(self.root)
        self.labels = Labels(names, **{"values": dict(self.layout.values), **(label_options or {})})
        self.classes = self.labels.classes
        self.pairs = list(_pairs(images, masks))
        if not self.pairs:
            raise DataError(f"{images}: no images in this folder that Pillow can read")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        try:
            pixels = torch.from_numpy(read_channels(image_path, self.channels).copy())
        except ImageError as error:
            raise DataError(str(error)) from error
        image, mask = tv_tensors.Image(pixels.permute(2, 0, 1)), tv_tensors.Mask(self.mask(index))
        if mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{t.shape[-1]} x {t.shape[-2]}" for t in (mask, image)]
            raise DataError(f"{mask_path}: the mask has {sizes[0]} pixels and its image {image_path.name} {sizes[1]}")
        return self.transform(image, mask) if self.transform else (image, mask)

    def mask(self, index: int) -> Tensor:
        """The labels of an image, (H, W), as they are before any transform."""
        path = self.pairs[index][1]
        try:
            with Image.open(path) as mask:
                mask.load()
                values = np.array(exif_upright(mask))
            return torch.from_numpy(self.labels(values))
        except LabelError as error:
            raise DataError(f"{path}: {error}") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error


def _pairs(images: Path, masks: Path) -> Iterator[tuple[Path, Path]]:
    """Each image with the mask of its name, whatever the suffix; a .png first where there are several."""
    by_stem: dict[str, list[Path]] = {}
    for path in masks.iterdir():
        if is_picture(path):
            by_stem.setdefault(path.stem, []).append(path)
    for image in sorted(path for path in images.iterdir() if is_picture(path)):
        found = sorted(by_stem.get(image.stem, []), key=lambda path: (path.suffix.lower() != ".png", path.name))
        if not found:
            raise DataError(f"{image}: its mask {masks / image.stem}.png is missing")
        yield image, found[0]


def class_shares(dataset: SegmentationDataset) -> dict[str, float]:
    """Share of the pixels of each class, and of "(ignored)" ones, over up to `ENOUGH_MASKS` masks spread evenly."""
    step = max(1, len(dataset) // ENOUGH_MASKS)
    counts = torch.zeros(IGNORE + 1, dtype=torch.long)
    for index in range(0, len(dataset), step):
        counts += dataset.mask(index).flatten().bincount(minlength=IGNORE + 1)
    shares = counts.double() / counts.sum().clamp(min=1)
    named = {name: shares[i].item() for i, name in enumerate(dataset.classes)}
    return {**named, "(ignored)": shares[IGNORE].item()}
