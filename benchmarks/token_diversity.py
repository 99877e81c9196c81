"""How different the tokens of a model are: correlation of their attention maps, pair by pair.

    python -m benchmarks.token_diversity DATA/imagenette2-224/val --write

Sixteen tokens that look at the same pixels are one token sixteen times. For every photo and VT module, each pair of
tokens whose maps (eqs. 1 and 2) correlate above 0.9 over the pixels counts as alike.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch import Tensor

import vt_timm

from .common.facts import keep_record

__all__ = ["alike", "measure"]

ALIKE = 0.9


def alike(maps_BLHW: Tensor) -> Tensor:
    """(B,) share of the L (L - 1) / 2 pairs of tokens whose maps correlate above `ALIKE`."""
    L = maps_BLHW.shape[1]
    correlation_BLL = torch.stack([torch.corrcoef(maps_LHW.flatten(1)) for maps_LHW in maps_BLHW])
    first, second = torch.triu_indices(L, L, offset=1)
    return (correlation_BLL[:, first, second] > ALIKE).float().mean(dim=1)


def measure(name: str, folder: str, photos: int) -> dict[str, Any]:
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
    parser.add_argument("folder", help="photos, one folder per class")
    parser.add_argument("--models", nargs="+", default=["vt_resnet18", "vt_resnet_micro"])
    parser.add_argument("--photos", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    if not Path(args.folder).is_dir():
        parser.error(f"{args.folder}: no such folder")
    rows = [measure(name, args.folder, args.photos) for name in args.models]
    for row in rows:
        shares = ", ".join(f"module {i + 1} {share:.1%}" for i, share in enumerate(row["share_of_alike_pairs"]))
        print(f"{row['model']}: pairs of tokens alike on {row['photos']} photos: {shares}")
    if args.write:
        keep_record("records.json", "token_diversity", {"data": Path(args.folder).name, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
