"""What pretrained models do on an image folder: top-1 and top-5, or how different their tokens are.

    python -m benchmarks.pretrained DATA/imagenette2-224/val --write
    python -m benchmarks.pretrained DATA/imagenette2-224/val --tokens --write

Accuracy is measured with timm's own data pipeline and metrics: the same figures as timm's `validate.py DATA --model
NAME --pretrained --use-train-size`, on what the model's config says: input size, crop, interpolation.

Sixteen tokens that look at the same pixels are one token sixteen times. For every photo and VT module, each pair of
tokens whose maps (eqs. 1 and 2) correlate above 0.9 over the pixels counts as alike.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader, create_transform, resolve_data_config
from timm.utils import AverageMeter, accuracy
from torch import Tensor
from tqdm import tqdm

import vt_timm

from .accuracy.runs import keep_accuracy
from .common.records import keep_record, line_of_facts

__all__ = ["alike", "evaluate", "tokens_alike", "top1_top5"]

ALIKE = 0.9


def evaluate(name: str, folder: str, batch_size: int = 64, workers: int = 1) -> dict:
    """Top-1 and top-5 in percent over every image of an ImageFolder, the last partial batch counted by its size."""
    model = timm.create_model(name, pretrained=True).eval()
    config = resolve_data_config({}, model=model, use_test_size=True)
    loader = create_loader(
        create_dataset("", root=folder),
        batch_size=batch_size,
        use_prefetcher=False,
        num_workers=workers,
        **{k: config[k] for k in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
    )
    top1, top5, images = top1_top5(model, loader)
    pretrained_cfg: dict = model.pretrained_cfg  # type: ignore[assignment]
    return {
        "model": f"{pretrained_cfg['architecture']}.{pretrained_cfg['tag']}",
        "architecture": pretrained_cfg["architecture"],
        "tag": pretrained_cfg["tag"],
        "options": getattr(model, "_model_args", {}),  # what timm was given to build it
        "images": images,
        "top1": round(top1, 3),
        "top5": round(top5, 3),
        "input_size": list(config["input_size"]),
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }


def top1_top5(model: torch.nn.Module, loader: Any) -> tuple[float, float, int]:
    """Top-1 and top-5 in percent, and the number of images."""
    top1, top5 = AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, targets in tqdm(loader, disable=None):
            for meter, value in zip((top1, top5), accuracy(model(images), targets, topk=(1, 5)), strict=True):
                meter.update(value.item(), len(targets))
    return top1.avg, top5.avg, top1.count


def alike(maps_BLHW: Tensor) -> Tensor:
    """(B,) share of the L (L - 1) / 2 pairs of tokens whose maps correlate above `ALIKE`."""
    L = maps_BLHW.shape[1]
    correlation_BLL = torch.stack([torch.corrcoef(maps_LHW.flatten(1)) for maps_LHW in maps_BLHW])
    first, second = torch.triu_indices(L, L, offset=1)
    return (correlation_BLL[:, first, second] > ALIKE).float().mean(dim=1)


def tokens_alike(name: str, folder: str, photos: int) -> dict[str, Any]:
    """The mean share of alike pairs per module of a pretrained model, on photos evenly spaced over an ImageFolder."""
    model = timm.create_model(name, pretrained=True).eval()
    config = resolve_data_config({}, model=model, use_test_size=True)
    dataset = create_dataset("", root=folder)
    dataset.transform = create_transform(**config)
    chosen = range(0, len(dataset), max(1, len(dataset) // photos))[:photos]
    shares = []
    for index in chosen:
        image, _ = dataset[index]
        with torch.inference_mode(), vt_timm.record_attention(model) as maps:
            model(image[None])
        shares.append(torch.cat([alike(module) for module in maps]))
    return {
        "model": f"{model.pretrained_cfg['architecture']}.{model.pretrained_cfg['tag']}",  # type: ignore[index]
        "photos": len(shares),
        "image_size": config["input_size"][-1],
        "correlation_above": ALIKE,
        "share_of_alike_pairs": [round(share, 3) for share in torch.stack(shares).mean(dim=0).tolist()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="validation images, one folder per class")
    parser.add_argument("--models", nargs="+", default=["vt_resnet18", "vt_resnet_micro"])
    parser.add_argument("--tokens", action="store_true", help="how different the tokens are, instead of accuracy")
    parser.add_argument("--photos", type=int, default=200, help="with --tokens: how many (default: 200)")
    parser.add_argument(
        "--write",
        action="store_true",
        help="record in benchmarks/results/accuracy/shipped.csv, with --tokens in benchmarks/results/records.json",
    )
    args = parser.parse_args()
    if not Path(args.folder).is_dir():
        parser.error(f"{args.folder}: no such folder")
    if args.tokens:
        measure_tokens(args)
    else:
        measure_accuracy(args)
    return 0


def measure_accuracy(args: argparse.Namespace) -> None:
    for name in args.models:
        result = evaluate(name, args.folder)
        print(
            f"{result['model']}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, {result['images']} images"
        )
        if args.write:
            keep_accuracy({**line_of_facts(), "data": Path(args.folder).name, **result})


def measure_tokens(args: argparse.Namespace) -> None:
    rows = [tokens_alike(name, args.folder, args.photos) for name in args.models]
    for row in rows:
        shares = ", ".join(f"module {i + 1} {share:.1%}" for i, share in enumerate(row["share_of_alike_pairs"]))
        print(f"{row['model']}: pairs of tokens alike on {row['photos']} photos: {shares}")
    if args.write:
        keep_record("records.json", "token_diversity", {"data": Path(args.folder).name, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
