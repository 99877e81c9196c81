"""Several processes: DDP over gloo, on the CPU, through timm's task."""

import csv
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import nn

from benchmarks.training import GLOBAL_BATCH, batches, build, train_in_one, train_in_two
from vt_timm.cli import main
from vt_timm.segmentation.data import SegmentationDataset, evaluation_transform
from vt_timm.segmentation.evaluation import evaluate


def test_two_processes_learn_what_one_does():
    """Train in float64, where the order of additions cannot hide a mistake, on noise, for three updates."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3 * GLOBAL_BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (3 * GLOBAL_BATCH,), generator=generator)
    assert len(batches(images)) == 3
    one, two = (train(images, labels, torch.float64) for train in (train_in_one, train_in_two))
    start = build(torch.float64)[1].state_dict()
    assert one.keys() == two.keys() == start.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-8, atol=1e-10, msg=name)
    moved = [name for name, p in start.items() if not torch.equal(p, one[name])]
    assert len(moved) > 0.9 * len(start)


class Brightness(nn.Module):
    num_classes = 2

    def forward(self, x):
        return nn.functional.one_hot((x.mean(dim=1) > 0).long(), 2).permute(0, 3, 1, 2).float()


def _evaluate(rank, root, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    metrics = evaluate(Brightness(), SegmentationDataset("folder", root, "val", evaluation_transform()), "cpu", rank, 2)
    (folder / f"{rank}.json").write_text(json.dumps(metrics))
    dist.barrier()
    dist.destroy_process_group()


def test_segmentation_metrics_of_two_processes_with_different_numbers_of_images(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    for i in range(3):  # two for one process, one for the other, of different sizes
        size = (8 + i, 8)
        Image.new("RGB", size, (255 * (i % 2),) * 3).save(tmp_path / "val" / "images" / f"{i}.png")
        Image.new("L", size, i // 2).save(tmp_path / "val" / "labels" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("dark\nbright\n")
    mp.set_forkserver_preload([__name__])  # imported once for the two
    mp.start_processes(_evaluate, args=(tmp_path, tmp_path), nprocs=2, start_method="forkserver")
    alone = evaluate(Brightness(), SegmentationDataset("folder", tmp_path, "val", evaluation_transform()))
    assert alone["pixel_accuracy"] == pytest.approx(100 * 64 / (64 + 72 + 80))  # only the first image is right
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone


def _train(rank, arguments, port):
    """What torchrun makes of two processes, without its own start."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert main(arguments) == 0


def test_torchrun_trains_a_segmenter_in_two_processes_and_resumes(tmp_path):
    """The command of README, at a small size: the two know of each other, share one run folder, and go on from it."""
    for split, number in (("train", 5), ("val", 3)):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        for i in range(number):
            Image.effect_noise((40, 48), 50).convert("RGB").save(tmp_path / split / "images" / f"{i}.png")
            Image.new("L", (40, 48), i % 2).save(tmp_path / split / "labels" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("even\nodd\n")
    arguments = ["train-segmenter", "--config", "ccp", "--data-dir", str(tmp_path), "-o", str(tmp_path / "run")]
    small = [
        "backbone=vt_resnet_micro",
        "crop_size=32",
        "eval_size=null",
        "batch_size=2",
        "workers=0",
        "evaluate_every=1",
        "warmup_updates=0",
    ]
    once, twice = ([*arguments, "--resume", "--set", *small, f"updates={updates}"] for updates in (1, 2))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    mp.set_forkserver_preload([__name__])
    mp.start_processes(_train, args=(once, port), nprocs=2, start_method="forkserver")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "vt_timm"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, *twice], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "run" / "summary.csv").open() as file:
        assert [row["update"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (tmp_path / "run" / "last" / "random_states_1.pkl").is_file()
