"""The kinds of file that a model is exported to, by the ending of the name; and for AOTInductor 8 bits, by torchao,
with the ranges seen on the user's photos.

In 8 bits there compute convolutions, products with constant matrices and what stands between them. All else computes in
bfloat16 where the processor multiplies it, otherwise in float32.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import CommandError, UserError, first_line

__all__ = [
    "AOTI",
    "FACTS",
    "ONNX",
    "PT2",
    "HalfInside",
    "InFloat32",
    "capture",
    "exporting",
    "has_bfloat16",
    "kind_of",
    "load_program",
    "mixed_precision",
    "quantized",
    "write",
]

ONNX, PT2, AOTI = ".onnx", ".pt2", ".aoti.pt2"
FACTS = "vt_timm.json"
INPUT, OUTPUT = "images", "logits"


class HalfInside(nn.Module):
    """A model in 16 bits that is fed and answers in 32, so that whoever runs it need not know."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.half()).float()


def kind_of(path: Path) -> str:
    """ONNX, PT2 or AOTI.

    Raises:
        CommandError: for another ending.
    """
    for kind in (ONNX, AOTI, PT2):  # the longer ending first
        if path.name.endswith(kind):
            return kind
    raise CommandError(f"{path}: name a file that ends in {ONNX}, {PT2} (torch.export) or {AOTI} (AOTInductor)")


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    kind: str,
    facts: dict[str, str],
    any_size: bool = False,
    mixed: bool = False,
) -> None:
    """Write a model for any batch, and any image size where it takes one.

    Args:
        model: in eval mode, on the CPU.
        example: a batch of at least two images, (B, channels, H, W).
        path: the file to write.
        kind: ONNX, PT2 or AOTI.
        facts: metadata; a PT2 file keeps it as an extra file, `FACTS`, in JSON.
        any_size: whether to refuse a model that takes only one size.
        mixed: whether an AOTI file computes what it can in bfloat16; a model in 8 bits does.

    Raises:
        CommandError: in one line, for a model that cannot be exported.
    """
    with exporting(kind), mixed_precision() if mixed else nullcontext():
        program = capture(model, example, any_size)
        if kind == PT2:
            if any_size:
                # The tracer checks how maps lie in memory, such as that none has one pixel; the graph fits all.
                program._guards_code = []
            torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})
        elif kind == AOTI:
            # Frozen weights are stored as the processor reads them; in 8 bits nothing is found without.
            settings = {"aot_inductor.metadata": facts, "freezing": True}
            with torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=os.fspath(path), inductor_configs=settings
                )
        else:
            names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
            torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=False, **names)
            _finish(path, facts)


@contextmanager
def exporting(kind: str) -> Iterator[None]:
    """Exporters are silent, and what they raise is one line.

    Raises:
        CommandError: for a model that cannot be exported.
    """
    for name in ("torch.onnx", "torch.utils"):  # what they say of themselves helps nobody who exports a model
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, UserError):
        raise
    except Exception as error:  # the exporters raise kinds of their own for what they cannot express
        raise CommandError(f"this model cannot be exported to {kind}: {first_line(error)}") from error


def _finish(path: Path, facts: dict[str, str]) -> None:
    import onnx

    from .quantize import with_fixed_reshapes

    file = with_fixed_reshapes(onnx.load(path))
    onnx.helper.set_model_props(file, facts)
    onnx.save(file, path)


def capture(model: nn.Module, example: Tensor, any_size: bool) -> ExportedProgram:
    """The model as a graph; a model of one size, such as a ViT, leaves the batch alone free.

    So does a model with TensorFlow's padding: torch.export does not finish on a padding that depends on the size.
    """
    batch, every = {0: Dim.AUTO}, {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    padded = [type(module).__name__ for module in model.modules() if type(module).__name__.endswith("Same")]
    if padded and any_size:
        raise ValueError(f"the padding of its {padded[0]} depends on the size of the image")
    with redirect_stderr(StringIO()):  # the tracer prints the graph that it had got to
        try:
            return torch.export.export(model, (example,), dynamic_shapes=(batch if padded else every,))
        except Exception:  # whatever the tracer meets; the second try raises it
            if any_size or padded:
                raise
        return torch.export.export(model, (example,), dynamic_shapes=(batch,))


def load_program(path: Path, kind: str) -> nn.Module:
    """A written PT2 or AOTI file as something to call."""
    if kind == PT2:
        return torch.export.load(path).module()
    return _Package(path)


class _Package(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.runner = torch._inductor.aoti_load_package(os.fspath(path))

    def forward(self, images: Tensor) -> Tensor:
        return self.runner(images)


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
