"""A stand-in for timm's train.py, with the names that `vt_timm.timm_scripts.run` goes around; it prints what it did.

Where a clone of timm is at hand (VT_TIMM_SCRIPTS), the tests run the real one as well.
"""

import argparse
import random

import numpy as np
import torch
import yaml
from timm.data import create_dataset, create_loader
from timm.models import create_model
from timm.task import LogitDistillationTask
from timm.utils import random_seed

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument("-c", "--config", default="")
parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?")
for name in ("data-dir", "num-classes", "kd-model-name", "experiment", "lr"):
    parser.add_argument(f"--{name}", default=None, type=int if name == "num-classes" else str)
for name in ("dataset", "resume", "output"):
    parser.add_argument(f"--{name}", default="")
parser.add_argument("--model", default="vt_resnet_micro")
parser.add_argument("--seed", default=42, type=int)
parser.add_argument("--start-epoch", default=0, type=int)
parser.add_argument("--epochs", default=3, type=int)


def _parse_args():
    config, remaining = config_parser.parse_known_args()
    if config.config:
        with open(config.config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    return parser.parse_args(remaining), ""


def train_one_epoch(epoch, model, loader):
    images = next(iter(loader))[0]
    draws = (random.random(), np.random.rand(), torch.rand(()).item(), images.double().sum().item())
    print("epoch", epoch, *draws)


def main():
    args, _ = _parse_args()
    random_seed(args.seed, 0)
    model = create_model(args.model, num_classes=args.num_classes)
    dataset = create_dataset(args.dataset, root=args.data_dir or args.data, split="train", is_training=True)
    loader = create_loader(dataset, (3, 32, 32), 4, is_training=True, num_workers=1, device=torch.device("cpu"))
    task = None
    if args.kd_model_name:
        task = LogitDistillationTask(
            student_model=model, teacher_model=args.kd_model_name, device=torch.device("cpu"), verbose=False
        )
    print("teacher", type(task.teacher.model).__name__ if task else None, "resume", repr(args.resume), "lr", args.lr)
    for epoch in range(args.start_epoch, args.epochs):
        train_one_epoch(epoch, model, loader)


if __name__ == "__main__":
    main()
