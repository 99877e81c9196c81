"""A stand-in for timm's train.py, with the names that `vt_timm.timm_scripts` goes around; it prints what it did.

With `--experiment` it trains and leaves the files that the real one leaves. Where a clone of timm is at hand
(VT_TIMM_SCRIPTS), the tests run the real one as well.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, FeatureDistillationTask, LogitDistillationTask
from timm.utils import CheckpointSaver, ParseKwargs, random_seed, update_summary

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument("-c", "--config", default="")
parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?")
for name in ("data-dir", "kd-model-name", "experiment", "train-img-sizes", "interpolation"):
    parser.add_argument(f"--{name}", default=None)
for name in ("num-classes", "img-size"):
    parser.add_argument(f"--{name}", default=None, type=int)
for name in ("dataset", "resume", "output", "class-map"):
    parser.add_argument(f"--{name}", default="")
for name, default in (("train-split", "train"), ("val-split", "validation"), ("device", "cuda")):
    parser.add_argument(f"--{name}", default=default)
parser.add_argument("--train-interpolation", default="random")
parser.add_argument("--kd-distill-type", default="logit")
parser.add_argument("--opt", default="sgd")
parser.add_argument("--opt-kwargs", nargs="*", default={}, action=ParseKwargs)
parser.add_argument("--sched", default="cosine")
parser.add_argument("--model", default="vt_resnet_micro")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("-b", "--batch-size", default=4, type=int)
for name in ("crop-pct", "lr"):
    parser.add_argument(f"--{name}", default=None, type=float)
for name in ("mixup", "cutmix"):
    parser.add_argument(f"--{name}", default=0.0, type=float)
parser.add_argument("--cutmix-minmax", default=None, type=float, nargs="+")
parser.add_argument("--seed", default=42, type=int)
parser.add_argument("--start-epoch", default=0, type=int)
parser.add_argument("--epochs", default=3, type=int)


def _parse_args():
    config, remaining = config_parser.parse_known_args()
    if config.config:
        with open(config.config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    args = parser.parse_args(remaining)
    return args, yaml.safe_dump(vars(args))


def train_one_epoch(epoch, model, loader, lr=None, output_dir=None, saver=None):
    images, labels = next(iter(loader))
    draws = (random.random(), np.random.rand(), torch.rand(()).item(), images.double().sum().item())
    print("epoch", epoch, *draws)
    if output_dir is None:
        return
    optimizer = torch.optim.SGD(model.parameters(), lr=lr or 0.05)
    for images, labels in loader:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def evaluate(model, loader):
    hits, losses = [], []
    for images, labels in loader:
        logits = model.eval()(images)
        hits.append(logits.argmax(1) == labels)
        losses.append(torch.nn.functional.cross_entropy(logits, labels).item())
    model.train()
    return 100 * torch.cat(hits).double().mean().item(), sum(losses) / len(losses)


def main():
    args, args_text = _parse_args()
    random_seed(args.seed, 0)
    model = create_model(args.model, pretrained=args.pretrained, num_classes=args.num_classes)
    config = resolve_data_config(vars(args), model=model)
    root, device = args.data_dir or args.data, torch.device(args.device)
    size = config["input_size"] if args.experiment else (3, 32, 32)
    dataset = create_dataset(args.dataset, root=root, split=args.train_split, is_training=True)
    loader = create_loader(dataset, size, args.batch_size, is_training=True, num_workers=1, device=device)
    task = None
    if args.kd_model_name:
        kind = FeatureDistillationTask if args.kd_distill_type == "feature" else LogitDistillationTask
        task = kind(student_model=model, teacher_model=args.kd_model_name, device=torch.device("cpu"), verbose=False)
        print("answers", getattr(task.teacher.model, "classes", None))
    else:
        plain = ClassificationTask(model=model, criterion=torch.nn.CrossEntropyLoss(), verbose=False)
        print("hooks on the task", len(plain._forward_hooks))
    print("teacher", type(task.teacher.model).__name__ if task else None, "resume", repr(args.resume), "lr", args.lr)
    groups = create_optimizer_v2(model, args.opt, lr=args.lr or 0.05).param_groups
    print("rates", [(group.get("lr_scale"), len(group["params"])) for group in groups])
    print("batch", args.batch_size, "updates", len(loader), "device", args.device)
    if not args.experiment:
        for epoch in range(args.start_epoch, args.epochs):
            train_one_epoch(epoch, model, loader)
        return
    val = create_dataset(args.dataset, root=root, split=args.val_split, is_training=False)
    keys = ("interpolation", "mean", "std", "crop_pct")
    val_loader = create_loader(val, size, 4, num_workers=1, device=device, **{k: config[k] for k in keys})
    folder = Path(args.output, args.experiment)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.yaml").write_text(args_text)
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters()), args, checkpoint_dir=str(folder))
    try:
        for epoch in range(args.start_epoch, args.epochs):
            train_one_epoch(epoch, model, loader, lr=args.lr, output_dir=str(folder), saver=saver)
            with torch.inference_mode():
                top1, loss = evaluate(model, val_loader)
            metrics = {"loss": loss, "top1": top1, "top5": 100.0}
            update_summary(epoch, {"loss": loss}, metrics, str(folder / "summary.csv"), write_header=epoch == 0)
            saver.save_checkpoint(epoch, metric=top1)
    except KeyboardInterrupt:
        pass
    print("--result\n[]")


if __name__ == "__main__":
    main()
