"""The visual transformer of Figure 1: feature map -> tokenizer -> transformer -> projector -> feature map.

Shape suffixes: B batch, C channels of the feature map, H W its height and width, L tokens, D channels of a token.
"""

import torch
from timm.layers import ConvNormAct
from timm.models import checkpoint
from torch import Tensor, nn

from .projector import Projector
from .tokenizers import FilterTokenizer, RecurrentTokenizer
from .transformer import TokenTransformer

__all__ = ["VTModule", "VTStage"]


class VTModule(nn.Module):
    """One VT module, Figure 1: `T = transformer(tokenizer(X, T_in))`, `X_out = projector(X, T)`.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token.
        num_tokens: L.
        num_heads: heads of transformer and projector.
        recurrent: recurrent tokenizer (eq. 2), which needs tokens of a module before, or filter tokenizer (eq. 1).
        projector: whether the tokens go back onto the map (eq. 5); without, the map passes unchanged.
        drop_path: probability of dropping a residual branch in training.

    Shapes: X (B, C, H, W) in and out, T_in and T (B, L, D).
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        num_heads: int,
        recurrent: bool,
        projector: bool,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.tokenizer: nn.Module
        if recurrent:
            self.tokenizer = RecurrentTokenizer(feature_dim, token_dim, **dd)
        else:
            self.tokenizer = FilterTokenizer(feature_dim, token_dim, num_tokens, **dd)
        self.transformer = TokenTransformer(token_dim, num_heads, drop_path, **dd)
        self.projector = Projector(feature_dim, token_dim, num_heads, drop_path, **dd) if projector else None

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens_BLD = self.tokenizer(feature_BCHW, previous_BLD)
        tokens_BLD = self.transformer(tokens_BLD)
        if self.projector is not None:
            feature_BCHW = self.projector(feature_BCHW, tokens_BLD)
        return feature_BCHW, tokens_BLD


class VTStage(nn.Module):
    """The stage that replaces a ResNet's last (Table 11): a 1x1 lift where the channels change, then VT modules.

    Args:
        in_chans: channels that come in; a 1x1 convolution lifts them to `feature_dim` where they differ.
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token.
        num_tokens: L.
        num_heads: heads of transformer and projector.
        drop_path: one probability a module; their number is the number of modules.
        last_projector: whether the last module has a projector. A classifier reads the tokens alone, so there it
            would be an unused parameter; a backbone hands out the map and has it.

    Shapes: (B, in_chans, H, W) -> feature map (B, C, H, W), tokens (B, L, D).
    """

    def __init__(
        self,
        in_chans: int,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        num_heads: int,
        drop_path: list[float],
        last_projector: bool,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.grad_checkpointing = False
        self.lift = ConvNormAct(in_chans, feature_dim, 1, **dd) if in_chans != feature_dim else nn.Identity()
        last = len(drop_path) - 1
        self.blocks = nn.ModuleList(
            VTModule(
                feature_dim,
                token_dim,
                num_tokens,
                num_heads,
                recurrent=i > 0,
                projector=i < last or last_projector,
                drop_path=rate,
                **dd,
            )
            for i, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature_BCHW = self.lift(x)
        tokens_BLD: Tensor | None = None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                feature_BCHW, tokens_BLD = checkpoint(block, feature_BCHW, tokens_BLD)
            else:
                feature_BCHW, tokens_BLD = block(feature_BCHW, tokens_BLD)
        assert tokens_BLD is not None
        return feature_BCHW, tokens_BLD
