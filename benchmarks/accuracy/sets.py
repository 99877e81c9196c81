"""Make labelled sets to fine-tune on from what is at hand: scikit-learn's digits, crops of Clothing Co-Parsing."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# The classes of Clothing Co-Parsing with at least a hundred crops for training, skin and background left out.
GARMENTS = ("bag", "blouse", "coat", "dress", "hair", "jeans", "pants", "purse", "shirt", "shoes", "skirt")
SMALLEST = 32  # pixels of a crop's shorter side

Labelled = Iterator[tuple[str, str, Image.Image]]  # split, class, image


def digits(data: Path | None = None) -> Labelled:
    """Yield scikit-learn's 1,797 digits, enlarged from 8 to 64 pixels: the first 50 of a class for training."""
    from sklearn.datasets import load_digits

    seen: dict[int, int] = defaultdict(int)
    bunch = load_digits()
    for values, label in zip(bunch.images, bunch.target, strict=True):
        split = "train" if seen[label] < 50 else "val"
        seen[label] += 1
        image = Image.fromarray((values * 255 / 16).astype(np.uint8))
        yield split, str(label), image.resize((64, 64), Image.Resampling.BICUBIC)


def garments(data: Path) -> Labelled:
    """Yield the square around each garment of Clothing Co-Parsing, the first 100 of a class for training.

    Args:
        data: folder with {train,val}/{images,labels} and classes.txt.
    """
    names = (data / "classes.txt").read_text().split("\n")
    wanted = {names.index(name): name for name in GARMENTS}
    for split, most in (("train", 100), ("val", None)):
        seen: dict[str, int] = defaultdict(int)
        for mask in sorted((data / split / "labels").glob("*.png")):
            labels = np.array(Image.open(mask))
            photo = Image.open(data / split / "images" / f"{mask.stem}.jpg").convert("RGB")
            for label in np.unique(labels):
                name = wanted.get(int(label))
                box = square(labels == label) if name else None
                if name and box and seen[name] != most:
                    seen[name] += 1
                    yield split, name, photo.crop(box).resize((128, 128), Image.Resampling.BICUBIC)


def square(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of the square around a mask, or None if it is too small.

    The square may leave the photo.
    """
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    if min(bottom - top, right - left) < SMALLEST:
        return None
    side = max(bottom - top, right - left)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return int(x), int(y), int(x + side), int(y + side)


SETS = {"digits": digits, "garments": garments}


def prepare(name: str, data: Path, folder: Path) -> Path:
    """Make `folder/name/{train,val}/CLASS/*.png`, once."""
    done = folder / name
    if not done.is_dir():
        unfinished = folder / f"{name}.unfinished"
        for i, (split, label, image) in enumerate(SETS[name](data)):
            path = unfinished / split / label / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        unfinished.rename(done)
    return done
