"""MACs and parameters of the VT-ResNets and the ResNets they replace, beside the paper's Table 8.

    python -m benchmarks.complexity            # print
    python -m benchmarks.complexity --write    # and record under benchmarks/results/

Counted at 224 x 224 with torch's FlopCounterMode (convolutions and matrix products), halved to multiply-accumulates.
"""

import argparse
import sys

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import vt_timm  # noqa: F401  registers the models

from .paper_tables import TABLE_8
from .records import RESULTS, facts, write_json

__all__ = ["count"]


def count(name: str) -> tuple[float, float]:
    """MACs and parameters of a timm model at 224 x 224, both in millions."""
    model = timm.create_model(name, device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() / 2e6, sum(p.numel() for p in model.parameters()) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record the numbers under benchmarks/results/")
    args = parser.parse_args()

    rows = []
    print(f"{'':<14}{'MACs (M)':^28}{'parameters (M)':^28}")
    print(f"{'model':<14}{'paper':>8}{'ours':>9}{'diff':>9}  {'paper':>8}{'ours':>9}{'diff':>9}")
    for name, paper in TABLE_8.items():
        macs, params = count(name)
        rows.append({"model": name, "macs_millions": round(macs, 1), "params_millions": round(params, 2)})
        print(
            f"{name:<14}{paper.macs:>8.0f}{macs:>9.0f}{macs / paper.macs - 1:>+9.1%}"
            f"  {paper.params:>8.1f}{params:>9.1f}{params / paper.params - 1:>+9.1%}"
        )
    macs, params = count("vt_resnet_micro")
    rows.append({"model": "vt_resnet_micro", "macs_millions": round(macs, 1), "params_millions": round(params, 2)})
    print(f"vt_resnet_micro (not of the paper): {macs:.0f} M MACs, {params:.2f} M parameters")
    if args.write:
        write_json(RESULTS / "complexity.json", {**facts(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
