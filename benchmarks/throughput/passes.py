"""One pass of a model in a setting, as something to call: inference or a training step, eager, compiled or exported."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

import vt_timm  # noqa: F401  registers the models

from ..common.counting import count

PEERS = {"vt_resnet18": "resnet18", "vt_resnet34": "resnet34", "vt_resnet50": "resnet50", "vt_resnet101": "resnet101"}
# The attention ResNets of the paper's Table 8 that timm has: squeeze-and-excite, and CBAM as an option of its blocks.
OTHERS = {
    "vt_resnet18": ["seresnet18", "resnet18+cbam"],
    "vt_resnet34": ["seresnet34", "resnet34+cbam"],
    "vt_resnet50": ["seresnet50", "resnet50+cbam"],
    "vt_resnet101": ["legacy_seresnet101", "resnet101+cbam"],
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compile", "aot", "onnx")
SMALLEST_ROUNDS = 5
INPUTS = 3  # batches that passes take in turn, so that no input stays in the cache from one pass to the next


@dataclass(frozen=True)
class Setting:
    """A way to run a pass of a model; `size` is that of the square images, in pixels."""

    task: str = "inference"  # or "train": forward, backward, SGD
    device: str = "cpu"
    threads: int = 1
    mode: str = "eager"  # one of MODES
    memory_format: str = "contiguous"  # a key of FORMATS
    precision: str = "float32"  # a key of PRECISIONS
    size: int = 224
    batch_size: int = 1

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def layout(self) -> torch.memory_format:
        return FORMATS[self.memory_format]


def rounds_for(batch_size: int, size: int, pairs: int) -> int:
    """Return the number of pairs: as many as asked for at batch 1 and 224 px, fewer where each takes longer."""
    return max(SMALLEST_ROUNDS, round(pairs / (batch_size * (size / 224) ** 2) ** 0.5))


def build(name: str, s: Setting) -> Callable[[], object]:
    """Return one pass of a model; all passes of a setting see the same images and start from the same seed.

    Args:
        name: name of a timm model, which is not trained; with "+cbam" and the like, its blocks have that attention.
        s: how the model is run.
    """
    torch.manual_seed(0)
    dtype, layout = s.dtype, s.layout
    base, options = base_and_options(name)
    model = timm.create_model(base, **options).to(s.device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
    shape = (s.batch_size, 3, s.size, s.size)
    images = [torch.randn(shape).to(s.device, dtype, memory_format=layout) for _ in range(INPUTS)]
    model.train(s.task == "train")
    if s.mode == "onnx":
        return _onnx_pass(model, images)
    call: Callable[[torch.Tensor], Any] = model
    if s.mode == "compile":
        call = torch.compile(model, fullgraph=True)
    elif s.mode == "aot":
        call = _ahead_of_time(model, images[0])
    turns = itertools.cycle(images)
    labels = torch.randint(1000, (s.batch_size,), device=s.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def infer() -> None:
        with torch.inference_mode():
            call(next(turns))

    def step() -> None:
        F.cross_entropy(call(next(turns)), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step if s.task == "train" else infer


def _ahead_of_time(model: nn.Module, images: torch.Tensor) -> Callable[[torch.Tensor], object]:
    """Export by torch.export, compile by AOTInductor to a package, and load that again."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        exported = torch.export.export(model, (images,))
        path = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
        return torch._inductor.aoti_load_package(path)


def _onnx_pass(model: nn.Module, images: list[torch.Tensor]) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (images[0],), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    turns: Iterator[Any] = itertools.cycle([batch.numpy() for batch in images])
    return lambda: session.run(None, {given.name: next(turns)})


def base_and_options(name: str) -> tuple[str, dict[str, Any]]:
    base, _, attention = name.partition("@")[0].partition("+")  # an earlier commit follows the @
    return base, {"block_args": {"attn_layer": attention}} if attention else {}


def macs_of(name: str, size: int) -> float:
    """Return the millions of MACs per image."""
    base, options = base_and_options(name)
    return count(base, size, **options).macs


def held_by(name: str, s: Setting) -> int:
    """Return the bytes of parameters, buffers and, in training, of SGD's momentum, which outlive a pass."""
    base, options = base_and_options(name)
    model = timm.create_model(base, device="meta", dtype=s.dtype, **options)
    momentum = model.parameters() if s.task == "train" else ()
    return sum(t.numel() * t.element_size() for t in itertools.chain(model.parameters(), model.buffers(), momentum))
