"""Depthwise convolutions in float32 where the rest of a training step is in bfloat16 on a CPU."""

import functools

import torch
from torch import Tensor, nn

__all__ = ["keep_depthwise_in_float32"]


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Take the depthwise convolutions out of autocast.

    oneDNN's gradient of a depthwise convolution takes up to five times as long in bfloat16 as in float32, which made
    up a third of a training step with an EfficientNet. All other layers gain from bfloat16.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # On the instance and bound by partial, so that a deep copy (as of averaged weights) gets its own.
            module.forward = functools.partial(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(module: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(module).forward(module, x.float())
