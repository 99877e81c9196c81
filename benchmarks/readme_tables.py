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
    """README: ratio of images per second over the ResNet of the same depth."""
    rows = json.loads((RESULTS / "throughput_cpu_1thread_float32.json").read_text())["rows"]
    cells: dict[str, list[str]] = {}
    for row in rows:
        low, high = row["middle_half"]
        cells.setdefault(row["model"], []).append(f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})")
    return "\n".join(f"| `{model}` | {' | '.join(values)} |" for model, values in cells.items())


if __name__ == "__main__":
    for table in (models_table, speed_table):
        print(f"{table.__doc__}\n{table()}\n")
