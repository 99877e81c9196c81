"""Measure if torch's fused attention would pay in the projector, eq. 5.

    python -m benchmarks.throughput.projector --write NAME

`scaled_dot_product_attention` reads a channels_last map as it is, where the projector's products of (head, pixel) rows
make a copy; but it needs pixels as rows, which is what a contiguous map does not have, and never shows an attention.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor

from vt_timm.projector import Projector

from ..common.measure import clock_of, in_turn, ratios, with_middle_half
from .passes import Setting, rounds_for
from .runner import Row, add_choices, run

# Channels of the map that the projectors of these models get, one with basic blocks and one with bottlenecks.
CHANNELS = {"vt_resnet18": 512, "vt_resnet50": 1024}
TOKENS, TOKEN_DIM, HEADS, STRIDE = 16, 1024, 16, 16
VARIED = ("model", "memory_format", "precision", "size", "batch_size")


def fused(projector: Projector, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
    """Compute what `projector` does, by one call of `scaled_dot_product_attention`."""
    B, C, H, W = feature_BCHW.shape
    heads = (projector.num_heads, projector.head_dim)
    query_BhPd = feature_BCHW.flatten(2).view(B, *heads, H * W).transpose(2, 3)
    key_BhLd = torch.einsum("blhe,hde->bhld", projector.key(tokens_BLD).unflatten(2, heads), projector.query)
    value_BCL = projector.bn(projector.value(tokens_BLD).transpose(1, 2).unsqueeze(-1)).squeeze(-1)
    value_BhLd = value_BCL.view(B, *heads, -1).transpose(2, 3)
    update_BhPd = F.scaled_dot_product_attention(query_BhPd, key_BhLd, value_BhLd)
    return feature_BCHW + update_BhPd.transpose(2, 3).reshape(B, C, H, W)


def compare(name: str, s: Setting, pairs: int) -> Row:
    """Return the milliseconds of both ways, taking turns."""
    torch.manual_seed(0)
    channels, pixels = CHANNELS[name], s.size // STRIDE
    projector = Projector(channels, TOKEN_DIM, HEADS).to(s.device, s.dtype).eval()
    torch.nn.init.ones_(projector.bn.weight)  # at its zero of the start, the projector would return the map alone
    feature = torch.randn(s.batch_size, channels, pixels, pixels).to(s.device, s.dtype).to(memory_format=s.layout)
    tokens = torch.randn(s.batch_size, TOKENS, TOKEN_DIM).to(s.device, s.dtype)
    with torch.inference_mode():
        torch.testing.assert_close(fused(projector, feature, tokens), projector(feature, tokens), rtol=0.05, atol=0.05)
        ways = {
            "projector": lambda: projector(feature, tokens),
            "fused": lambda: fused(projector, feature, tokens),
        }
        seconds = in_turn(ways, rounds_for(s.batch_size, s.size, pairs), 2, clock_of(s.device))
    faster = ratios(seconds["projector"], seconds["fused"])
    return {
        **{f"{way}_ms": round(1000 * statistics.median(values), 2) for way, values in seconds.items()},
        "pairs": len(faster),
        **with_middle_half("fused_is_faster_by", faster),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.projector", description=__doc__.splitlines()[0]
    )
    add_choices(parser, models=CHANNELS, pairs=200)
    run("projector", VARIED, lambda name, s, args: [compare(name, s, args.pairs)], parser, parser.parse_args())


if __name__ == "__main__":
    main()
