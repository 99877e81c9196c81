"""The tables of README.md, from the records: `python -m benchmarks.readme_tables` prints them.

A test holds the page to what this prints; MODEL_CARD.md is rendered by `python -m hub.card`.
"""

import csv
import json

from .records import RESULTS

__all__ = ["models_table", "speed_table"]

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
    """README: ratio of images per second over the ResNet of the same depth, eager, one CPU thread."""
    rows = json.loads((RESULTS / "throughput" / "cpu_1thread.json").read_text())["rows"]
    cells: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for row in rows:
        line = cells.setdefault((row["model"], row["memory_format"]), {})
        line[row["precision"], row["batch_size"]] = f"{row['ratio']:.2f}"
    columns = [(precision, batch) for precision in ("float32", "bfloat16") for batch in (1, 16)]
    macs = {row["model"]: row["macs_ratio"] for row in rows}
    return "\n".join(
        f"| `{model}` | {layout} | {macs[model]:.2f} | {' | '.join(line[column] for column in columns)} |"
        for (model, layout), line in sorted(cells.items(), key=lambda item: (list(macs).index(item[0][0]), item[0][1]))
    )


if __name__ == "__main__":
    for table in (models_table, speed_table):
        print(f"{table.__doc__}\n{table()}\n")
