"""Run the commands of this folder over what their options list, one loop for all of them."""

import argparse
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from ..common.records import RESULTS, line_of_facts, read_rows, replace_rows
from .passes import FORMATS, PEERS, PRECISIONS, Setting

FOLDER = RESULTS / "speed"
Row = dict[str, Any]


def add_choices(parser: argparse.ArgumentParser, models: Collection[str] = PEERS, pairs: int | None = 25) -> None:
    """Add the options that list what to vary; without `pairs`, none that is about time."""
    parser.add_argument("--models", nargs="+", choices=models, default=list(models))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--memory-formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="sides of the square images, in pixels")
    if pairs is not None:
        parser.add_argument("--pairs", type=int, default=pairs, help="at batch 1 and 224 px; fewer for longer passes")
        parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", metavar="NAME", help="record under this name in benchmarks/results/speed/")


def settings(args: argparse.Namespace, varied: Sequence[str]) -> list[tuple[str, Setting]]:
    """Return model and setting for each combination of what the options list, `--sizes` for "size" and so on."""
    fixed = {key: getattr(args, key) for key in ("task", "device", "threads") if hasattr(args, key)}
    found = []
    for values in itertools.product(*(getattr(args, f"{key}s") for key in varied)):
        chosen = dict(zip(varied, values, strict=True))
        found.append((chosen.pop("model"), Setting(**{**fixed, **chosen})))
    return found


def run(
    benchmark: str,
    varied: Sequence[str],
    measure: Callable[[str, Setting, argparse.Namespace], list[Row]],
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
) -> None:
    """Measure every combination, print a line per row, and record them if a name is given.

    Args:
        benchmark: name of the file under benchmarks/results/speed/ that the records go to.
        varied: "model" and fields of `Setting`; the last varies fastest.
        measure: function that returns the rows of a model in a setting.
        parser: the command's parser, for its errors.
        args: what it read.
    """
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU here")
    torch.set_num_threads(getattr(args, "threads", 1))
    rows: list[Row] = []
    fixed = {field.name for field in fields(Setting)} - {*varied}
    for model, setting in settings(args, varied):
        for row in measure(model, setting, args):
            row = {"model": model, **asdict(setting), **row}
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items() if key not in fixed), flush=True)
    if args.write:
        keep(args.write, benchmark, rows)


def keep(name: str, benchmark: str, rows: list[Row]) -> None:
    """Record rows of a benchmark under a name, in place of those that had it, and their origin in records.csv."""
    replace_rows(FOLDER / "records.csv", [{"record": name, **line_of_facts()}], record=name)
    replace_rows(FOLDER / f"{benchmark}.csv", [{"record": name, **row} for row in rows], record=name)
    print(f"recorded {len(rows)} rows as {name} in {FOLDER.name}/{benchmark}.csv")


def rows_of(benchmark: str, *records: str, **wanted: Any) -> list[Row]:
    """Return the recorded rows of some records, or of all, whose columns are as wanted."""
    rows = read_rows(FOLDER / f"{benchmark}.csv", **wanted)
    return [row for row in rows if not records or row["record"] in records]
