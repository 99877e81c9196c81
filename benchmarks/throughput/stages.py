"""Measure where a VT-ResNet and its ResNet spend their time, and how fast the VT-ResNet could be here at best.

    python -m benchmarks.throughput.stages --write NAME

Stages 1-4, with stem and classifier, are the same in both; the fifth, `layer4`, is exchanged for the VT stage. Timed in
turn: the whole ResNet, its `layer4`, the VT stage, and a dense product of 1024 x 1024 weights with as many rows as the
batch has tokens, which is what most of a VT stage is. Three bounds follow for the ratio of the whole models' times:

    free        (common + layer4) / common                      a VT stage that takes no time at all
    products    (common + layer4) / (common + its MACs / rate)  one that only multiplies, at that product's rate
    as it is    (common + layer4) / (common + VT stage)

No implementation of the paper's equations gets past the second on this machine unless it has a faster product.
"""

import argparse
import statistics
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..common.counting import count_stage5
from ..common.measure import clock_of, in_turn
from .passes import PEERS, PRECISIONS, Setting, rounds_for
from .runner import Row, add_choices, run

TOKENS, CHANNELS = 16, 1024
VARIED = ("size", "memory_format", "precision", "batch_size", "model")


def bounds(name: str, s: Setting, pairs: int) -> Row:
    """Return the milliseconds of the parts of one batch, and the ratios."""
    torch.manual_seed(0)

    def made(model: str) -> Any:
        return timm.create_model(model).eval().to(s.device, s.dtype).to(memory_format=s.layout)

    resnet, vt = made(PEERS[name]), made(name)
    images = torch.randn(s.batch_size, 3, s.size, s.size).to(s.device, s.dtype, memory_format=s.layout)
    maps: list[Tensor] = []
    hook = vt.vt_stage.register_forward_pre_hook(lambda _, given: maps.append(given[0]))
    product = nn.Linear(CHANNELS, CHANNELS, bias=False).to(s.device, s.dtype)
    rows = torch.randn(s.batch_size * TOKENS, CHANNELS).to(s.device, s.dtype)
    with torch.inference_mode():
        vt(images)
        hook.remove()
        ways = {
            "resnet": lambda: resnet(images),
            "layer4": lambda: resnet.layer4(maps[0]),
            "vt_stage": lambda: vt.vt_stage(maps[0]),
            "product": lambda: product(rows),
        }
        seconds = in_turn(ways, rounds_for(s.batch_size, s.size, pairs), 2, clock_of(s.device))
    ms = {part: 1000 * statistics.median(values) for part, values in seconds.items()}
    common = ms["resnet"] - ms["layer4"]
    macs = {"layer4": count_stage5(PEERS[name], s.size).macs, "vt_stage": count_stage5(name, s.size).macs}
    rate = len(rows) * CHANNELS**2 / 1e6 / ms["product"]  # million MACs per millisecond, as `macs` are millions
    at_rate = s.batch_size * macs["vt_stage"] / rate
    return {
        "peer": PEERS[name],
        **{f"{part}_ms": round(value, 2) for part, value in ms.items() if part != "product"},
        "layer4_gmacs_per_second": round(s.batch_size * macs["layer4"] / ms["layer4"], 1),
        "vt_stage_gmacs_per_second": round(s.batch_size * macs["vt_stage"] / ms["vt_stage"], 1),
        "product_gmacs_per_second": round(rate, 1),
        "free": round(ms["resnet"] / common, 3),
        "products": round(ms["resnet"] / (common + at_rate), 3),
        "as_it_is": round(ms["resnet"] / (common + ms["vt_stage"]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.stages", description=__doc__.splitlines()[0])
    add_choices(parser)
    parser.set_defaults(precisions=list(PRECISIONS))
    run("stages", VARIED, lambda name, s, args: [bounds(name, s, args.pairs)], parser, parser.parse_args())


if __name__ == "__main__":
    main()
