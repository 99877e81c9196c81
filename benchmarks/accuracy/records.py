"""The record of one run: small, and enough to skip the run next time."""

import math
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_state_dict

import vt_timm  # noqa: F401  registers the models

from ..common.runs import keep_run, run_named, summary_of, training_losses
from ..pretrained import top1_top5
from . import plan

__all__ = ["CLASSES", "DIVERGED", "best_learning_rates", "diverged", "finished", "has_diverged", "keep", "top1_of"]

CLASSES = 10
# Mean training loss of an epoch from which no run here came back: runs with 23 did, those with 50 and more did not.
DIVERGED = 100.0


def finished(run: Path) -> bool:
    """Whether train.py reached the last epoch and evaluated it."""
    rows = summary_of(run)
    if not rows:
        return False
    epochs = yaml.safe_load((run / "args.yaml").read_text())["epochs"]
    return rows[-1]["epoch"] == epochs - 1 and "eval_top1" in rows[-1]


def diverged(log: Path) -> dict[str, Any] | None:
    """The first epoch, counted from 1, whose mean training loss is above `DIVERGED` or not a number, and that loss."""
    for epoch, loss in enumerate(training_losses(log.read_text()), start=1):
        if not loss <= DIVERGED:
            return {"epoch": epoch, "train_loss": loss}
    return None


def has_diverged(record: dict[str, Any], classes: int = CLASSES) -> bool:
    """Whether a recorded run was stopped, or ended with a validation loss above that of guessing."""
    return record["val_top1"] is None or record["val_loss"] > math.log(classes)


def best_learning_rates() -> dict[str, float]:
    """The rate with the highest validation top-1, for each search that is complete."""
    best = {}
    for key, experiments in plan.searches().items():
        results = [(run_named(experiment.name), experiment.lr) for experiment in experiments]
        if all(record for record, _ in results):
            best[key] = max(results, key=lambda pair: pair[0]["val_top1"] or 0.0)[1]  # type: ignore[index]
    return best


def keep(
    run: Path, name: str, table: str, log: Path, seconds: float, jobs: int, train_data: str | None
) -> dict[str, Any]:
    """Record a run that finished, or that was stopped because it diverged.

    Args:
        run: the run's output folder.
        name: the experiment's name.
        table: the command that runs it.
        log: what train.py printed.
        seconds: how long train.py took.
        jobs: how many runs shared the machine.
        train_data: folder with train/, to measure the accuracy on training images as well.
    """
    results: dict[str, Any] = {"seconds": round(seconds), "runs_at_once": jobs}
    if not finished(run):
        results |= {"val_top1": None, "val_loss": None, "diverged": diverged(log)}
    elif train_data:
        args = yaml.safe_load((run / "args.yaml").read_text())
        results["train_top1"] = top1_of(run, args, f"{train_data}/train")
    return keep_run(run, name, table, log, **results)


def top1_of(run: Path, args: dict[str, Any], folder: str, size: int | None = None) -> float:
    """Top-1 of the weights after the last epoch, on the images of a folder seen as validation images are.

    Args:
        run: the run's output folder.
        args: train.py's arguments, from the run's args.yaml.
        folder: images, one folder per class.
        size: side in pixels; None for the run's own.
    """
    model = timm.create_model(
        args["model"].partition(".")[0], num_classes=args["num_classes"], **(args["model_kwargs"] or {})
    )
    weights = load_state_dict(str(run / "last.pth.tar"), use_ema=bool(args["model_ema"]), weights_only=True)
    model.load_state_dict(weights)
    config = resolve_data_config(
        {"img_size": size or args["img_size"], "crop_pct": args["crop_pct"]}, model=model, verbose=False
    )
    loader = create_loader(
        create_dataset("", root=folder),
        batch_size=128,
        use_prefetcher=False,
        num_workers=1,
        **{k: config[k] for k in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=args["amp"]):
        return round(top1_top5(model.eval().to(memory_format=torch.channels_last), loader)[0], 3)
