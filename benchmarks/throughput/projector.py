"""Whether torch's fused attention would pay in the projector, eq. 5:

    python -m benchmarks.throughput.projector --write NAME

`scaled_dot_product_attention` reads a channels_last map as it is, where the projector's products of (head, pixel) rows
make a copy; but it needs pixels as rows, which is what a contiguous map does not have, and never shows an attention.
"""

import argparse
import statistics
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from vt_timm.projector import Projector

from ..common.measure import clock_of, in_turn, middle_half, ratios
from ..common.records import RESULTS, facts, write_json
from .passes import FORMATS, PRECISIONS, Setting, add_choices, combinations, rounds_for

# channels of the map that the projectors of these models get: basic blocks, bottlenecks
CHANNELS = {"vt_resnet18": 512, "vt_resnet50": 1024}
TOKENS, TOKEN_DIM, HEADS, STRIDE = 16, 1024, 16, 16


def fused(projector: Projector, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
    """What `projector` computes, by one call of `scaled_dot_product_attention`."""
    B, C, H, W = feature_BCHW.shape
    heads = (projector.num_heads, projector.head_dim)
    query_BhPd = feature_BCHW.flatten(2).view(B, *heads, H * W).transpose(2, 3)
    key_BhLd = torch.einsum("blhe,hde->bhld", projector.key(tokens_BLD).unflatten(2, heads), projector.query)
    value_BLhd = projector.bn(projector.value(tokens_BLD).flatten(0, 1)).view(B, -1, *heads)
    update_BhPd = F.scaled_dot_product_attention(query_BhPd, key_BhLd, value_BLhd.transpose(1, 2))
    return feature_BCHW + update_BhPd.transpose(2, 3).reshape(B, C, H, W)


def compare(name: str, s: Setting, pairs: int) -> Setting:
    torch.manual_seed(0)
    dtype, layout = PRECISIONS[s["precision"]], FORMATS[s["memory_format"]]
    channels, pixels = CHANNELS[name], s["size"] // STRIDE
    projector = Projector(channels, TOKEN_DIM, HEADS).to(dtype).eval()
    torch.nn.init.ones_(projector.bn.weight)  # starts at zero: the map alone
    feature = torch.randn(s["batch_size"], channels, pixels, pixels).to(dtype).to(memory_format=layout)
    tokens = torch.randn(s["batch_size"], TOKENS, TOKEN_DIM).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(fused(projector, feature, tokens), projector(feature, tokens), rtol=0.05, atol=0.05)
        ways = {
            "projector": lambda: projector(feature, tokens),
            "fused": lambda: fused(projector, feature, tokens),
        }
        seconds = in_turn(ways, rounds_for(s["batch_size"], s["size"], pairs), 2, clock_of("cpu"))
    faster = ratios(seconds["projector"], seconds["fused"])
    return {
        "model": name,
        **s,
        **{f"{way}_ms": round(1000 * statistics.median(values), 2) for way, values in seconds.items()},
        "pairs": len(faster),
        "fused_is_faster_by": round(statistics.median(faster), 3),
        "middle_half": middle_half(faster, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.projector", description=__doc__.splitlines()[0]
    )
    add_choices(parser, models=CHANNELS, default_models=list(CHANNELS))
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    varied = ("model", "memory_format", "precision", "size", "batch_size")
    for s in combinations(args, *varied, threads=args.threads):
        row = compare(s.pop("model"), s, args.pairs)
        rows.append(row)
        print(
            f"{row['model']:<13}{row['precision']:<10}{row['memory_format']:<14}{row['size']} px, batch "
            f"{row['batch_size']:>2}: projector {row['projector_ms']:.2f} ms, fused {row['fused_ms']:.2f}, fused is "
            f"{row['fused_is_faster_by']:.2f} times as fast",
            flush=True,
        )
    if args.write:
        write_json(RESULTS / "throughput" / f"{args.write}.json", {**facts(), "seed": 0, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
