"""8 bits for AOTInductor: static quantisation by torchao, with the ranges seen on the user's photos.

Convolutions, products with constant matrices and what stands between them compute in 8 bits. All else computes in
bfloat16 where the processor multiplies it, otherwise in float32.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

__all__ = ["InFloat32", "has_bfloat16", "mixed_precision", "quantized"]


def quantized(program: ExportedProgram, batches: Iterable[Tensor]) -> nn.Module:
    """A captured model with every activation and weight rounded to 8 bits where the compiler computes in them.

    Args:
        program: the model, as `torch.export.export` captures it.
        batches: normalised photos (B, channels, H, W), from which the range of every activation is taken.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    captured: Any = program.module(check_guards=False)  # calls of the checks would be taken for computations
    with torch.no_grad():
        observed = prepare_pt2e(captured, quantizer)
        for batch in batches:
            observed(batch)
        return InFloat32(convert_pt2e(observed))


class InFloat32(nn.Module):
    """A model that answers in float32, whatever it computes in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).float()


@contextmanager
def mixed_precision() -> Iterator[None]:
    """What is not in 8 bits is captured and compiled in bfloat16, if this processor has instructions for it."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        yield


def has_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
