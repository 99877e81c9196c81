"""Measure what `import vt_timm` costs beyond `import timm`, and `create_model` of a VT-ResNet against its ResNet.

    python -m benchmarks.throughput.startup --write startup

Each import runs in a fresh process, timm before vt_timm; models are built in turn in one process, without weights.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial

import timm

from ..common.measure import in_turn, middle_half, ratios, with_middle_half
from .passes import PEERS
from .runner import Row, keep

IMPORTS = """
import time
start = time.perf_counter()
import timm
between = time.perf_counter()
import vt_timm
print(between - start, time.perf_counter() - between)
"""


def import_seconds() -> tuple[float, float]:
    """Measure how long importing timm takes, and vt_timm after it, in a process of its own."""
    # An installed package comes with its bytecode; where Python may not write any, a clone would compile every time.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True, env=env)
    first, second = map(float, done.stdout.split())
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.startup", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", metavar="NAME", help="record under this name in benchmarks/results/speed/")
    args = parser.parse_args()
    import_seconds()  # bytecode onto the disk, files into the system's cache
    pairs = [import_seconds() for _ in range(args.rounds)]
    extra = [1000 * ours for _, ours in pairs]
    low, high = middle_half(extra, 0)
    rows: list[Row] = [
        {"what": "import timm", "ms": round(1000 * statistics.median(timms for timms, _ in pairs))},
        {"what": "import vt_timm after timm", "ms": round(statistics.median(extra)), "low": low, "high": high},
    ]
    print(f"import vt_timm: {rows[1]['ms']} ms more than import timm ({rows[0]['ms']} ms)")
    for name, peer in PEERS.items():
        ways = {n: partial(timm.create_model, n) for n in (peer, name)}
        seconds = in_turn(ways, args.rounds)
        row: Row = {"what": "create_model", "model": name, "peer": peer}
        row |= with_middle_half("times_the_peer", ratios(seconds[name], seconds[peer]))
        row["ms"] = round(1000 * statistics.median(seconds[name]))
        rows.append(row)
        print(f"create_model of {name}: {row['times_the_peer']:.2f} times {peer}'s, {row['ms']} ms")
    if args.write:
        keep(args.write, "startup", rows)


if __name__ == "__main__":
    main()
