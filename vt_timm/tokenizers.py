"""Tokenizers: a feature map pooled into L visual tokens by spatial attention (paper, section 3.1, Figures 2 and 3).

Shape suffixes: B batch, C channels of the feature map, H W its height and width, P = H*W pixels,
L tokens, D channels of a token (the paper's C_T).
"""

import math

from torch import Tensor, nn

__all__ = ["FilterTokenizer", "RecurrentTokenizer", "SpatialAttention"]


class SpatialAttention(nn.Module):
    """`A = softmax_HW(logits)`: where each token looks, one map a token, each summing to one over the pixels.

    A module of its own, so that `vt_timm.record_attention` reads the maps with a forward hook.
    """

    def forward(self, logits_BLHW: Tensor) -> Tensor:
        return logits_BLHW.flatten(2).softmax(dim=-1).view(logits_BLHW.shape)


def pool_pixels(attention_BLHW: Tensor, feature_BCHW: Tensor) -> Tensor:
    """`A^T X`: each token is the attention-weighted mean of the pixels, (B, L, C)."""
    # (B, L, P) x (B, P, C) -> (B, L, C)
    return attention_BLHW.flatten(2) @ feature_BCHW.flatten(2).transpose(1, 2)


class FilterTokenizer(nn.Module):
    """Filter-based tokenizer, eq. 1: `T = softmax_HW(X W_A)^T X`, then `T W_E` where C != D.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.
        num_tokens: L.

    Shapes: X (B, C, H, W), W_A (C, L), W_E (C, D), T (B, L, D).
    """

    def __init__(self, feature_dim: int, token_dim: int, num_tokens: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        # No bias: the softmax over pixels cancels it, so it would never receive a gradient.
        self.filters = nn.Conv2d(feature_dim, num_tokens, kernel_size=1, bias=False, **dd)
        self.attention = SpatialAttention()
        self.embed = nn.Linear(feature_dim, token_dim, bias=False, **dd) if feature_dim != token_dim else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.filters.weight, std=1 / math.sqrt(self.filters.in_channels))
        if isinstance(self.embed, nn.Linear):
            nn.init.normal_(self.embed.weight, std=1 / math.sqrt(self.embed.in_features))

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        """`previous_BLD` is unused: a filter tokenizer looks for the same things in every image."""
        attention_BLHW = self.attention(self.filters(feature_BCHW))
        return self.embed(pool_pixels(attention_BLHW, feature_BCHW))


class RecurrentTokenizer(nn.Module):
    """Recurrent tokenizer, eq. 2: `W_R = T_in W_T->R`, `T = softmax_HW(X W_R / sqrt(C))^T X`; `T W_E` where C != D.

    The tokens of the module before say what this one looks for. The paper writes no 1/sqrt(C); a token and a pixel
    are both long vectors here, and unscaled logits saturate the softmax at once.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.

    Shapes: X (B, C, H, W), T_in and T (B, L, D), W_T->R (D, C), W_R (B, L, C), W_E (C, D).
    """

    def __init__(self, feature_dim: int, token_dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.scale = 1 / math.sqrt(feature_dim)
        self.to_filters = nn.Linear(token_dim, feature_dim, bias=False, **dd)
        self.attention = SpatialAttention()
        self.embed = nn.Linear(feature_dim, token_dim, bias=False, **dd) if feature_dim != token_dim else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.to_filters.weight, std=1 / math.sqrt(self.to_filters.in_features))
        if isinstance(self.embed, nn.Linear):
            nn.init.normal_(self.embed.weight, std=1 / math.sqrt(self.embed.in_features))

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        assert previous_BLD is not None, "a recurrent tokenizer needs the tokens of the module before it"
        B, _, H, W = feature_BCHW.shape
        filters_BLC = self.to_filters(previous_BLD) * self.scale
        # (B, L, C) x (B, C, P) -> (B, L, P)
        logits_BLP = filters_BLC @ feature_BCHW.flatten(2)
        attention_BLHW = self.attention(logits_BLP.view(B, -1, H, W))
        return self.embed(pool_pixels(attention_BLHW, feature_BCHW))
