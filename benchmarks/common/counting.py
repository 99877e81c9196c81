"""Count MACs and parameters of models: convolutions and matrix products, by torch's counter on meta tensors."""

import functools
import json
from typing import Any, NamedTuple

import timm
import torch
from timm.models.resnet import Bottleneck
from torch.utils.flop_counter import FlopCounterMode

import vt_timm
from vt_timm.cost import count_parameters

from .paper_tables import FPNRow


class Cost(NamedTuple):
    """MACs and parameters, both in millions."""

    macs: float
    params: float


def count(name: str, size: int = 224, **options: Any) -> Cost:
    """Count MACs and parameters of a timm model for an image of size x size pixels."""
    return _count(name, size, json.dumps(options))[0]


def count_stage5(name: str, size: int = 224) -> Cost:
    """Count MACs and parameters of a ResNet's last stage alone, or of the VT stage in its place."""
    return _count(name, size, "{}")[1]


@functools.cache
def _count(name: str, size: int, options: str) -> tuple[Cost, Cost]:
    model = timm.create_model(name, device="meta", **json.loads(options)).eval()
    counter = _counted(model, (size, size))
    by_module = counter.get_flop_counts()
    stage5 = "vt_stage" if hasattr(model, "vt_stage") else "layer4"
    return (
        Cost(counter.get_total_flops() / 2e6, count_parameters(model) / 1e6),
        Cost(
            sum(by_module.get(f"{type(model).__name__}.{stage5}", {}).values()) / 2e6,
            count_parameters(getattr(model, stage5, torch.nn.Identity())) / 1e6,
        ),
    )


def _counted(model: torch.nn.Module, size: tuple[int, int]) -> FlopCounterMode:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"))
    return counter


class SegmenterCost(NamedTuple):
    """MACs in thousand millions: of the whole, of the neck alone, and of the whole with a backbone as Detectron2's."""

    total: float
    neck: float
    total_stride_in_1x1: float


@functools.cache
def count_segmenter(row: FPNRow) -> SegmenterCost:
    """Count the MACs of a segmenter of Tables 9 and 10.

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
    counter = _counted(model, size)
    return counter.get_total_flops() / 2e9, sum(counter.get_flop_counts()["Segmenter.neck"].values()) / 2e9
