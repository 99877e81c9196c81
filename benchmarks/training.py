"""Whether a training ends with the same weights in two ways of running it.

    python -m benchmarks.training resume DATA/imagenette2-224 --write           # killed and gone on with, or left alone
    python -m benchmarks.training two_processes DATA/imagenette2-224 --write    # in two processes, or in one

**resume** trains vt_resnet_micro twice with timm's train.py through `vt-timm run train`: once uninterrupted, and once
killed with SIGKILL in the second epoch, then gone on with by `--resume auto`. Dropout, drop-path, AutoAugment, RMSProp
and EMA are on, so that a state that does not come back would show.

**two_processes** (DDP over gloo, on the CPU) trains one epoch at the same global batch as one process, with timm's
`ClassificationTask`, not its train.py, which hands DDP a `device_ids` that torch refuses on a CPU; synchronised batch
norm needs GPUs. Each process normalises its own half of the batch, so the one process takes the two halves in turn,
adds up their gradients, and keeps the batch norm statistics of the first half, which is what DDP hands to all. What is
left to differ is the order in which numbers are added.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.data import create_dataset, create_loader
from timm.models import load_state_dict
from timm.task import ClassificationTask
from torch import Tensor, nn

import vt_timm  # noqa: F401  registers the models
from vt_timm.run_files import SUMMARY
from vt_timm.runs.run import read_evaluations

from .common.records import keep_record

EPOCHS = 3
KILL_IN_EPOCH, KILL_AT_UPDATE = 1, 40
SETTINGS = {
    "config": "advanced_nokd_in1k", "model": "vt_resnet_micro", "num-classes": 10, "img-size": 64, "batch-size": 64,
    "device": "cpu", "epochs": EPOCHS, "warmup-epochs": 0, "lr": 0.002, "model-ema-decay": 0.99, "workers": 1,
    "log-interval": 10, "seed": 42,
}  # fmt: skip
SIZE, GLOBAL_BATCH, LEARNING_RATE, SEED = 64, 64, 0.05, 42


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


def largest_difference(one: Path, other: Path, use_ema: bool) -> float:
    a, b = (load_state_dict(str(folder / "last.pth.tar"), use_ema, weights_only=True) for folder in (one, other))
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def resume(args: argparse.Namespace) -> None:
    """Compare a run killed in mid-epoch and resumed with one left alone: the same metrics, the same weights?"""
    with tempfile.TemporaryDirectory() as output:
        left_alone, killed = Path(output) / "left_alone", Path(output) / "killed"
        run(command(args.data, output, "left_alone"), Path(output) / "left_alone.log")
        run(command(args.data, output, "killed"), Path(output) / "killed.log", kill=True)
        run(command(args.data, output, "killed"), Path(output) / "killed.log")
        alone, resumed = (read_evaluations(folder / SUMMARY) for folder in (left_alone, killed))
        result: dict[str, Any] = {
            "settings": SETTINGS,
            "killed_at": f"epoch {KILL_IN_EPOCH}, update {KILL_AT_UPDATE}, epochs counted from 0",
            "left_alone": alone,
            "killed_and_resumed": resumed,
            "same_metrics": alone == resumed,
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


def build(dtype: torch.dtype) -> tuple[ClassificationTask, nn.Module]:
    torch.manual_seed(SEED)
    model = timm.create_model("vt_resnet_micro", num_classes=10).to(dtype).train()
    return ClassificationTask(model, nn.CrossEntropyLoss(), device=torch.device("cpu"), verbose=False), model


def batches(images: Tensor) -> list[Tensor]:
    """Return indices of every global batch of one epoch, in a fixed random order; a partial last one is left out."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return [batch for batch in order.split(GLOBAL_BATCH) if len(batch) == GLOBAL_BATCH]


def train_in_one(images: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the weights after one epoch of one process that takes the halves of each batch in turn."""
    task, model = build(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for batch in batches(images):
        optimizer.zero_grad()
        statistics: dict[str, Tensor] = {}
        for half in (batch[0::2], batch[1::2]):
            (task(images[half].to(dtype), labels[half])["loss"] / 2).backward()
            statistics = statistics or {name: buffer.clone() for name, buffer in model.named_buffers()}
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
        optimizer.step()
    return {k: v.detach() for k, v in model.state_dict().items()}


def train_in_two(images: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the weights of the first of two processes after the same epoch."""
    with tempfile.TemporaryDirectory() as folder:
        # The processes meet at a file: no port to collide with another run's.
        mp.spawn(_train_half, args=(folder, images, labels, dtype), nprocs=2)  # type: ignore[no-untyped-call]
        return torch.load(Path(folder) / "weights.pt", weights_only=True)


def _train_half(rank: int, folder: str, images: Tensor, labels: Tensor, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    task, model = build(dtype)
    task.prepare_distributed()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for batch in batches(images):
        optimizer.zero_grad()
        half = batch[rank::2]
        task(images[half].to(dtype), labels[half])["loss"].backward()
        optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), Path(folder) / "weights.pt")
    dist.barrier()
    dist.destroy_process_group()


def load_split(data: str, split: str) -> tuple[Tensor, Tensor]:
    """Load a whole split as tensors, centre-cropped: the comparison is about the processes, not the augmentation."""
    dataset = create_dataset("", root=data, split=split)
    loader = create_loader(dataset, (3, SIZE, SIZE), batch_size=128, use_prefetcher=False, num_workers=1, crop_pct=1.0)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def top1(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> float:
    dtype = weights["fc.weight"].dtype
    model = timm.create_model("vt_resnet_micro", num_classes=10).to(dtype).eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        logits = torch.cat([model(x.to(dtype)) for x in images.split(128)])
    return (logits.argmax(dim=1) == labels).double().mean().item() * 100


def two_processes(args: argparse.Namespace) -> None:
    """Compare two processes with one at the same global batch: the same weights after an epoch?"""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    train, validation = load_split(args.data, "train"), load_split(args.data, "validation")
    rows = []
    for dtype in (torch.float32, torch.float64):
        one, two = train_in_one(*train, dtype), train_in_two(*train, dtype)
        rows.append({
            "dtype": str(dtype).removeprefix("torch."),
            "updates": len(batches(train[0])),
            "largest_difference_of_weights": max((one[k] - two[k]).abs().max().item() for k in one),
            "top1_one_process": round(top1(one, *validation), 3),
            "top1_two_processes": round(top1(two, *validation), 3),
        })  # fmt: skip
        print(rows[-1])
    if args.write:
        keep_record("records.json", "two_processes", {"global_batch": GLOBAL_BATCH, "size": SIZE, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for way in (resume, two_processes):
        command = commands.add_parser(way.__name__, help=way.__doc__)
        command.add_argument("data", help="folder of train and validation images")
        command.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
        command.set_defaults(run=way)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
