"""The visual transformer of Figure 1: feature map -> tokenizer -> transformer -> projector -> feature map. Before the
first of a stage stands the 1x1 lift to Table 11's channels, which the paper does not name.

Shape suffixes: B batch, C channels of the feature map, H W its height and width, P = H W pixels, L tokens, D channels
of a token.
"""

import math
from typing import Any

import torch
import torch.fx
from timm.models import checkpoint
from torch import Tensor, nn

from .errors import check_choice, check_positive
from .projector import Projector
from .tokenizers import ClusteringTokenizer, FilterTokenizer, PoolingTokenizer, RecurrentTokenizer
from .transformer import GraphConvolution, TokenTransformer

TOKENIZERS = {"filter": FilterTokenizer, "cluster": ClusteringTokenizer, "pool": PoolingTokenizer}
RELATIONS = ("transformer", "graph", "none")


class VTModule(nn.Module):
    """One VT module, Figure 1: `T = transformer(tokenizer(X, T_in))`, `X_out = projector(X, T)`.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token.
        num_tokens: L.
        num_heads: heads of transformer and projector.
        tokenizer: "filter" (eq. 1), "cluster" (eq. 6), "pool" (Table 3), or "recurrent" (eq. 2), which needs the
            tokens of the module before.
        relation: what relates the tokens, "transformer" (eqs. 3, 4), "graph" or "none" (Table 5).
        projector: whether the tokens go back onto the map (eq. 5); without a projector the map passes unchanged.
        drop_path: probability of dropping a residual branch in training.
        competition: whether the tokens compete for pixels (`SpatialAttention`); "pool" cannot.
        projector_gain: gain of the projector's batch norm at the start.

    Shapes: X (B, C, H, W) in and out, T_in and T (B, L, D).
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        num_heads: int,
        tokenizer: str,
        relation: str,
        projector: bool,
        drop_path: float = 0.0,
        competition: bool = False,
        projector_gain: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__()
        learned = dd if tokenizer == "pool" else {**dd, "competition": competition}
        self.tokenizer: nn.Module
        if tokenizer == "recurrent":
            self.tokenizer = RecurrentTokenizer(feature_dim, token_dim, **learned)
        else:
            self.tokenizer = TOKENIZERS[tokenizer](feature_dim, token_dim, num_tokens, **learned)
        self.transformer: nn.Module  # whatever relates the tokens, under Figure 1's name for it
        if relation == "transformer":
            self.transformer = TokenTransformer(token_dim, num_heads, drop_path, **dd)
        elif relation == "graph":
            self.transformer = GraphConvolution(num_tokens, drop_path, **dd)
        else:
            self.transformer = nn.Identity()
        gain = projector_gain
        self.projector = Projector(feature_dim, token_dim, num_heads, drop_path, gain, **dd) if projector else None

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
        depth: number of VT modules.
        drop_path: probability of dropping a residual branch, one for all or one per module.
        tokenizer: tokenizer of the first module, "filter", "cluster" or "pool" (Table 3).
        recurrent: whether the later modules' tokenizers are recurrent, or all are of the first's kind (Table 4).
        relation: what relates the tokens, "transformer", "graph" or "none" (Table 5).
        projector: whether tokens go back onto the map (Table 7).
        last_projector: whether they do in the last module too. A classifier reads the tokens alone, so there it
            would be an unused parameter; a backbone hands out the map and has it.
        pool_map: whether the map that is handed out is averaged to half its size, so that it has the stride of the
            stage that this one replaces.
        competition: whether tokens compete for pixels (`SpatialAttention`), which the paper does not have. The cells
            of "pool" are fixed.
        projector_gain: gain of the projectors' batch norms at the start. At 0 a fresh stage hands on the lifted map.

    Shapes: (B, in_chans, H, W) -> feature map (B, C, H, W), with `pool_map` half as high and wide; tokens (B, L, D).

    Raises:
        ValueError: for a value that is not among those named, a `drop_path` of another length than `depth`, channels
            that the heads do not divide, or two options that exclude each other.
    """

    def __init__(
        self,
        in_chans: int,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        num_heads: int,
        depth: int,
        drop_path: float | list[float] = 0.0,
        tokenizer: str = "filter",
        recurrent: bool = True,
        relation: str = "transformer",
        projector: bool = True,
        last_projector: bool = False,
        pool_map: bool = False,
        competition: bool = False,
        projector_gain: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        check_choice("tokenizer", tokenizer, TOKENIZERS)
        check_choice("relation", relation, RELATIONS)
        flags = {
            "recurrent": recurrent, "projector": projector, "last_projector": last_projector, "competition": competition
        }  # fmt: skip
        for option, flag in flags.items():
            if not isinstance(flag, bool):
                raise ValueError(f"{option}={flag!r} must be True or False")
        if competition and tokenizer == "pool":
            raise ValueError('competition=True and tokenizer="pool": the cells of a grid have no pixels to compete for')
        number = isinstance(projector_gain, (int, float)) and not isinstance(projector_gain, bool)
        if not number or not 0 <= projector_gain < math.inf:
            raise ValueError(f"projector_gain={projector_gain!r} must be a number from 0")
        if projector_gain and not projector:
            raise ValueError(f"projector=False and projector_gain={projector_gain}: there is no projector to start")
        depth = check_positive("depth", depth)
        num_tokens = check_positive("num_tokens", num_tokens)
        token_dim = check_positive("token_dim", token_dim)
        num_heads = check_positive("num_heads", num_heads)
        rates = list(drop_path) if isinstance(drop_path, (list, tuple)) else [drop_path] * depth
        if len(rates) != depth:
            raise ValueError(f"drop_path={drop_path} must be one number, or one for each of the {depth} modules")
        if not projector and last_projector:
            raise ValueError("projector=False and last_projector=True: the last module cannot have what none has")
        if not projector and not recurrent and depth > 1:
            raise ValueError(
                "projector=False and recurrent=False: nothing would read the tokens of any module but the last; "
                "set one of the two to True"
            )
        self.grad_checkpointing = False
        self.pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if pool_map else nn.Identity()
        self.lift = Lift(in_chans, feature_dim, **dd) if in_chans != feature_dim else nn.Identity()
        last = depth - 1
        self.blocks = nn.ModuleList(
            VTModule(
                feature_dim,
                token_dim,
                num_tokens,
                num_heads,
                tokenizer="recurrent" if recurrent and i > 0 else tokenizer,
                relation=relation,
                projector=projector and (i < last or last_projector),
                drop_path=rate,
                competition=competition,
                projector_gain=projector_gain,
                **dd,
            )
            for i, rate in enumerate(rates)
        )

    def keep_map_only(self) -> None:
        """Drop a last module without projector: its tokens reach the head alone, and get no gradient without one.

        Raises:
            ValueError: if no module has a projector.
        """
        if all(block.projector is None for block in self.blocks):
            raise ValueError("projector=False: without projectors the tokens never reach the feature map")
        if self.blocks[-1].projector is None:
            self.blocks = self.blocks[:-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature_BCHW = self.lift(x)
        tokens_BLD: Tensor | None = None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                feature_BCHW, tokens_BLD = checkpoint(block, feature_BCHW, tokens_BLD)
            else:
                feature_BCHW, tokens_BLD = block(feature_BCHW, tokens_BLD)
        assert tokens_BLD is not None
        return self.pool(feature_BCHW), tokens_BLD


class Lift(nn.Module):
    """1x1 convolution, batch norm and ReLU, (B, C_in, H, W) -> (B, C, H, W).

    What comes out is contiguous, also where a channels_last map comes in: the VT modules read channels as rows of
    pixels, and otherwise each of them would make a copy of its own.
    """

    def __init__(self, in_chans: int, feature_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.conv = PointwiseConv2d(in_chans, feature_dim, device=device, dtype=dtype)
        self.bn = nn.BatchNorm2d(feature_dim, device=device, dtype=dtype)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution whose output is contiguous. As a `Conv2d` it is found by hooks, adapters and pruning."""

    def __init__(self, in_chans: int, out_chans: int, device=None, dtype=None) -> None:
        super().__init__(in_chans, out_chans, kernel_size=1, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_1x1(x, self.weight, self.bias)  # a folded batch norm leaves a bias


@torch.fx.wrap  # a leaf of a traced graph: the layout is known only once there is a map
def convolve_1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply a map (B, C_in, H, W) by a weight (C, C_in, 1, 1) and a bias (C) -> (B, C, H, W), contiguous."""
    # A compiler makes the copy together with the batch norm; torch.compile cannot order the strides of the product's
    # view where sizes are symbols (pytorch/pytorch issues 172204 and 185510).
    if x.is_contiguous() or torch.compiler.is_compiling():
        return torch.nn.functional.conv2d(x, weight, bias).contiguous()
    B, _, H, W = x.shape
    # (B, C, C_in) x (B, C_in, P) -> (B, C, P): the same sum, but a product writes rows of pixels
    product_BCP = torch.bmm(weight.flatten(1).expand(B, -1, -1), x.flatten(2))
    if bias is not None:
        product_BCP = product_BCP + bias[:, None]
    return product_BCP.view(B, weight.shape[0], H, W)
