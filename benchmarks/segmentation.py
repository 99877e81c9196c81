"""FPN, VT-FPN and its laterals alone on Clothing Co-Parsing, by one recipe: mIoU, pixel accuracy, and tokens cut off.

    python -m benchmarks.segmentation DATA/ccp --runs RUNS --write                     # the recipe's size, both seeds
    python -m benchmarks.segmentation DATA/ccp --runs RUNS --label half --set crop_size=176 eval_size=168 --write

Trains the recipe ccp with each neck and seed through `vt-timm train-segmenter`; a run that stopped goes on, one that is
complete under RUNS is not repeated. Records one row per run in segmentation/runs.csv and draws its table.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from vt_timm.recipes import SEGMENTATION, find_recipe
from vt_timm.segmentation.evaluation import evaluate
from vt_timm.segmentation.inference import load_segmenter
from vt_timm.segmentation.model import LEVELS
from vt_timm.segmentation.settings import Settings, name_of_segmenter

from .common.facts import RESULTS, facts, record_of, table, without_folders
from .segmentation_analysis import tokens_cut_off, validation_photos

NECKS = ("fpn", "laterals", "vt_fpn")
NAMES = {"fpn": "FPN", "laterals": "laterals alone", "vt_fpn": "VT-FPN"}
COLOURS = {"fpn": "tab:gray", "laterals": "tab:blue", "vt_fpn": "tab:red"}
STYLES = {"42": "-", "43": "--"}  # of a line, by seed; dotted for all others
POINTS = 3  # a curve has so many, or is none
RECORD = RESULTS / "segmentation" / "runs.csv"
PAGE = RECORD.with_name("README.md")
TEXT = """\
# Necks on Clothing Co-Parsing

12 classes, 200 validation photos. Each row is one run of the recipe `ccp` with the settings in [runs.csv](runs.csv),
after its last update. Laterals alone are VT-FPN without tokens; the paper has no such row. "With the tokens cut off" is
the same trained VT-FPN with what its projectors add left out.

**FPN is ahead, VT-FPN follows, its laterals alone come last.** At the better of two rates, with 420 updates and two
seeds each, FPN is 0.9 points of mIoU ahead of VT-FPN, while its own seeds are 1.7 apart, and VT-FPN is 1.2 ahead of its
laterals, whose seeds, as its own, are 0.4 apart or less: the tokens pay. At the lower rate FPN is 1.8 ahead and tokens
add 0.4. VT-FPN's neck has a sixth of the MACs of FPN's ([Table 9](../complexity.md)).

**The VT-FPN that ships** was trained three times as long, on photos enlarged more and of other colours. It is 1.8
points ahead of the mean of the shorter ones at its rate, and it segments people who are nearer. At twice the rate it
ends 0.5 points lower. No other neck was trained that long, so whether FPN would be ahead again is not known.

{full}

Photos are enlarged or shrunk at random in training; 512 px, the long side of a photo, are 1.45 crops. The run at
b4f2de3 shipped before, and two others went on from it, at lower rates. Commit 32e6ff6, after its training and before
its scoring, pads each photo to a multiple of the backbone's stride.

![Training loss and mIoU over the updates](curves.png)

Curves of the runs that were evaluated three times or more. The two long ones see harder crops, so their loss is higher.

## Which learning rate?

{half}

mIoU at half size: crops of 176 px, 210 updates, seed 42, at the recipe's rate and at twice that also 43; the backbone's
rate is 0.3 times as high. At 0.002 VT-FPN is 0.6 points ahead of its laterals and 1.3 behind FPN. At 0.004, with the
same seed, laterals gain 0.7 more and the others 0.1 at most, so tokens add 0.4 there.

## What do its tokens do?

{levels}

Of the segmenter that ships, on 20 photos: entropies are shares of a flat softmax's, and what the tokens add is measured
by its standard deviation. The tokens of a level differ, and change the map by a third to a half of its own deviation.
Cutting them off costs this segmenter 0.9 points, the one at twice the rate 2.0, and shorter runs -0.3 to 2.5.

{variants}

Half size, seed 42, rate 0.002, one run each: a second layer, projectors that start at full gain, sixteen tokens per
level instead of eight. Sixteen tokens gain 0.6, as much as two seeds of VT-FPN are apart; the others lose 1.9. Cut off,
none are missed by more than 0.2 at this size.

## How large should a photo be shown?

{scales}

The segmenter that ships through `vt-timm segment --scales`, float32: sizes are times the short side of 341 px, and the
mean of the probabilities counts. The validation photos, of whole people, gain most by larger views. The command's four
sizes keep what one size gives and find people near the camera, which these photos do not have.
"""


def recipe(changes: dict[str, Any] | None = None) -> Settings:
    return Settings.from_yaml(find_recipe("ccp", SEGMENTATION), {"data_dir": "ccp", **(changes or {})})


def train(data: str, folder: Path, changes: dict[str, Any]) -> None:
    """Train until the run is complete."""
    wanted = recipe(changes).updates
    if any(row["update"] == wanted for row in evaluations(folder)):
        return
    command = [sys.executable, "-m", "vt_timm", "train-segmenter", "--config", "ccp", "--data-dir", data]
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    resume = ["--resume"] if (folder / "last").is_dir() else []
    subprocess.run([*command, "-o", str(folder), *resume, "--set", *settings], check=True)


def evaluations(folder: Path) -> list[dict[str, float]]:
    if not (folder / "summary.csv").is_file():
        return []
    with (folder / "summary.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def record(name: str, data: str, folder: Path) -> dict[str, Any]:
    """The row of a run: where it comes from, its settings, and its last evaluation, which was not picked by a score."""
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    last = evaluations(folder)[-1]
    without: float | str = ""
    if settings["neck"] == "vt_fpn":
        model = load_segmenter(folder / "best")
        with tokens_cut_off(model, list(range(LEVELS))):
            without = round(evaluate(model, validation_photos(model, data, recipe().label_options()))["miou"], 2)
    origin = facts()
    kept = {key: value for key, value in settings.items() if key not in ("data_dir", "classes")}
    kept["backbone"] = without_folders(kept["backbone"])
    kept["initial_checkpoint"] = name_of_segmenter(kept.get("initial_checkpoint", ""))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    return {
        "run": name,
        "neck": settings["neck"],
        "seed": settings["seed"],
        "updates": int(last["update"]),
        "crop_size": settings["crop_size"],
        "miou": round(last["miou"], 2),
        "pixel_accuracy": round(last["pixel_accuracy"], 2),
        "miou_without_tokens": without,
        "curve": json.dumps(curve(folder)),
        "settings": json.dumps(kept),
        "commit": commit.strip(),
        "machine": origin["machine"],
        "versions": ", ".join(f"{package} {version}" for package, version in origin["versions"].items()),
        "date": origin["date"],
    }


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """(update, training loss since the point before, mIoU in percent) of every evaluation."""
    return [(int(row["update"]), round(row["train_loss"], 3), round(row["miou"], 2)) for row in evaluations(folder)]


def recorded() -> list[dict[str, Any]]:
    if not RECORD.is_file():
        return []
    with RECORD.open() as file:
        return list(csv.DictReader(file))


def write(rows: list[dict[str, Any]]) -> None:
    """Put rows into the record, in place of earlier ones of the same runs, and draw the table."""
    names = {row["run"] for row in rows}
    rows = sorted([*(row for row in recorded() if row["run"] not in names), *rows], key=lambda row: row["run"])
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    with RECORD.open("w", newline="") as file:
        columns = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(page(recorded()))
    draw(recorded())
    print(f"wrote {RECORD} and {PAGE}")


def page(rows: list[dict[str, str]]) -> str:
    """The runs as Markdown: what they say, those of the recipe's size, and the search of the rate at half of it."""
    full = [row for row in rows if int(row["crop_size"]) == recipe().crop_size]
    half = [row for row in rows if row not in full]
    return TEXT.format(
        full=_runs(full), half=_rates(half), variants=_variants(half), scales=_scales(), levels=_levels()
    )


def _runs(rows: list[dict[str, str]]) -> str:
    head = ["neck", "seed", "went on from", "size of the photo in crops", "rate", "updates"]
    cells = []
    for row in rows:
        settings = json.loads(row["settings"])
        least, most = settings["scale"]
        start = settings.get("initial_checkpoint", "")
        start = next((f"seed {r['seed']}, {r['commit']}" for r in rows if start in (r["run"], *_shipped_as(r))), start)
        scores = [row[key] and f"{float(row[key]):.2f}" for key in ("miou", "pixel_accuracy", "miou_without_tokens")]
        cells.append(
            [
                NAMES[row["neck"]],
                row["seed"],
                start,
                f"{least} to {most}",
                settings["lr"],
                row["updates"],
                *scores,
                row["commit"],
            ]
        )
    scores = ["mIoU, %", "pixel accuracy, %", "mIoU with the tokens cut off, %"]
    return table([*head, *scores, "trained at"], cells)


def _shipped_as(row: dict[str, str]) -> list[str]:
    """What a run was called that another went on from while it shipped."""
    return [f"vt_fpn_tf_efficientnet_lite0.{recipe().recipe}"] if row["run"].endswith("_shipped") else []


def _rates(rows: list[dict[str, str]]) -> str:
    """mIoU by neck and learning rate; the backbone's rate is 0.3 times as high."""
    found: dict[tuple[str, float], list[str]] = {}
    for row in rows:
        if not _options(row):
            found.setdefault((row["neck"], json.loads(row["settings"])["lr"]), []).append(f"{float(row['miou']):.2f}")
    rates = sorted({lr for _, lr in found})
    cells = [[NAMES[neck], *(" and ".join(found.get((neck, lr), [])) for lr in rates)] for neck in NECKS]
    return table(["neck", *(f"rate {lr:g}" for lr in rates)], cells)


def _options(row: dict[str, str]) -> str:
    """What of the neck is not as usual."""
    return ", ".join(f"{key} {value}" for key, value in json.loads(row["settings"])["neck_options"].items())


def _variants(rows: list[dict[str, str]]) -> str:
    """VT-FPN as it is and with other tokens, all else the same."""
    changed = [row for row in rows if _options(row)]
    same = {(row["seed"], json.loads(row["settings"])["lr"]) for row in changed}
    usual = [
        row
        for row in rows
        if row["neck"] == "vt_fpn" and not _options(row) and (row["seed"], json.loads(row["settings"])["lr"]) in same
    ]
    cells = [
        [_options(row) or "as it is", f"{float(row['miou']):.2f}", f"{float(row['miou_without_tokens']):.2f}"]
        for row in [*usual, *changed]
    ]
    return table(["VT-FPN", "mIoU, %", "mIoU with the tokens cut off, %"], cells)


def _scales() -> str:
    """The segmenter that ships, by the sizes at which it sees a photo."""
    cells = [
        [" ".join(f"{scale:g}" for scale in row["scales"]), f"{row['miou']:.2f}", f"{row['pixel_accuracy']:.2f}"]
        for row in record_of("records.json", "segmenter")["scores"]
    ]
    return table(["sizes", "mIoU, %", "pixel accuracy, %"], cells)


def _levels() -> str:
    """What the tokens of the segmenter that ships do, level by level."""
    cells = [
        [row["level"], *(f"{row[key]:.2f}" for key in ("look", "read", "alike", "update"))]
        for row in record_of("records.json", "segmenter")["levels"]
    ]
    head = ["level, finest first", "entropy of where tokens look", "entropy of what pixels read"]
    return table([*head, "cosine of two tokens", "what tokens add, of the map's deviation"], cells)


def draw(rows: list[dict[str, str]]) -> None:
    """Training loss and mIoU over the updates of every run at the photos' full size that was evaluated often enough."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), dpi=150)
    axes = figure.subplots(1, 2)
    for row in rows:
        points = json.loads(row["curve"] or "[]")
        if int(row["crop_size"]) != recipe().crop_size or len(points) < POINTS:
            continue
        updates, *values = zip(*points, strict=True)
        rate = json.loads(row["settings"])["lr"]
        marker = "o" if rate > recipe().lr else "s"
        style = {"c": COLOURS[row["neck"]], "ls": STYLES.get(row["seed"], ":"), "marker": marker, "ms": 3}
        label = f"{NAMES[row['neck']]}, rate {rate:g}, seed {row['seed']}"
        for axis, drawn in zip(axes, values, strict=True):
            axis.plot(updates, drawn, label=label, **style)
    for axis, name in zip(axes, ("training loss", "mIoU, %"), strict=True):
        axis.set_xlabel("update")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, handlelength=4)
    figure.tight_layout()
    figure.savefig(PAGE.with_name("curves.png"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--necks", nargs="+", choices=NECKS, default=list(NECKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--label", default="full", help="what to call these settings in the names of the runs")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings beside the recipe's")
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results/segmentation/")
    args = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.set)}
    rows = []
    for seed in args.seeds:
        for neck in args.necks:
            name = f"{args.label}_{neck}_seed{seed}"
            train(args.data, args.runs / name, {**changes, "neck": neck, "seed": seed})
            rows.append(record(name, args.data, args.runs / name))
            print({key: value for key, value in rows[-1].items() if key != "settings"}, flush=True)
            if args.write:
                write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
