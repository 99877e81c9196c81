"""Measure time and memory, always against a peer in the same run: single figures of one machine say little."""

import ctypes
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], object]


def seconds_of(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def gpu_seconds_of(run: Run) -> float:
    """Time a call by the GPU's own events, from an idle GPU until what the call queued is done."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def clock_of(device: str) -> Callable[[Run], float]:
    return gpu_seconds_of if device.startswith("cuda") else seconds_of


def in_turn(
    ways: Mapping[Any, Run], rounds: int, warm_up: int = 1, clock: Callable[[Run], float] = seconds_of
) -> dict[Any, list[float]]:
    """Time every round of each way; they take turns, so that what slows the machine down slows all of them."""
    for _ in range(warm_up):
        for run in ways.values():
            clock(run)
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seconds[name].append(clock(run))
    return seconds


def ratios(peer: list[float], ours: list[float]) -> list[float]:
    """Return how many times faster ours was, round by round."""
    return [a / b for a, b in zip(peer, ours, strict=True)]


def middle_half(values: list[float], digits: int) -> list[float]:
    """Return the first and third quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, digits), round(high, digits)]


def with_middle_half(name: str, values: list[float]) -> dict[str, float]:
    """Return the median of values under a name, and the middle half of them as "low" and "high"."""
    low, high = middle_half(values, 3)
    return {name: round(statistics.median(values), 3), "low": low, "high": high}


def peak_of(run: Run) -> int:
    """Return by how many bytes a call raises this process's resident size over what it was (Linux with glibc only)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back to the system, or the call would reuse it unseen
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_bytes()
    run()
    return _resident_bytes() - before


def allocated_peak_of(run: Run) -> int:
    """Return by how many bytes a call raises what torch holds on the CPU, at its peak: the same every time, unlike
    `peak_of`, but without what libraries keep for themselves and without what malloc cannot give back.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def in_its_own_process(measure: Callable[..., int], *arguments: object) -> int:
    """Return what a function of a module returns in a fresh process, such as bytes by `peak_of`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))  # Linux says kB
