"""How much of a photo that shows nobody a segmenter of people takes for skin, hair or clothes.

    python -m benchmarks.segmentation.nobody SEGMENTER --data DATA/imagenette2-224 --write    # measure
    python -m benchmarks.segmentation.nobody --data DATA/imagenette2-224 --folder THINGS      # photos to train on

`nobody.txt` lists photos of Imagenette, chosen by eye, on which nobody is seen: 578 to train on as `background_photos`,
and ten validation photos of each of its ten classes (among the parachutes some people are specks).
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
from PIL import Image

from vt_timm.files import without_folders
from vt_timm.pipelines.segmentation import SCALES, segment
from vt_timm.segmentation.labels import BACKGROUND
from vt_timm.segmentation.model import Segmenter, load_segmenter

from ..common.records import keep_record, read_records, table

LIST = Path(__file__).with_suffix(".txt")
FILE = "segmentation/nobody.json"


def photos(data: Path, split: str) -> list[Path]:
    """Return the photos of a split that show nobody."""
    return [data / line for line in LIST.read_text().split() if line.startswith(f"{split}/")]


def background(model: Segmenter, data: Path) -> dict[str, list[float]]:
    """Return the share of background in each validation photo, by class, as `vt-timm segment` labels it."""
    label = model.class_names.index(BACKGROUND)
    shares: dict[str, list[float]] = {}
    for path in photos(data, "val"):
        labels = segment(model, Image.open(path).convert("RGB"), model.short_side, scales=SCALES)
        shares.setdefault(path.parent.name, []).append((labels == label).float().mean().item())
    return shares


def summarise(shares: dict[str, list[float]]) -> dict[str, Any]:
    """Return the means by class, the mean of all photos, and how many of them are less than nine tenths background."""
    every = np.concatenate(list(shares.values()))
    info = timm.data.ImageNetInfo()
    by_class = {info.label_name_to_description(wnid).split(",")[0]: float(np.mean(one)) for wnid, one in shares.items()}
    return {
        "photos": len(every),
        "background": round(100 * float(every.mean()), 2),
        "standard_error": round(100 * float(every.std(ddof=1)) / len(every) ** 0.5, 2),
        "under_nine_tenths": int((every < 0.9).sum()),
        "by_class": {name: round(100 * mean, 1) for name, mean in by_class.items()},
    }


def nobody_table() -> str:
    """Tabulate a column per segmenter: background on photos that show nobody, of all and by class."""
    columns = list(read_records(FILE).values())
    rows = [
        ["all", *(f"{column['background']:.1f} +- {column['standard_error']:.1f}" for column in columns)],
        *([name, *(f"{column['by_class'][name]:.1f}" for column in columns)] for name in columns[0]["by_class"]),
        ["photos of which less than 90 % is", *(column["under_nine_tenths"] for column in columns)],
    ]
    return table(["background, %", *(column["segmenter"] for column in columns)], rows)


def tell(file: str, args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print what was measured of a segmenter, and keep it under its name if that was asked for."""
    print(result)
    if args.write:
        name = args.name or without_folders(args.segmenter)
        keep_record(file, name, {"segmenter": name, **result})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("segmenter", nargs="?", help="folder of a trained segmenter")
    parser.add_argument("--name", help="what the record calls it")
    parser.add_argument("--data", type=Path, required=True, help="Imagenette, with train/ and val/")
    parser.add_argument("--folder", type=Path, help="copy the training photos that show nobody to a folder")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/segmentation/nobody.json")
    args = parser.parse_args()
    if not (args.folder or args.segmenter):
        parser.error("name a SEGMENTER to measure, or a --folder for the training photos")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        for path in photos(args.data, "train"):
            shutil.copy(path, args.folder)
    if args.segmenter:
        tell(FILE, args, summarise(background(load_segmenter(args.segmenter), args.data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
