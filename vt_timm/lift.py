"""The 1x1 lift to Table 11's channels, which the paper does not name, and the memory layout that it hands on."""

import torch
import torch.fx
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

__all__ = ["Lift", "PointwiseConv2d", "convolve_1x1"]


class Lift(nn.Module):
    """1x1 convolution, batch norm and ReLU, (B, C_in, H, W) -> (B, C, H, W).

    What comes out is contiguous, also where a channels_last map comes in: the VT modules read channels as rows of
    pixels, and otherwise each of them would make a copy of its own.
    """

    def __init__(self, in_chans: int, feature_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.conv = PointwiseConv2d(in_chans, feature_dim, device=device, dtype=dtype)
        self.bn = BatchNormAct2d(feature_dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution whose output is contiguous. As a `Conv2d` it is found by hooks, adapters and pruning."""

    def __init__(self, in_chans: int, out_chans: int, device=None, dtype=None) -> None:
        super().__init__(in_chans, out_chans, kernel_size=1, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_1x1(x, self.weight, self.bias)  # a folded batch norm leaves a bias


@torch.fx.wrap  # a leaf of a traced graph: the layout is known only once there is a map
def convolve_1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A map (B, C_in, H, W) by a weight (C, C_in, 1, 1) and a bias (C) -> (B, C, H, W), contiguous."""
    # A compiler makes the copy together with the batch norm; torch.compile cannot order the strides of the product's
    # view where sizes are symbols (pytorch/pytorch issues 172204 and 185510).
    if x.is_contiguous() or torch.compiler.is_compiling():
        return torch.nn.functional.conv2d(x, weight, bias).contiguous()
    B, _, H, W = x.shape
    # (B, C, C_in) x (B, C_in, P) -> (B, C, P): the same sum, but a product writes rows of pixels
    product_BCP = torch.bmm(weight.flatten(1).expand(B, -1, -1), x.flatten(2))
    if bias is not None:
        product_BCP = product_BCP + bias[:, None]
    return product_BCP.view(B, -1, H, W)
