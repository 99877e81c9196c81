"""The cost of a model."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Return the multiply-accumulates for one image.

    Args:
        model: in eval mode, on any device, the meta device too.
        input_size: channels, height and width of the image.
    """
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *input_size, device=device))
    return counter.get_total_flops() // 2  # the counter counts two FLOPs per multiply-accumulate


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def in_millions(macs: int, parameters: int) -> tuple[str, str]:
    """Return MACs and parameters in millions, as every list and page writes them: rounded once, from the counts."""
    return f"{macs / 1e6:.0f}", f"{parameters / 1e6:.2f}"
