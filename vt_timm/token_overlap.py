"""A loss in training that asks tokens to look at different places.

Shape suffixes: B batch, L tokens, H W the feature map's height and width, P = H*W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .tokenizers import SpatialAttention


def token_overlap(maps: Sequence[Tensor]) -> Tensor:
    """Return how much the maps A of eqs. 1, 2 and 6 overlap: the mean cosine of two of a module's maps.

    `1 / (L (L - 1)) sum_(i != j) A_i . A_j / (|A_i| |A_j|)`, averaged over images and VT modules: 0 if no pixel is
    looked at by two tokens, 1 if all tokens look at the same pixels. The paper has no such loss. Without it, nothing
    asks a classifier's tokens to differ: its head takes their mean (benchmarks/results/tokens/stored_maps.md).

    Args:
        maps: (B, L, H, W) of each VT module, as `record_attention` gives them, but with their gradients.

    Raises:
        ValueError: for modules of one token.
    """
    overlaps = []
    for map_BLHW in maps:
        unit_BLP = F.normalize(map_BLHW.flatten(2), dim=-1)
        L = unit_BLP.shape[1]
        if L < 2:
            raise ValueError("a single token overlaps with no other: num_tokens must be at least 2")
        # (B, L, P) x (B, P, L) -> (B, L, L), with ones on the diagonal
        cosine_BLL = unit_BLP @ unit_BLP.transpose(1, 2)
        overlaps.append((cosine_BLL.sum(dim=(1, 2)) - L).mean() / (L * (L - 1)))
    return sum(overlaps[1:], overlaps[0]) / len(overlaps)


def add_token_overlap(task: nn.Module, model: nn.Module, weight: float) -> None:
    """Add `weight` times `token_overlap` to the loss of one of timm's training tasks.

    The model stays as it is: the maps are read by forward hooks, in training alone.

    Args:
        task: as timm's `ClassificationTask`, which returns a dict with the key "loss".
        model: the model that it trains.
        weight: of the overlap in the loss.

    Raises:
        ValueError: for a model with no tokenizer of eqs. 1, 2 or 6.
    """
    tokenizers = [m for m in model.modules() if isinstance(m, SpatialAttention)]
    if not tokenizers:
        raise ValueError(
            f"{type(model).__name__} has no tokens whose maps are learned, so that they could overlap less"
        )
    maps: dict[int, Tensor] = {}

    def add(_task: nn.Module, _args: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
        if not task.training:
            return output
        overlap = token_overlap([maps.pop(index) for index in sorted(maps)])
        return {**output, "loss": output["loss"] + weight * overlap, "token_overlap": overlap.detach()}

    for index, tokenizer in enumerate(tokenizers):
        tokenizer.register_forward_hook(lambda _m, _args, out, i=index: maps.update({i: out}))
    task.register_forward_hook(add)
