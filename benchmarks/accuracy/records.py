"""The record of one run under `benchmarks/results/accuracy/runs/`: small, and enough to skip the run next time."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_state_dict

import vt_timm  # noqa: F401  registers the models

from ..common.records import RESULTS, facts, keep_run
from ..pretrained import top1_top5
from . import plan

__all__ = [
    "FOLDER",
    "best_learning_rates",
    "diverged",
    "finished",
    "keep",
    "load",
    "top1_without_average",
    "training_losses",
]

FOLDER = RESULTS / "accuracy"
# Mean training loss of an epoch from which no run here came back: runs with 23 did, those with 50 and more did not.
DIVERGED = 100.0


def finished(run: Path) -> bool:
    """Whether train.py reached the last epoch and evaluated it."""
    if not (run / "summary.csv").is_file():
        return False
    epochs = yaml.safe_load((run / "args.yaml").read_text())["epochs"]
    with (run / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return bool(rows) and int(rows[-1]["epoch"]) == epochs - 1 and bool(rows[-1].get("eval_top1"))


def training_losses(log: str) -> list[float]:
    """Mean over each epoch, so far as its last line in the log tells: summary.csv has the evaluated epochs only."""
    lines = re.findall(r"^Train: (\d+) .*?Loss: *\S+ \( *([\d.e+]+|nan|inf)\)", log, re.MULTILINE)
    return list({int(epoch): float(mean) for epoch, mean in lines}.values())


def top1_without_average(log: str) -> float:
    """Validation top-1 of the weights themselves, as train.py's log tells where it averages them (EMA) too."""
    return float(re.findall(r"^Test: \[.*?Acc@1: *\S+ \( *([\d.]+)\)", log, re.MULTILINE)[-1])


def diverged(log: Path) -> dict[str, Any] | None:
    """The first epoch, counted from 1, with a mean training loss above `DIVERGED` or of no number, and that loss."""
    for epoch, loss in enumerate(training_losses(log.read_text()), start=1):
        if not loss <= DIVERGED:
            return {"epoch": epoch, "train_loss": loss}
    return None


def load(name: str) -> dict[str, Any] | None:
    """The record of a run, None if there is none."""
    path = FOLDER / "runs" / name / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def best_learning_rates() -> dict[str, float]:
    """The rate with the highest validation top-1, for each search that is complete."""
    best = {}
    for key, experiments in plan.searches().items():
        results = [(load(experiment.name), experiment.lr) for experiment in experiments]
        if all(record for record, _ in results):
            best[key] = max(results, key=lambda pair: pair[0]["val_top1"] or 0.0)[1]  # type: ignore[index]
    return best


def keep(run: Path, name: str, log: Path, seconds: float, jobs: int, train_data: str | None) -> dict[str, Any]:
    """Arguments, summary, log and result of a run that finished, or that was stopped because it diverged.

    Args:
        run: its output folder.
        name: of the experiment.
        log: what train.py printed.
        seconds: how long train.py took.
        jobs: how many runs shared the machine.
        train_data: folder with train/, to measure the accuracy on training images as well.
    """
    args = yaml.safe_load((run / "args.yaml").read_text())
    if finished(run):
        with (run / "summary.csv").open() as file:
            last = {k: float(v) for k, v in list(csv.DictReader(file))[-1].items() if v}
        results: dict[str, Any] = {"val_top1": round(last["eval_top1"], 3), "val_loss": round(last["eval_loss"], 4)}
        if train_data:
            results["train_top1"] = round(_train_top1(run, args, train_data), 3)
    else:
        results = {"val_top1": None, "val_loss": None, "diverged": diverged(log)}
    record = {
        **{key: facts()[key] for key in ("date", "versions", "machine")},
        "model": args["model"],
        "options": args["model_kwargs"] or {},
        "seed": args["seed"],
        "lr": args["lr"],
        "epochs": args["epochs"],
        **results,
        "seconds": round(seconds),
        "runs_at_once": jobs,
    }
    keep_run(run, name, log, FOLDER / "runs")
    (FOLDER / "runs" / name / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _train_top1(run: Path, args: dict[str, Any], data: str) -> float:
    """Of the weights that were validated, on the training images seen as validation images are."""
    model = timm.create_model(args["model"], num_classes=args["num_classes"], **(args["model_kwargs"] or {}))
    weights = load_state_dict(str(run / "last.pth.tar"), use_ema=bool(args["model_ema"]), weights_only=True)
    model.load_state_dict(weights)
    config = resolve_data_config(
        {"img_size": args["img_size"], "crop_pct": args["crop_pct"]}, model=model, verbose=False
    )
    loader = create_loader(
        create_dataset("", root=f"{data}/train"),
        batch_size=128,
        use_prefetcher=False,
        num_workers=1,
        **{k: config[k] for k in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=args["amp"]):
        return top1_top5(model.eval().to(memory_format=torch.channels_last), loader)[0]
