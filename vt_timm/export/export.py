"""From a model to one file that carries what it needs, compared with the model before it is put in place.

export(load("vt_resnet18"), "vt_resnet18", Path("vt.onnx"), Options(int8=True, calibrate="photos/"))
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CommandError, first_line
from ..images import find_images
from ..photos.models import Classifier, PhotoModel
from ..photos.onnx_file import OnnxFile
from ..photos.save import whole_file
from .compare import TOLERANCE, Scores, batches, difference, score
from .fold import folded
from .formats import ONNX, HalfInside, kind_of, load_program, write
from .metadata import describe, short_source

__all__ = ["Options", "Result", "export"]

COMPARED = 32  # photos, from the folder to validate or else to calibrate with


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    Args:
        int8: 8 bits, of an ONNX file; needs `calibrate`.
        half: 16 bits inside.
        calibrate: folder of photos, of which the ranges of the activations are taken.
        calibrate_images: how many of them.
        validate: folder with labels, on which model and file are scored.
        tolerance: largest difference of the logits, as a share of their own size; None for `compare.TOLERANCE`.
    """

    int8: bool = False
    half: bool = False
    calibrate: str | None = None
    calibrate_images: int = 256
    validate: str | None = None
    tolerance: float | None = None

    @property
    def precision(self) -> str:
        return "int8" if self.int8 else "float16" if self.half else "float32"

    def check(self, kind: str) -> None:
        """Raise a CommandError for options that do not go together."""
        if self.int8 and self.half:
            raise CommandError("--int8 and --half: choose one")
        if self.int8 and kind != ONNX:
            raise CommandError(f"--int8 writes {ONNX} files: name one")
        if self.int8 and not self.calibrate:
            raise CommandError("--int8 needs photos to measure the activations on: --calibrate FOLDER")
        if self.calibrate and not self.int8:
            raise CommandError("--calibrate belongs to --int8")
        if kind == ONNX and any(util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
            raise CommandError("ONNX files need more packages: pip install 'vt_timm[onnx]'")


@dataclass(frozen=True)
class Result:
    """The size of the file in bytes, the difference of its logits, and the scores if they were asked for."""

    size: int
    difference: float
    scores: Scores | None


def export(model: PhotoModel, name: str, path: Path, options: Options) -> Result:
    """Write a model's file, whole or not at all.

    Args:
        model: on the CPU.
        name: that it was loaded by, for the metadata.
        path: of the file; its ending says the kind.
        options: see there.

    Raises:
        CommandError: in one line, for an unknown ending, a place that cannot be written, photos that are missing, a
            model that cannot be exported, and a file that answers differently.
    """
    kind = kind_of(path)
    options.check(kind)
    if not isinstance(model, Classifier):
        raise CommandError(f"{name} is a segmenter: torch.export does not come to an end over the sizes of its levels")
    facts = describe(model, short_source(name), options.precision)
    photos = options.validate or options.calibrate
    for folder in filter(None, (options.calibrate, options.validate)):
        find_images([folder])  # one without photos is said before a minute's work
    try:
        with whole_file(path) as temporary:
            _write(model, temporary, kind, options, facts)
            file = OnnxFile(temporary) if kind == ONNX else load_program(temporary, kind)
            images = batches(model, photos, COMPARED, 4) if photos else _colours(model)
            apart = difference(model.module, file, images)
            limit = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
            if not apart <= limit:
                raise CommandError(
                    f"{path} is not written: its logits differ from the model's by {apart:.2g} of their size, more "
                    f"than the tolerance of {limit:g}"
                )
            scores = score(model, file, options.validate) if options.validate else None
            return Result(temporary.stat().st_size, apart, scores)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {first_line(error)}") from error


def _write(model: PhotoModel, path: Path, kind: str, options: Options, facts: dict[str, str]) -> None:
    module: nn.Module = folded(model.module) if kind == ONNX else copy.deepcopy(model.module)
    module.requires_grad_(False)
    example = next(_colours(model))
    write(HalfInside(module) if options.half else module, example, path, kind, facts)
    if options.int8:
        from .quantize import quantize

        assert options.calibrate is not None
        photos = batches(model, options.calibrate, options.calibrate_images)
        quantize(path, path, (batch.numpy() for batch in photos))


def _colours(model: PhotoModel) -> Iterator[Tensor]:
    """Two images without photos at hand: what the model sees of plain noise, at its own size."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    views = []
    for _ in range(2):
        pixels = torch.randint(0, 256, (48, 48, model.channels), generator=generator, dtype=torch.uint8)
        photo = Image.fromarray(pixels.squeeze(-1).numpy()).resize((320, 320), Image.Resampling.BICUBIC)
        views.append(model.input(model.view(photo)))
    yield torch.cat(views)
