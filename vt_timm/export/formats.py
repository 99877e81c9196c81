"""The formats of a model's file, by the ending of its name."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CommandError
from ..pipelines.onnx_file import OnnxFile

__all__ = ["AOTI", "ONNX", "PT2", "format_of", "open_file"]

ONNX, PT2, AOTI = ".onnx", ".pt2", ".aoti.pt2"


def format_of(path: Path) -> str:
    """Return ONNX, PT2 or AOTI.

    Raises:
        CommandError: for another ending.
    """
    for ending in (ONNX, AOTI, PT2):  # the longer one first
        if path.name.endswith(ending):
            return ending
    raise CommandError(f"{path}: name a file that ends in {ONNX}, {PT2} (torch.export) or {AOTI} (AOTInductor)")


def open_file(path: Path) -> nn.Module:
    """Return a written file as a module with the model's outputs."""
    opened = {ONNX: OnnxFile, PT2: lambda program: torch.export.load(program).module(), AOTI: _Package}
    return opened[format_of(path)](path)


class _Package(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.runner = torch._inductor.aoti_load_package(os.fspath(path))

    def forward(self, images: Tensor) -> Tensor:
        return self.runner(images)
