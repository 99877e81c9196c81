"""Transforms of an image and its mask together, of torchvision's `tv_tensors`."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from .labels import IGNORE

MIN_SIDE = 32  # pixels; what a network of stride 32 needs

__all__ = ["MIN_SIDE", "RandomMirror", "evaluation_transform", "training_transform"]


class RandomMirror:
    """Mirrors image and mask left to right half of the time, and swaps the labels that name a side."""

    def __init__(self, mirrored: Sequence[tuple[int, int]] = ()) -> None:
        self.label_of = torch.arange(IGNORE + 1)
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
    color_jitter: float = 0.0,
    mirrored: Sequence[tuple[int, int]] = (),
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> v2.Compose:
    """Resize, crop, mirror and recolour an image and its mask at random, then normalise the image.

    Args:
        crop_size: side of the square crop, pixels; what lies outside the image is black and ignored.
        scale: range of the image's size, 1 being the size at which it just fits into the crop.
        short_sides: instead of `scale`, lengths of the short side to choose from, pixels.
        max_long_side: with `short_sides`, the longest that the long side may become.
        color_jitter: strength of the change of brightness, contrast and saturation, of 1 or 3 channels.
        mirrored: pairs of labels that name a side, see `Layout`.
        mean, std: mean and standard deviation of the colours that the backbone expects.

    Shapes: image (C, H, W) and mask (H, W) -> (C, crop_size, crop_size) float32, (crop_size, crop_size). A side of
    fewer than `MIN_SIDE` pixels is stretched first.
    """
    if short_sides:
        resize: v2.Transform = v2.RandomShortestSize(list(short_sides), max_size=max_long_side)
    else:
        resize = v2.ScaleJitter((crop_size, crop_size), scale_range=scale)
    fill: dict[Any, Any] = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            AtLeast(MIN_SIDE),
            resize,
            v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
            RandomMirror(mirrored),
            *_to_numbers(mean, std, color_jitter),
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
        mean, std: mean and standard deviation of the colours that the backbone expects.
    """
    return v2.Compose([ResizeImage(size, MIN_SIDE), *_to_numbers(mean, std)])


class AtLeast:
    """Stretches image and mask to this many pixels per side where they have fewer."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if min(image.shape[-2:]) < self.side:
            size = [max(length, self.side) for length in image.shape[-2:]]
            image, mask = v2.functional.resize(image, size, antialias=True), v2.functional.resize(mask, size)
        return image, mask


class ResizeImage:
    """Resizes the image, to no fewer pixels per side than `least`, and leaves the mask.

    A class and not a closure, so that it can be sent to a worker process.
    """

    def __init__(self, size: int | Sequence[int] | None, least: int) -> None:
        self.size = [size] if isinstance(size, int) else size
        self.least = least

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.size is not None:
            image = v2.functional.resize(image, list(self.size), antialias=True)
        if min(image.shape[-2:]) < self.least:
            image = v2.functional.resize(image, [max(n, self.least) for n in image.shape[-2:]], antialias=True)
        return image, mask


def _to_numbers(mean: Sequence[float], std: Sequence[float], color_jitter: float = 0.0) -> list[v2.Transform]:
    dtypes: dict[Any, Any] = {tv_tensors.Image: torch.float32, "others": None}
    jitter = [v2.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
    return [v2.ToDtype(dtypes, scale=True), *jitter, v2.Normalize(mean, std), v2.ToPureTensor()]
