"""The attention of tokens and pixels: the softmaxes of eqs. 1, 2, 6 and 5 (Figures 5 and 7)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .errors import check_choice
from .projector import Projector
from .tokenizers import GridAttention, SpatialAttention

ATTENTION = ("tokenizer", "projector")


@contextmanager
def record_attention(model: nn.Module, of: str = "tokenizer") -> Iterator[list[Tensor]]:
    """Record every VT module's attention while the model runs.

    >>> import torch, vt_timm
    >>> model = vt_timm.vt_resnet_micro().eval()
    >>> with vt_timm.record_attention(model) as maps:
    ...     logits = model(torch.randn(2, 3, 64, 64))
    >>> [tuple(attention.shape) for attention in maps]
    [(2, 16, 4, 4), (2, 16, 4, 4)]

    Args:
        model: a VT-ResNet or a VT-FPN segmenter.
        of: "tokenizer" records where each token looks, the spatial attention A of eqs. 1, 2 and 6: a map sums to one
            over H and W. "projector" records which tokens each pixel reads, the softmax of eq. 5 averaged over the
            heads: a pixel's weights sum to one over L. A classifier's last module has no projector.

    Yields a list that each forward pass of this thread fills anew: for each tokenizer or projector, in order, a tensor
    (B, L, H, W) at feature resolution, detached. In VT-FPN there is one per level of the pyramid, finest first.

    Raises:
        ValueError: if the model has none of them, or for another `of`.
    """
    check_choice("of", of, ATTENTION)
    if not isinstance(model, nn.Module):
        raise TypeError(f"a {type(model).__name__} is no network: give its .module, or call its attention(photo)")
    kinds: Any = (SpatialAttention, GridAttention) if of == "tokenizer" else Projector
    modules = [m for m in model.modules() if isinstance(m, kinds)]
    if not modules:
        raise ValueError(f"{type(model).__name__} has no VT module with a {of} whose attention could be recorded")
    maps: list[Tensor] = []

    def record(index: int, attention_BLHW: Tensor) -> None:
        maps[index : index + 1] = [attention_BLHW.detach()]  # in place of that of the pass before, or one more

    hooks = []
    for index, module in enumerate(modules):
        if of == "tokenizer":
            hooks.append(module.register_forward_hook(_here(lambda _m, _args, out, i=index: record(i, out))))
        else:
            hooks += _projector_hooks(module, lambda attention, i=index: record(i, attention))
    compiled = any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in model.modules())
    try:
        # A compiled model runs as it was written: hooks set later are not compiled in.
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _projector_hooks(projector: Any, record: Any) -> list[Any]:
    """Hook the projector's softmax, which gives (B*h, L, P), and the projector, which alone knows B, H and W."""
    latest: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, attention_NLP: Tensor) -> None:
        latest[:] = [attention_NLP]

    def reshape(_module: nn.Module, args: Any, _out: Tensor) -> None:
        B, _, H, W = args[0].shape
        record(latest.pop().unflatten(0, (B, projector.num_heads)).mean(dim=1).unflatten(2, (H, W)))

    return [projector.attention.register_forward_hook(_here(keep)), projector.register_forward_hook(_here(reshape))]


def _here(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that leaves the passes of other threads, with photos of their own, alone."""
    mine = threading.get_ident()

    def run(*args: Any) -> None:
        if threading.get_ident() == mine:
            hook(*args)

    return run
