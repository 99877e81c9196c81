"""What blur and missing colours cost a classifier.

    python -m benchmarks.corruptions vt_resnet18 --data DATA/imagenette2-224/val --photos 1000 --write

The photos are evenly spaced over the folder. Each is blurred, or made grey, as it lies there, and then seen as the
model's config says (its test size). A cost is paired over the photos, and so is its standard error.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image, ImageFilter

from .calibration import read_logits
from .common.records import keep_record, read_records, table
from .tokens import paired

FILE = "accuracy/corruptions.json"
Corruption = Callable[[Image.Image], Image.Image]


def blur(photo: Image.Image, radius: float) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(radius))


def grey(photo: Image.Image) -> Image.Image:
    return photo.convert("L").convert("RGB")


CORRUPTIONS: dict[str, Corruption] = {
    "as they are": lambda photo: photo,
    "blurred, radius 1": partial(blur, radius=1),
    "blurred, radius 2": partial(blur, radius=2),
    "grey": grey,
}


def measure(name: str, folder: str, number: int) -> dict[str, Any]:
    """Return top-1 of each corruption, and what it costs."""
    right = {}
    for what, corrupt in CORRUPTIONS.items():
        logits, labels = read_logits(name, folder, number, corrupt)
        right[what] = logits.argmax(dim=1) == labels
    plain, *_ = right.values()
    rows = [
        {"photos_are": what, "top1": round(100 * one.double().mean().item(), 2), **paired(one, plain)}
        for what, one in right.items()
    ]
    return {"model": name, "photos": len(plain), "rows": rows}


def corruptions_table() -> str:
    """Tabulate the records: a row per classifier."""
    lines = []
    for found in read_records(FILE).values():
        plain, *others = found["rows"]
        costs = [f"{row['difference']:+.1f} +- {row['standard_error']:.1f}" for row in others]
        lines.append([f"`{found['model']}`", found["photos"], f"{plain['top1']:.1f} %", *costs])
    return table(["classifier", "photos", *CORRUPTIONS], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a timm model with weights, `local-dir:FOLDER` too")
    parser.add_argument("--data", required=True, help="photos that were not trained on, one folder per class")
    parser.add_argument("--photos", type=int, default=1000, help="how many of them (default: 1000)")
    parser.add_argument("--name", help="what the table calls the model (default: as it is named)")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/accuracy/corruptions.json")
    args = parser.parse_args()
    found = {**measure(args.model, args.data, args.photos), "model": args.name or args.model}
    for row in found["rows"]:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.write:
        keep_record(FILE, found["model"], found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
