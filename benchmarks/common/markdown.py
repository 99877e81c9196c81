"""Markdown tables, and cells that every page writes alike."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["spread", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f} ({len(values)} seeds)"
