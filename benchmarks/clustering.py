"""The clustering tokenizer's k-means against the paper's Listing 1 taken literally: time and peak memory in one run.

    python -m benchmarks.clustering            # print
    python -m benchmarks.clustering --write    # and record in benchmarks/results/records.json

Batch 32, a 14 x 14 x 512 feature map, 16 tokens, one thread, float32. The two take turns; memory is each one's peak
resident size over what its process, which is fresh, had before (Linux only).
"""

import argparse
import json
import statistics
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vt_timm.tokenizers import grid_attention, kmeans, pool_pixels

from .common.measure import in_its_own_process, in_turn, middle_half, peak_of, ratios
from .common.records import keep_record

BATCH, CHANNELS, SIZE, TOKENS, ITERATIONS = 32, 512, 14, 16, 6


def listing_1(x_nchw: Tensor, num_tokens: int, iterations: int) -> Tensor:
    """Listing 1 line by line, with its two slips mended: U is normalised once it exists, and a parenthesis closed."""
    n, c, h, w = x_nchw.size()
    side = round(num_tokens**0.5)
    u_ncl = F.adaptive_avg_pool2d(x_nchw, (side, side)).view(n, c, num_tokens)
    x_ncp = x_nchw.reshape(n, c, h * w)
    u_ncl = F.normalize(u_ncl, dim=1)
    x_ncp = F.normalize(x_ncp, dim=1)
    for _ in range(iterations):
        dist_npl = (x_ncp[..., None] - u_ncl[:, :, None, :]).norm(dim=1)
        mask_npl = (dist_npl == dist_npl.min(dim=2, keepdim=True).values).to(x_ncp.dtype)
        u_ncl = x_ncp.matmul(mask_npl)
        u_ncl = u_ncl / mask_npl.sum(dim=1, keepdim=True)
        u_ncl = F.normalize(u_ncl, dim=1)
    return u_ncl


def ours(x_nchw: Tensor, num_tokens: int, iterations: int) -> Tensor:
    """The same centroids, (B, C, L), as `ClusteringTokenizer` finds them."""
    side = round(num_tokens**0.5)
    seeds = pool_pixels(grid_attention(x_nchw, side, side), x_nchw)
    return kmeans(x_nchw.flatten(2), seeds, iterations).transpose(1, 2)


WAYS = {"listing_1": listing_1, "ours": ours}


def feature_map() -> Tensor:
    """A map that is smooth in space and not negative, as a network's are, so that the clusters are not all noise."""
    coarse = torch.randn(BATCH, CHANNELS, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").relu()


def memory_of(way: str) -> int:
    """Peak resident bytes of one call; to be called once, in a process of its own."""
    torch.set_num_threads(1)
    x = feature_map()
    WAYS[way](x[:1], TOKENS, 1)  # libraries load what they need
    return peak_of(lambda: WAYS[way](x, TOKENS, ITERATIONS))


def measure(pairs: int) -> dict:
    torch.set_num_threads(1)
    x = feature_map()
    difference = (ours(x, TOKENS, ITERATIONS) - listing_1(x, TOKENS, ITERATIONS)).abs().max().item()
    seconds = in_turn({way: partial(run, x, TOKENS, ITERATIONS) for way, run in WAYS.items()}, pairs)
    faster = ratios(seconds["listing_1"], seconds["ours"])
    memory = {way: in_its_own_process(memory_of, way) for way in WAYS}
    return {
        "shape": [BATCH, CHANNELS, SIZE, SIZE],
        "tokens": TOKENS,
        "iterations": ITERATIONS,
        "pairs": pairs,
        "milliseconds_median": {way: round(statistics.median(values) * 1e3, 1) for way, values in seconds.items()},
        "times_faster_median": round(statistics.median(faster), 1),
        "times_faster_middle_half": middle_half(faster, 1),
        "peak_megabytes": {way: round(value / 2**20, 1) for way, value in memory.items()},
        "times_less_memory": round(memory["listing_1"] / memory["ours"], 1),
        "largest_difference_of_centroids": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="how often the two take turns")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    result = measure(args.pairs)
    print(json.dumps(result, indent=2))
    if args.write:
        keep_record("records.json", "clustering", result)


if __name__ == "__main__":
    main()
