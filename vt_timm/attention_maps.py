"""Where the tokens look: the tokenizers' spatial attention A of eqs. 1, 2 and 6, as in the paper's Figures 5 and 7."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .tokenizers import GridAttention, SpatialAttention

__all__ = ["record_attention"]


@contextmanager
def record_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record every VT module's spatial attention while the model runs.

        with vt_timm.record_attention(model) as maps:
            model(images)

    Yields a list that each forward pass fills anew: for each VT module, in order, a tensor (B, L, H, W) at feature
    resolution, detached, that sums to one over H and W.

    Raises:
        ValueError: if the model has no tokenizer with spatial attention.
    """
    attentions = [m for m in model.modules() if isinstance(m, (SpatialAttention, GridAttention))]
    if not attentions:
        raise ValueError(f"{type(model).__name__} has no VT module whose attention could be recorded")
    maps: list[Tensor] = []

    def record(index: int, attention_BLHW: Tensor) -> None:
        if index < len(maps):
            maps[index] = attention_BLHW.detach()
        else:
            maps.append(attention_BLHW.detach())

    hooks = [
        module.register_forward_hook(lambda _module, _args, output, index=i: record(index, output))
        for i, module in enumerate(attentions)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
