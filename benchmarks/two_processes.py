"""Two processes (DDP over gloo, on the CPU) against one at the same global batch: the same weights after an epoch?

    python -m benchmarks.two_processes DATA/imagenette2-224 --write

With timm's `ClassificationTask`, not its train.py, which hands DDP a `device_ids` that torch refuses on a CPU;
synchronised batch norm needs GPUs. Each process normalises its own half of the batch, so the one process takes the two
halves in turn, adds up their gradients, and keeps the batch norm statistics of the first half, which is what DDP hands
to all. What is left to differ is the order in which numbers are added.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask
from torch import Tensor, nn

import vt_timm  # noqa: F401  registers the models

from .common.facts import keep_record

__all__ = ["train_in_one", "train_in_two"]

SIZE, GLOBAL_BATCH, LEARNING_RATE, SEED = 64, 64, 0.05, 42


def build(dtype: torch.dtype) -> tuple[ClassificationTask, nn.Module]:
    torch.manual_seed(SEED)
    model = timm.create_model("vt_resnet_micro", num_classes=10).to(dtype).train()
    return ClassificationTask(model, nn.CrossEntropyLoss(), device=torch.device("cpu"), verbose=False), model


def batches(images: Tensor) -> list[Tensor]:
    """Indices of every global batch of one epoch, in a fixed random order; a partial last one is left out."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return [batch for batch in order.split(GLOBAL_BATCH) if len(batch) == GLOBAL_BATCH]


def train_in_one(images: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights after one epoch of one process that takes the halves of each batch in turn."""
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
    """The weights of the first of two processes after the same epoch."""
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
    """A whole split as tensors, centre-cropped: the comparison is about the processes, not the augmentation."""
    dataset = create_dataset("", root=data, split=split)
    loader = create_loader(
        dataset, (3, SIZE, SIZE), batch_size=128, use_prefetcher=False, num_workers=1, crop_pct=1.0
    )  # fmt: skip
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def top1(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> float:
    dtype = weights["fc.weight"].dtype
    model = timm.create_model("vt_resnet_micro", num_classes=10).to(dtype).eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        logits = torch.cat([model(x.to(dtype)) for x in images.split(128)])
    return (logits.argmax(dim=1) == labels).double().mean().item() * 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of train and validation images")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
