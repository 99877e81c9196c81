"""Make the tables of `benchmarks/results/segmentation/README.md`, and its curves, from the records."""

from collections.abc import Callable
from typing import Any

from vt_timm.segmentation.evaluation import SCORES

from ..common.records import read_records, read_rows, table
from .analysis import recipe
from .crowds import crowds_table
from .nobody import nobody_table
from .runs import RUNS

NECK_NAMES = {"fpn": "FPN", "laterals": "laterals alone", "vt_fpn": "VT-FPN"}
COLOURS = {"fpn": "tab:gray", "laterals": "tab:blue", "vt_fpn": "tab:red"}
STYLES = {42: "-", 43: "--"}  # of a line, by seed; dotted for all others
POINTS = 3  # a curve has so many, or is none


def runs(full: bool) -> list[dict[str, Any]]:
    """Return the recorded runs of about the recipe's crop size, or those of half of it."""
    return [row for row in read_rows(RUNS) if (row["crop_size"] > 0.75 * recipe().crop_size) == full]


def trained() -> str:
    """Tabulate the runs of the recipe's size."""
    names = {name: f"seed {row['seed']}, {row['commit']}" for row in read_rows(RUNS) for name in _names(row["run"])}
    cells = []
    for row in runs(full=True):
        settings = row["settings"]
        start, scale = settings.get("initial_checkpoint", ""), "{} to {}".format(*settings["scale"])
        scores = [row[key] and f"{row[key]:.2f}" for key in ("miou", "pixel_accuracy", "miou_without_tokens")]
        setting = [names.get(start, start), scale, settings["lr"], row["updates"]]
        cells.append([NECK_NAMES.get(row["neck"], row["neck"]), row["seed"], *setting, *scores, row["commit"]])
    head = ["neck", "seed", "went on from", "photo, in crops", "rate", "updates"]
    return table([*head, "mIoU, %", "pixels, %", "mIoU without tokens, %", "commit"], cells)


def _names(run: str) -> list[str]:
    """Return what a run is and was called: one that shipped had another name while it did."""
    return [run, *([f"vt_fpn_tf_efficientnet_lite0.{recipe().recipe}"] if run.endswith("_shipped") else [])]


def rates() -> str:
    """Tabulate mIoU by neck and learning rate, at half size."""
    found: dict[tuple[str, float], list[str]] = {}
    for row in runs(full=False):
        if not _options(row):
            found.setdefault((row["neck"], row["settings"]["lr"]), []).append(f"{row['miou']:.2f}")
    tried = sorted({lr for _, lr in found})
    necks = dict.fromkeys([*NECK_NAMES, *(neck for neck, _ in found)])
    cells = [[NECK_NAMES.get(n, n), *(" and ".join(found.get((n, lr), [])) for lr in tried)] for n in necks]
    return table(["neck", *(f"rate {lr:g}" for lr in tried)], cells)


def _options(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row["settings"]["neck_options"].items())


def variants() -> str:
    """Tabulate VT-FPN as it is and with other tokens, all else the same."""
    rows = [row for row in runs(full=False) if row["neck"] == "vt_fpn"]
    changed = {(row["seed"], row["settings"]["lr"]) for row in rows if _options(row)}
    same = [row for row in rows if (row["seed"], row["settings"]["lr"]) in changed]
    cells = [
        [_options(row) or "as it is", f"{row['miou']:.2f}", f"{row['miou_without_tokens']:.2f}"]
        for row in sorted(same, key=lambda row: _options(row) != "")
    ]
    return table(["VT-FPN", "mIoU, %", "mIoU without tokens, %"], cells)


def scales() -> str:
    """Tabulate the segmenter that ships by the sizes at which it sees a photo."""
    cells = [
        [
            " ".join(f"{scale:g}" for scale in row["scales"]),
            *(f"{row[score]:.2f}" if score in row else None for score in SCORES),
        ]
        for row in read_records("records.json")["segmenter"]["scores"]
    ]
    head = ["sizes", "mIoU, %", "pixel accuracy, %", "mIoU without background, %", "foreground accuracy, %"]
    return table(head, cells)


def levels() -> str:
    """Tabulate what the tokens of the segmenter that ships do, level by level."""
    cells = [
        [row["level"], *(f"{row[key]:.2f}" for key in ("look", "read", "alike", "update"))]
        for row in read_records("records.json")["segmenter"]["levels"]
    ]
    head = ["level, finest first", "entropy of where tokens look", "entropy of what pixels read"]
    return table([*head, "cosine of two tokens", "what tokens add, of the map's deviation"], cells)


def draw() -> None:
    """Draw training loss and mIoU over the updates of the runs at full size that were evaluated often enough."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), dpi=150, layout="tight")
    axes = figure.subplots(1, 2)
    for row in runs(full=True):
        if len(row["curve"] or []) < POINTS:
            continue
        updates, *values = zip(*row["curve"], strict=True)
        rate = row["settings"]["lr"]
        marker = "o" if rate > recipe().lr else "s"
        style = {"c": COLOURS.get(row["neck"]), "ls": STYLES.get(row["seed"], ":"), "marker": marker, "ms": 3}
        label = f"{NECK_NAMES.get(row['neck'], row['neck'])}, rate {rate:g}, seed {row['seed']}"
        for axis, drawn in zip(axes, values, strict=True):
            axis.plot(updates, drawn, label=label, **style)
    for axis, name in zip(axes, ("training loss", "mIoU, %"), strict=True):
        axis.set(xlabel="update", ylabel=name)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, handlelength=4)
    figure.savefig(RUNS.with_name("curves.png"))


TABLES: dict[str, Callable[[], str]] = {
    "segmentation_runs": trained,
    "segmentation_rates": rates,
    "segmentation_variants": variants,
    "segmentation_scales": scales,
    "segmentation_levels": levels,
    "nobody": nobody_table,
    "crowds": crowds_table,
}
