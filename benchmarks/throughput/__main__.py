"""Speed of VT-ResNets against the ResNets they replace, from passes timed in turn in one process.

    python -m benchmarks.throughput                                               # inference, eager, float32: print
    python -m benchmarks.throughput --precisions float32 bfloat16 --write NAME    # recorded in results/speed/
    python -m benchmarks.throughput --modes compile aot onnx                      # compiled, exported, in ONNX Runtime
    python -m benchmarks.throughput --task train                                  # forward, backward, SGD
    python -m benchmarks.throughput --sizes 224 448 896 --batch-sizes 1           # how cost grows with resolution
    python -m benchmarks.throughput --others                                      # also timm's other attention ResNets
    python -m benchmarks.throughput --before COMMIT                               # against themselves at a commit
    python -m benchmarks.throughput --device cuda --precisions bfloat16 --memory-formats channels_last \\
        --batch-sizes 1 64 256 --modes eager compile                              # on a GPU
    python -m benchmarks.throughput.stages --write NAME                           # where the time goes, and a bound
    python -m benchmarks.throughput.memory --write NAME                           # what torch allocates at the peak
    python -m benchmarks.throughput.projector --write NAME                        # whether fused attention would pay
    python -m benchmarks.throughput.startup --write NAME                          # import and create_model
    python -m benchmarks.throughput.folder FOLDER --scripts TIMM --write NAME     # classify a folder of photos
    python -m benchmarks.tables --plots                                           # pages and plots of the records

A pair is one pass of each; the ratio is the ResNet's time over the VT-ResNet's, so that above 1 the VT-ResNet is
faster; with `--before`, the earlier code's time over this one's. Printed: the median over pairs, the middle half of
them from low to high, and the ratio of MACs, which one would hope for.
"""

import argparse
import statistics
from collections import defaultdict

from ..common.measure import clock_of, in_turn, ratios, with_middle_half
from .passes import MODES, OTHERS, PEERS, Setting, build, macs_of, rounds_for
from .runner import Row, add_choices, run
from .versions import UnknownCommitError, passes_in_processes

VARIED = ("mode", "memory_format", "precision", "size", "batch_size", "model")
# Where the memory of a process happens to lie makes it a few percent faster or slower for as long as it lives.
PROCESSES = 3


def compare(name: str, peers: list[str], s: Setting, pairs: int) -> list[Row]:
    """Return a row for each peer of a VT-ResNet in one setting."""
    passes = {n: build(n, s) for n in (*peers, name)}
    rounds = rounds_for(s.batch_size, s.size, pairs)
    return summary(name, peers, s, in_turn(passes, rounds, warm_up=2, clock=clock_of(s.device)))


def compare_versions(name: str, commit: str, s: Setting, pairs: int) -> list[Row]:
    """Return a row for a model beside itself at a commit, over the passes of `PROCESSES` pairs of processes."""
    rounds = -(-rounds_for(s.batch_size, s.size, pairs) // PROCESSES)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(PROCESSES):
        with passes_in_processes(name, commit, s) as passes:
            # The processes time themselves: calling one gives its seconds.
            found = in_turn(passes, rounds, warm_up=2, clock=lambda run: run())  # type: ignore[arg-type,return-value]
            for way, values in found.items():
                seconds[way] += values
    return summary(name, [f"{name}@{commit}"], s, seconds)


def summary(name: str, peers: list[str], s: Setting, seconds: dict[str, list[float]]) -> list[Row]:
    rows = []
    for peer in peers:
        faster = ratios(seconds[peer], seconds[name])
        rows.append(
            {
                "peer": peer,
                "pairs": len(faster),
                **with_middle_half("ratio", faster),
                "macs_ratio": round(macs_of(peer, s.size) / macs_of(name, s.size), 3),
                "peer_images_per_second": round(s.batch_size / statistics.median(seconds[peer]), 1),
                "model_images_per_second": round(s.batch_size / statistics.median(seconds[name]), 1),
            }
        )
    return rows


def measure(name: str, s: Setting, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a setting; none for ONNX Runtime in bfloat16, for which it has no convolutions on a CPU."""
    if s.mode == "onnx" and s.precision != "float32":
        return []
    if args.before:
        return compare_versions(name, args.before, s, args.pairs)
    return compare(name, [PEERS[name], *(OTHERS[name] if args.others else [])], s, args.pairs)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    add_choices(parser)
    parser.set_defaults(models=["vt_resnet18", "vt_resnet50"], memory_formats=["contiguous"])
    parser.add_argument("--others", action="store_true", help="also against the attention ResNets that timm has")
    parser.add_argument("--before", metavar="COMMIT", help="against the models of the package at a commit, instead")
    parser.add_argument("--task", choices=("inference", "train"), default="inference")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=["eager"],
        help="onnx is left out in bfloat16, for which ONNX Runtime has no convolutions on a CPU",
    )
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.task == "train" and not set(args.modes) <= {"eager", "compile"}:
        parser().error("exported models do not train: leave aot and onnx out of --modes")
    try:
        run("rows", VARIED, measure, parser(), args)
    except UnknownCommitError as error:
        parser().error(str(error))


if __name__ == "__main__":
    main()
