"""The records of the runs as CSV, Markdown and curves, under `benchmarks/results/accuracy/`."""

import csv
import math
import re
import statistics
from collections.abc import Mapping
from typing import Any

from ..common.counting import count
from . import plan
from .plan import Experiment
from .records import DIVERGED, FOLDER, load, top1_without_average, training_losses
from .verdict import IMAGENET, verdict

__all__ = ["defaults_of_ingredients", "has_diverged", "ingredient_rows", "page", "write"]

COLUMNS = (
    *("table", "run", "model", "options", "settings", "dtype", "lr", "seed"),
    *("val_top1", "top1_without_average", "train_top1", "seconds", "epochs"),
)
CLASSES = 10
HEAD = "# Small versions of the paper's accuracy tables, on Imagenette"
INTRODUCTION = """\
Ten classes, 9,469 training and 3,925 validation photos; recipe `matched_imagenette`: six epochs of SGD growing from 64
to 128 px, everything else the same for all. Top-1 after the last epoch at 128 px, in percent; training top-1 is of the
training photos seen as validation photos are. Differences within the spread of the seeds say nothing. The paper's
numbers, of ImageNet and 90 or 400 epochs, are in [complexity.md](../complexity.md) and not here. Every run is in
[runs.csv](runs.csv) and has its arguments and log under [runs](runs); means and spreads: [summary.csv](summary.csv).
`python -m benchmarks.accuracy table2 --data DATA/imagenette2-224 --runs RUNS` makes a table's runs or goes on with
them; so do `ablations`, `ingredients` and `transfer`.

The learning rates were chosen on the same validation photos, by the run of seed 42, which also counts among the seeds:
that flatters every mean a little. The runs come from several sessions with two versions of torch (result.json of each
run names its own): the searches of the 18s mostly had the one, all others the other."""

TRANSFER = """\
vt_resnet18 with the recipe `finetune`, from the shipped weights `vt_resnet18.muon_imagenette` and from scratch.
*digits*: scikit-learn's, 20 epochs at 64 px, 50 a class for training and the other 1,297 for validation. *garments*:
squares cut from Clothing Co-Parsing around eleven kinds (bag, blouse, coat, dress, hair, jeans, pants, purse, shirt,
shoes, skirt), 10 epochs at 96 px, 100 a class for training and 696 for validation."""


def rows_of(table: str, experiments: list[Experiment]) -> list[dict[str, Any]]:
    """The recorded ones."""
    rows = []
    for e in experiments:
        record = load(e.name)
        if record:
            of_plan = {"settings": dict(e.settings), "dtype": e.dtype, "ingredient": e.ingredient}
            rows.append({**record, **of_plan, "table": table, "run": e.name})
            if "model_ema" in e.settings:
                log = (FOLDER / "runs" / e.name / "train.log").read_text()
                rows[-1]["top1_without_average"] = top1_without_average(log)
    return rows


def ingredient_rows(best: Mapping[str, float]) -> list[dict[str, Any]]:
    return rows_of("ingredients", plan.ingredients(best))


def all_rows(best: Mapping[str, float]) -> list[dict[str, Any]]:
    return (
        rows_of("table2", plan.table_2(best))
        + rows_of("ablations", plan.ablations(best))
        + ingredient_rows(best)
        + rows_of("transfer", plan.transfer(best))
    )


def page(best: Mapping[str, float]) -> str:
    """All tables as Markdown; a table without runs is left out."""
    rows = all_rows(best)
    parts = [
        HEAD,
        INTRODUCTION,
        *_verdict(rows, best),
        *_table_2(rows, best),
        *_search(rows, best),
        *_ablations(rows, best),
        *_ingredients(rows),
        *_transfer(rows, best),
    ]
    return "\n\n".join(parts) + "\n"


def _at_best(rows: list[dict[str, Any]], model: str, best: Mapping[str, float]) -> list[dict[str, Any]]:
    return [r for r in rows if r["table"] == "table2" and r["model"] == model and r["lr"] == best.get(model)]


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f} ({len(values)} seeds)"


def _verdict(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[str]:
    lines = []
    for peer in ("resnet18", "resnet34"):
        ours, theirs = _at_best(rows, f"vt_{peer}", best), _at_best(rows, peer, best)
        if ours and theirs:
            lines.append(verdict(f"vt_{peer}", ours, peer, theirs))
    lines += _reruns(rows)
    return ["## Did VT beat ResNet here?", *lines, IMAGENET] if lines else []


def summary(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, at the best learning rate, of all that was searched for."""
    lines = []
    for what, tried in plan.searches().items():
        table = "transfer" if tried[0].dataset else "table2"
        runs = [r for r in rows if r["table"] == table and r["run"].startswith(f"{what}_lr{best.get(what)}")]
        for key in ("val_top1", "train_top1"):
            values = [r[key] for r in runs if key in r]
            if values:
                spread = round(statistics.stdev(values), 3) if len(values) > 1 else None
                mean = round(statistics.mean(values), 3)
                lines.append(dict(what=what, lr=best[what], metric=key, seeds=len(values), mean=mean, spread=spread))
    return lines


def _table_2(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[str]:
    lines = []
    for model in plan.SEEDS:
        runs = _at_best(rows, model, best)
        if runs:
            macs, params = count(model, 128, num_classes=10)
            val, train = ([r[key] for r in runs] for key in ("val_top1", "train_top1"))
            epoch = min(
                _seconds_of_the_last_epoch((FOLDER / "runs" / r["run"] / "train.log").read_text()) for r in runs
            )
            cells = [model, best[model], _spread(val), _spread(train), f"{macs:.0f}", f"{params:.1f}", f"{epoch:.0f}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    if not lines:
        return []
    head = "| model | lr | top-1 | training top-1 | MACs at 128 px (M) | parameters (M) | seconds an epoch |"
    note = (
        "Mean and standard deviation over the seeds. Seconds of the last epoch, at 128 px, of the fastest run: one "
        "thread in bfloat16, without evaluation; the machine was shared, so at most."
    )
    picture = "![Training loss of these runs, by epoch](curves.png)"
    return ["## Table 2, small", "\n".join([head, "|---" * 7 + "|", *lines]), note, picture]


def _search(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[str]:
    lines = []
    for model in plan.SEEDS:
        found = {r["lr"]: r for r in rows if r["model"] == model and r["run"] in _names(plan.search(model))}
        if found:
            cells = [_or_diverged(found[lr], CLASSES) if lr in found else "" for lr in plan.LEARNING_RATES]
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    head = "| model | " + " | ".join(f"lr {lr}" for lr in plan.LEARNING_RATES) + " |"
    rule = "|---" * (1 + len(plan.LEARNING_RATES)) + "|"
    note = f"One run each, seed {plan.SEED}; a run is stopped once its training loss averages above {DIVERGED:.0f}."
    edges = {min(plan.LEARNING_RATES): "lowest", max(plan.LEARNING_RATES): "highest"}
    for model in plan.SEEDS:
        if best.get(model) in edges:
            note += f" {model} was best at the {edges[best[model]]} rate, so one beyond the grid may be better still."
    return ["## The search of the learning rate", "\n".join([head, rule, *lines]), note]


def _or_diverged(record: dict[str, Any], classes: int) -> str:
    """Top-1, with a word where it diverged; of a run that was stopped, in which epoch."""
    if record["val_top1"] is None:
        return f"diverged in epoch {record['diverged']['epoch']}, stopped"
    return f"{record['val_top1']:.2f}" + (" (diverged)" if has_diverged(record, classes) else "")


def has_diverged(record: dict[str, Any], classes: int = CLASSES) -> bool:
    """Whether it was stopped, or ended with a validation loss above that of guessing."""
    return record["val_top1"] is None or record["val_loss"] > math.log(classes)


def _ablations(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[str]:
    runs = [r for r in rows if r["table"] == "ablations"]
    if not runs:
        return []
    (default,) = [r for r in _at_best(rows, runs[0]["model"], best) if r["seed"] == plan.SEED]
    lines = []
    for r in runs:
        name = r["run"].removeprefix(f"{r['model']}_")
        lines.append(f"| {r['model']} | {name} | {_or_diverged(r, CLASSES)} | {_difference(r, default['val_top1'])} |")
    head = "| model | run | top-1 | against the default, same seed |"
    note = f"One run each, seed {plan.SEED}; how much single runs alone differ is said at the top."
    return ["## Tables 3 to 7, small", "\n".join([head, "|---" * 4 + "|", *lines]), note]


def defaults_of_ingredients(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Top-1 without any ingredient, by model and dtype; in float32 the run `ema` before its average is that."""
    default = {
        (r["model"], r["dtype"]): r["top1_without_average"]
        for r in rows
        if r["dtype"] == "float32" and "model_ema" in r["settings"]
    }
    runs = {r["run"]: r for r in rows}
    for r in rows:
        if r["table"] == "ingredients" and r["dtype"] == "bfloat16":
            default[r["model"], "bfloat16"] = runs[f"{r['model']}_lr{r['lr']}"]["val_top1"]
    return default


def _ingredients(rows: list[dict[str, Any]]) -> list[str]:
    runs = {(r["ingredient"], r["model"], r["dtype"]): r for r in rows if r["table"] == "ingredients"}
    if not runs:
        return []
    default = defaults_of_ingredients(rows)
    columns = sorted({key[1:] for key in runs}, key=lambda column: (column[1] != "float32", column[0] == "resnet18"))
    lines = ["| none | " + " | ".join(f"{default[c]:.2f}" if c in default else "" for c in columns) + " |"]
    for ingredient in plan.INGREDIENTS:
        cells = []
        for column in columns:
            row = runs.get((ingredient, *column))
            difference = _difference(row, default.get(column)) if row else ""
            cells.append((_or_diverged(row, CLASSES) if row else "") + (f" ({difference})" if difference else ""))
        lines.append(f"| {ingredient} | " + " | ".join(cells) + " |")
    head = "| ingredient | " + " | ".join(f"{model}, {dtype}" for model, dtype in columns) + " |"
    note = (
        f"One run each, seed {plan.SEED}, each ingredient alone on top of the recipe, with the values of "
        "`advanced_in1k` (RMSProp's rate and the average's length fit the short schedule: "
        "[plan.py](../../accuracy/plan.py)). In brackets the difference to none, in the same precision: in float32 the "
        "run `ema` before its average, which takes no part in training. The teacher of the distillation is the shipped "
        "vt_resnet18, trained on the same photos, where the paper has FBNetV3-G. What has no number was not run. How "
        "much single runs alone differ is said at the top."
    )
    return ["## Section 5.2, small", "\n".join([head, "|---" * (1 + len(columns)) + "|", *lines]), note]


def _difference(row: dict[str, Any], default: float | None) -> str:
    return "" if default is None or row["val_top1"] is None else f"{row['val_top1'] - default:+.2f}"


def _reruns(rows: list[dict[str, Any]]) -> list[str]:
    """What the runs with a weight average say of the default: they train the same way."""
    runs = [r for r in rows if "model_ema" in r["settings"]]
    if not runs:
        return []
    found = ", ".join(f"{r['model']} {r['top1_without_average']:.2f} in {r['dtype']}" for r in runs)
    return [
        "An average of the weights takes no part in training, so that a run `ema` of section 5.2 is one more of its "
        f"model's default. Without the average: {found}. None of them counts for a mean above; single runs can "
        "differ by more than these seeds do."
    ]


def _transfer(rows: list[dict[str, Any]], best: Mapping[str, float]) -> list[str]:
    lines = []
    for dataset in plan.TRANSFER_SETS:
        for start in ("scratch", "pretrained"):
            key = f"{dataset}_{start}"
            runs = [r for r in rows if r["table"] == "transfer" and r["run"].startswith(f"{key}_")]
            if key not in best:
                continue
            tried = {r["lr"]: r for r in runs if r["seed"] == plan.SEED}
            classes = plan.TRANSFER_SETS[dataset]["num_classes"]
            search = ", ".join(f"{_or_diverged(tried[lr], classes)} at {lr}" for lr in plan.TRANSFER_RATES)
            val = [r["val_top1"] for r in runs if r["lr"] == best[key]]
            start = "scratch" if start == "scratch" else "shipped weights"
            lines.append(f"| {dataset} | {start} | {best[key]} | {_spread(val)} | {search} |")
    if not lines:
        return []
    head = "| set | from | lr | top-1 | search, one seed |"
    return ["## Does it transfer?", TRANSFER, "\n".join([head, "|---" * 5 + "|", *lines])]


def _names(experiments: list[Experiment]) -> set[str]:
    return {e.name for e in experiments}


def write(best: Mapping[str, float]) -> None:
    """runs.csv, summary.csv, README.md and curves.png."""
    rows = all_rows(best)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with (FOLDER / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("what", "lr", "metric", "seeds", "mean", "spread"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(summary(rows, best))
    (FOLDER / "README.md").write_text(page(best))
    if rows:
        _draw([r for r in rows if r["table"] == "table2"], best)
    print(f"wrote {FOLDER}")


def _seconds_of_the_last_epoch(log: str) -> float:
    """From the last line of an epoch in train.py's log: updates and mean seconds of one."""
    updates, seconds = re.findall(r"^Train: .*?/ *(\d+) .*?\(([\d.]+)s, ", log, re.MULTILINE)[-1]
    return int(updates) * float(seconds)


def _draw(rows: list[dict[str, Any]], best: Mapping[str, float]) -> None:
    """Training loss over the epochs of every run at its model's best learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), dpi=150)
    axis = figure.subplots()
    for colour, model in zip(("tab:gray", "tab:red", "black", "tab:orange"), plan.SEEDS, strict=True):
        for i, row in enumerate(_at_best(rows, model, best)):
            losses = training_losses((FOLDER / "runs" / row["run"] / "train.log").read_text())
            axis.plot(range(1, len(losses) + 1), losses, color=colour, label=None if i else model)
    axis.set_xlabel("epoch")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FOLDER / "curves.png")
