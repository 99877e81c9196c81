"""How many of the people in a crowd a segmenter finds.

    python -m benchmarks.segmentation.crowds SEGMENTER DATA/ccp --nobody DATA/imagenette2-224 --write

No set at hand has masks of crowds, so crowds are made: two to twelve people of Clothing Co-Parsing's validation photos,
of many sizes and in part cut off, one before the other on validation photos of Imagenette that show nobody, as in
training with `background_crowds`. Neither those people nor those photos were trained on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import to_pil_image

from vt_timm.pipelines.segmentation import SCALES, segment
from vt_timm.segmentation.data import SegmentationDataset
from vt_timm.segmentation.labels import BACKGROUND, IGNORE
from vt_timm.segmentation.model import Segmenter, load_segmenter
from vt_timm.segmentation.training_data import Backgrounds

from ..common.records import read_records, table
from .analysis import recipe
from .nobody import photos, tell

FILE, CROWDS = "segmentation/crowds.json", 200


def make_crowds(ccp: str, nobody: Path) -> Backgrounds:
    """Open a set of crowds alone, drawn by torch's random numbers."""
    options = recipe().label_options()
    settings = recipe({"background_photos": [str(path) for path in photos(nobody, "val")], "background_crowds": 1.0})
    return Backgrounds(SegmentationDataset("folder", ccp, "val", None, options), settings)


def measure(model: Segmenter, crowds: Backgrounds, number: int = CROWDS) -> dict[str, Any]:
    """Return, in percent, how many of the people's pixels are found, and of the right class, and what else is found."""
    background = model.class_names.index(BACKGROUND)
    people = found = right = others = left = 0
    torch.manual_seed(0)
    for _ in range(number):
        image, mask = crowds[len(crowds) - 1]
        labels = segment(model, to_pil_image(image), model.short_side, scales=SCALES)
        somebody, nobody = (mask != background) & (mask != IGNORE), mask == background
        people += int(somebody.sum())
        found += int((labels[somebody] != background).sum())
        right += int((labels == mask)[somebody].sum())
        others += int(nobody.sum())
        left += int((labels[nobody] == background).sum())
    return {
        "photos": number,
        "found": round(100 * found / people, 2),
        "right": round(100 * right / people, 2),
        "background": round(100 * left / others, 2),
    }


def crowds_table() -> str:
    """Tabulate a row per segmenter."""
    records = read_records(FILE).values()
    rows = [[r["segmenter"], *(f"{r[key]:.1f}" for key in ("found", "right", "background"))] for r in records]
    return table(["weights", "people found, % of their pixels", "of the right class", "background left alone, %"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("segmenter", help="folder of a trained segmenter")
    parser.add_argument("data", help="Clothing Co-Parsing, with val/images and val/labels")
    parser.add_argument("--nobody", type=Path, required=True, help="Imagenette, with train/ and val/")
    parser.add_argument("--name", help="what the record calls it")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/segmentation/crowds.json")
    args = parser.parse_args()
    tell(FILE, args, measure(load_segmenter(args.segmenter).eval(), make_crowds(args.data, args.nobody)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
