"""Make the tables of `benchmarks/results/accuracy/README.md`, and its curves, from the records."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.counting import count
from ..common.paper_tables import IMAGENETTE_LEADERBOARD
from ..common.records import RESULTS, table
from ..tokens import paired
from . import plan
from .pairs import OTHERS, SIZES, pairs, right_of
from .plan import CLASSES, NETWORKS, Experiment, best_learning_rates, has_diverged
from .runs import all_runs, arguments_of, epochs_of, run_named

Planned = Callable[[Mapping[str, float]], list[Experiment]]  # a table's runs, from the best rate of each model

COMPARED = (("vt_resnet18", "resnet18"), ("vt_resnet34", "resnet34"))
# What the controls' tables call their networks.
CALLED = {
    "pooled": "trunk + lift + average pooling",
    "one_filter": "trunk + lift + one filter token",
    "vt_resnet18": "`vt_resnet18`",
    "awake": "`vt_resnet18`, projector awake from the start",
    "resnet18": "`resnet18`",
}

PAIRED_SEEDS = (43, 44)  # of which all networks were trained by one commit on one kind of machine
SET_AGAINST = (
    *(("vt_resnet18", other) for other in ("pooled", "one_filter", "resnet18")),
    *(("one_filter", other) for other in ("pooled", "resnet18")),
    ("resnet18", "pooled"),
)
DRAWN: dict[str, dict[str, Any]] = {
    "pooled": {"color": "tab:gray", "marker": "s"},
    "one_filter": {"color": "tab:orange", "marker": "^"},
    "vt_resnet18": {"color": "tab:purple", "marker": "v"},
    "awake": {"color": "tab:red", "marker": "o"},
    "resnet18": {"color": "black", "marker": "D", "linestyle": "--"},
}


def recorded(experiments: list[Experiment]) -> list[dict[str, Any]]:
    """Return the runs of a plan that have a record, each with the ingredient that the plan gives it."""
    runs = all_runs()
    return [{**runs[e.name], "ingredient": e.ingredient} for e in experiments if e.name in runs]


def at_best_rate(model: str, best: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the runs of a model in Table 2 at its best learning rate, one per seed."""
    return [r for r in recorded(plan.table_2(best)) if r["model"] == model and r["lr"] == best.get(model)]


def spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f} ({len(values)} seeds)"


def matched() -> str:
    """Tabulate Table 2, small: mean and spread over the seeds at each model's best rate."""
    best = best_learning_rates()
    rows = []
    for model in plan.SEEDS:
        runs = at_best_rate(model, best)
        if runs:
            macs, params = count(model, 128, num_classes=CLASSES)
            val, train = ([r[key] for r in runs] for key in ("val_top1", "train_top1"))
            rows.append([model, best[model], spread(val), spread(train), f"{macs:.0f}", f"{params:.1f}"])
    return table(["model", "lr", "top-1", "training top-1", "MACs at 128 px (M)", "parameters (M)"], rows)


def standard_error(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Return the standard error of the difference of two means, `sqrt(var_1 / n_1 + var_2 / n_2)`."""
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, peers)))


def is_ahead(ours: Sequence[float], peers: Sequence[float]) -> bool | None:
    """True if ours is ahead, None where the means differ by less than twice the standard error."""
    gain = statistics.mean(ours) - statistics.mean(peers)
    return gain > 0 if abs(gain) > 2 * standard_error(ours, peers) else None


def differences() -> str:
    """Tabulate VT against ResNet: the difference of the means beside its standard error, and how far each overfits."""
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


def reruns() -> list[dict[str, Any]]:
    """Return the runs that average their weights, each with its top-1 before the average.

    An average takes no part in training, so that each is one more run of its model's default.
    """
    runs = [run for run in all_runs().values() if run["table"] == "ingredients"]
    return [run for run in runs if run["top1_without_average"] is not None]


def defaults() -> str:
    """Tabulate the runs that are a default without their average."""
    return table(
        ["run", "model", "dtype", "top-1 without the average"],
        [[r["name"], r["model"], r["dtype"], f"{r['top1_without_average']:.2f}"] for r in reruns()],
    )


def of_controls(name: str, planned: Planned = plan.controls) -> list[dict[str, Any]]:
    """Return the recorded runs of one of `NETWORKS` that were asked for ten labels, one per seed.

    Of those that are planned at the best rate `name` ends in _best, or in _best_stage.
    """
    return recorded([e for e in planned({}) if e.name.partition("_seed")[0] == name])


def at_size(runs: Sequence[Mapping[str, Any]], size: int) -> list[float]:
    """Return the top-1 of those runs for which it was measured at a size in pixels; 128 is that of the training.

    Of a network that was asked for a teacher's answers it is that among ten classes, which train.py did not measure.
    """
    found = [
        run["val_top1"] if size == 128 and not run.get("answers") else (run["top1_at"] or {}).get(str(size))
        for run in runs
    ]
    return [top1 for top1 in found if top1 is not None]


def controls(planned: Planned = plan.controls) -> str:
    """Tabulate the networks without tokens and with one beside the whole ones: a row each, a figure per run."""
    rows = []
    for name, called in CALLED.items():
        model, options = NETWORKS[name]
        for kind in ("", "_best", "_best_stage", "_best_high"):
            runs = of_controls(name + kind, planned)
            if not runs:
                continue
            cost = count(model, 128, num_classes=CLASSES, **options)
            figures = [*([at_size([run], size) for run in runs] for size in SIZES), [[r["train_top1"]] for r in runs]]
            cells = [", ".join(f"{v[0]:.2f}" if v else "none" for v in one) if any(one) else "" for one in figures]
            seeds = ", ".join(str(r["seed"]) for r in runs)
            row = f"{called}, {_rates_of(runs[0])}" if kind else called
            rows.append([row, seeds, *cells, f"{cost.macs:.0f}", f"{cost.params:.1f}"])
    head = ["network", "seeds", "top-1 at 128 px", "at 160 px", "at 192 px", "at 224 px", "training top-1"]
    return table([*head, "MACs at 128 px (M)", "parameters (M)"], rows)


def _rates_of(run: Mapping[str, Any]) -> str:
    """Return a run's rate, and that of its stage 5 where it has one of its own."""
    parts = [f"{run['lr'] * factor:g} in stage 5" for factor in (run["settings"].get("lr_scale") or {}).values()]
    return ", ".join([f"lr {run['lr']:g}", *parts])


def lead(name: str, other: str, size: int, planned: Planned = plan.controls) -> tuple[float, float] | None:
    """Return what one of `NETWORKS` has over another in mean top-1 at a size, and its standard error over the seeds.

    None where either has one run or none that was shown this size.
    """
    ours, peers = (at_size(of_controls(one, planned), size) for one in (name, other))
    if min(len(ours), len(peers)) < 2:
        return None
    return statistics.mean(ours) - statistics.mean(peers), standard_error(ours, peers)


def at_best(name: str) -> str:
    """Return what runs of one of `NETWORKS` at its best rate are called, with a part of it for stage 5 if better."""
    return next(
        (run for run in (f"{name}_best_stage", f"{name}_best") if of_controls(run, plan.controls_at_best)), name
    )


def lead_at_best(name: str, other: str, size: int) -> tuple[float, float] | None:
    """Return the same of networks at the best rates of each."""
    return lead(at_best(name), at_best(other), size, plan.controls_at_best)


def lead_of_pair(
    name: str,
    other: str,
    size: int,
    run_of: Callable[[str, int], str] = plan.control,
    seeds: Iterable[int] = PAIRED_SEEDS,
) -> tuple[float, float] | None:
    """Return what one network has over another, paired over the photos: of each the mean of its runs of some seeds."""
    ours, peers = ([right_of(run_of(one, seed), size) for seed in seeds] for one in (name, other))
    if not ours or any(right is None for right in (*ours, *peers)):
        return None
    found = paired(*(torch.stack(one).double().mean(dim=0) for one in (ours, peers)))  # type: ignore[arg-type]
    return found["difference"], found["standard_error"]


def lead_of_pair_at_best(name: str, other: str, size: int) -> tuple[float, float] | None:
    """Return the same at the best rates of each, of the seeds that all networks set against one another have."""

    def run_of(one: str, seed: int) -> str:
        return f"{at_best(one)}_seed{seed}"

    networks = {one for pair in SET_AGAINST for one in pair}
    seeds = [s for s in plan.SEEDS["vt_resnet18"] if all(run_named(run_of(one, s)) for one in networks)]
    return lead_of_pair(name, other, size, run_of, seeds)


def set_against(lead: Callable[[str, str, int], tuple[float, float] | None]) -> str:
    """Tabulate what a network of the controls' table has over another, with its standard error."""
    called, rows = {**CALLED, **OTHERS}, []
    for name, other in SET_AGAINST:
        found = [lead(name, other, size) for size in SIZES]
        if any(found):
            cells = [one and f"{one[0]:+.2f} +- {one[1]:.2f}" for one in found]
            rows.append([f"{called[name]} less {called[other]}", *cells])
    return table(["top-1 of", *(f"at {size} px" for size in SIZES)], rows)


def answers(begun: str = "answers") -> str:
    """Tabulate the same networks asked for a teacher's thousand answers: a run each."""
    planned = {e.name: e for e in plan.answers({})}
    rows = []
    for name, called in CALLED.items():
        run = run_named(f"{begun}_{name}")
        if run:
            experiment = planned[run["name"]]
            cost = count(experiment.model, 128, num_classes=plan.ANSWERS["num_classes"], **experiment.options)
            agreed, apart = run["answers"]["names_the_teachers_class"], run["answers"]["divergence"]
            top1 = [f"{run['top1_at'][size]:.2f}" for size in ("128", "160", "192", "224")]
            cells = [f"{agreed:.2f}", f"{apart:.3f}", *top1, f"{run['train_top1']:.2f}", f"{cost.macs:.0f}"]
            rows.append([called, *cells, f"{cost.params:.1f}"])
    head = ["network", "names the teacher's class", "divergence", "top-1 of ten at 128 px", "at 160 px"]
    return table([*head, "at 192 px", "at 224 px", "training top-1", "MACs at 128 px (M)", "parameters (M)"], rows)


def search(planned: Callable[[str], list[Experiment]] = plan.search, networks: Iterable[str] = plan.SEEDS) -> str:
    """Tabulate top-1 by learning rate."""
    rows = []
    for name in networks:
        found = [run_named(e.name) for e in planned(name)]
        if any(found):
            rows.append(
                [CALLED[name] if name in plan.CONTROLS else name, *(_or_diverged(r) if r else "" for r in found)]
            )
    return table(["model", *(f"lr {e.lr}" for e in planned("resnet18"))], rows)


def muon_stage() -> str:
    """Tabulate top-1 by the rate of stage 5, that of the rest being one and the same."""
    rows = []
    for name, called in CALLED.items():
        (whole,) = (e for e in plan.muon_search(name) if e.lr == plan.STAGE_RATE)
        found = [run_named(e.name) for e in (whole, *plan.muon_stage(name))]
        if any(found[1:]):
            rows.append([called, *(_or_diverged(run) if run else "" for run in found)])
    return table(
        ["network", *(f"stage 5 at {plan.STAGE_RATE * factor:g}" for factor in (1, *plan.STAGE_FACTORS))], rows
    )


def diverging() -> str:
    """Tabulate the beginning of a run that diverges, with at most one thing changed."""
    rows = []
    for run in all_runs().values():
        if run["table"] == "trials":
            first, second = epochs_of(run["name"])
            changed = ", ".join(f"{key} {value}" for key, value in run["options"].items())
            if arguments_of(run["name"])["clip_grad"] != arguments_of("rate0.4")["clip_grad"]:
                changed = f"gradients clipped at norm {arguments_of(run['name'])['clip_grad']:g}"
            losses = [f"{epoch['train_loss']:g}" for epoch in (first, second)]
            rows.append([run["name"], changed, *losses, f"{second['update']} of {second['updates']}"])
    head = ["run", "differs by", "mean training loss, epoch 1", "epoch 2 so far", "updates of it"]
    return table(head, rows)


def ablations() -> str:
    """Tabulate Tables 3 to 7, small, beside the runs of the default on the same torch in the same precision."""
    best = best_learning_rates()
    changed = recorded(plan.ablations(best))
    same = {(r["model"], r["torch"], r["dtype"]) for r in changed}
    usual = [(r, r["val_top1"]) for model in plan.SEEDS for r in at_best_rate(model, best)]
    usual += [(r, r["top1_without_average"]) for r in reruns()]
    rows = [["none", r["seed"], f"{top1:.2f}"] for r, top1 in usual if (r["model"], r["torch"], r["dtype"]) in same]
    for r in changed:
        options = ", ".join(f"`{key}={value!r}`" for key, value in r["options"].items())
        rows.append([options, r["seed"], _or_diverged(r)])
    return table(["option changed", "seed", "top-1"], rows)


def ingredients() -> str:
    """Tabulate section 5.2, small: each ingredient alone; in brackets the difference to a run without any.

    That run is the one with an average, before it.
    """
    runs = {(r["ingredient"], r["model"]): r for r in recorded(plan.ingredients(best_learning_rates()))}
    default = {r["model"]: r["top1_without_average"] for r in runs.values() if r["top1_without_average"] is not None}
    models = sorted({model for _, model in runs}, reverse=True)
    lines: list[list[Any]] = [["none", *(f"{default[model]:.2f}" if model in default else None for model in models)]]
    for ingredient in plan.INGREDIENTS:
        cells = []
        for model in models:
            row = runs.get((ingredient, model))
            difference = f" ({row['val_top1'] - default[model]:+.2f})" if row and model in default else ""
            cells.append(row and _or_diverged(row) + difference)
        lines.append([ingredient, *cells])
    return table(["ingredient", *models], lines)


def leaderboard() -> str:
    """Tabulate fast.ai's leaderboard, top-1 from scratch by size and number of epochs."""
    epochs = (20, 80, 200)
    rows = [[f"{size} px", *(f"{top1[n]:.2f}" for n in epochs)] for size, top1 in IMAGENETTE_LEADERBOARD.items()]
    return table(["fast.ai's leaderboard", *(f"{n} epochs" for n in epochs)], rows)


def transfer() -> str:
    """Tabulate other sets, from the shipped weights and from scratch."""
    best = best_learning_rates()
    runs = recorded(plan.transfer(best))
    rows = []
    for dataset, settings in plan.TRANSFER_SETS.items():
        for start, called in (("scratch", "scratch"), ("pretrained", "shipped weights")):
            key = f"{dataset}_{start}"
            if key not in best:
                continue
            own = [r for r in runs if r["name"].startswith(f"{key}_")]
            tried = {r["lr"]: r for r in own if r["seed"] == plan.SEED}
            classes = settings["num_classes"]
            found = ", ".join(f"{_or_diverged(tried[lr], classes)} at {lr}" for lr in plan.TRANSFER_RATES)
            val = [r["val_top1"] for r in own if r["lr"] == best[key]]
            rows.append([dataset, called, best[key], spread(val), found])
    return table(["set", "from", "lr", "top-1", "search, one seed"], rows)


REGULARISERS = {"mixup": "mixup", "aa": "AutoAugment", "drop_path": "drop-path", "drop": "dropout", "model_ema": "EMA"}


def longer() -> str:
    """Tabulate the runs of more epochs than those of the other tables, and those that learn from a teacher."""
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
        also = ", ".join(name for key, name in REGULARISERS.items() if args.get(key))
        checkpoint = Path(args["initial_checkpoint"]).parent.name
        started = start if args["pretrained"] else checkpoint.removeprefix(f"{model}.")
        rows.append([model, r["seed"], started, teacher, also, r["epochs"], top1, train])
    return table(["model", "seed", "went on from", "teacher", "also", "epochs", "top-1", "training top-1"], rows)


def _or_diverged(record: dict[str, Any], classes: int = CLASSES) -> str:
    """Format top-1, with a word where the run diverged; for a run that was stopped, the epoch in which it did."""
    if record["val_top1"] is None:
        return f"diverged in epoch {record['diverged']['epoch']}, stopped"
    return f"{record['val_top1']:.2f}" + (" (diverged)" if has_diverged(record, classes) else "")


def draw() -> None:
    """Draw the pictures of the pages."""
    _draw_losses()
    _draw_sizes()


def _draw_losses() -> None:
    """Draw training loss over the epochs of every run at its model's best learning rate."""
    from matplotlib.figure import Figure

    best = best_learning_rates()
    figure = Figure(figsize=(6.0, 3.6), dpi=150, layout="tight")
    axis = figure.subplots()
    for colour, model in zip(("tab:gray", "tab:red", "black", "tab:orange"), plan.SEEDS, strict=True):
        for i, run in enumerate(at_best_rate(model, best)):
            losses = [row["train_loss"] for row in epochs_of(run["name"])]
            axis.plot(range(1, len(losses) + 1), losses, color=colour, label=None if i else model)
    axis.set(xlabel="epoch", ylabel="training loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(RESULTS / "accuracy" / "curves.png")


def _draw_sizes() -> None:
    """Draw top-1 over the size of the photos: a panel for what was asked, a line for each run of each network."""
    from matplotlib.figure import Figure

    panels = {
        "ten labels, the best rate of each": {
            name: of_controls(at_best(name), plan.controls_at_best) for name in NETWORKS
        },
        "ten labels, the recipe's rate": {name: of_controls(name) for name in NETWORKS},
        "a teacher's thousand answers": {name: _answers_of("answers", name) for name in NETWORKS},
        "... then two epochs at 192 px": {name: _answers_of("answers192", name) for name in NETWORKS},
    }
    figure = Figure(figsize=(12.5, 3.6), dpi=150)
    axes = figure.subplots(1, len(panels))
    lines = {}
    for axis, (asked, networks) in zip(axes, panels.items(), strict=True):
        for name, runs in networks.items():
            for run in runs:
                top1 = {size: found for size in SIZES for found in at_size([run], size)}
                (lines[name],) = axis.plot([*top1], [*top1.values()], **DRAWN[name])
        axis.set_title(asked, fontsize=10)
        axis.set(xticks=SIZES, xlabel="photos shown, px")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    shown = [name for name in NETWORKS if name in lines]
    called = [CALLED[name].replace("`", "") for name in shown]
    figure.legend([lines[name] for name in shown], called, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(RESULTS / "tokens" / "sizes.png")


def _answers_of(begun: str, name: str) -> list[dict[str, Any]]:
    run = run_named(f"{begun}_{name}")
    return [run] if run else []


TABLES: dict[str, Callable[[], str]] = {
    "matched": matched,
    "differences": differences,
    "defaults": defaults,
    "controls": controls,
    "control_differences": partial(set_against, lead),
    "controls_at_best": partial(controls, plan.controls_at_best),
    "control_differences_at_best": partial(set_against, lead_at_best),
    "control_pairs": partial(set_against, lead_of_pair),
    "control_pairs_at_best": partial(set_against, lead_of_pair_at_best),
    "answers": answers,
    "answers192": partial(answers, "answers192"),
    "answers_mixed": partial(answers, "mixed"),
    "pairs": pairs,
    "search": search,
    "muon_search": partial(search, plan.muon_search, CALLED),
    "muon_stage": muon_stage,
    "diverging": diverging,
    "ablations": ablations,
    "ingredients": ingredients,
    "transfer": transfer,
    "longer": longer,
    "leaderboard": leaderboard,
}
