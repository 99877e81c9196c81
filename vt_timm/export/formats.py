"""The formats of a model's file, by the ending of its name: how each is written and opened."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import CommandError, UserError, first_line
from ..pipelines.onnx_file import OnnxFile

ONNX, PT2, AOTI = ".onnx", ".pt2", ".aoti.pt2"
FACTS = "vt_timm.json"
INPUT, OUTPUT = "images", "logits"


def format_of(path: Path) -> str:
    """Return ONNX, PT2 or AOTI.

    Raises:
        CommandError: for another ending.
    """
    for ending in (ONNX, AOTI, PT2):  # the longer one first
        if path.name.lower().endswith(ending):
            return ending
    raise CommandError(f"{path}: name a file that ends in {ONNX}, {PT2} (torch.export) or {AOTI} (AOTInductor)")


def open_file(path: Path) -> nn.Module:
    """Return a written file as a module with the model's outputs."""
    readers: dict[str, Callable[[Path], Any]] = {ONNX: OnnxFile, PT2: torch.export.load, AOTI: _Package}
    opened = readers[format_of(path)](path)
    return opened.module() if isinstance(opened, ExportedProgram) else opened


class _Package(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.runner = torch._inductor.aoti_load_package(os.fspath(path))

    def forward(self, images: Tensor) -> Tensor:
        return self.runner(images)


class InFloat32(nn.Module):
    """A model that answers in float32, whatever it computes in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).float()


class HalfInside(InFloat32):
    """A model in 16 bits that is fed and answers in 32, so that whoever runs it need not know."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.half())

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.half())


def write_graph(
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
    with exporting(kind), _mixed_precision() if mixed else nullcontext():
        program = capture(model, example, any_size)
        if kind == PT2:
            if any_size:
                # The tracer checks how maps lie in memory, such as that none has one pixel; the graph fits all.
                program._guards_code = []
            whole = BytesIO()  # torch's own writer ends the process where a disk is full
            torch.export.save(program, whole, extra_files={FACTS: json.dumps(facts)})
            path.write_bytes(whole.getbuffer())
        elif kind == AOTI:
            # Frozen weights are stored as the processor reads them; in 8 bits nothing is found without.
            settings = {"aot_inductor.metadata": facts, "freezing": True}
            package = path.with_suffix(PT2)  # in small letters, as torch wants it
            with torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=os.fspath(package), inductor_configs=settings
                )
            package.replace(path)
        else:
            import onnx

            names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
            torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=False, **names)
            file = _with_fixed_reshapes(onnx.load(path))
            onnx.helper.set_model_props(file, facts)
            onnx.save(file, path)


@contextmanager
def exporting(kind: str) -> Iterator[None]:
    """Keep the exporters silent, and turn what they raise into one line.

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


def _with_fixed_reshapes(model: Any) -> Any:
    """Reshape by constants where the sizes allow it, instead of by sizes that are computed from the image's.

    A size that is known stays, one that the input has at the same place becomes 0 (ONNX: copy it), and one more may be
    -1 (ONNX: what is left). The exporter names free sizes, so equal names are equal sizes.
    """
    import numpy as np
    from onnx import numpy_helper
    from onnxscript.optimizer import remove_unused_nodes

    graph = model.graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if not before or not after:
            continue
        target = [
            size if isinstance(size, int) else 0 if i < len(before) and size is not None and size == before[i] else -1
            for i, size in enumerate(after)
        ]
        if target.count(-1) > 1 or 0 in after:
            continue
        name = f"{node.output[0]}_sizes"
        graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
        node.input[1] = name
        del node.attribute[:]  # its only attribute says that 0 means a size of 0
    remove_unused_nodes(model)
    return model


def _shape(value: Any) -> list[int | str | None]:
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in value.type.tensor_type.shape.dim
    ]


def capture(model: nn.Module, example: Tensor, any_size: bool) -> ExportedProgram:
    """Return the model as a graph; a model of one size, such as a ViT, leaves the batch alone free.

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


@contextmanager
def _mixed_precision() -> Iterator[None]:
    """Capture and compile in bfloat16 what is not in 8 bits, if this processor has instructions for it."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        yield


def has_bfloat16() -> bool:
    """True if this processor has instructions that multiply bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
