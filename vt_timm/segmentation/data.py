"""A data set of images with their masks, in one of the published folder layouts, and transforms of both together."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..errors import check_choice, first_line, say
from ..images import ARRAY, ImageError, is_picture, read_channels, say_unread
from .labels import IGNORE, LAYOUTS, DataError, LabelError, Labels

SPLITS = ("train", "val")
ENOUGH_MASKS = 200  # at least so many are read, or all, to say how frequent each class is
JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")
MIN_SIDE = 32  # pixels; what a network of stride 32 needs
BAD_IN_A_ROW = 50  # so many files that cannot be used end a training; fewer are left out

T = TypeVar("T")


class LeftOut:
    """Those of a list of files that cannot be used: each is said once, whichever worker of a loader meets it first."""

    def __init__(self, files: int) -> None:
        self.said = torch.zeros(files, dtype=torch.bool).share_memory_()

    def say(self, index: int, error: DataError) -> None:
        if not self.said[index]:
            self.said[index] = True
            # Not by `say`, which is silent in all processes but the first: each has files of its own.
            print(f"vt-timm: left out {error}", file=sys.stderr, flush=True)

    def first_usable(self, read: Callable[[int], T], index: int) -> T:
        """Return what `read` gives for a file, or for the next one that can be used.

        Raises:
            DataError: where a whole row of files cannot be used.
        """
        row = range(index, index + min(BAD_IN_A_ROW, len(self.said)))
        for at in (place % len(self.said) for place in row):
            try:
                return read(at)
            except DataError as error:
                self.say(at, error)
                last = error
        raise DataError(f"{len(row)} files in a row cannot be used, the last of them {last}")


class SegmentationDataset(Dataset):
    """Images with their masks.

    An image is read as every command of ours reads it (`images.read_channels`): upright, 16 bits scaled to 8. A mask is
    read as it is, and turned only if it carries an EXIF flag of its own.

    Args:
        layout: a name in `LAYOUTS`: "folder", "lip" or "coco_stuff".
        root: the data set's folder.
        split: "train" or "val".
        transform: a function of an image and its mask; their types are torchvision's `tv_tensors`.
        label_options: more arguments for `Labels`: groups, rest, reduce_zero, values, ignore, colours, ignore_colour.
        channels: number of channels that the network takes: 3 for RGB.
        mask_suffix: what a mask's name has after its image's: "_mask" where photo.jpg goes with photo_mask.png.
        go_on: whether the next image takes the place of one that cannot be used, which is said once.

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
        mask_suffix: str = "",
        go_on: bool = False,
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
        self.pairs = list(_pairs(images, masks, mask_suffix))
        if not self.pairs:
            raise DataError(f"{images}: no images in this folder that Pillow can read")
        lossy = next((mask for _, mask in self.pairs if mask.suffix.lower() in JPEGS), None)
        if lossy:
            say(f"warning: {lossy} is a JPEG, which changes labels along every edge: save masks as .png")
        self.go_on, self.left_out = go_on, LeftOut(len(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.pair(index)
        return self.transform(image, mask) if self.transform else (image, mask)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an image and its mask as they are before any transform."""
        return self.left_out.first_usable(self._pair, index) if self.go_on else self._pair(index)

    def usable(self, start: int = 0, step: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image, or every so many, with its mask; of those that cannot be used it is said once."""
        for index in range(start, len(self), step):
            try:
                yield self[index]
            except DataError as error:
                self.left_out.say(index, error)

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        image, mask = self.image(image_path), tv_tensors.Mask(self.mask(index))
        if mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{t.shape[-1]} x {t.shape[-2]}" for t in (mask, image)]
            raise DataError(f"{mask_path}: the mask has {sizes[0]} pixels and its image {image_path.name} {sizes[1]}")
        return image, mask

    def image(self, path: Path) -> tv_tensors.Image:
        """Read a photo, (channels, H, W), as it is before any transform."""
        try:
            pixels = torch.from_numpy(read_channels(path, self.channels).copy())
        except ImageError as error:
            raise DataError(str(error)) from error
        return tv_tensors.Image(pixels.permute(2, 0, 1))

    def mask(self, index: int) -> Tensor:
        """Return the labels of an image, (H, W), as they are before any transform."""
        path = self.pairs[index][1]
        try:
            return torch.from_numpy(self.labels(_values(path, in_colour=self.labels.colours is not None)))
        except LabelError as error:
            lossy = "; a JPEG does not keep labels, save masks as .png" if path.suffix.lower() in JPEGS else ""
            raise DataError(f"{path}: {error}{lossy}") from error
        except Exception as error:  # whatever NumPy and Pillow raise for what is no mask
            raise DataError(f"{path}: not a readable image ({first_line(error)})") from error


def _values(path: Path, in_colour: bool) -> np.ndarray:
    """Return the pixels of a mask as they are stored: (H, W), or (H, W, channels)."""
    if path.suffix.lower() == ARRAY:
        return np.load(path, allow_pickle=False)
    with Image.open(path) as mask:
        mask.load()
        return np.array(ImageOps.exif_transpose(mask.convert("RGB") if in_colour else mask))


def _pairs(images: Path, masks: Path, mask_suffix: str) -> Iterator[tuple[Path, Path]]:
    """Yield each image with the mask of its name, whatever the type of file; a .png first where there are several."""
    by_stem: dict[str, list[Path]] = {}
    for path in masks.iterdir():
        if is_picture(path):
            by_stem.setdefault(path.stem, []).append(path)
    say_unread(images)
    photos = sorted(path for path in images.iterdir() if is_picture(path))
    own = {photo.stem for photo in photos}
    for image in photos:
        stem = image.stem + mask_suffix
        found = sorted(by_stem.get(stem, []), key=lambda path: (path.suffix.lower() != ".png", path.name))
        if not found:
            longer = sorted(other for other in by_stem if other.startswith(image.stem) and other not in own)
            hint = f"; if {longer[0]} is the mask, say mask_suffix={longer[0][len(image.stem) :]}" if longer else ""
            raise DataError(f"{image}: its mask {masks / stem}.png is missing{hint}")
        yield image, found[0]


def class_shares(dataset: SegmentationDataset) -> dict[str, float]:
    """Count each class's share of pixels, and of "(ignored)" ones, in `ENOUGH_MASKS` masks or more spread evenly."""
    step = max(1, len(dataset) // ENOUGH_MASKS)
    counts = torch.zeros(IGNORE + 1, dtype=torch.long)
    for index in range(0, len(dataset), step):
        counts += dataset.mask(index).flatten().bincount(minlength=IGNORE + 1)
    shares = counts.double() / counts.sum().clamp(min=1)
    named = {name: shares[i].item() for i, name in enumerate(dataset.classes)}
    return {**named, "(ignored)": shares[IGNORE].item()}


class _AtLeastAPixel:
    """Keeps a pixel of the short side of a very long image, of which torchvision's transforms leave none."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)  # type: ignore[misc]
        return {**params, "size": [max(side, 1) for side in params["size"]]}


class _ShortestSize(_AtLeastAPixel, v2.RandomShortestSize):
    pass


class _ScaleJitter(_AtLeastAPixel, v2.ScaleJitter):
    pass


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
        resize: v2.Transform = _ShortestSize(list(short_sides), max_size=max_long_side)
    else:
        resize = _ScaleJitter((crop_size, crop_size), scale_range=scale)
    fill: dict[Any, Any] = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            stretch_small,
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
    """Bring the image to a size of its own and leave the mask as it is: predictions are scored at the mask's size.

    Args:
        size: short side in pixels, or height and width, or None for the image's own.
        mean, std: mean and standard deviation of the colours that the backbone expects.
    """
    return v2.Compose([partial(resize_image, size=size), *_to_numbers(mean, std)])


def stretch_small(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch image and mask to `MIN_SIDE` pixels per side where they have fewer."""
    size = [max(length, MIN_SIDE) for length in image.shape[-2:]]
    return v2.functional.resize(image, size, antialias=True), v2.functional.resize(mask, size)


def resize_image(image: Tensor, mask: Tensor, size: int | Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Resize the image, to no fewer than `MIN_SIDE` pixels per side, and leave the mask."""
    if size is not None:
        image = v2.functional.resize(image, [size] if isinstance(size, int) else list(size), antialias=True)
    return stretch_small(image, mask)[0], mask


def _to_numbers(mean: Sequence[float], std: Sequence[float], color_jitter: float = 0.0) -> list[v2.Transform]:
    dtypes: dict[Any, Any] = {tv_tensors.Image: torch.float32, "others": None}
    jitter = [v2.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
    return [v2.ToDtype(dtypes, scale=True), *jitter, v2.Normalize(mean, std), v2.ToPureTensor()]
