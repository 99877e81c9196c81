"""Images per second of `vt-timm classify FOLDER`, beside the network alone and timm's inference.py on the same photos.

    python -m benchmarks.throughput.folder DATA/imagenette2-224/val --scripts CLONE_OF_TIMM --write folder

Each command runs in a process of its own, on few photos and on many in turn: what the many take longer are the photos
themselves, without start and loading. The network alone answers a batch of as many images that are in memory already.
One thread computes; classify reads photos in another, inference.py in a process.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from vt_timm import load
from vt_timm.pipelines.pipeline import BATCH

from ..common.measure import Run, in_turn, ratios
from .runner import Row, keep

MODEL = "vt_resnet18"
NETWORK, CLASSIFY, INFERENCE = "the network alone", "vt-timm classify", "timm's inference.py"


def choose(folder: Path, number: int, into: Path) -> Path:
    """Copy photos, evenly spaced over a folder, into a new one."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    into.mkdir()
    for i in range(number):
        photo = found[i * len(found) // number]
        shutil.copy(photo, into / f"{i:05}{photo.suffix}")
    return into


def classify(folder: Path) -> list[str]:
    return [sys.executable, "-m", "vt_timm", "classify", str(folder), "--model", MODEL]


def infer(folder: Path, scripts: Path) -> list[str]:
    out = ["--results-dir", str(folder.parent), "--no-console-results"]
    settings = ["--model", MODEL, "--pretrained", "--device", "cpu", "--batch-size", str(BATCH), "--workers", "1"]
    run = [sys.executable, "-m", "vt_timm", "run", "--from", str(scripts), "inference"]
    return [*run, "--data-dir", str(folder), *settings, *out]


def call(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def measure(folder: Path, scripts: Path, few: int, many: int, rounds: int) -> list[Row]:
    """Time each way in turn, and return its rates."""
    torch.set_num_threads(1)
    network = load(MODEL)
    folded = network.fold()
    images = torch.cat([network.example()] * (BATCH // 2))
    images = images.contiguous(memory_format=torch.channels_last)  # as `run` makes them: no easy peer
    with tempfile.TemporaryDirectory() as temporary:
        sizes = {number: choose(folder, number, Path(temporary, str(number))) for number in (few, many)}
        ways: dict[str, Run] = {NETWORK: lambda: [network.run(images, folded) for _ in range((many - few) // BATCH)]}
        for number, photos in sizes.items():
            ways[f"{CLASSIFY} {number}"] = partial(call, classify(photos))
            ways[f"{INFERENCE} {number}"] = partial(call, infer(photos, scripts))
        return rates(in_turn(ways, rounds), few, many)


def rates(seconds: dict[str, list[float]], few: int, many: int) -> list[Row]:
    """Return a row per way: images per second, the median over rounds, and as a share of the network's in its round.

    Args:
        seconds: per round, of the network alone on as many images as many photos are more than few, and of each command
            on few and on many.
        few: number of photos.
        many: number of photos.
    """
    taken = {NETWORK: seconds[NETWORK]}
    for what in (CLASSIFY, INFERENCE):
        pairs = zip(seconds[f"{what} {many}"], seconds[f"{what} {few}"], strict=True)
        taken[what] = [long - short for long, short in pairs]
    return [
        {
            "what": what,
            "photos": many - few,
            "rounds": len(values),
            "images_per_second": round((many - few) / statistics.median(values), 1),
            "share": round(statistics.median(ratios(taken[NETWORK], values)), 3),
        }
        for what, values in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.folder", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photos")
    parser.add_argument(
        "--scripts", type=Path, required=True, help="a clone of timm's repository, for its inference.py"
    )
    parser.add_argument("--few", type=int, default=192, help=f"photos, a multiple of {BATCH} (default: 192)")
    parser.add_argument("--many", type=int, default=448, help=f"photos, a multiple of {BATCH} (default: 448)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", metavar="NAME", help="record under this name in benchmarks/results/speed/")
    args = parser.parse_args()
    rows = measure(args.folder, args.scripts, args.few, args.many, args.rounds)
    for row in rows:
        print(f"{row['what']}: {row['images_per_second']} images per second, {row['share']:.2f} of the network's")
    if args.write:
        keep(args.write, "folder", rows)


if __name__ == "__main__":
    main()
