"""What distillation does and costs: a student with and without a teacher, and the teacher's share of a step.

    python -m benchmarks.distillation DATA/imagenette2-224 --runs RUNS --write

Trains the recipe distillation_imagenette with timm's train.py through `vt-timm run train`: without a teacher and
with one, all else the same; a run that is complete under RUNS is not repeated. Then times training steps of vt_resnet18
with and without FBNetV3-G (random weights cost the same), pair by pair, under autocast to bfloat16 and channels_last.
"""

import argparse
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.task import ClassificationTask
from torch import nn

from vt_timm import distillation_task
from vt_timm.distillation import Teacher
from vt_timm.recipes import find_recipe
from vt_timm.weights.published import HUB

from .accuracy.runs import keep_run, summary_of
from .common.measure import in_turn, middle_half, ratios
from .common.records import keep_record

RECIPE = "distillation_imagenette"
TEACHER = "vt_resnet18.robust_imagenette"
RUNS = {"without_teacher": [], "with_teacher": ["--kd-model-name", f"local-dir:{HUB / TEACHER}"]}


def train(data: str, runs: Path) -> dict[str, list[dict[str, float]]]:
    """Every epoch's losses and accuracies of both runs."""
    wanted = yaml.safe_load(find_recipe(RECIPE).read_text())["epochs"]
    curves = {}
    for name, more in RUNS.items():
        log = runs / f"{name}.log"
        if len(summary_of(runs / name)) < wanted:
            settings = ["--config", RECIPE, "--data-dir", data, "--device", "cpu", "--channels-last", *more]
            folders = ["--output", str(runs), "--experiment", name]
            with log.open("w") as file:
                command = [sys.executable, "-m", "vt_timm", "run", "train", *settings, *folders]
                subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)
        curves[name] = summary_of(runs / name)
        keep_run(runs / name, f"distillation_{name}", "distillation", log)
    return curves


def teachers_share(batch_size: int, pairs: int) -> dict[str, Any]:
    """How much of a training step's time the teacher takes: one less the time without it over the time with it."""
    torch.manual_seed(0)
    student = timm.create_model("vt_resnet18").to(memory_format=torch.channels_last).train()
    teacher = Teacher(timm.create_model("fbnetv3_g"))
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-4)
    tasks = {
        "student_alone": ClassificationTask(student, nn.CrossEntropyLoss(), verbose=False),
        "with_teacher": distillation_task(student, teacher, verbose=False),
    }
    images = torch.randn(batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch_size,))

    def step(task: nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = in_turn({name: partial(step, task) for name, task in tasks.items()}, pairs)
    shares = [1 - ratio for ratio in ratios(seconds["student_alone"], seconds["with_teacher"])]
    return {
        "student": "vt_resnet18 at 224 px",
        "teacher": f"fbnetv3_g at {teacher.size[0]} px" if teacher.size else "fbnetv3_g",
        "batch_size": batch_size,
        "precision": "autocast to bfloat16, channels_last",
        "pairs": pairs,
        "seconds_median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "teachers_share_median": round(statistics.median(shares), 3),
        "teachers_share_middle_half": middle_half(shares, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Imagenette's train and validation images")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--batch-size", type=int, default=16, help="batch size of the timed steps")
    parser.add_argument("--pairs", type=int, default=9, help="how often the timed steps take turns")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    curves = train(args.data, args.runs)
    for name, rows in curves.items():
        print(f"{name:<16} top-1 by epoch: {[round(row['eval_top1'], 2) for row in rows]}")
    cost = teachers_share(args.batch_size, args.pairs)
    print(cost)
    if args.write:
        result = {"recipe": RECIPE, "teacher": TEACHER, "curves": curves, "cost": cost}
        keep_record("records.json", "distillation", result)


if __name__ == "__main__":
    main()
