"""What `import vt_timm` costs beyond `import timm`, and `create_model` of a VT-ResNet against its ResNet.

    python -m benchmarks.throughput.startup --write startup

Each import runs in a fresh process, timm before vt_timm; models are built in turn in one process, without weights.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import timm

from ..common.measure import in_turn, middle_half, ratios
from ..common.records import RESULTS, facts, write_json
from .passes import PEERS

IMPORTS = """
import time
start = time.perf_counter()
import timm
between = time.perf_counter()
import vt_timm
print(between - start, time.perf_counter() - between)
"""


def import_seconds() -> tuple[float, float]:
    """Of timm, and of vt_timm after it, in a process of its own."""
    # An installed package comes with its bytecode; where Python may not write any, a clone would compile every time.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True, env=env)
    first, second = map(float, done.stdout.split())
    return first, second


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.startup", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", metavar="NAME", help="record as benchmarks/results/throughput/NAME.json")
    args = parser.parse_args()
    import_seconds()  # bytecode onto the disk, files into the system's cache
    pairs = [import_seconds() for _ in range(args.rounds)]
    extra = [1000 * ours for _, ours in pairs]
    result = {
        "import_timm_ms": round(1000 * statistics.median(timms for timms, _ in pairs)),
        "extra_import_ms": round(statistics.median(extra)),
        "extra_import_middle_half_ms": middle_half(extra, 0),
    }
    rows: list[dict[str, Any]] = []
    print(f"import vt_timm: {result['extra_import_ms']} ms more than import timm ({result['import_timm_ms']} ms)")
    for name, peer in PEERS.items():
        ways = {n: partial(timm.create_model, n) for n in (peer, name)}
        seconds = in_turn(ways, args.rounds)
        slower = ratios(seconds[name], seconds[peer])
        row: dict[str, Any] = {"model": name, "peer": peer, "times_the_peer": round(statistics.median(slower), 3)}
        row |= {"middle_half": middle_half(slower, 3), "model_ms": round(1000 * statistics.median(seconds[name]))}
        rows.append(row)
        print(f"create_model of {name}: {row['times_the_peer']:.2f} times {peer}'s, {row['model_ms']} ms")
    if args.write:
        write_json(RESULTS / "throughput" / f"{args.write}.json", {**facts(), **result, "create_model": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
