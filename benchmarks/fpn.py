"""VT-FPN against the FPN that it replaces: time and peak memory of the necks, and of the whole networks, in one run.

    python -m benchmarks.fpn            # print
    python -m benchmarks.fpn --write    # and record in benchmarks/results/records.json

Inference of one image of 800 x 1216 pixels on one CPU thread in float32, ResNet-50, the two in turn. Memory is the peak
of the resident size over what the process had before, each in a process of its own (Linux only).
"""

import argparse
import json
import statistics
from functools import partial

import torch
from torch import Tensor, nn

import vt_timm

from .common.measure import in_its_own_process, in_turn, middle_half, peak_of, ratios
from .common.records import keep_record

SIZE = (800, 1216)
CHANNELS, STRIDES = (256, 512, 1024, 2048), (4, 8, 16, 32)
KINDS = ("fpn", "vt_fpn")


def features() -> list[Tensor]:
    """Return maps of a ResNet-50, as random numbers: what a neck costs does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, c, SIZE[0] // s, SIZE[1] // s, generator=generator)
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def build(kind: str, whole: bool) -> tuple[nn.Module, Tensor | list[Tensor]]:
    torch.set_num_threads(1)
    model = vt_timm.create_segmenter(kind, "resnet50", 54).eval()
    return (model, torch.randn(1, 3, *SIZE)) if whole else (model.neck, features())


def memory_of(kind: str, whole: bool) -> int:
    """Return the peak resident bytes of one pass; to be called once, in a process of its own."""
    module, given = build(kind, whole)
    with torch.inference_mode():
        module([f[..., :2, :2] for f in given] if isinstance(given, list) else given[..., :64, :64])  # loads libraries
        return peak_of(lambda: module(given))


def compare(whole: bool, pairs: int) -> dict:
    memory = {kind: in_its_own_process(memory_of, kind, whole) for kind in KINDS}
    ways = {kind: build(kind, whole) for kind in KINDS}
    with torch.inference_mode():
        seconds = in_turn({kind: partial(module, given) for kind, (module, given) in ways.items()}, pairs)
    faster = ratios(seconds["fpn"], seconds["vt_fpn"])
    return {
        "pairs": pairs,
        "seconds_median": {kind: round(statistics.median(values), 3) for kind, values in seconds.items()},
        "times_faster_median": round(statistics.median(faster), 2),
        "times_faster_middle_half": middle_half(faster, 2),
        "peak_megabytes": {kind: round(value / 2**20, 1) for kind, value in memory.items()},
        "share_of_fpns_memory": round(memory["vt_fpn"] / memory["fpn"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="how often the two take turns")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    result = {"size": list(SIZE), "neck": compare(False, args.pairs), "whole_network": compare(True, args.pairs)}
    print(json.dumps(result, indent=2))
    if args.write:
        keep_record("records.json", "fpn", result)


if __name__ == "__main__":
    main()
