"""Inference speed of VT-ResNets over the ResNets they replace: ratios, from pairs timed in turn in one process.

    python -m benchmarks.throughput                                    # print
    python -m benchmarks.throughput --write cpu_1thread_float32        # and record under benchmarks/results/

A pair is one forward pass of each; the ratio is the ResNet's time over the VT-ResNet's, so that above 1 the VT-ResNet
is faster. Printed: the median over pairs and the middle half of them.
"""

import argparse
import statistics
import sys
import time

import timm
import torch

import vt_timm  # noqa: F401  registers the models

from .records import RESULTS, facts, write_json

PEERS = {"vt_resnet18": "resnet18", "vt_resnet34": "resnet34", "vt_resnet50": "resnet50", "vt_resnet101": "resnet101"}
WARM_UP = 2


def seconds(model: torch.nn.Module, images: torch.Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def compare(name: str, peer: str, batch_size: int, pairs: int, size: int = 224) -> dict:
    """Ratios of peer's time over model's, in eval mode, eager, float32."""
    models = [timm.create_model(n).eval() for n in (peer, name)]
    images = torch.randn(batch_size, 3, size, size)
    with torch.inference_mode():
        timed = [tuple(seconds(model, images) for model in models) for _ in range(WARM_UP + pairs)][WARM_UP:]
    ratios = [peer_time / model_time for peer_time, model_time in timed]
    low, median, high = statistics.quantiles(ratios, n=4)
    peer_times, model_times = zip(*timed, strict=True)
    return {
        "model": name,
        "peer": peer,
        "batch_size": batch_size,
        "pairs": pairs,
        "ratio": round(median, 3),
        "middle_half": [round(low, 3), round(high, 3)],
        "peer_images_per_second": round(batch_size / statistics.median(peer_times), 1),
        "model_images_per_second": round(batch_size / statistics.median(model_times), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PEERS, default=["vt_resnet18", "vt_resnet50"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--pairs", type=int, default=15, help="pairs at batch 1; fewer at larger batches, at least 7")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", metavar="NAME", help="record as benchmarks/results/throughput_NAME.json")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    rows = []
    print(f"{'model':<14}{'peer':<12}{'batch':>5}{'ratio':>8}  {'middle half':<16}{'images/s, peer and model':>26}")
    for name in args.models:
        for batch_size in args.batch_sizes:
            row = compare(name, PEERS[name], batch_size, max(7, args.pairs // batch_size))
            rows.append(row)
            low, high = row["middle_half"]
            print(
                f"{name:<14}{row['peer']:<12}{batch_size:>5}{row['ratio']:>8.2f}  {f'{low:.2f} to {high:.2f}':<16}"
                f"{row['peer_images_per_second']:>15.1f}{row['model_images_per_second']:>11.1f}"
            )
    if args.write:
        setting = {"mode": "inference, eager, float32, contiguous", "size": 224, "seed": 0}
        write_json(RESULTS / f"throughput_{args.write}.json", {**facts(), **setting, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
