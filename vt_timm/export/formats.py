"""The kinds of file that a model is exported to, by the ending of the name."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import CommandError, UserError, first_line
from .quantize_program import mixed_precision

__all__ = ["AOTI", "FACTS", "ONNX", "PT2", "HalfInside", "capture", "exporting", "kind_of", "load_program", "write"]

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

    from .graph import with_fixed_reshapes

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
