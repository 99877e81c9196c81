"""Relations between the visual tokens: the transformer (paper, section 3.2), and Table 5's graph convolution.

Shape suffixes: B batch, L tokens, D channels of a token, h heads, d = D/h channels of a head, k = d/2 channels of a
head's query or key, N = B*L, M = h*B.
"""

import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class TokenTransformer(nn.Module):
    """Transformer, `T' = T + softmax_L((T K)(T Q)^T / sqrt(k)) T` (eq. 3), `T_out = T' + relu(T' F1) F2` (eq. 4).

    Eq. 3 has neither 1/sqrt(k) nor heads; both are those of "Attention is all you need": head i reads and mixes its own
    D/h channels, so K and Q are block-diagonal and there is no value projection. Dense D x D maps would exceed the MACs
    of Table 8.

    Args:
        token_dim: D, channels of a token.
        num_heads: h. D must be a multiple of 2h.
        drop_path: probability of dropping each residual branch in training.

    Shapes: T (B, L, D) in and out, K and Q (h, d, k), F1 and F2 (D, D).

    Raises:
        ValueError: if `token_dim` is not a multiple of `2 * num_heads`.
    """

    def __init__(self, token_dim: int, num_heads: int, drop_path: float = 0.0, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if token_dim % (2 * num_heads):
            below = token_dim // (2 * num_heads) * 2 * num_heads
            nearest = f"{below} or {below + 2 * num_heads}" if below else str(2 * num_heads)
            raise ValueError(
                f"token_dim={token_dim} must be a multiple of 2 * num_heads = {2 * num_heads}, such as {nearest}"
            )
        self.num_heads = num_heads
        self.head_dim = token_dim // num_heads
        self.scale = 1 / math.sqrt(self.head_dim / 2)
        # K and Q side by side, so that one product computes both.
        self.key_query = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim, **dd))
        self.attention = nn.Softmax(dim=-1)
        self.f1 = nn.Linear(token_dim, token_dim, bias=False, **dd)
        self.f2 = nn.Linear(token_dim, token_dim, bias=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.key_query, std=1 / math.sqrt(self.head_dim))
        nn.init.normal_(self.f1.weight, std=1 / math.sqrt(self.f1.in_features))
        nn.init.zeros_(self.f2.weight)  # eq. 4 starts as the identity, like timm's residual blocks

    def relate(self, tokens_BLD: Tensor) -> Tensor:
        """Return the second term of eq. 3: every token gathers from every token."""
        B, L, D = tokens_BLD.shape
        h, d = self.num_heads, self.head_dim
        # Heads first in memory, so that no product below copies its operands.
        tokens_hNd = tokens_BLD.reshape(B * L, h, d).transpose(0, 1).contiguous()
        # (h, N, d) x (h, d, 2k) -> (h, N, 2k)
        key_MLk, query_MLk = torch.bmm(tokens_hNd, self.key_query).view(h * B, L, d).chunk(2, dim=-1)
        # (M, L, k) x (M, k, L) -> (M, L, L)
        attention_MLL = self.attention(torch.bmm(key_MLk, query_MLk.transpose(1, 2)) * self.scale)
        # (M, L, L) x (M, L, d) -> (M, L, d)
        related_MLd = torch.bmm(attention_MLL, tokens_hNd.view(h * B, L, d))
        return related_MLd.view(h, B, L, d).permute(1, 2, 0, 3).reshape(B, L, D)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BLD = tokens_BLD + self.drop_path(self.relate(tokens_BLD))
        return tokens_BLD + self.drop_path(self.f2(self.f1(tokens_BLD).relu()))


class GraphConvolution(nn.Module):
    """Graph convolution of Table 5, the baseline of GloRe and LatentGNN: `T_out = T + A T`.

    A is learned and the same for every image, so that token l must mean the same everywhere. GloRe's D x D state
    update is left out, since Table 5's graph convolution has no more parameters than no relation at all.

    Args:
        num_tokens: L.
        drop_path: probability of dropping the residual branch in training.

    Shapes: T (B, L, D) in and out, A (L, L).
    """

    def __init__(self, num_tokens: int, drop_path: float = 0.0, device=None, dtype=None) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.empty(num_tokens, num_tokens, device=device, dtype=dtype))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.adjacency)  # starts as the identity, like the transformer's eq. 4

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        # (L, L) x (B, L, D) -> (B, L, D)
        return tokens_BLD + self.drop_path(self.adjacency @ tokens_BLD)
