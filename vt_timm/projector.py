"""Projector: visual tokens back onto the feature map (paper, section 3.3).

Shape suffixes: B batch, C channels of the feature map, H W its height and width, P = H*W pixels, L tokens,
D channels of a token, h heads, d = e = C/h channels of a head, N = B*h.
"""

import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Projector(nn.Module):
    """Projector, eq. 5: `X_out = X + softmax_L((X W_Q)(T W_K)^T / sqrt(d)) bn(T W_V)`.

    Each pixel asks (X W_Q) which tokens it needs, by their keys (T W_K), and adds what they hold. Multi-head, so W_Q is
    block-diagonal. Heads, 1/sqrt(d), W_V (only where C != D) and the batch norm are ours. The norm's gain starts at
    `gain`; at 0 a fresh projector leaves the map as it is (see benchmarks/results/tokens/stored_maps.md).

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token.
        num_heads: h. C must be a multiple of it.
        drop_path: probability of dropping the residual branch in training.
        gain: gain of the batch norm at the start.

    Shapes: X (B, C, H, W) in and out, T (B, L, D), W_Q (h, d, d), W_K and W_V (D, C).

    Raises:
        ValueError: if `feature_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        gain: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if feature_dim % num_heads:
            raise ValueError(
                f"the feature map's channels, feature_dim={feature_dim}, must be a multiple of num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.gain = gain
        self.head_dim = feature_dim // num_heads
        self.scale = 1 / math.sqrt(self.head_dim)
        self.query = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim, **dd))
        self.key = nn.Linear(token_dim, feature_dim, bias=False, **dd)
        self.value = nn.Linear(token_dim, feature_dim, bias=False, **dd) if feature_dim != token_dim else nn.Identity()
        self.bn = nn.BatchNorm2d(feature_dim, **dd)  # 2d: the kind that timm's tools freeze, convert and synchronise
        self.attention = nn.Softmax(dim=1)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.query, std=1 / math.sqrt(self.head_dim))
        nn.init.normal_(self.key.weight, std=1 / math.sqrt(self.key.in_features))
        if isinstance(self.value, nn.Linear):
            nn.init.normal_(self.value.weight, std=1 / math.sqrt(self.value.in_features))
        nn.init.constant_(self.bn.weight, self.gain)

    def forward(self, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
        heads, d = self.num_heads, self.head_dim
        feature_NdP = feature_BCHW.flatten(2).unflatten(1, (heads, d)).flatten(0, 1)
        key_BLhd = self.key(tokens_BLD).unflatten(2, (heads, d))
        # The norm is over tokens, not pixels: L rows per image instead of P, and in inference the same affine map.
        # Contiguous, since torch's gradients through a norm of a transposed tensor are wrong under vmap.
        value_BCL1 = self.value(tokens_BLD).transpose(1, 2).unsqueeze(-1).contiguous()
        value_BCL = self.bn(value_BCL1).squeeze(-1)
        value_BCL = self.drop_path(value_BCL)  # drops or scales an image's update, which is linear in its values
        # (X W_Q) K^T = X (K W_Q^T)^T: W_Q meets L keys instead of P pixels, the same product for fewer MACs.
        # (B, L, h, e) x (h, d, e) -> (B, h, L, d)
        key_BhLd = torch.einsum("blhe,hde->bhld", key_BLhd, self.query) * self.scale
        # (N, L, d) x (N, d, P) -> (N, L, P); bmm, since matmul of four dimensions takes twice as long
        attention_NLP = self.attention(torch.bmm(key_BhLd.flatten(0, 1), feature_NdP))
        # (N, d, L) x (N, L, P) -> (N, d, P)
        update_NdP = torch.bmm(value_BCL.unflatten(1, (heads, d)).flatten(0, 1), attention_NLP)
        update_NdP += feature_NdP  # in place before the view: on a view, backward copies the gradient
        return update_NdP.view_as(feature_BCHW)
