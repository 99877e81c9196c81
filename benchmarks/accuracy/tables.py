"""The tables of `benchmarks/results/accuracy/README.md`, and its curves, from the records."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.counting import count
from ..common.records import RESULTS, table
from . import plan
from .plan import CLASSES, Experiment, best_learning_rates, has_diverged
from .runs import all_runs, arguments_of, epochs_of, run_named

__all__ = ["TABLES", "at_best_rate", "defaults_of_ingredients", "draw", "is_ahead", "recorded", "standard_error"]

COMPARED = (("vt_resnet18", "resnet18"), ("vt_resnet34", "resnet34"))


def recorded(experiments: list[Experiment]) -> list[dict[str, Any]]:
    """The runs of a plan that have a record, each with the ingredient that the plan gives it."""
    runs = all_runs()
    return [{**runs[e.name], "ingredient": e.ingredient} for e in experiments if e.name in runs]


def at_best_rate(model: str, best: Mapping[str, float]) -> list[dict[str, Any]]:
    """The runs of a model in Table 2 at its best learning rate, one per seed."""
    return [r for r in recorded(plan.table_2(best)) if r["model"] == model and r["lr"] == best.get(model)]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f} ({len(values)} seeds)"


def matched() -> str:
    """Table 2, small: mean and spread over the seeds at each model's best rate."""
    best = best_learning_rates()
    rows = []
    for model in plan.SEEDS:
        runs = at_best_rate(model, best)
        if runs:
            macs, params = count(model, 128, num_classes=CLASSES)
            val, train = ([r[key] for r in runs] for key in ("val_top1", "train_top1"))
            epoch = min(epochs_of(r["name"])[-1]["seconds"] for r in runs)
            cells = [model, best[model], spread(val), spread(train), f"{macs:.0f}", f"{params:.1f}", f"{epoch:.0f}"]
            rows.append(cells)
    head = ["model", "lr", "top-1", "training top-1", "MACs at 128 px (M)", "parameters (M)", "seconds per epoch"]
    return table(head, rows)


def standard_error(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The standard error of the difference of two means, `sqrt(var_1 / n_1 + var_2 / n_2)`."""
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, peers)))


def is_ahead(ours: Sequence[float], peers: Sequence[float]) -> bool | None:
    """Whether ours is ahead; None where the means differ by less than twice the standard error."""
    gain = statistics.mean(ours) - statistics.mean(peers)
    return gain > 0 if abs(gain) > 2 * standard_error(ours, peers) else None


def differences() -> str:
    """VT against ResNet: the difference of the means beside its standard error, and how far each overfits."""
    best = best_learning_rates()
    rows = []
    for ours, peer in COMPARED:
        pair = [at_best_rate(model, best) for model in (ours, peer)]
        if all(pair):
            vt, resnet = ([r["val_top1"] for r in runs] for runs in pair)
            error = f"{standard_error(vt, resnet):.2f}" if min(len(vt), len(resnet)) > 1 else "one run each"
            gaps = [f"{statistics.mean(r['train_top1'] - r['val_top1'] for r in runs):.2f}" for runs in pair]
            difference = statistics.mean(vt) - statistics.mean(resnet)
            rows.append([ours, peer, f"{difference:+.2f}", error, *gaps])
    return table(
        ["ours", "peer", "difference in top-1", "its standard error", "training over validation top-1, ours", "peer"],
        rows,
    )


def reruns() -> str:
    """Runs that average their weights, scored without the average: so they are more runs of their model's default."""
    runs = [r for r in recorded(plan.ingredients(best_learning_rates())) if r["top1_without_average"] is not None]
    return table(
        ["run", "model", "dtype", "top-1 without the average"],
        [[r["name"], r["model"], r["dtype"], f"{r['top1_without_average']:.2f}"] for r in runs],
    )


def search() -> str:
    """Top-1 by learning rate."""
    rows = []
    for model in plan.SEEDS:
        found = {e.lr: run_named(e.name) for e in plan.search(model)}
        if any(found.values()):
            rows.append([model, *(_or_diverged(r) if r else "" for r in found.values())])
    return table(["model", *(f"lr {lr}" for lr in plan.LEARNING_RATES)], rows)


def ablations() -> str:
    """Tables 3 to 7, small: one option changed."""
    best = best_learning_rates()
    runs = recorded(plan.ablations(best))
    if not runs:
        return table(["option", "top-1", "against the default, same seed"], [])
    (default,) = [r for r in at_best_rate(runs[0]["model"], best) if r["seed"] == plan.SEED]
    rows = [["none", _or_diverged(default), ""]]
    for r in runs:
        options = ", ".join(f"`{key}={value!r}`" for key, value in r["options"].items())
        rows.append([options, _or_diverged(r), _difference(r, default["val_top1"])])
    return table(["option changed", "top-1", "against the default, same seed"], rows)


def defaults_of_ingredients(runs: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Top-1 without any ingredient, by model and dtype; in float32 the run `ema` before its average is that."""
    default = {
        (r["model"], r["dtype"]): r["top1_without_average"]
        for r in runs
        if r["dtype"] == "float32" and r["top1_without_average"] is not None
    }
    for r in runs:
        reference = run_named(f"{r['model']}_lr{r['lr']}")
        if r["dtype"] == "bfloat16" and reference:
            default[r["model"], "bfloat16"] = reference["val_top1"]
    return default


def ingredients() -> str:
    """Section 5.2, small: each ingredient alone; in brackets the difference to a run without any, same precision.

    The difference of an average of the weights is to the same run without it.
    """
    rows = recorded(plan.ingredients(best_learning_rates()))
    runs = {(r["ingredient"], r["model"], r["dtype"]): r for r in rows}
    default = defaults_of_ingredients(rows)
    columns = sorted({key[1:] for key in runs}, key=lambda column: (column[1] != "float32", column[0] == "resnet18"))
    lines = [["none", *(f"{default[c]:.2f}" if c in default else "" for c in columns)]]
    for ingredient in plan.INGREDIENTS:
        cells = []
        for column in columns:
            row = runs.get((ingredient, *column))
            without = row and row["top1_without_average"]  # of the same run, where it has an average
            difference = _difference(row, without or default.get(column)) if row else ""
            cells.append((_or_diverged(row) if row else "") + (f" ({difference})" if difference else ""))
        lines.append([ingredient, *cells])
    return table(["ingredient", *(f"{model}, {dtype}" for model, dtype in columns)], lines)


def transfer() -> str:
    """Other sets, from the shipped weights and from scratch."""
    best = best_learning_rates()
    runs = recorded(plan.transfer(best))
    rows = []
    for dataset, settings in plan.TRANSFER_SETS.items():
        for start in ("scratch", "pretrained"):
            key = f"{dataset}_{start}"
            if key not in best:
                continue
            own = [r for r in runs if r["name"].startswith(f"{key}_")]
            tried = {r["lr"]: r for r in own if r["seed"] == plan.SEED}
            classes = settings["num_classes"]
            found = ", ".join(f"{_or_diverged(tried[lr], classes)} at {lr}" for lr in plan.TRANSFER_RATES)
            val = [r["val_top1"] for r in own if r["lr"] == best[key]]
            start = "scratch" if start == "scratch" else "shipped weights"
            rows.append([dataset, start, best[key], spread(val), found])
    return table(["set", "from", "lr", "top-1", "search, one seed"], rows)


REGULARISERS = {"mixup": "mixup", "aa": "AutoAugment", "drop_path": "drop-path", "drop": "dropout", "model_ema": "EMA"}


def longer() -> str:
    """Runs of more epochs than those of the other tables, and those that learn from a teacher."""
    rows = []
    runs = [r for r in all_runs().values() if r["table"] in ("longer", "shipped", "teacher")]
    for r in sorted(runs, key=lambda r: (r["epochs"], r["model"])):
        args = arguments_of(r["name"])
        kind = "features" if args.get("kd_distill_type") == "feature" else "answers"
        teacher = (
            f"{kind} of {Path(args['kd_model_name']).name.removeprefix('local-dir:')}" if args["kd_model_name"] else ""
        )
        sizes = {args["img_size"]: r["val_top1"], **{int(size): top1 for size, top1 in (r["top1_at"] or {}).items()}}
        top1 = ", ".join(f"{sizes[size]:.2f} ({size} px)" for size in sorted(sizes))
        model, _, start = r["model"].partition(".")
        train = "" if r["train_top1"] is None else f"{r['train_top1']:.2f}"
        minutes = sum(e["seconds"] or 0 for e in epochs_of(r["name"])) / 60
        also = ", ".join(name for key, name in REGULARISERS.items() if args.get(key))
        checkpoint = Path(args["initial_checkpoint"]).parent.name
        started = start if args["pretrained"] else checkpoint.removeprefix(f"{model}.")
        rows.append([model, r["seed"], started, teacher, also, r["epochs"], top1, train, f"{minutes:.0f}"])
    return table(
        ["model", "seed", "went on from", "teacher", "also", "epochs", "top-1", "training top-1", "minutes"], rows
    )


def _or_diverged(record: dict[str, Any], classes: int = CLASSES) -> str:
    """Top-1, with a word where the run diverged; for a run that was stopped, the epoch in which it diverged."""
    if record["val_top1"] is None:
        return f"diverged in epoch {record['diverged']['epoch']}, stopped"
    return f"{record['val_top1']:.2f}" + (" (diverged)" if has_diverged(record, classes) else "")


def _difference(row: dict[str, Any], default: float | None) -> str:
    return "" if default is None or row["val_top1"] is None else f"{row['val_top1'] - default:+.2f}"


def draw() -> None:
    """Training loss over the epochs of every run at its model's best learning rate."""
    from matplotlib.figure import Figure

    best = best_learning_rates()
    figure = Figure(figsize=(6.0, 3.6), dpi=150)
    axis = figure.subplots()
    for colour, model in zip(("tab:gray", "tab:red", "black", "tab:orange"), plan.SEEDS, strict=True):
        for i, run in enumerate(at_best_rate(model, best)):
            losses = [row["train_loss"] for row in epochs_of(run["name"])]
            axis.plot(range(1, len(losses) + 1), losses, color=colour, label=None if i else model)
    axis.set_xlabel("epoch")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "accuracy" / "curves.png")


TABLES = {
    "matched": matched,
    "differences": differences,
    "reruns": reruns,
    "search": search,
    "ablations": ablations,
    "ingredients": ingredients,
    "transfer": transfer,
    "longer": longer,
}
