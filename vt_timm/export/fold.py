"""The VT modules with everything constant multiplied out: the same function in fewer, larger products.

A runtime pays for every node, and sixteen tokens are little work for one. What does not depend on the image is folded
into the weights before a model is exported; the equations stay those of the paper.

Shape suffixes: B batch, L tokens, D channels of a token, C channels of the feature map, P pixels, h heads,
d = D/h or C/h channels of a head.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..lift import Lift
from ..projector import Projector
from ..tokenizers import RecurrentTokenizer
from ..transformer import TokenTransformer

__all__ = ["FoldedProjector", "FoldedTransformer", "folded"]


class FoldedTransformer(nn.Module):
    """Eqs. 3 and 4 with `A = K Q^T / sqrt(k)` as one matrix per head: `T' = T + softmax_L(T A T^T) T`.

    Shapes: T (B, L, D) in and out, A (h, d, d).
    """

    def __init__(self, source: TokenTransformer) -> None:
        super().__init__()
        self.num_heads, self.f1, self.f2 = source.num_heads, source.f1, source.f2
        key_hdk, query_hdk = source.key_query.detach().chunk(2, dim=-1)
        # (h, d, k) x (h, k, d) -> (h, d, d)
        self.relation = nn.Parameter(torch.bmm(key_hdk, query_hdk.transpose(1, 2)) * source.scale)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BhLd = tokens_BLD.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        # (B, h, L, d) x (h, d, d) x (B, h, d, L) -> (B, h, L, L)
        attention_BhLL = (tokens_BhLd @ self.relation @ tokens_BhLd.transpose(2, 3)).softmax(dim=-1)
        tokens_BLD = tokens_BLD + (attention_BhLL @ tokens_BhLd).transpose(1, 2).flatten(2)
        return tokens_BLD + self.f2(self.f1(tokens_BLD).relu())


class FoldedProjector(nn.Module):
    """Eq. 5 with `W_K W_Q^T / sqrt(d)` as one map of the tokens, and the norm of the values inside W_V.

    Shapes: X (B, C, H, W) in and out, T (B, L, D).
    """

    def __init__(self, source: Projector) -> None:
        super().__init__()
        self.num_heads, self.head_dim = source.num_heads, source.head_dim
        feature_dim, token_dim = source.key.weight.shape
        dd: dict[str, Any] = {"device": source.key.weight.device, "dtype": source.key.weight.dtype}
        with torch.no_grad():
            self.key = nn.Linear(token_dim, feature_dim, bias=False, **dd)
            key_hdD = source.key.weight.unflatten(0, (self.num_heads, self.head_dim))
            # (h, d, e) x (h, e, D) -> (h, d, D)
            self.key.weight.copy_((torch.bmm(source.query, key_hdD) * source.scale).flatten(0, 1))
            gain = source.bn.weight * torch.rsqrt(source.bn.running_var + source.bn.eps)  # type: ignore[operator,arg-type]
            weight = source.value.weight if isinstance(source.value, nn.Linear) else torch.eye(feature_dim, **dd)
            self.value = nn.Linear(token_dim, feature_dim, **dd)
            self.value.weight.copy_(gain[:, None] * weight)
            self.value.bias.copy_(source.bn.bias - gain * source.bn.running_mean)  # type: ignore[operator]

    def forward(self, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        feature_BhdP = feature_BCHW.flatten(2).unflatten(1, heads)
        key_BhLd = self.key(tokens_BLD).unflatten(2, heads).transpose(1, 2)
        value_BhdL = self.value(tokens_BLD).unflatten(2, heads).permute(0, 2, 3, 1)
        # (B, h, L, d) x (B, h, d, P) -> (B, h, L, P), then (B, h, d, L) x (B, h, L, P) -> (B, h, d, P)
        update_BhdP = value_BhdL @ (key_BhLd @ feature_BhdP).softmax(dim=2)
        return feature_BCHW + update_BhdP.reshape(feature_BCHW.shape)


def _folded_lift(lift: Lift) -> nn.Module:
    """Convolution and norm as one: an exporter sees the map's size asked for between them and leaves them apart."""
    weight, bias = fuse_conv_bn_weights(
        lift.conv.weight, lift.conv.bias, lift.bn.running_mean, lift.bn.running_var, lift.bn.eps,  # type: ignore[arg-type]
        lift.bn.weight, lift.bn.bias,
    )  # fmt: skip
    convolution = nn.Conv2d(lift.conv.in_channels, lift.conv.out_channels, kernel_size=1)
    convolution.weight, convolution.bias = weight, bias
    return nn.Sequential(convolution, copy.deepcopy(lift.bn.act))


def folded(model: nn.Module) -> nn.Module:
    """A copy of a model for inference in which every VT module is folded; other modules stay as they are."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TokenTransformer):
                setattr(module, name, FoldedTransformer(child))
            elif isinstance(child, Projector):
                setattr(module, name, FoldedProjector(child))
            elif isinstance(child, Lift):
                setattr(module, name, _folded_lift(child))
        if isinstance(module, RecurrentTokenizer):
            with torch.no_grad():
                module.to_filters.weight.mul_(module.scale)
            module.scale = 1.0
    return model
