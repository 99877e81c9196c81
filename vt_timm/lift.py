"""The 1x1 lift of the VT stage (Table 11) and the memory layout that it hands on."""

import torch
import torch.fx
from timm.layers import ConvNormAct
from torch import Tensor

__all__ = ["Lift", "convolve_1x1"]


class Lift(ConvNormAct):
    """1x1 convolution, batch norm, ReLU, (B, C_in, H, W) -> (B, C, H, W), contiguous also where a channels_last map
    comes in: the VT modules read channels as rows of pixels, and each would make a copy of its own.
    """

    def __init__(self, in_chans: int, feature_dim: int, device=None, dtype=None) -> None:
        super().__init__(in_chans, feature_dim, kernel_size=1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(convolve_1x1(x, self.conv.weight))


@torch.fx.wrap  # a leaf of a traced graph: the layout is known only once there is a map
def convolve_1x1(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C_in, H, W) and (C, C_in, 1, 1) -> (B, C, H, W), contiguous."""
    # A compiler makes the copy together with the batch norm; torch.compile cannot order the strides of the product's
    # view where sizes are symbols (pytorch/pytorch issues 172204 and 185510).
    if x.is_contiguous() or torch.compiler.is_compiling():
        return torch.nn.functional.conv2d(x, weight).contiguous()
    B, _, H, W = x.shape
    # (B, C, C_in) x (B, C_in, P) -> (B, C, P): the same sum, but a product writes rows of pixels
    return torch.bmm(weight.flatten(1).expand(B, -1, -1), x.flatten(2)).view(B, -1, H, W)
