"""Top-1 and top-5 of pretrained models on an image folder.

    python -m benchmarks.pretrained DATA/imagenette2-224/val --write

Accuracy is measured with timm's own data pipeline and metrics: the same figures as timm's `validate.py DATA --model
NAME --pretrained --use-train-size`, on what the model's config says: input size, crop, interpolation.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter, accuracy
from tqdm import tqdm

import vt_timm  # noqa: F401  registers the models

from .accuracy.runs import keep_accuracy
from .common.records import line_of_facts


def validation_loader(folder: str, config: Mapping[str, Any], batch_size: int) -> Any:
    """Return timm's loader of an ImageFolder, whose photos are seen as a data config says."""
    return create_loader(
        create_dataset("", root=folder),
        batch_size=batch_size,
        use_prefetcher=False,
        num_workers=1,
        **{k: config[k] for k in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
    )


def evaluate(name: str, folder: str) -> dict:
    """Score every image of an ImageFolder, top-1 and top-5 in percent, the last partial batch counted by its size."""
    model = timm.create_model(name, pretrained=True).eval()
    config = resolve_data_config({}, model=model, use_test_size=True)
    top1, top5 = AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, targets in tqdm(validation_loader(folder, config, batch_size=64), disable=None):
            for meter, value in zip((top1, top5), accuracy(model(images), targets, topk=(1, 5)), strict=True):
                meter.update(value.item(), len(targets))
    pretrained_cfg: dict = model.pretrained_cfg  # type: ignore[assignment]
    return {
        "model": f"{pretrained_cfg['architecture']}.{pretrained_cfg['tag']}",
        "architecture": pretrained_cfg["architecture"],
        "tag": pretrained_cfg["tag"],
        "options": getattr(model, "_model_args", {}),  # what timm was given to build it
        "images": top1.count,
        "top1": round(top1.avg, 3),
        "top5": round(top5.avg, 3),
        "input_size": list(config["input_size"]),
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="validation images, one folder per class")
    parser.add_argument("--models", nargs="+", default=["vt_resnet18", "vt_resnet_micro"])
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/accuracy/shipped.csv")
    args = parser.parse_args()
    if not Path(args.folder).is_dir():
        parser.error(f"{args.folder}: no such folder")
    for name in args.models:
        result = evaluate(name, args.folder)
        print(
            f"{result['model']}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, {result['images']} images"
        )
        if args.write:
            keep_accuracy({**line_of_facts(), "data": Path(args.folder).name, **result})


if __name__ == "__main__":
    main()
