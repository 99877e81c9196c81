"""What a data set's files mean: from the values of its masks to the classes that are trained, and where published data
sets keep their images, masks and class names.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_text

VALUES = 1 << 16  # how many a mask of 16 bits can hold
IGNORE = VALUES - 1  # in our own masks, after reading, a pixel without a class
UNKNOWN = -1
BACKGROUND = "background"  # what the class of all that is none of the others is called


class LabelError(ValueError):
    """An error that says in one line what is wrong with a mask's values or the options about them."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Turns the values of mask files into class numbers.

    A colour becomes a value (`colours`), and a value a class number, 0 meaning "no class" with `reduce_zero`. `ignore`
    takes the class from one value. `values`, whose keys are values as the files hold them, has the last word, also over
    `ignore`. `groups` merges the data set's classes into fewer.

    Args:
        names: the data set's classes, in the order of their values.
        groups: the classes to train, each with the names that it is made of; the data set's classes if None.
            A class that no group names becomes the group that is called `rest`, or is ignored without one.
        rest: the name of the group that takes what no other names.
        reduce_zero: whether 0 means "no class" and 1 is the first class.
        values: other values of the files, such as {255: 1} for masks in black and white.
        ignore: the value that means "no class", in masks without `colours`; None where every value is a class.
        colours: for masks in colour, the colour of each class, as [[red, green, blue], ...] in the order of `names`.
        ignore_colour: for masks in colour, the colour that means "no class".

    Raises:
        LabelError: for options that do not fit together, naming the one to change.
    """

    names: Sequence[str]
    groups: Mapping[str, Sequence[str]] | None = None
    rest: str | None = None
    reduce_zero: bool = False
    values: Mapping[int, int] = dataclasses.field(default_factory=dict)
    ignore: int | None = 255
    colours: Sequence[Sequence[int]] | None = None
    ignore_colour: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if list(self.names).count(name) > 1)
            raise LabelError(f"two classes are called {twice!r}: every class needs a name of its own")
        if len(self.names) > IGNORE:
            raise LabelError(f"{len(self.names)} classes: a mask of 16 bits holds at most {IGNORE}")
        self._check_values()
        self._check_colours()
        self._check_groups()

    def _check_values(self) -> None:
        for name, values in (("ignore_label", [] if self.ignore is None else [self.ignore]), ("values", self.values)):
            for value in values:
                if not 0 <= int(value) < VALUES:
                    raise LabelError(f"{name}: {value} is not a value of a mask, which holds 0 to {VALUES - 1}")
        for value, label in self.values.items():
            if not 0 <= int(label) < len(self.names):
                raise LabelError(
                    f"values: {value} becomes {label}, and the {len(self.names)} classes are 0 to {len(self.names) - 1}"
                )

    def _check_colours(self) -> None:
        if self.colours is None:
            if self.ignore_colour is not None:
                raise LabelError("ignore_colour needs colours: [red, green, blue] of each class")
            return
        if len(self.colours) != len(self.names):
            raise LabelError(f"colours: {len(self.colours)} colours for {len(self.names)} classes; give one per class")
        every = [*self.colours, *([] if self.ignore_colour is None else [self.ignore_colour])]
        packed = [int(_packed(np.asarray(colour))) for colour in every]
        for colour, number in zip(every, packed, strict=True):
            if packed.count(number) > 1:
                raise LabelError(f"colours: {list(colour)} is the colour of two classes")

    def _check_groups(self) -> None:
        known = set(self.names)
        named = [name for names in (self.groups or {}).values() for name in names]
        for name in named:
            if name not in known:
                raise LabelError(f"classes: {name!r} is none of the data set's classes ({', '.join(self.names)})")
        if len(set(named)) != len(named):
            raise LabelError(f"classes: {max(named, key=named.count)!r} stands in two groups")
        if self.rest is not None and self.rest not in (self.groups or {}):
            raise LabelError(f"rest: {self.rest!r} is none of the groups in classes")
        if len(self.classes) < 2:
            raise LabelError(
                f"there is one class ({', '.join(self.classes)}): a segmenter tells classes apart, so name the "
                "background as a class of its own"
            )

    @property
    def classes(self) -> list[str]:
        """The classes that are trained, in the order of our labels."""
        return list(self.names if self.groups is None else self.groups)

    @property
    def left_out(self) -> list[str]:
        """The data set's classes that belong to no group, and are ignored."""
        if self.groups is None or self.rest is not None:
            return []
        named = {name for names in self.groups.values() for name in names}
        return [name for name in self.names if name not in named]

    def table(self) -> np.ndarray:
        """Return our label (65536,) of every value of a mask; IGNORE for none, UNKNOWN for a value without meaning."""
        group_of = list(range(len(self.names)))
        if self.groups is not None:
            chosen = {name: i for i, names in enumerate(self.groups.values()) for name in names}
            other = list(self.groups).index(self.rest) if self.rest is not None else IGNORE
            group_of = [chosen.get(name, other) for name in self.names]
        table = np.full(VALUES, UNKNOWN, dtype=np.int64)
        first = 1 if self.reduce_zero else 0
        table[first : first + len(self.names)] = group_of
        if self.reduce_zero:
            table[0] = IGNORE
        if self.ignore is not None and self.colours is None:
            table[int(self.ignore)] = IGNORE
        if self.ignore_colour is not None:
            table[IGNORE] = IGNORE
        for value, label in self.values.items():
            table[int(value)] = group_of[int(label)]
        return table

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Return the labels of a mask, int64 (H, W).

        Args:
            mask: (H, W) of whole numbers, (H, W, 2) of values with transparency, or (H, W, 3 or more) of colours. A
                grey mask that was saved in colour counts as one of values.

        Raises:
            LabelError: for a value or a colour that has no meaning, and for colours without `colours`.
        """
        if self.colours is not None:
            return self.table()[self._values_of_colours(mask)]
        values = _whole_numbers(_one_channel(mask))
        labels = self.table()[values]
        if (labels == UNKNOWN).any():
            unknown = int(values[labels == UNKNOWN].max())
            raise LabelError(
                f"label {unknown} is beyond the {len(self.names)} classes ({self._understood()}); if {unknown} is one "
                f"more, name it with them, if it stands for one of them, say which with --set "
                f"'values={{{unknown}: NUMBER}}', if it means no class, say ignore_label={unknown}"
            )
        return labels

    def _understood(self) -> str:
        first = 1 if self.reduce_zero else 0
        ignored = "" if self.ignore is None else f"; {self.ignore} is ignored"
        return f"{first} to {first + len(self.names) - 1}{ignored}"

    def _values_of_colours(self, mask: np.ndarray) -> np.ndarray:
        if self.colours is None or mask.ndim != 3 or mask.shape[2] < 3:
            raise LabelError("colours are given, and this mask has none: leave colours out")
        packed = _packed(mask)
        values = np.full(packed.shape, UNKNOWN, dtype=np.int64)
        for label, colour in enumerate(self.colours):
            values[packed == _packed(np.asarray(colour))] = label + (1 if self.reduce_zero else 0)
        if self.ignore_colour is not None:
            values[packed == _packed(np.asarray(self.ignore_colour))] = IGNORE
        if (values == UNKNOWN).any():
            colour = mask[values == UNKNOWN][0][:3].tolist()
            raise LabelError(
                f"the colour {colour} is none of the {len(self.colours)} in colours; if it means no class, say "
                f"ignore_colour={colour}"
            )
        return values


def _one_channel(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) of a mask of values, also of a grey one that was saved in colour or with transparency."""
    if mask.ndim == 2:
        return mask
    if mask.shape[2] in (1, 2) or (mask[..., :3] == mask[..., :1]).all():
        return mask[..., 0]
    raise LabelError(
        f"a mask has one channel of labels, this has {mask.shape[2]}: if its colours are the classes, give them with "
        "colours=[[red, green, blue], ...], one per class"
    )


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return the values as int64, if they are labels at all: files of 32 bits and of floats can hold anything."""
    wrong = values[~((values >= 0) & (values < VALUES) & (values == np.floor(values)))]
    if wrong.size:
        raise LabelError(f"{wrong[0]} is not a label: labels are whole numbers from 0 to {VALUES - 1}")
    return values.astype(np.int64)


def _packed(colours: np.ndarray) -> Any:
    """Pack colours (..., 3 or more) of 8 bits -> (...), one number per colour."""
    red, green, blue = (colours[..., i].astype(np.int64) for i in range(3))
    return (red << 16) | (green << 8) | blue


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
NAMES_FILE = "classes.txt"


class DataError(UserError):
    """An error that says in one line what is wrong with the data, and names the file."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which a data set keeps its files and what its labels mean.

    Args:
        images, masks: folders under the data set's own; {split} stands for "train" or "val".
        names: the classes in the order of their labels; if None, `NAMES_FILE` holds them, one per line.
        values: values of the masks that stand for another class number, see `Labels`.
        mirrored: pairs of labels that swap in a mirrored image.
    """

    images: str
    masks: str
    names: tuple[str, ...] | None = None
    values: tuple[tuple[int, int], ...] = ()
    mirrored: tuple[tuple[int, int], ...] = ()

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        return root / self.images.format(split=split), root / self.masks.format(split=split)

    def classes(self, root: Path) -> list[str]:
        """Return the names of the classes.

        Raises:
            DataError: if they are in a file that is missing, is not UTF-8, or is empty.
        """
        if self.names is not None:
            return list(self.names)
        path = root / NAMES_FILE
        if not path.is_file():
            raise DataError(
                f"{path}: there is no such file; it names the classes, one per line, in the order of their labels"
            )
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if not names:
            raise DataError(f"{path}: no class is named in it; write one name per line")
        return names


LAYOUTS = {
    # images/ and labels/ under train/ and val/, classes.txt beside them
    "folder": Layout("{split}/images", "{split}/labels"),
    # Look Into Person, single person, as its archives unpack
    "lip": Layout(
        "TrainVal_images/{split}_images",
        "TrainVal_parsing_annotations/{split}_segmentations",
        tuple(LIP_CLASSES),
        mirrored=((14, 15), (16, 17), (18, 19)),
    ),
    # COCO 2017 with stuffthingmaps_trainval2017: one class for all things, then the 91 of stuff
    "coco_stuff": Layout(
        "{split}2017",
        "stuffthingmaps_trainval2017/{split}2017",
        tuple(COCO_STUFF_CLASSES),
        values=(
            *((label, 0) for label in range(COCO_THINGS)),
            *((COCO_THINGS + i, 1 + i) for i in range(len(COCO_STUFF_CLASSES) - 1)),
        ),
    ),
}
