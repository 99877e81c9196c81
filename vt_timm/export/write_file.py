"""The way from a model to one file, which is compared with the model before it is put in place.

    write_file(load("vt_resnet18"), Path("vt.onnx"), Options(int8=True, calibrate="photos/"))

The file's metadata say all that is needed to use it, and where its weights come from.
"""

import json
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import torch

from .. import __version__
from ..errors import CommandError
from ..files import whole_file, without_folders, writing
from ..pipelines.onnx_file import PREFIX
from ..pipelines.pipeline import Pipeline, read_mode
from ..segmentation.settings import Settings
from .batches import batches, photos_below, samples
from .comparison import Difference, Scores, check_difference, measure_difference, score
from .formats import AOTI, ONNX, PT2, HalfInside, InFloat32, format_of, has_bfloat16, open_file, write_graph

COMPARED = 32  # photos on which model and file are compared, from the folder to validate or else to calibrate with


@dataclass(frozen=True)
class Options:
    """The options of an export.

    Args:
        int8: True for a file that computes in 8 bits; for ONNX and AOTInductor, with `calibrate`.
        half: True for one that computes in 16 bits, float16 or in AOTInductor bfloat16; it is fed and answers in 32.
        calibrate: folder of photos, on which the ranges of the activations are measured.
        calibrate_images: how many of them.
        validate: folder of labelled photos, on which model and file are scored.
        settings: settings of a segmenter's training, which say what the masks of `validate` mean.
        tolerance: largest difference of the logits, as a share of their own size, and largest share of a segmenter's
            pixels with another label; None for those of `comparison`.
    """

    int8: bool = False
    half: bool = False
    calibrate: str | None = None
    calibrate_images: int = 256
    validate: str | None = None
    settings: Settings | None = None
    tolerance: float | None = None

    def precision(self, format: str) -> str:
        """Return what a file of this format computes in: float32, float16, bfloat16 or int8."""
        return "int8" if self.int8 else "float32" if not self.half else "bfloat16" if format == AOTI else "float16"

    def check(self, format: str) -> None:
        """Raise a CommandError for options that do not go together."""
        if self.int8 and self.half:
            raise CommandError("--int8 and --half: choose one")
        if self.int8 and format == PT2:
            raise CommandError(f"--int8 writes {ONNX} and {AOTI} files: name one")
        if self.int8 and not self.calibrate:
            raise CommandError("--int8 needs photos to measure the activations on: --calibrate FOLDER")
        if self.half and format == AOTI and not has_bfloat16():
            raise CommandError(
                f"--half: {AOTI} files compute in bfloat16, which this processor does not multiply; leave it out"
            )
        if self.calibrate and not self.int8:
            raise CommandError("--calibrate belongs to --int8")
        if format == ONNX and any(util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
            raise CommandError("ONNX files need more packages: pip install 'vt_timm[onnx]'")
        if self.int8 and format == AOTI and util.find_spec("torchao") is None:
            raise CommandError(f"8 bits in {AOTI} files need torchao: pip install 'vt_timm[int8]'")


@dataclass(frozen=True)
class Written:
    """The size of the file in bytes, the difference of its outputs, and the scores if they were asked for."""

    size: int
    difference: Difference
    scores: Scores | None


def write_file(model: Pipeline, path: Path, options: Options) -> Written:
    """Write a model's file, whole or not at all.

    Args:
        model: a model on the CPU.
        path: the file to write; its ending says the format.
        options: how it is exported.

    Raises:
        CommandError: in one line, for an unknown ending, a place that cannot be written, photos that are missing, a
            model that cannot be exported, and a file that answers differently.
        UserError: likewise, for data to validate with that is not complete.
    """
    format = format_of(path)
    options.check(format)
    if model.in_file:
        raise CommandError(f"{model.name} is a file already: name the model that it was exported from")
    dtype = next((weight.dtype for weight in model.module.parameters()), torch.float32)
    if dtype != torch.float32:
        raise CommandError(f"the network is in {dtype}: call its .module.float() first; half=True keeps 16 bits of it")
    if options.calibrate or options.validate:
        read_mode(model)  # photos of other channels are refused before a minute's work
    calibration = photos_below(options.calibrate) if options.calibrate else []
    validation = model.validation(options.validate, options.settings) if options.validate else None
    photos = validation.photos if validation else calibration
    precision = options.precision(format)
    with writing(str(path)), whole_file(path) as temporary:
        _write(model, temporary, format, options, describe(model, precision), calibration)
        file = open_file(temporary)
        images = batches(model, photos, COMPARED, 4) if photos else samples(model)
        difference = measure_difference(model.run, file, images)
        check_difference(path, difference, precision, options.tolerance)
        scores = score(model, file, validation) if validation else None
        return Written(temporary.stat().st_size, difference, scores)


def describe(model: Pipeline, precision: str) -> dict[str, str]:
    """Return the metadata of a model's file, texts and JSON.

    Args:
        model: a model as `sources.load` gives it.
        precision: "float32", "float16", "bfloat16" or "int8".

    Returns:
        kind, class_names, mean, std, in_chans, license, source, weights_sha256, precision, version; for a classifier
        also input_size, crop_pct, crop_mode, interpolation; for a segmenter also palette, short_side, least_side,
        multiple and interpolation. Each key begins with `PREFIX`.
    """
    facts = {
        "class_names": model.class_names,
        "in_chans": model.channels,
        "license": model.licence,
        "source": without_folders(model.name),
        "weights_sha256": model.checksum,
        "precision": precision,
        "version": __version__,
        **model.facts(),
    }
    return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _write(
    model: Pipeline, path: Path, format: str, options: Options, facts: dict[str, str], calibration: list[Path]
) -> None:
    example = model.example()
    module = model.folded(rows=format == AOTI).requires_grad_(False)
    photos = batches(model, calibration, options.calibrate_images)
    mixed = format == AOTI and (options.int8 or options.half)
    if options.half:
        module = InFloat32(module) if mixed else HalfInside(module)
    elif mixed:
        from .int8_aoti import quantize

        module = quantize(module, example, model.any_size, photos)
    write_graph(module, example, path, format, facts, any_size=model.any_size, mixed=mixed)
    if options.int8 and format == ONNX:
        from .int8_onnx import quantize as quantize_onnx

        quantize_onnx(path, path, (batch.numpy() for batch in photos))
