"""The cards of the models that ship, rendered by `vt_timm.cards.card` from config.json and the records.

    python -m hub.card                                      # all of them
    python -m hub.card vt_resnet18.robust_imagenette     # one of them

No number is typed by hand: they come from the lines with the model's name in `shipped.csv` and `runs.csv` of
`benchmarks/results/accuracy/`, in `benchmarks/results/segmentation/shipped.json` and in `records.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy.runs import accuracy_of, arguments_of
from benchmarks.common.records import read_records
from benchmarks.segmentation.runs import shipped_metrics
from vt_timm.cards.card import classifier_card, segmenter_card
from vt_timm.weights.published import hub_name

HUB = Path(__file__).parent


def shipped_card(name: str) -> str:
    """Return the card of a folder under hub/, from its records."""
    config = json.loads((HUB / name / "config.json").read_text())
    if name in read_records("segmentation/shipped.json"):
        metrics = shipped_metrics(name)
        settings = metrics["settings"]
        return segmenter_card(config, settings, metrics, hub_name(name), settings["data_dir"], name)
    settings = {"recipe": name.partition(".")[2], **arguments_of(name)}
    return classifier_card(config, settings, measured(accuracy_of(name)), hub_name(name), name, settings["data_dir"])


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """Return metrics for a card from a record of `benchmarks.pretrained`."""
    size, crop = record["input_size"][-1], record["crop_pct"]
    return {
        "top1": record["top1"],
        "top5": record["top5"],
        "images": f"{record['images']} validation images",
        "origin": f"one run, at {size} x {size} pixels (crop {crop}, {record['interpolation']}), measured on "
        f"{record['date']} with `{record['command']}`",
    }


def main() -> int:
    names = sys.argv[1:] or sorted(p.parent.name for p in HUB.glob("*/config.json"))
    for name in names:
        if not (HUB / name / "config.json").is_file():
            print(f"usage: python -m hub.card [NAME ...], folders of {HUB.name}/", file=sys.stderr)
            return 2
        (HUB / name / "README.md").write_text(shipped_card(name))
        print(HUB / name / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
