"""Rates of their own for parts of a network, as factors of an optimizer's rate."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import did_you_mean
from .checks import ScriptError

LR_SCALE = "--lr-scale"


def check_factors(factors: Any, sched: str) -> None:
    """Refuse factors that are no positive numbers, and a training without a schedule, in which timm applies none."""
    if not isinstance(factors, Mapping):
        raise ScriptError(f"{LR_SCALE} {factors}: give PART=FACTOR, such as vt_stage.blocks=0.25")
    for part, factor in factors.items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise ScriptError(f"{LR_SCALE} {part}={factor}: the factor is a number above 0")
    if factors and sched == "none":
        raise ScriptError(f"{LR_SCALE} needs a schedule of the rate, which applies it: leave out --sched none")


def scale_rates(optimizer: Optimizer, model: nn.Module, factors: Mapping[str, float]) -> None:
    """Give parts of a model a rate of their own: `lr_scale` of their parameter groups, which timm's schedules apply.

    Args:
        optimizer: a new one of the model's parameters, by timm's factory. Each of its groups is split.
        model: names the parameters.
        factors: by dotted name of a module or parameter; of two parts that hold a parameter the longer name counts.

    Raises:
        ScriptError: no parameter belongs to a part.
    """
    parts = sorted(factors, key=len)
    parts_of = {id(p): [part for part in parts if f".{part}." in f".{name}."] for name, p in model.named_parameters()}
    for part in parts:
        if not any(part in found for found in parts_of.values()):
            names = [name for name, _ in model.named_modules() if name]
            near = did_you_mean(part, [*names, *(name.rpartition(".")[2] for name in names)])
            raise ScriptError(f"{LR_SCALE} {part}: the model has no trained part of this name{near}")
    groups = []
    for group in optimizer.param_groups:
        by_part: dict[str, list[nn.Parameter]] = {}
        for p in group["params"]:
            by_part.setdefault(parts_of[id(p)][-1] if parts_of[id(p)] else "", []).append(p)
        for part, params in by_part.items():
            scale = {"lr_scale": group.get("lr_scale", 1.0) * factors[part]} if part else {}
            groups.append({**group, **scale, "params": params})
    optimizer.param_groups[:] = groups
