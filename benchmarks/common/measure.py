"""What models cost. MACs and parameters are counted by torch (convolutions and matrix products) on meta tensors. Time
and memory are measured, always against a peer in the same run: single figures of one machine say little.
"""

import ctypes
import functools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models.resnet import Bottleneck
from torch.utils.flop_counter import FlopCounterMode

import vt_timm

from .paper_tables import FPNRow

__all__ = [
    "Cost",
    "SegmenterCost",
    "allocated_peak_of",
    "clock_of",
    "count",
    "count_segmenter",
    "count_stage5",
    "in_its_own_process",
    "in_turn",
    "middle_half",
    "peak_of",
    "ratios",
]


Run = Callable[[], object]


class Cost(NamedTuple):
    """MACs and parameters, both in millions."""

    macs: float
    params: float


def count(name: str, size: int = 224, **options: Any) -> Cost:
    """MACs and parameters of a timm model for an image of size x size pixels."""
    return _count(name, size, json.dumps(options))[0]


def count_stage5(name: str, size: int = 224) -> Cost:
    """MACs and parameters of a ResNet's last stage alone, or of the VT stage in its place."""
    return _count(name, size, "{}")[1]


@functools.cache
def _count(name: str, size: int, options: str) -> tuple[Cost, Cost]:
    model = timm.create_model(name, device="meta", **json.loads(options)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    by_module = counter.get_flop_counts()
    stage5 = "vt_stage" if hasattr(model, "vt_stage") else "layer4"
    return (
        Cost(counter.get_total_flops() / 2e6, _millions(model)),
        Cost(
            sum(by_module.get(f"{type(model).__name__}.{stage5}", {}).values()) / 2e6,
            _millions(getattr(model, stage5, torch.nn.Identity())),
        ),
    )


def _millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


class SegmenterCost(NamedTuple):
    """MACs in thousand millions: of the whole, of the neck alone, and of the whole with a backbone as Detectron2's."""

    total: float
    neck: float
    total_stride_in_1x1: float


@functools.cache
def count_segmenter(row: FPNRow) -> SegmenterCost:
    """A segmenter of Tables 9 and 10.

    Detectron2's ResNet halves the map in the first 1x1 convolution of a stage, timm's in the 3x3, which is dearer.
    """
    with torch.device("meta"):
        model = vt_timm.create_segmenter(row.kind, row.backbone, row.num_classes).eval()
    total, neck = _count_segmenter(model, row.size)
    for block in model.backbone.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return SegmenterCost(total, neck, _count_segmenter(model, row.size)[0])


def _count_segmenter(model: torch.nn.Module, size: tuple[int, int]) -> tuple[float, float]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2e9, sum(counter.get_flop_counts()["Segmenter.neck"].values()) / 2e9


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
    ways: Mapping[str, Run], rounds: int, warm_up: int = 1, clock: Callable[[Run], float] = seconds_of
) -> dict[str, list[float]]:
    """Seconds of every round of each way; they take turns, so that what slows the machine down slows all of them."""
    for _ in range(warm_up):
        for run in ways.values():
            clock(run)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seconds[name].append(clock(run))
    return seconds


def ratios(peer: list[float], ours: list[float]) -> list[float]:
    """How many times faster ours was, round by round."""
    return [a / b for a, b in zip(peer, ours, strict=True)]


def middle_half(values: list[float], digits: int) -> list[float]:
    """First and third quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, digits), round(high, digits)]


def peak_of(run: Run) -> int:
    """Bytes by which one call raises the resident size of this process over what it was (Linux with glibc only)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back to the system, or the call would reuse it unseen
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_bytes()
    run()
    return _resident_bytes() - before


def allocated_peak_of(run: Run) -> int:
    """Bytes by which one call raises what torch holds on the CPU, at its peak: the same every time, unlike `peak_of`,
    but without what libraries keep for themselves and without what malloc cannot give back.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def in_its_own_process(measure: Callable[..., int], *arguments: object) -> int:
    """What a function of a module returns in a fresh process, such as bytes by `peak_of`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))  # Linux says kB
