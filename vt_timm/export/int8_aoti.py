"""8 bits for AOTInductor: static quantisation by torchao, with the ranges seen on the user's photos.

In 8 bits there compute convolutions, products with constant matrices and what stands between them. All else computes in
bfloat16 where the processor multiplies it, otherwise in float32.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .formats import AOTI, InFloat32, capture, exporting


@exporting(AOTI)
def quantize(model: nn.Module, example: Tensor, any_size: bool, batches: Iterable[Tensor]) -> nn.Module:
    """Return a captured model with every activation and weight rounded to 8 bits where the compiler computes in them.

    Args:
        model, example, any_size: as for `write_graph`.
        batches: normalised photos (B, channels, H, W), from which the range of every activation is taken.

    Raises:
        CommandError: in one line, for a model that cannot be exported.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    program = capture(model, example, any_size)
    captured: Any = program.module(check_guards=False)  # calls of the checks would be taken for computations
    with torch.no_grad():
        observed = prepare_pt2e(captured, quantizer)
        for batch in batches:
            observed(batch)
        return InFloat32(convert_pt2e(observed))
