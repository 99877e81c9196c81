"""One pass of a model in a setting, as something to call: inference or a training step, eager, compiled or exported;
and passes of this package's models as they were at an earlier commit, each version in a process of its own.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

import vt_timm  # registers the models

from ..common.counting import count
from ..common.measure import clock_of

__all__ = [
    "FORMATS",
    "MODES",
    "OTHERS",
    "PEERS",
    "PRECISIONS",
    "Setting",
    "UnknownCommitError",
    "build",
    "held_by",
    "macs_of",
    "passes_in_processes",
    "rounds_for",
]

ROOT = Path(__file__).resolve().parents[2]
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
    """How a pass of a model is run; `size` is that of the square images, in pixels."""

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
    """The number of pairs: as many as asked for at batch 1 and 224 px, fewer where each takes longer."""
    return max(SMALLEST_ROUNDS, round(pairs / (batch_size * (size / 224) ** 2) ** 0.5))


def build(name: str, s: Setting) -> Callable[[], object]:
    """One pass of a model; all passes of a setting see the same images and start from the same seed.

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
    if s.task == "train":
        return _training_step(model, images, s.mode)
    model.eval()
    if s.mode == "onnx":
        return _onnx_pass(model, images)
    call: Callable[[torch.Tensor], object] = model
    if s.mode == "compile":
        call = torch.compile(model, fullgraph=True)
    elif s.mode == "aot":
        call = _ahead_of_time(model, images[0])
    turns = itertools.cycle(images)

    def infer() -> None:
        with torch.inference_mode():
            call(next(turns))

    return infer


def _training_step(model: nn.Module, images: list[torch.Tensor], mode: str) -> Callable[[], object]:
    labels = torch.randint(1000, (len(images[0]),), device=images[0].device)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9)
    call = torch.compile(model, fullgraph=True) if mode == "compile" else model
    turns = itertools.cycle(images)

    def step() -> None:
        F.cross_entropy(call(next(turns)), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ahead_of_time(model: nn.Module, images: torch.Tensor) -> Callable[[torch.Tensor], object]:
    """torch.export, compiled by AOTInductor to a package that is loaded again."""
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
    """Millions of MACs per image."""
    base, options = base_and_options(name)
    return count(base, size, **options).macs


def held_by(name: str, s: Setting) -> int:
    """Bytes of parameters, buffers and, in training, of SGD's momentum: what is there before a pass and after it."""
    base, options = base_and_options(name)
    model = timm.create_model(base, device="meta", dtype=s.dtype, **options)
    momentum = model.parameters() if s.task == "train" else ()
    return sum(t.numel() * t.element_size() for t in itertools.chain(model.parameters(), model.buffers(), momentum))


class UnknownCommitError(ValueError):
    """git has no such commit, or none with this package."""


@contextlib.contextmanager
def passes_in_processes(name: str, commit: str, setting: Setting) -> Iterator[dict[str, "Pass"]]:
    """A pass of the model with the package at `commit`, and one with the package as it lies here, both in processes
    that wait for each other: what a process costs is the same for both.

    Yields:
        the pass before under the name "NAME@COMMIT", the one now under NAME; calling one gives the seconds that it took

    Raises:
        UnknownCommitError: if git has no such commit, or it has no package `vt_timm`.
    """
    archive = subprocess.run(["git", "archive", commit, "vt_timm"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise UnknownCommitError(f"--before {commit}: {archive.stderr.decode().strip()}")
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        before = stack.enter_context(Pass(name, setting, Path(folder)))
        yield {f"{name}@{commit}": before, name: stack.enter_context(Pass(name, setting, ROOT))}


class Pass:
    """A process that has built a model with the package of a folder and makes a pass whenever it is called."""

    def __init__(self, name: str, setting: Setting, package: Path) -> None:
        # PYTHONSAFEPATH: the current folder would come before that of the earlier package.
        environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, json.dumps(asdict(setting)), str(package)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process of a pass ended early; what it printed stands above")
        return float(answer)

    def __enter__(self) -> "Pass":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, at which it ends


def serve(name: str, setting: Setting, package: Path) -> None:
    """Make a pass per line of standard input and print the seconds that it took."""
    if not Path(vt_timm.__file__).is_relative_to(package):
        raise RuntimeError(f"vt_timm was imported from {vt_timm.__file__} instead of {package}")
    torch.set_num_threads(setting.threads)
    run, clock = build(name, setting), clock_of(setting.device)
    for _ in sys.stdin:
        print(clock(run), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Setting(**json.loads(sys.argv[2])), Path(sys.argv[3]))
