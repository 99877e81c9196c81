"""Speed and memory of VT-ResNets against the ResNets they replace, from passes timed in turn in one process.

    python -m benchmarks.throughput                                               # inference, eager, float32: print
    python -m benchmarks.throughput --precisions float32 bfloat16 --write NAME    # recorded in results/throughput/
    python -m benchmarks.throughput --modes compile aot onnx                      # compiled, exported, in ONNX Runtime
    python -m benchmarks.throughput --task train --memory                         # forward, backward, SGD; peak memory
    python -m benchmarks.throughput --sizes 224 448 896 --batch-sizes 1           # how cost grows with resolution
    python -m benchmarks.throughput --others                                      # also timm's other attention ResNets
    python -m benchmarks.throughput --device cuda --precisions bfloat16 --memory-formats channels_last \\
        --batch-sizes 1 64 256 --modes eager compile                              # on a GPU
    python -m benchmarks.throughput.stages --write NAME                           # where the time goes, and a bound
    python -m benchmarks.throughput.memory --write NAME                           # what torch allocates at the peak
    python -m benchmarks.throughput.projector --write NAME                        # whether fused attention would pay
    python -m benchmarks.throughput.startup --write NAME                          # import and create_model
    python -m benchmarks.throughput.report                                        # CSV, page and plot of the records

A pair is one pass of each; the ratio is the ResNet's time over the VT-ResNet's, so that above 1 the VT-ResNet is
faster. Printed: the median over pairs, the middle half of them, and the ratio of MACs, which one would hope for.
"""

import argparse
import statistics
import sys

import torch

from ..common.measure import clock_of, in_turn, middle_half, peak_memory, peak_of, ratios
from ..common.records import RESULTS, facts, write_json
from .passes import (
    MODES,
    OTHERS,
    PEERS,
    Setting,
    add_choices,
    build,
    combinations,
    held_by,
    macs_of,
    rounds_for,
)

MILLION_BYTES = 10**6


def compare(name: str, peers: list[str], s: Setting, pairs: int) -> list[Setting]:
    """A row for each peer of a VT-ResNet in one setting."""
    rounds = rounds_for(s["batch_size"], s["size"], pairs)
    passes = {n: build(n, s) for n in (*peers, name)}
    seconds = in_turn(passes, rounds, warm_up=2, clock=clock_of(s["device"]))
    rows = []
    for peer in peers:
        faster = ratios(seconds[peer], seconds[name])
        rows.append(
            {
                "model": name,
                "peer": peer,
                **s,
                "pairs": rounds,
                "ratio": round(statistics.median(faster), 3),
                "middle_half": middle_half(faster, 3),
                "macs_ratio": round(macs_of(peer, s["size"]) / macs_of(name, s["size"]), 3),
                "peer_images_per_second": round(s["batch_size"] / statistics.median(seconds[peer]), 1),
                "model_images_per_second": round(s["batch_size"] / statistics.median(seconds[name]), 1),
            }
        )
    return rows


def memory_of(name: str, s: Setting) -> int:
    """Bytes of weights and momentum and of what one pass needs beyond them at its peak, in a process of its own:
    resident on a CPU, allocated on a GPU.
    """
    run = build(name, s)
    run()  # libraries load what they need, and SGD makes its momentum only in a first step
    if s["device"].startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return held_by(name, s) + torch.cuda.max_memory_allocated() - before
    return held_by(name, s) + peak_of(run)


def add_memory(row: Setting, s: Setting) -> None:
    """Peaks, the middle of three processes each, since the system hands memory out in its own steps."""
    plural = {
        "mode": "modes",
        "precision": "precisions",
        "size": "sizes",
        "batch_size": "batch-sizes",
        "memory_format": "memory-formats",
    }
    flags = [text for key, value in s.items() for text in (f"--{plural.get(key, key)}", str(value))]
    for key in ("peer", "model"):
        peaks = [peak_memory("benchmarks.throughput", "--memory-of", row[key], *flags) for _ in range(3)]
        row[f"{key}_peak_megabytes"] = round(statistics.median(peaks) / MILLION_BYTES, 1)
    row["peak_of_pass"] = 2


def settings(args: argparse.Namespace) -> list[Setting]:
    varied = ("mode", "memory_format", "precision", "size", "batch_size")
    found = combinations(args, *varied, task=args.task, device=args.device, threads=args.threads)
    return [s for s in found if not (s["mode"] == "onnx" and s["precision"] != "float32")]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    add_choices(parser, default_models=["vt_resnet18", "vt_resnet50"], memory_formats=["contiguous"])
    parser.add_argument("--others", action="store_true", help="also against the attention ResNets that timm has")
    parser.add_argument("--task", choices=("inference", "train"), default="inference")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=["eager"],
        help="onnx is left out in bfloat16, for which ONNX Runtime has no convolutions on a CPU",
    )
    parser.add_argument("--pairs", type=int, default=25, help="at batch 1 and 224 px; fewer where a pass is longer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="also peak memory, in processes of their own")
    parser.add_argument("--memory-of", metavar="MODEL", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    args = parser().parse_args()
    if args.task == "train" and not set(args.modes) <= {"eager", "compile"}:
        parser().error("exported models do not train: leave aot and onnx out of --modes")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser().error(f"--device {args.device}: torch finds no GPU here")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(memory_of(args.memory_of, settings(args)[0]))
        return 0
    rows: list[Setting] = []
    head = f"{'model':<13}{'against':<19}{'mode':<8}{'precision':<10}{'layout':<15}{'px':>3}{'batch':>6}{'ratio':>7}"
    memory = "  peak MB, peer, model" if args.memory else ""
    print(f"{head}  {'middle half':<13}{'MACs':>5}{'images/s, peer, model':>23}{memory}")
    for s in settings(args):
        for name in args.models:
            peers = [PEERS[name], *(OTHERS[name] if args.others else [])]
            for row in compare(name, peers, s, args.pairs):
                if args.memory and row["peer"] == PEERS[name]:
                    add_memory(row, s)
                rows.append(row)
                print(line(row), flush=True)
    if args.write:
        write_json(RESULTS / "throughput" / f"{args.write}.json", {**facts(), "seed": 0, "rows": rows})
    return 0


def line(row: Setting) -> str:
    low, high = row["middle_half"]
    text = (
        f"{row['model']:<13}{row['peer']:<19}{row['mode']:<8}{row['precision']:<10}{row['memory_format']:<15}"
        f"{row['size']:>3}{row['batch_size']:>6}{row['ratio']:>7.2f}  {f'{low:.2f} to {high:.2f}':<13}"
        f"{row['macs_ratio']:>5.2f}{row['peer_images_per_second']:>14.1f}{row['model_images_per_second']:>9.1f}"
    )
    if "peer_peak_megabytes" in row:
        text += f"{row['peer_peak_megabytes']:>10.1f}{row['model_peak_megabytes']:>8.1f}"
    return text


if __name__ == "__main__":
    sys.exit(main())
