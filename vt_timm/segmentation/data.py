"""Data for semantic segmentation: the published folder layouts, and transforms of image and mask together.

A mask holds one label a pixel, 0 to num_classes - 1, and 255 where there is none (`IGNORE`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = [
    "IGNORE",
    "LAYOUTS",
    "DataError",
    "SegmentationDataset",
    "evaluation_transform",
    "palette",
    "training_transform",
]

IGNORE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

LIP_CLASSES = (
    "background, hat, hair, glove, sunglasses, upper clothes, dress, coat, socks, pants, jumpsuits, scarf, skirt, "
    "face, left arm, right arm, left leg, right leg, left shoe, right shoe"
).split(", ")
# COCO-Stuff's 91 classes of stuff, in the order of their labels, after one class for all things (labels 0 to 90).
COCO_STUFF_CLASSES = (
    "things, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, "
    "ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, "
    "floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, "
    "grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, "
    "net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, "
    "roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, "
    "structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, "
    "wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"
).split(", ")
COCO_THINGS = 91  # labels 0 to 90 of the stuffthingmaps


class DataError(Exception):
    """What is wrong with the data, in one line that names the file."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files and what its labels mean.

    `folders` gives the folders of images and of labels for "train" or "val", `classes` the names; `label_of` turns a
    label of the files into ours, where they differ; `mirrored` are pairs of labels that swap in a mirrored image.
    """

    folders: Callable[[Path, str], tuple[Path, Path]]
    classes: Callable[[Path], list[str]]
    label_of: np.ndarray | None = None
    mirrored: tuple[tuple[int, int], ...] = ()


def _names_file(root: Path) -> list[str]:
    path = root / "classes.txt"
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; it names the classes, one a line, in the order of their labels"
        )
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _coco_labels() -> np.ndarray:
    table = np.arange(256, dtype=np.uint8)
    table[:COCO_THINGS] = 0
    table[COCO_THINGS : COCO_THINGS + 91] = np.arange(1, 92)
    return table  # 255, unlabelled, stays; what lies between is no label and is refused by number


LAYOUTS = {
    # images/ and labels/ under train/ and val/, classes.txt beside them
    "folder": Layout(lambda root, split: (root / split / "images", root / split / "labels"), _names_file),
    # Look Into Person, single person, as its archives unpack
    "lip": Layout(
        lambda root, split: (
            root / "TrainVal_images" / f"{split}_images",
            root / "TrainVal_parsing_annotations" / f"{split}_segmentations",
        ),
        lambda root: LIP_CLASSES,
        mirrored=((14, 15), (16, 17), (18, 19)),
    ),
    # COCO 2017 with stuffthingmaps_trainval2017: one class for all things, then the 91 of stuff
    "coco_stuff": Layout(
        lambda root, split: (root / f"{split}2017", root / "stuffthingmaps_trainval2017" / f"{split}2017"),
        lambda root: COCO_STUFF_CLASSES,
        label_of=_coco_labels(),
    ),
}


class SegmentationDataset(Dataset):
    """Images with their masks, in one of `LAYOUTS`.

    Args:
        layout: "folder", "lip" or "coco_stuff".
        root: the data set's folder.
        split: "train" or "val".
        transform: of an image and its mask together; their types are torchvision's `tv_tensors`.

    Raises:
        DataError: naming the folder or file, for a missing folder, no images, an image without a mask; on reading,
            for a mask of another size than its image or a label beyond the classes.
        ValueError: for an unknown layout or split.
    """

    def __init__(self, layout: str, root: str | Path, split: str, transform: Callable[..., Any] | None = None) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: choose one of {', '.join(map(repr, LAYOUTS))}")
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: choose 'train' or 'val'")
        self.layout = LAYOUTS[layout]
        self.root = Path(root)
        images, masks = self.layout.folders(self.root, split)
        for folder in (self.root, images, masks):
            if not folder.is_dir():
                raise DataError(f"{folder}: there is no such folder (layout {layout!r})")
        self.classes = self.layout.classes(self.root)
        self.pairs = [
            (path, masks / f"{path.stem}.png")
            for path in sorted(images.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not self.pairs:
            raise DataError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
        for image, mask in self.pairs:
            if not mask.is_file():
                raise DataError(f"{image}: its mask {mask} is missing")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        image = tv_tensors.Image(_read(image_path).convert("RGB"))
        mask = tv_tensors.Mask(self._labels(mask_path))
        if mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{t.shape[-1]} x {t.shape[-2]}" for t in (mask, image)]
            raise DataError(f"{mask_path}: the mask has {sizes[0]} pixels and its image {image_path.name} {sizes[1]}")
        return self.transform(image, mask) if self.transform else (image, mask)

    def _labels(self, path: Path) -> Tensor:
        labels = np.array(_read(path))
        if labels.ndim != 2:
            raise DataError(f"{path}: a mask has one channel of labels, this has {labels.shape[2]}")
        if self.layout.label_of is not None:
            labels = self.layout.label_of[labels]
        highest = int(labels[labels != IGNORE].max(initial=0))
        if highest >= len(self.classes):
            raise DataError(
                f"{path}: label {highest} is beyond the {len(self.classes)} classes (0 to {len(self.classes) - 1}; "
                f"{IGNORE} is ignored)"
            )
        return torch.from_numpy(labels.astype(np.int64))


def _read(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
    return image


class RandomMirror:
    """Mirrors image and mask left to right half of the time, and swaps the labels that name a side."""

    def __init__(self, mirrored: Sequence[tuple[int, int]] = ()) -> None:
        self.label_of = torch.arange(256)
        for a, b in mirrored:
            self.label_of[[a, b]] = self.label_of[[b, a]]

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()) < 0.5:
            image, mask = v2.functional.horizontal_flip(image), v2.functional.horizontal_flip(mask)
            mask = tv_tensors.wrap(self.label_of[mask], like=mask)
        return image, mask


def training_transform(
    crop_size: int,
    scale: tuple[float, float] = (0.5, 2.0),
    short_sides: Sequence[int] | None = None,
    max_long_side: int | None = None,
    mirrored: Sequence[tuple[int, int]] = (),
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> v2.Compose:
    """Random size, random crop, random mirroring, colours normalised.

    Args:
        crop_size: side of the square crop, pixels; what lies outside the image is black and ignored.
        scale: range of the image's size, 1 being the size at which it just fits into the crop.
        short_sides: instead of `scale`, lengths of the short side to choose from, pixels.
        max_long_side: with `short_sides`, the longest the long side may become.
        mirrored: pairs of labels that name a side, see `Layout`.
        mean, std: of the backbone's colours.
    """
    if short_sides:
        resize: v2.Transform = v2.RandomShortestSize(list(short_sides), max_size=max_long_side)
    else:
        resize = v2.ScaleJitter((crop_size, crop_size), scale_range=scale)
    fill: dict[Any, Any] = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            resize,
            v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
            RandomMirror(mirrored),
            *_to_numbers(mean, std),
        ]
    )


def evaluation_transform(
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> v2.Compose:
    """The image at a size of its own, the mask as it is: predictions are scored at the mask's size.

    Args:
        size: short side in pixels, or height and width, or None for the image's own.
        mean, std: of the backbone's colours.
    """
    resize = [v2.Resize(size if isinstance(size, int) else list(size), antialias=True)] if size else []

    def image_alone(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        for step in resize:
            image = step(image)
        return image, mask

    return v2.Compose([image_alone, *_to_numbers(mean, std)])


def _to_numbers(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    dtypes: dict[Any, Any] = {tv_tensors.Image: torch.float32, "others": None}
    return [v2.ToDtype(dtypes, scale=True), v2.Normalize(mean, std), v2.ToPureTensor()]


def palette(num_classes: int) -> np.ndarray:
    """A colour a class, (num_classes, 3) of 0 to 255: black, then far apart from one another in the bits' order.

    The scheme of PASCAL VOC: bits of the class number spread over the high bits of red, green and blue.
    """
    colours = np.zeros((num_classes, 3), dtype=np.uint8)
    for label in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
