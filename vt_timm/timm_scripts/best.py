"""The epoch of a run of timm's train.py that is kept as its best."""

import math
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from ..errors import say
from ..files import whole_file, writing
from ..run_files import BEST, CHECKPOINTS, LAST, SUMMARY
from ..runs.run import read_evaluations
from ..runs.train_run import read_state
from ..weights.published import name_of_folder
from .checks import ScriptError

MEASURED = ("top1", "top5", "loss")  # what train.py measures of the validation photos
NAMES = {"top1": "top-1 {:.2f} %", "top5": "top-5 {:.2f} %"}


def best_epoch(folder: Path, metric: str) -> dict[str, float] | None:
    """Return the row of a run's best epoch: of the highest metric, and among equal ones of the lowest loss.

    A row of an epoch that was trained again after a resume counts once, as it came out last.

    Args:
        folder: the run's folder.
        metric: "top1", or another metric of timm's; of "loss" the lowest counts.

    Returns:
        The row, or None where no epoch was evaluated.
    """
    rows = {row["epoch"]: row for row in read_evaluations(folder / SUMMARY) if f"eval_{metric}" in row}
    sign = -1 if metric == "loss" else 1

    def rank(row: dict[str, float]) -> list[float]:
        values = (sign * row[f"eval_{metric}"], -row.get("eval_loss", 0.0))
        return [-math.inf if math.isnan(value) else value for value in values]

    return max(rows.values(), key=rank, default=None)


def keep_best(saver: Any, measured: str) -> None:
    """Let timm's saver of checkpoints keep the best of all epochs, also of those before a resume.

    Of equal metrics it keeps the lower loss, where timm keeps the first: few validation photos tie early, and the first
    of the ties is a network that has just begun to learn.
    """
    _remember(saver, measured)
    save = saver.save_checkpoint
    saver.save_recovery = writing(f"a recovery checkpoint to {saver.recovery_dir}")(saver.save_recovery)

    def save_checkpoint(epoch: int, metric: float | None = None) -> tuple[float | None, int | None]:
        folder = Path(saver.checkpoint_dir)
        _drop_later_headers(folder / SUMMARY)
        with writing(str(folder / CHECKPOINTS[LAST])):
            save(epoch, metric)
        best = best_epoch(folder, measured)
        if best is not None and best["epoch"] == epoch != saver.best_epoch and metric == saver.best_metric:
            new = folder / f"{CHECKPOINTS[BEST]}.new"
            shutil.copy2(folder / CHECKPOINTS[LAST], new)
            os.replace(new, folder / CHECKPOINTS[BEST])
            saver.best_epoch = epoch
        return saver.best_metric, saver.best_epoch

    saver.save_checkpoint = save_checkpoint


def _drop_later_headers(summary: Path) -> None:
    """Drop the header that timm writes again where a run was resumed: other readers take it for a row."""
    lines = summary.read_text().splitlines(keepends=True) if summary.is_file() else []
    if lines[:1] and lines[0] in lines[1:]:
        with whole_file(summary) as new:
            new.write_text("".join([lines[0], *(line for line in lines if line != lines[0])]))


def _remember(saver: Any, metric: str) -> None:
    """Tell a saver that has just begun which epoch is kept, which not every version of train.py does.

    It would take the first epoch after a resume for the best, and put a worse one in its place.
    """
    kept = Path(saver.checkpoint_dir) / CHECKPOINTS[BEST]
    if saver.best_metric is not None or not kept.is_file():
        return
    try:
        state = read_state(kept)
    except Exception:  # torch raises many kinds for a damaged file, and what is damaged need not be kept
        return
    reached = state.get("metric")
    same = getattr(state.get("args"), "eval_metric", metric) == metric
    if same and reached is not None and not math.isnan(reached):
        saver.best_epoch, saver.best_metric = state["epoch"], reached


def report(folder: Path, metric: str) -> None:
    """Print what a run has reached, which epoch is kept, and what to type next.

    Raises:
        ScriptError: for a run that diverged, so that what was to come next does not.
    """
    best = best_epoch(folder, metric)
    if best is not None and math.isnan(best.get("eval_loss", 0.0)):
        raise ScriptError("the training diverged, its loss is no number (nan): train again with a lower --lr")
    if best is not None:
        reached = NAMES.get(metric, f"{metric} {{:.4g}}").format(best[f"eval_{metric}"])
        loss = f", loss {best['eval_loss']:.4g}" if metric != "loss" and "eval_loss" in best else ""
        print(f"best: {reached}{loss} on the validation photos, after epoch {best['epoch']:.0f} (the first is 0)")
        last = max(read_evaluations(folder / SUMMARY), key=lambda row: row["epoch"])
        if any(math.isnan(value) for value in last.values()):
            say("warning: the training diverged after that, its loss is no number (nan): a lower --lr may not")
    kept = next((name for name in CHECKPOINTS.values() if (folder / name).is_file()), None)
    if kept is not None:
        print(f"kept: {folder / kept}")
        print(f"next: vt-timm classify PHOTO --model {shlex.quote(name_of_folder(os.path.relpath(folder)))}")
