"""FPN and VT-FPN on Clothing Co-Parsing, from the same backbone, recipe and seed: mIoU and pixel accuracy.

    python -m benchmarks.segmentation DATA/ccp --runs RUNS --write

Trains the recipe ccp with each neck through `vt-timm train-segmenter`; a run that stopped goes on, one that is complete
under RUNS is not repeated.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import yaml

from vt_timm.recipes import SEGMENTATION, find_recipe

from .records import RESULTS, facts, write_json

NECKS = ("fpn", "vt_fpn")


def evaluations(folder: Path) -> list[dict[str, float]]:
    if not (folder / "summary.csv").is_file():
        return []
    with (folder / "summary.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--write", action="store_true", help="record as benchmarks/results/segmentation_ccp.json")
    args = parser.parse_args()
    wanted = yaml.safe_load(find_recipe("ccp", SEGMENTATION).read_text())["updates"]
    runs = {}
    for neck in NECKS:
        folder = args.runs / neck
        if not any(row["update"] == wanted for row in evaluations(folder)):
            command = [sys.executable, "-m", "vt_timm", "train-segmenter", "--config", "ccp", "--data-dir", args.data]
            subprocess.run([*command, "-o", str(folder), "--resume", "--set", f"neck={neck}"], check=True)
        settings = yaml.safe_load((folder / "settings.yaml").read_text())
        settings["data_dir"] = Path(settings["data_dir"]).name
        best = json.loads((folder / "best" / "metrics.json").read_text())
        runs[neck] = {"settings": settings, "curve": evaluations(folder), "best": best}
        print(f"{neck:<7} mIoU {best['miou']:.2f} %, pixel accuracy {best['pixel_accuracy']:.2f} %, ", end="")
        print(f"update {best['update']}, {best['images']} images")
    if args.write:
        write_json(RESULTS / "segmentation_ccp.json", {**facts(), "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
