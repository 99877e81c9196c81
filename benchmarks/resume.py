"""A run killed in mid-epoch and resumed against one that was left alone: the same metrics, the same weights?

    python -m benchmarks.resume DATA/imagenette2-224 --write

Trains vt_resnet_micro twice with timm's train.py through `vt-timm run train`: once uninterrupted, and once killed with
SIGKILL in the second epoch, then gone on with by `--resume auto`. Dropout, drop-path, AutoAugment, RMSProp and EMA are
on, so that a state that does not come back would show.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timm.models import load_state_dict

from .common.facts import keep_record

EPOCHS = 3
KILL_IN_EPOCH, KILL_AT_UPDATE = 1, 40
SETTINGS = {
    "config": "advanced_nokd_in1k", "model": "vt_resnet_micro", "num-classes": 10, "img-size": 64, "batch-size": 64,
    "device": "cpu", "epochs": EPOCHS, "warmup-epochs": 0, "lr": 0.002, "model-ema-decay": 0.99, "workers": 1,
    "log-interval": 10, "seed": 42,
}  # fmt: skip


def command(data: str, output: str, experiment: str) -> list[str]:
    settings = [text for key, value in SETTINGS.items() for text in (f"--{key}", str(value))]
    folders = ["--data-dir", data, "--output", output, "--experiment", experiment]
    return [sys.executable, "-m", "vt_timm", "run", "train", *settings, *folders, "--resume", "auto"]


def run(call: list[str], log: Path, kill: bool = False) -> None:
    with log.open("a") as file:
        process = subprocess.Popen(call, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    while process.poll() is None:
        if kill and f"Train: {KILL_IN_EPOCH} [{KILL_AT_UPDATE:>4d}/" in log.read_text():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.05)
    if kill or process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}, see {log}:\n{log.read_text()[-2000:]}")


def metrics(folder: Path) -> list[dict[str, str]]:
    """One row per epoch; timm writes the header again after a resume."""
    with (folder / "summary.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["epoch"] != "epoch"]


def largest_difference(one: Path, other: Path, use_ema: bool) -> float:
    a, b = (load_state_dict(str(folder / "last.pth.tar"), use_ema, weights_only=True) for folder in (one, other))
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of train and validation images")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as output:
        left_alone, killed = Path(output) / "left_alone", Path(output) / "killed"
        run(command(args.data, output, "left_alone"), Path(output) / "left_alone.log")
        run(command(args.data, output, "killed"), Path(output) / "killed.log", kill=True)
        run(command(args.data, output, "killed"), Path(output) / "killed.log")
        result: dict[str, Any] = {
            "settings": SETTINGS,
            "killed_at": f"epoch {KILL_IN_EPOCH}, update {KILL_AT_UPDATE}, epochs counted from 0",
            "left_alone": metrics(left_alone),
            "killed_and_resumed": metrics(killed),
            "same_metrics": metrics(left_alone) == metrics(killed),
            "largest_difference_of_weights": largest_difference(left_alone, killed, use_ema=False),
            "largest_difference_of_ema_weights": largest_difference(left_alone, killed, use_ema=True),
        }
    for name in ("left_alone", "killed_and_resumed"):
        for row in result[name]:
            print(f"{name:<20}{row}")
    print(f"same metrics: {result['same_metrics']}; largest difference of the weights: ", end="")
    print(f"{result['largest_difference_of_weights']}, EMA {result['largest_difference_of_ema_weights']}")
    if args.write:
        keep_record("records.json", "resume", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
