"""A model in an ONNX file as a module of torch's, so that all that takes a model takes the file."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CommandError, first_line

PREFIX = "vt_timm."  # our keys in a file's metadata begin with it; others may write there too


class OnnxFile(nn.Module):
    """A file of `vt-timm export`, run by ONNX Runtime on the CPU, on as many threads as torch has.

    It has what a classifier of timm's, or a segmenter, tells of itself: classes, colours, size.

    Raises:
        CommandError: in one line, for a file that cannot be read or that another program wrote.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise CommandError("an ONNX file needs onnxruntime: pip install 'vt_timm[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises kinds of its own for a file that is missing, cut or foreign
            raise CommandError(f"cannot load {path}: {first_line(error)}") from error
        written = self.session.get_modelmeta().custom_metadata_map  # by `export.write_file.describe`
        facts = {key.removeprefix(PREFIX): json.loads(v) for key, v in written.items() if key.startswith(PREFIX)}
        if "kind" not in facts:
            raise CommandError(f"{path} does not say what its classes are: write it with `vt-timm export`")
        self.input_name = self.session.get_inputs()[0].name
        self.class_names: list[str] = facts["class_names"]
        self.num_classes, self.in_chans = len(self.class_names), facts["in_chans"]
        self.is_segmenter = facts["kind"] == "segmenter"
        self.short_side: int | list[int] | None = facts.get("short_side")
        self.normalization = {key: tuple(facts[key]) for key in ("mean", "std")}
        self.pretrained_cfg = {**facts, "label_names": self.class_names, "num_classes": self.num_classes}
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)  # tells the module's device

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it as the file's name: ONNX Runtime's session is of this process alone."""
        return OnnxFile, (self.path,)

    def forward(self, images: Tensor) -> Tensor:
        if not len(images):  # of which ONNX Runtime cannot work out a size that is left to it
            return self(images.new_zeros(1, *images.shape[1:]))[:0]
        (output,) = self.session.run(None, {self.input_name: images.detach().cpu().float().numpy()})
        return torch.from_numpy(output)
