"""Batch norms multiplied into the convolutions before them."""

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["fold_norms"]


def fold_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """Multiply each norm that alone reads a convolution's output into that convolution, in place.

    Which one reads which is seen while the model runs, so that it holds for every model of timm's.

    Args:
        model: a model in eval mode.
        example: a batch that it takes.
    """
    calls: Counter[nn.Module] = Counter()
    readers: Counter[int] = Counter()
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept, so that no other gets their ids
    pairs: dict[nn.Module, Any] = {}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] += 1
        for x in inputs:
            readers[id(x)] += 1
            if type(module) in (nn.BatchNorm2d, BatchNormAct2d) and id(x) in made:
                pairs[module] = made[id(x)]

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        if type(module) in (nn.Conv2d, Conv2dSame):
            made[id(output)] = module, output

    leaves = [module for module in model.modules() if not list(module.children()) or isinstance(module, BatchNormAct2d)]
    hooks = [m.register_forward_pre_hook(before) for m in leaves] + [m.register_forward_hook(after) for m in leaves]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    replaced: dict[nn.Module, nn.Module] = {}
    for norm, (convolution, output) in pairs.items():
        if readers[id(output)] == 1 and calls[norm] == calls[convolution] == 1:
            replaced[norm] = _fold(convolution, norm)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in replaced:
                setattr(module, name, replaced[child])
    return model


def _fold(convolution: Any, norm: Any) -> nn.Module:
    """Fold the norm into the convolution, and return what is left of it."""
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
