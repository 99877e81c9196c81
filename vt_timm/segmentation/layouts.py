"""Where published data sets keep their images, masks and class names."""

import dataclasses
from pathlib import Path

from ..errors import UserError, read_text

__all__ = ["COCO_STUFF_CLASSES", "LAYOUTS", "LIP_CLASSES", "DataError", "Layout"]

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
    """What is wrong with the data, in one line that names the file."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files and what its labels mean.

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
        """The names of the classes.

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
