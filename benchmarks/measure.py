"""Time and memory, always against a peer in the same run: single figures of one machine say little."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["in_turn", "middle_half", "peak_memory", "peak_of", "ratios"]


def in_turn(ways: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every round of each way; they take turns, so that what slows the machine down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(peer: list[float], ours: list[float]) -> list[float]:
    """How many times faster ours was, round by round."""
    return [a / b for a, b in zip(peer, ours, strict=True)]


def middle_half(values: list[float], digits: int) -> list[float]:
    """First and third quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, digits), round(high, digits)]


def peak_of(run: Callable[[], object]) -> int:
    """Bytes by which one call raises the resident size of this process over what it was (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_bytes()
    run()
    return _resident_bytes() - before


def peak_memory(module: str, *arguments: str) -> int:
    """What `python -m MODULE ARGUMENTS` prints, in a process of its own: bytes, as measured there by `peak_of`."""
    command = [sys.executable, "-m", module, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))  # Linux says kB
