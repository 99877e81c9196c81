"""Train FPN, VT-FPN and its laterals alone on Clothing Co-Parsing by one recipe, and score them.

    python -m benchmarks.segmentation DATA/ccp --runs RUNS --write                     # the recipe's size, both seeds
    python -m benchmarks.segmentation DATA/ccp --runs RUNS --label half --set crop_size=176 eval_size=168 --write

Trains the recipe ccp with each neck and seed through `vt-timm train-segmenter`; a run that stopped goes on, one that is
complete under RUNS is not repeated. Records one row per run in segmentation/runs.csv: mIoU, pixel accuracy, and mIoU
with the tokens cut off.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from vt_timm.vt_fpn import NECKS

from ..common.records import replace_rows
from .analysis import recipe
from .runs import RUNS, evaluations, record


def train(data: str, folder: Path, changes: dict[str, Any]) -> None:
    """Train until the run is complete."""
    wanted = recipe(changes).updates
    if any(row["update"] == wanted for row in evaluations(folder)):
        return
    command = [sys.executable, "-m", "vt_timm", "train-segmenter", "--config", "ccp", "--data-dir", data]
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    resume = ["--resume"] if (folder / "last").is_dir() else []
    subprocess.run([*command, "-o", str(folder), *resume, "--set", *settings], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--necks", nargs="+", choices=NECKS, default=list(NECKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--label", default="full", help="what to call these settings in the names of the runs")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings beside the recipe's"
    )
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results/segmentation/")
    args = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.set)}
    for seed in args.seeds:
        for neck in args.necks:
            name = f"{args.label}_{neck}_seed{seed}"
            train(args.data, args.runs / name, {**changes, "neck": neck, "seed": seed})
            row = record(name, args.data, args.runs / name)
            print({key: value for key, value in row.items() if key != "settings"}, flush=True)
            if args.write:
                replace_rows(RUNS, [row], run=name)


if __name__ == "__main__":
    main()
