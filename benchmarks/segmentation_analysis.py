"""Why VT-FPN and FPN differ on Clothing Co-Parsing: what the tokens add at each level, and on which classes.

    python -m benchmarks.segmentation_analysis DATA/ccp --runs RUNS --write

Takes the weights of the best evaluation of every run of `benchmarks.segmentation`. A level's tokens are cut off by
leaving its map as the lateral gives it, without what the projector adds. Classes are grouped by their share of the
labelled pixels.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vt_timm.segmentation.data import SegmentationDataset
from vt_timm.segmentation.evaluation import evaluate
from vt_timm.segmentation.inference import load_segmenter
from vt_timm.segmentation.model import LEVELS, Segmenter
from vt_timm.segmentation.transforms import evaluation_transform

from .common.records import RESULTS, facts, write_json

GROUPS = {"over 1 % of the pixels": 0.01, "0.1 to 1 %": 0.001, "rarer": 0.0}


class KeepMap(nn.Module):
    """In place of a projector: the map as it is."""

    def forward(self, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
        return feature_BCHW


def without_tokens(model: Segmenter, data: SegmentationDataset) -> dict[str, float]:
    """mIoU with the tokens of no level, of each and of all levels cut off."""
    projectors: Any = model.neck.projectors
    results = {}
    for cut in [[], *([level] for level in range(LEVELS)), list(range(LEVELS))]:
        kept = [projectors[level] for level in range(LEVELS)]
        for level in cut:
            projectors[level] = KeepMap()
        name = "none" if not cut else "all" if len(cut) == LEVELS else f"level {cut[0] + 1}"
        results[name] = round(evaluate(model, data)["miou"], 3)
        for level in range(LEVELS):
            projectors[level] = kept[level]
    return results


def pixel_shares(data: SegmentationDataset, num_classes: int) -> Tensor:
    """Share of the labelled pixels that each class has."""
    counts = torch.zeros(num_classes)
    for index in range(len(data)):
        _, mask = data[index]
        counts += mask.flatten()[mask.flatten() < num_classes].bincount(minlength=num_classes)
    return counts / counts.sum()


def by_group(ious: list[list[float | None]], shares: Tensor) -> dict[str, dict[str, Any]]:
    """Mean IoU of the classes of each group, a value a run."""
    groups: dict[str, dict[str, Any]] = {}
    upper = 1.0
    for name, lower in GROUPS.items():
        members = [c for c, share in enumerate(shares.tolist()) if lower <= share < upper and share > 0]
        means = [statistics.mean(iou[c] or 0.0 for c in members) for iou in ious]
        groups[name] = {"classes": len(members), "iou": [round(mean, 2) for mean in means]}
        upper = lower
    return groups


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, required=True, help="runs of benchmarks.segmentation")
    parser.add_argument("--write", action="store_true", help="record as benchmarks/results/segmentation_analysis.json")
    args = parser.parse_args()
    ious: dict[str, list[list[float | None]]] = {}
    cut: dict[str, dict[str, float]] = {}
    for run in sorted(path.parent.parent for path in args.runs.glob("*/best/metrics.json")):
        neck = run.name.partition("_seed")[0]
        ious.setdefault(neck, []).append(json.loads((run / "best" / "metrics.json").read_text())["iou"])
        if neck == "vt_fpn":
            model = load_segmenter(run / "best")
            transform = evaluation_transform(model.short_side, **model.normalization)  # type: ignore[arg-type]
            data = SegmentationDataset("folder", args.data, "val", transform)
            cut[run.name] = without_tokens(model, data)
            print(run.name, "mIoU with the tokens cut off of:", cut[run.name], flush=True)
    shares = pixel_shares(data, model.num_classes)
    groups = {neck: by_group(values, shares) for neck, values in ious.items()}
    for neck, found in groups.items():
        print(neck, found)
    if args.write:
        result = {"miou_with_tokens_cut_off": cut, "iou_by_share_of_pixels": groups}
        write_json(RESULTS / "segmentation_analysis.json", {**facts(), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
