"""Keep and read the training runs that the pages quote, as lines of CSV files under `benchmarks/results/accuracy/`.

`runs.csv` has one line per run, `epochs.csv` one per run and epoch, `shipped.csv` one per shipped model. The arguments
of a run are those of its recipe in `base_args.json`, with the run's own columns and its `settings` put over them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import yaml

from vt_timm.files import without_folders
from vt_timm.run_files import SUMMARY
from vt_timm.runs.run import read_evaluations

from ..common.records import RESULTS, line_of_facts, read_rows, replace_rows

ACCURACY, BASES = RESULTS / "accuracy", "base_args.json"
# Arguments of train.py that have a column of their own, or that name the run.
OWN = ("model", "model_kwargs", "seed", "lr", "experiment")
MEASURED = ("val_top1", "val_loss", "top1_without_average", "train_top1", "top1_at", "diverged", "seconds")
# What train.py prints at the end of an epoch's line: epoch, update, updates, mean loss, mean seconds per update.
TRAINED = re.compile(
    r"^Train: (\d+) \[ *(\d+)/ *(\d+) .*?Loss: *\S+ \( *([\d.e+]+|nan|inf)\).*?\(([\d.]+)s, ", re.MULTILINE
)
TESTED = re.compile(r"^Test: \[.*?Acc@1: *\S+ \( *([\d.]+)\)", re.MULTILINE)


def all_runs() -> dict[str, dict[str, Any]]:
    """Return every recorded run by its name."""
    return {row["name"]: row for row in read_rows(ACCURACY / "runs.csv")}


def run_named(name: str) -> dict[str, Any] | None:
    """Return the record of a run, None if there is none."""
    return all_runs().get(name)


def epochs_of(name: str) -> list[dict[str, Any]]:
    """Return the recorded epochs of a run."""
    return read_rows(ACCURACY / "epochs.csv", name=name)


def accuracy_of(name: str) -> dict[str, Any]:
    """Return what `benchmarks.pretrained` measured for a shipped model, MODEL.TAG."""
    return read_rows(ACCURACY / "shipped.csv", model=name)[0]


def arguments_of(name: str) -> dict[str, Any]:
    """Return the arguments of train.py in a recorded run, as its args.yaml had them."""
    run = all_runs()[name]
    base = _bases()[run["base_args"]]
    own = {"model": run["model"], "model_kwargs": run["options"], "seed": run["seed"], "lr": run["lr"]}
    return {**base, **own, "experiment": name, **run["settings"]}


def training_losses(log: str) -> list[float]:
    """Return the mean training loss of each epoch, from the epoch's last line in train.py's log."""
    return [row["train_loss"] for row in _trained(log).values()]


def keep_run(run: Path, name: str, table: str, log: Path | None, **results: Any) -> dict[str, Any]:
    """Keep a run folder of timm's train.py as lines of runs.csv and epochs.csv, without this machine's paths.

    Args:
        run: the run's output folder, with args.yaml and, once an epoch was evaluated, summary.csv.
        name: what to call it; a record of this name is replaced.
        table: the table of the pages that it belongs to.
        log: what train.py printed; it is read once and not kept. None leaves epochs without evaluation out.
        results: more columns of runs.csv, among them those of `MEASURED` that the folder does not tell.
    """
    args = yaml.safe_load((run / "args.yaml").read_text())
    start = args.get("initial_checkpoint") or ""
    args = {key: without_folders(value) if isinstance(value, str) else value for key, value in args.items()}
    if start:  # a file's own name, model.safetensors, says nothing: its folder is a run or a published model
        args["initial_checkpoint"] = "/".join(Path(start).parts[-2:])
    said = log.read_text() if log else ""
    summary = read_evaluations(run / SUMMARY)
    evaluated: dict[str, float] = {}
    for column, metric, digits in (("val_top1", "eval_top1", 3), ("val_loss", "eval_loss", 4)):
        if summary and metric in summary[-1]:
            evaluated[column] = round(summary[-1][metric], digits)
    tested = TESTED.findall(said)
    if args["model_ema"] and tested:
        evaluated["top1_without_average"] = float(tested[-1])
    base, settings = _base_and_settings(args, name)
    record = {
        "name": name,
        "table": table,
        "model": args["model"],
        "options": args["model_kwargs"] or {},
        "seed": args["seed"],
        "lr": args["lr"],
        "dtype": args["amp_dtype"] if args["amp"] else "float32",
        "base_args": base,
        "settings": settings,
        "epochs": args["epochs"],
        **dict.fromkeys(MEASURED),
        **evaluated,
        **line_of_facts(),
        **results,
    }
    epochs = _trained(said)
    for row in summary:
        epochs.setdefault(int(row["epoch"]), {}).update(row, epoch=int(row["epoch"]))
    lines = [{"name": name, **epochs[epoch]} for epoch in sorted(epochs)]
    replace_rows(ACCURACY / "epochs.csv", lines, name=name)
    replace_rows(ACCURACY / "runs.csv", [record], name=name)
    return all_runs()[name]


def keep_accuracy(record: Mapping[str, Any]) -> None:
    """Keep what `benchmarks.pretrained` measured for a shipped model, in place of what was kept before."""
    replace_rows(ACCURACY / "shipped.csv", [record], model=record["model"])


def _trained(log: str) -> dict[int, dict[str, Any]]:
    """Return by epoch the last logged update, counted from 0, the mean loss up to it, the seconds of a whole epoch."""
    found = {}
    for epoch, update, updates, loss, seconds in TRAINED.findall(log):
        found[int(epoch)] = {
            "epoch": int(epoch),
            "update": int(update),
            "updates": int(updates),
            "train_loss": float(loss),
            "seconds": round(int(updates) * float(seconds), 3),
        }
    return found


def _bases() -> dict[str, dict[str, Any]]:
    """Read the base arguments by recipe."""
    return json.loads((ACCURACY / BASES).read_text()) if (ACCURACY / BASES).is_file() else {}


def _base_and_settings(args: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the recipe's base arguments, and what differs from them.

    These arguments become the base where there is none, or where the recipe's has arguments of another timm.
    """
    bases = _bases()
    for base in (recipe := args.get("recipe") or "no_recipe", f"{recipe}_timm{timm.__version__}"):
        if base not in bases:
            bases[base] = {key: value for key, value in args.items() if key not in OWN}
            (ACCURACY / BASES).parent.mkdir(parents=True, exist_ok=True)
            (ACCURACY / BASES).write_text(json.dumps(bases, indent=1) + "\n")
        shared = bases[base]
        if shared.keys() <= args.keys():
            break
    settings = {k: v for k, v in args.items() if k not in OWN and (k not in shared or v != shared[k])}
    if args["model_kwargs"] is None:
        settings["model_kwargs"] = None
    if args["experiment"] != name:
        settings["experiment"] = args["experiment"]
    return base, settings
