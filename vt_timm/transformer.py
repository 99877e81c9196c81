"""Transformer: relations between the visual tokens (paper, section 3.2).

Shape suffixes: B batch, L tokens, D channels of a token, h heads, d = D/h channels of a head, k = d/2 channels of
its keys and queries.
"""

import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn

__all__ = ["TokenAttention", "TokenTransformer"]


class TokenTransformer(nn.Module):
    def __init__(self, dim, num_heads, drop_path=0.0, scale=True, norm=False, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        key_dim = head_dim // 2
        self.scale = 1 / math.sqrt(key_dim) if scale else 1.0
        self.qk = nn.Parameter(torch.empty(num_heads, head_dim, 2 * key_dim, **dd))
        self.f1 = nn.Linear(dim, dim, bias=False, **dd)
        self.f2 = nn.Linear(dim, dim, bias=False, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd) if norm else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, **dd) if norm else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def attend(self, tokens_BLD: Tensor) -> Tensor:
        B, L, D = tokens_BLD.shape
        t_BhLd = tokens_BLD.view(B, L, self.num_heads, -1).transpose(1, 2)
        q_BhLk, k_BhLk = torch.einsum("bhld,hdk->bhlk", t_BhLd, self.qk).chunk(2, dim=-1)
        a_BhLL = (q_BhLk @ k_BhLk.transpose(-1, -2) * self.scale).softmax(dim=-1)
        return (a_BhLL @ t_BhLd).transpose(1, 2).reshape(B, L, D)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        t = tokens_BLD + self.drop_path(self.attend(self.norm1(tokens_BLD)))
        return t + self.drop_path(self.f2(self.f1(self.norm2(t)).relu()))
