"""FPN and VT-FPN on Clothing Co-Parsing, from the same backbone, recipe and seeds: mIoU and pixel accuracy.

    python -m benchmarks.segmentation DATA/ccp --runs RUNS --write     # train what is not done, record, draw the curves

Trains the recipe ccp with each neck and seed through `vt-timm train-segmenter`; a run that stopped goes on, one that is
complete under RUNS is not repeated. Records segmentation_ccp.json and .md and draws segmentation_ccp.png.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from vt_timm.recipes import SEGMENTATION, find_recipe

from .common.records import RESULTS, facts, write_json

NECKS = ("fpn", "vt_fpn")
NAMES = {"fpn": "FPN", "vt_fpn": "VT-FPN"}
METRICS = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


def evaluations(folder: Path) -> list[dict[str, float]]:
    if not (folder / "summary.csv").is_file():
        return []
    with (folder / "summary.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def collect(data: str, runs: Path, seeds: list[int]) -> dict[str, Any]:
    """Settings, curve and best evaluation of every run, "fpn_seed42" and so on."""
    wanted = yaml.safe_load(find_recipe("ccp", SEGMENTATION).read_text())["updates"]
    results = {}
    for seed in seeds:
        for neck in NECKS:
            folder = runs / f"{neck}_seed{seed}"
            if not any(row["update"] == wanted for row in evaluations(folder)):
                command = [sys.executable, "-m", "vt_timm", "train-segmenter", "--config", "ccp", "--data-dir", data]
                changes = ["--set", f"neck={neck}", f"seed={seed}"]
                subprocess.run([*command, "-o", str(folder), "--resume", *changes], check=True)
            settings = yaml.safe_load((folder / "settings.yaml").read_text())
            settings["data_dir"] = Path(settings["data_dir"]).name
            best = json.loads((folder / "best" / "metrics.json").read_text())
            results[folder.name] = {"settings": settings, "curve": evaluations(folder), "best": best}
    return results


def last(runs: dict[str, Any], neck: str, metric: str) -> list[float]:
    """The metric after the last update, a value a seed: unlike the best, it was not picked by the validation score."""
    return [run["curve"][-1][metric] for run in runs.values() if run["settings"]["neck"] == neck]


def page(runs: dict[str, Any]) -> str:
    """The last evaluations as Markdown."""
    first = next(iter(runs.values()))
    s, images = first["settings"], first["best"]["images"]
    lines = [
        "# FPN and VT-FPN on Clothing Co-Parsing",
        "",
        f"{s['updates']} updates of {s['batch_size']} crops of {s['crop_size']} px; backbone {s['backbone']} with its "
        f"shipped weights; scored on {images} photos at a short side of {s['eval_size']} px, after the last update. "
        "The two necks have the same recipe, data order and seeds. Curves: segmentation_ccp.png; every evaluation: "
        "segmentation_ccp.json.",
        "",
        "| | " + " | ".join(f"{label}, mean (%) | each seed (%)" for label in METRICS.values()) + " |",
        "|---" * (1 + 2 * len(METRICS)) + "|",
    ]
    for neck in NECKS:
        cells = []
        for metric in METRICS:
            values = last(runs, neck, metric)
            cells += [f"{statistics.mean(values):.2f}", ", ".join(f"{value:.2f}" for value in values)]
        lines.append(f"| {NAMES[neck]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(runs: dict[str, Any], path: Path) -> None:
    """mIoU and training loss over the updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), dpi=150)
    for axis, (key, label) in zip(
        figure.subplots(1, 2), {"miou": "mIoU (%)", "train_loss": "training loss"}.items(), strict=True
    ):
        for name, run in runs.items():
            neck = run["settings"]["neck"]
            axis.plot(
                [row["update"] for row in run["curve"]],
                [row[key] for row in run["curve"]],
                color={"fpn": "tab:gray", "vt_fpn": "tab:red"}[neck],
                marker="o",
                markersize=3,
                linestyle="-" if name.endswith(str(next(iter(runs.values()))["settings"]["seed"])) else "--",
                label=f"{NAMES[neck]}, seed {run['settings']['seed']}",
            )
        axis.set_xlabel("update")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    print(f"wrote {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results/")
    args = parser.parse_args()
    runs = collect(args.data, args.runs, args.seeds)
    print(page(runs))
    if args.write:
        write_json(RESULTS / "segmentation_ccp.json", {**facts(), "runs": runs})
        (RESULTS / "segmentation_ccp.md").write_text(page(runs))
        draw(runs, RESULTS / "segmentation_ccp.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
