import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Projector(nn.Module):
    def __init__(self, feature_dim, token_dim, num_heads, softmax_heads=16, drop_path=0.0, scale=True, bn=False, device=None, dtype=None):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.num_heads = num_heads
        self.softmax_heads = softmax_heads
        head_dim = feature_dim // num_heads
        self.scale = 1 / math.sqrt(feature_dim / softmax_heads) if scale else 1.0
        self.query = nn.Parameter(torch.empty(num_heads, head_dim, head_dim, **dd))
        self.key = nn.Linear(token_dim, feature_dim, bias=False, **dd)
        self.value = nn.Linear(token_dim, feature_dim, bias=False, **dd) if feature_dim != token_dim else nn.Identity()
        self.bn = nn.BatchNorm2d(feature_dim, **dd) if bn else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
        B, C, H, W = feature_BCHW.shape
        L = tokens_BLD.shape[1]
        h = self.softmax_heads
        x_BhdP = feature_BCHW.view(B, h, -1, H * W) if feature_BCHW.is_contiguous() else feature_BCHW.flatten(2).unflatten(1, (h, -1))
        keys = self.key(tokens_BLD).view(B, L, self.num_heads, -1)
        keys = torch.einsum("blhe,hde->blhd", keys, self.query).reshape(B, L, h, -1).transpose(1, 2)
        a_BhLP = (keys @ x_BhdP * self.scale).softmax(dim=2)
        v_BhdL = self.value(tokens_BLD).view(B, L, h, -1).permute(0, 2, 3, 1)
        out = (v_BhdL @ a_BhLP).view(B, C, H, W)
        return feature_BCHW + self.drop_path(self.bn(out))
