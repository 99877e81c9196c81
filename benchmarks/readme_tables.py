"""Tables and sentences of README.md, from the records: `python -m benchmarks.readme_tables` prints them.

A test holds the page to what this prints; MODEL_CARD.md is rendered by `python -m hub.card`.
"""

import csv
import json
import statistics
from typing import Any

import yaml

from .accuracy import plan
from .accuracy.records import best_learning_rates, load
from .accuracy.report import defaults_of_ingredients, has_diverged, ingredient_rows
from .accuracy.verdict import is_ahead
from .common.counting import count, count_stage5
from .common.records import RESULTS

__all__ = [
    "ablations_sentence",
    "ingredients_sentence",
    "memory_sentence",
    "models_table",
    "speed_sentences",
    "speed_table",
    "transfer_sentence",
    "verdict_sentence",
    "weights_sentence",
]

SPEED = {"cpu_1thread_avx2": ["float32"], "cpu_1thread": ["float32", "bfloat16"]}  # records, precisions of each
MODELS = ["vt_resnet18", "vt_resnet34", "vt_resnet50", "vt_resnet101", "vt_resnet_micro"]


def _accuracy(model: str) -> dict | None:
    records = sorted(RESULTS.glob(f"accuracy_{model}.*.json"))
    return json.loads(records[0].read_text()) if records else None


def models_table() -> str:
    """README: cost, and top-1 of the shipped weights."""
    with (RESULTS / "complexity.csv").open() as file:
        cost = {(row["model"], row["quantity"]): float(row["ours"]) for row in csv.DictReader(file) if row["ours"]}
    lines = []
    for name in MODELS:
        accuracy = _accuracy(name)
        macs, params = cost[name, "MACs (M)"], cost[name, "parameters (M)"]
        resnet_macs = cost.get((name.removeprefix("vt_"), "MACs (M)"))
        share = f"{macs / resnet_macs:.2f}" if resnet_macs else ""
        top1 = f"{accuracy['top1']:.2f} % at {accuracy['input_size'][-1]} px" if accuracy else "none"
        lines.append(f"| `{name}` | {params:.1f} | {macs:.0f} | {share} | {top1} |")
    return "\n".join(lines)


def speed_table() -> str:
    """README: ratio of images per second over the ResNet of the same depth, eager, one CPU thread of two machines."""
    records = {name: json.loads((RESULTS / "throughput" / f"{name}.json").read_text())["rows"] for name in SPEED}
    cells: dict[tuple[str, str], dict[tuple[str, str, int], str]] = {}
    for record, row in ((name, row) for name, rows in records.items() for row in rows):
        line = cells.setdefault((row["model"], row["memory_format"]), {})
        line[record, row["precision"], row["batch_size"]] = f"{row['ratio']:.2f}"
    columns = [(name, precision, batch) for name, kinds in SPEED.items() for precision in kinds for batch in (1, 16)]
    macs = {row["model"]: row["macs_ratio"] for rows in records.values() for row in rows}
    return "\n".join(
        f"| `{model}` | {layout} | {macs[model]:.2f} | {' | '.join(line[column] for column in columns)} |"
        for (model, layout), line in sorted(cells.items(), key=lambda item: (list(macs).index(item[0][0]), item[0][1]))
    )


def speed_sentences() -> str:
    """README: what the table leaves out, and the bounds that explain it."""

    def quoted(record: str, *models: str, key: str = "ratio", **wanted: object) -> list[str]:
        rows = json.loads((RESULTS / "throughput" / f"{record}.json").read_text())["rows"]
        kept = [row for row in rows if all(row[k] == value for k, value in wanted.items())]
        return [f"{row[key]:.2f}" for model in models for row in kept if row["model"] == model]

    def of_all(record: str, batch_size: int) -> str:
        found = quoted(record, *MODELS, batch_size=batch_size)
        return f"{min(found)} to {max(found)}"

    basic, bottleneck = "vt_resnet18", "vt_resnet50"
    last: dict[str, Any] = {"memory_format": "channels_last", "batch_size": 16}
    as_it_is, products, free = (
        quoted("stages_cpu_1thread_avx2", basic, bottleneck, key=key, **last)
        for key in ("as_it_is", "products", "free")
    )
    float32, bfloat16 = quoted("stages_cpu_1thread", basic, key="products", **last)
    (layer4,) = quoted("stages_cpu_1thread_avx2", bottleneck, key="layer4_ms", **last)
    (resnet,) = quoted("stages_cpu_1thread_avx2", bottleneck, key="resnet_ms", **last)
    time = float(layer4) / float(resnet)
    macs = count_stage5("resnet50", 224).macs / count("resnet50", 224).macs
    train = [quoted("cpu_1thread_train_avx2", model) for model in (basic, bottleneck)]
    at_896 = quoted("cpu_1thread_sizes_avx2", basic, bottleneck, size=896)
    free_at_896 = quoted("stages_cpu_1thread_sizes_avx2", basic, bottleneck, key="free", size=896)
    others = [
        f"{name} {of_all(record, 1)} at batch 1 and {of_all(record, 16)} at 16"
        for name, record in (
            ("in ONNX Runtime", "cpu_1thread_onnx_avx2"),
            ("compiled by torch", "cpu_1thread_compiled_avx2"),
            ("by AOTInductor", "cpu_1thread_aot_avx2"),
        )
    ]
    first, second = (
        json.loads((RESULTS / "throughput" / f"{name}.json").read_text())["rows"]
        for name in ("cpu_1thread_avx2", "cpu_1thread_again_avx2")
    )
    moved = [abs(a["ratio"] - b["ratio"]) for a, b in zip(first, second, strict=True)]
    return (
        f"A second run of the AVX2 columns moved a ratio by {statistics.median(moved):.2f} in the median and by "
        f"{max(moved):.2f} at most. At batch 16 the ratios are often less than the MACs promise, and bounds say why. "
        f"On AVX2, channels_last, the stages alone give `{basic}` {as_it_is[0]} and `{bottleneck}` {as_it_is[1]}; "
        "with a VT stage that did nothing but its products at the rate of a plain matrix product it would be "
        f"{products[0]} and {products[1]}, with one that took no time {free[0]} and {free[1]}: `layer4` of `resnet50` "
        f"takes {100 * time:.0f} % of the time for {100 * macs:.0f} % of the MACs. On AVX512, where 3x3 convolutions "
        f"run at more MACs a second than products of so few tokens, `{basic}` with products alone would reach "
        f"{float32} in float32 and {bfloat16} in bfloat16. The other ratios are of AVX2 and float32. All four models: "
        f"{', '.join(others)}. A training step at batch 16, contiguous and channels_last: `{basic}` "
        f"{' and '.join(train[0])}, `{bottleneck}` {' and '.join(train[1])}. At 896 px, batch 1, channels_last: "
        f"{at_896[0]} and {at_896[1]}, where a VT stage that took no time would give {free_at_896[0]} and "
        f"{free_at_896[1]}."
    )


def memory_sentence() -> str:
    """README: what a pass allocates at its peak, over what the ResNet's does."""
    rows = json.loads((RESULTS / "throughput" / "memory_cpu.json").read_text())["rows"]
    span = {}
    for task in ("inference", "train"):
        shares = [row["share"] for row in rows if row["task"] == task]
        span[task] = f"{min(shares):.2f} to {max(shares):.2f}"
    above = [f"`{r['model']}` in {r['memory_format']} ({r['share']:.3f})" for r in rows if r["share"] > 1]
    return (
        f"Peak memory, as torch allocates it for a batch of {rows[0]['batch_size']} in {rows[0]['precision']}, is "
        f"{span['inference']} of the ResNet's in inference and {span['train']} in a training step, above it for "
        f"{' and '.join(above) or 'none'}."
    )


def leaderboard(size: int, epochs: int) -> float:
    """The public one's top-1 of Imagenette v2 at an image size and a number of epochs."""
    with (RESULTS / "imagenette_leaderboard.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return next(float(row["top1"]) for row in rows if (row["size"], row["epochs"]) == (str(size), str(epochs)))


def weights_sentence() -> str:
    """README and model card: the shipped vt_resnet18 beside the leaderboard's row for its size and epochs."""
    accuracy = _accuracy("vt_resnet18")
    assert accuracy is not None
    run = RESULTS / "runs" / accuracy["model"]
    settings = yaml.safe_load((run / "args.yaml").read_text())
    with (run / "summary.csv").open() as file:
        top1 = float(list(csv.DictReader(file))[-1]["eval_top1"])
    public = leaderboard(settings["img_size"], settings["epochs"])
    difference = top1 - public
    side = "above" if difference > 0 else "below"
    return (
        f"After {settings['epochs']} epochs, at the {settings['img_size']} px up to which it was trained, "
        f"`vt_resnet18` reaches {top1:.2f} %: {abs(difference):.2f} points {side} the {public:.2f} % of Imagenette's "
        "public leaderboard for that size and number of epochs, which is mostly xresnet50."
    )


def verdict_sentence() -> str:
    """README and model card: VT-ResNet against ResNet in the matched runs, and at which learning rates VT diverged."""
    best = best_learning_rates()
    top1: dict[str, list[float]] = {}
    for model in plan.SEEDS:
        records = [load(e.name) for e in plan.table_2(best) if (e.model, e.lr) == (model, best[model])]
        top1[model] = [record["val_top1"] for record in records if record]
    many = [
        f"`{model}` reaches {statistics.mean(top1[model]):.2f} +- {statistics.stdev(top1[model]):.2f} %"
        for model in ("vt_resnet18", "resnet18")
    ]
    single = [f"`{model}` reaches {top1[model][0]:.2f} %" for model in ("vt_resnet34", "resnet34")]
    winner = "within" if is_ahead(top1["vt_resnet18"], top1["resnet18"]) is None else "beyond"
    return (
        f"Matched runs on Imagenette, the same short schedule and the same search of the learning rate for both. "
        f"{len(top1['resnet18'])} seeds each: {' and '.join(many)}, a difference {winner} what the seeds explain. "
        f"{_rerun_sentence()} One run each: {' and '.join(single)}. That says nothing certain about ImageNet. "
        f"{_diverged_sentence()}"
    )


def _diverged_sentence() -> str:
    rates: dict[str, list[str]] = {}
    for model in plan.SEEDS:
        tried = [(e.lr, load(e.name)) for e in plan.search(model)]
        rates[model] = [str(lr) for lr, record in tried if record and has_diverged(record)]
    text = " and ".join(f"`{model}` at {' and '.join(lrs)}" for model, lrs in rates.items() if lrs)
    return f"Of the rates {', '.join(map(str, plan.LEARNING_RATES))} some were too high: {text} diverged."


def _rerun_sentence() -> str:
    runs = [r for r in ingredient_rows(best_learning_rates()) if "model_ema" in r["settings"]]
    found = [f"{r['top1_without_average']:.2f} % ({r['dtype']})" for r in runs if r["model"] == "vt_resnet18"]
    return (
        f"More runs of the default `vt_resnet18`, those of EMA before its average, reach {' and '.join(found)}: single "
        "runs can differ by more than those seeds do."
    )


def ingredients_sentence() -> str:
    """README: section 5.2, small."""
    best = best_learning_rates()
    rows = [r for r in ingredient_rows(best) if r["dtype"] == "float32"]
    default = defaults_of_ingredients(rows)
    runs = {(r["ingredient"], r["model"]): r["val_top1"] for r in rows}
    models = ("vt_resnet18", "resnet18")
    added = [
        f"{ingredient} {' and '.join(f'{runs[ingredient, model]:.2f}' for model in models)} %"
        for ingredient in plan.INGREDIENTS
        if all((ingredient, model) in runs for model in models)
    ]
    return (
        f"Section 5.2's ingredients, each alone, in float32, one run each: without any `{models[0]}` reaches "
        f"{default[models[0], 'float32']:.2f} % and `{models[1]}` {default[models[1], 'float32']:.2f} %, with "
        f"{', '.join(added)}."
    )


def ablations_sentence() -> str:
    """README: Tables 3 to 7, small."""
    best = best_learning_rates()
    model = "vt_resnet18"
    defaults = [
        record for e in plan.table_2(best) if (e.model, e.lr) == (model, best[model]) and (record := load(e.name))
    ]
    default = next(record["val_top1"] for record in defaults if record["seed"] == plan.SEED)
    spread = statistics.stdev(record["val_top1"] for record in defaults)
    changed = [
        f"`{key}={value!r}` {record['val_top1']:.2f} %"
        for e in plan.ablations(best)
        if (record := load(e.name))
        for key, value in e.options.items()
    ]
    return (
        f"In matched runs of `{model}`, one each, the default reaches {default:.2f} %, with a standard deviation of "
        f"{spread:.2f} over {len(defaults)} seeds, and with one option changed {', '.join(changed)}. "
        f"{_rerun_sentence()}"
    )


def transfer_sentence() -> str:
    """README: what the shipped weights are worth on other sets."""
    best = best_learning_rates()
    gains = []
    for dataset in plan.TRANSFER_SETS:
        mean = {}
        for start in ("pretrained", "scratch"):
            key = f"{dataset}_{start}"
            runs = [e for e in plan.transfer(best) if e.name.startswith(f"{key}_lr{best[key]}")]
            mean[start] = statistics.mean(record["val_top1"] for e in runs if (record := load(e.name)))
        gains.append(f"{mean['pretrained']:.2f} against {mean['scratch']:.2f} % on {dataset}")
    return f"Fine-tuned from these weights against from scratch, {len(runs)} seeds each: {' and '.join(gains)}."


if __name__ == "__main__":
    accuracy = (weights_sentence, verdict_sentence, ablations_sentence, ingredients_sentence, transfer_sentence)
    for table in (models_table, speed_table, speed_sentences, memory_sentence, *accuracy):
        print(f"{table.__doc__}\n{table()}\n")
