"""VT-FPN and the panoptic FPN that it replaces, for semantic segmentation (paper, section 4 and Figure 4).

Shape suffixes: B batch, C channels of the pyramid, H W height and width of a level, L tokens of a level, S tokens of
all levels, D channels of a token.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from .errors import check_positive, plain
from .projector import Projector
from .tokenizers import FilterTokenizer
from .transformer import TokenTransformer


class FPN(nn.Module):
    """Feature pyramid network: 1x1 laterals to C channels are added top-down, then each passes a 3x3 convolution.

    Args:
        in_channels: channels of the backbone's levels, finest first.
        channels: C.

    Shapes: one (B, in_channels[i], H_i, W_i) per level -> one (B, C, H_i, W_i) per level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return list(self.pyramid(OrderedDict((str(i), f) for i, f in enumerate(features))).values())


class Laterals(nn.ModuleList):
    """`X_i = bn(W_i feature_i)`: a 1x1 convolution per level, from which VT-FPN starts; nothing passes between levels.

    It is also a neck of its own: the baseline that shows what the tokens add.

    Args:
        in_channels: channels of the backbone's levels, finest first.
        channels: C.

    Shapes: one (B, in_channels[i], H_i, W_i) per level -> one (B, C, H_i, W_i) per level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__(
            Conv2dNormActivation(chans, channels, kernel_size=1, activation_layer=None) for chans in in_channels
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=1)  # as torchvision's FPN

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [lateral(feature) for lateral, feature in zip(self, features, strict=True)]


class VTFPN(nn.Module):
    """VT-FPN, Figure 4 right: one transformer relates the tokens of all levels; each level's own are projected back.

    `X_i = bn(W_i feature_i)`; `T_i = bn(tokenizer_i(X_i))`; `T_1 .. T_4 = bn(transformer(concat(T_1 .. T_4)))`;
    `X_i = projector_i(X_i, T_i)`. Nothing is added top-down and there are no 3x3 convolutions, since the tokens carry
    what the levels have to tell one another.

    The paper trains VT-FPN with synchronised batch norm and does not say where. Ours normalizes what enters a softmax,
    since a backbone's maps can have any scale. On the maps of EfficientNet-Lite0 and without norms, the softmaxes of a
    new network are saturated: each pixel reads one token alone, and no gradient passes. The norms of the tokens keep
    what tells tokens and images apart. In inference the norm after the tokenizer is a scale of W_E and a bias. The one
    after the transformer leaves eq. 5 as it is: its shift cancels in the softmax over the tokens and in the
    projector's own norm, and its scale folds into W_K and W_V.

    Args:
        in_channels: channels of the backbone's levels, finest first.
        channels: C.
        tokens: L of every level, or one number per level.
        token_dim: D.
        depth: number of transformer layers.
        num_heads: heads of the transformer.
        projector_heads: heads of the projectors; 8 have 32 channels each, as in VT-R18, and half the attention maps
            over the finest level that 16 have.
        gain: gain of the projectors' batch norms at the start; 0 starts from the laterals alone.

    Shapes: one (B, in_channels[i], H_i, W_i) per level -> one (B, C, H_i, W_i) per level.

    Raises:
        ValueError: if there are not as many numbers of tokens as levels, or the heads do not divide the channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        tokens: int | Sequence[int] = 8,
        token_dim: int = 1024,
        depth: int = 1,
        num_heads: int = 16,
        projector_heads: int = 8,
        gain: float = 0.5,
    ) -> None:
        super().__init__()
        tokens = [tokens] * len(in_channels) if isinstance(tokens, int) else list(tokens)
        if len(tokens) != len(in_channels):
            raise ValueError(f"tokens={tokens} must be one number, or one for each of the {len(in_channels)} levels")
        for number in tokens:
            check_positive("tokens", number)
        sizes = dict(token_dim=token_dim, depth=depth, num_heads=num_heads, projector_heads=projector_heads)
        for option, value in sizes.items():
            check_positive(option, value)
        if not isinstance(plain(gain), (int, float)):
            raise ValueError(f"gain={gain!r} must be a number")
        self.tokens = tokens
        self.laterals = Laterals(in_channels, channels)
        self.tokenizers = nn.ModuleList(
            FilterTokenizer(channels, token_dim, number, norm_logits=True) for number in tokens
        )
        self.token_norms: nn.ModuleList | None = nn.ModuleList(
            nn.BatchNorm2d(token_dim, affine=False) for _ in in_channels
        )
        self.transformer = nn.Sequential(*(TokenTransformer(token_dim, num_heads) for _ in range(depth)))
        self.related_norms: nn.ModuleList | None = nn.ModuleList(
            nn.BatchNorm2d(token_dim, affine=False) for _ in in_channels
        )
        self.projectors = nn.ModuleList(Projector(channels, token_dim, projector_heads, gain=gain) for _ in in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels_BCHW = self.laterals(features)
        tokens_BLD = [tokenize(level) for tokenize, level in zip(self.tokenizers, levels_BCHW, strict=True)]
        tokens_BSD = self.transformer(torch.cat(_normalize(self.token_norms, tokens_BLD), dim=1))
        tokens_BLD = _normalize(self.related_norms, tokens_BSD.split(self.tokens, dim=1))
        return [
            project(level, tokens)
            for project, level, tokens in zip(self.projectors, levels_BCHW, tokens_BLD, strict=True)
        ]


def _normalize(norms: nn.ModuleList | None, tokens_BLD: Sequence[Tensor]) -> list[Tensor]:
    """Return each level's tokens, normalized by the statistics of that level's tokens over the batch.

    Where the norms are folded into what reads the tokens there are none.
    """
    if norms is None:
        return list(tokens_BLD)
    return [
        norm(tokens.transpose(1, 2).unsqueeze(-1).contiguous()).squeeze(-1).transpose(1, 2)  # as (B, D, L, 1)
        for norm, tokens in zip(norms, tokens_BLD, strict=True)
    ]


# A neck is made as `Neck(in_channels, channels=C, **options)`: the backbone's four maps in, four of C channels out.
# One more here is a choice of `create_segmenter`, of the setting `neck`, and of whatever reads a segmenter.
NECKS = {"fpn": FPN, "vt_fpn": VTFPN, "laterals": Laterals}
