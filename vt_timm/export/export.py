"""From a model to one file that carries what it needs, compared with the model before it is put in place.

export(load("vt_resnet18"), "vt_resnet18", Path("vt.onnx"), Options(int8=True, calibrate="photos/"))

Its metadata say all that is needed to use it, and where its weights come from.
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.repocard import metadata_load
from torch import Tensor, nn

from .. import __version__
from ..errors import CommandError, first_line
from ..files import whole_file
from ..images import MODES, ImageError, find_images
from ..photos.draw import palette
from ..pipelines.classification import ClassificationPipeline
from ..pipelines.onnx_file import PREFIX, OnnxFile
from ..pipelines.pipeline import Pipeline, read_mode
from ..pipelines.segmentation import SegmentationPipeline
from ..segmentation.data import MIN_SIDE, SegmentationDataset
from ..segmentation.model import Segmenter
from ..segmentation.settings import Settings
from ..weights.download import CARD, fetch_card
from ..weights.published import published_segmenters
from .compare import Difference, Scores, batches, check_difference, difference, open_validation, photos_below, score
from .fold import folded
from .fold_segmenter import folded_segmenter
from .formats import (
    AOTI,
    ONNX,
    PT2,
    HalfInside,
    InFloat32,
    capture,
    exporting,
    has_bfloat16,
    kind_of,
    load_program,
    quantized,
    write,
)

__all__ = ["Options", "Result", "describe", "export", "short_source"]

COMPARED = 32  # photos on which model and file are compared, from the folder to validate or else to calibrate with


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    Args:
        int8: whether the file computes in 8 bits; for ONNX and AOTInductor, with `calibrate`.
        half: whether the file computes in 16 bits, float16 or in AOTInductor bfloat16; it is fed and answers in 32.
        calibrate: folder of photos, on which the ranges of the activations are measured.
        calibrate_images: how many of them.
        validate: folder of labelled photos, on which model and file are scored.
        settings: settings of a segmenter's training, which say what the masks of `validate` mean.
        tolerance: largest difference of the logits, as a share of their own size, and largest share of a segmenter's
            pixels with another label; None for those of `compare`.
    """

    int8: bool = False
    half: bool = False
    calibrate: str | None = None
    calibrate_images: int = 256
    validate: str | None = None
    settings: Settings | None = None
    tolerance: float | None = None

    def precision(self, kind: str) -> str:
        """What a file of this kind computes in: float32, float16, bfloat16 or int8."""
        return "int8" if self.int8 else "float32" if not self.half else "bfloat16" if kind == AOTI else "float16"

    def check(self, kind: str) -> None:
        """Raise a CommandError for options that do not go together."""
        if self.int8 and self.half:
            raise CommandError("--int8 and --half: choose one")
        if self.int8 and kind == PT2:
            raise CommandError(f"--int8 writes {ONNX} and {AOTI} files: name one")
        if self.int8 and not self.calibrate:
            raise CommandError("--int8 needs photos to measure the activations on: --calibrate FOLDER")
        if self.half and kind == AOTI and not has_bfloat16():
            raise CommandError(
                f"--half: {AOTI} files compute in bfloat16, which this processor does not multiply; leave it out"
            )
        if self.calibrate and not self.int8:
            raise CommandError("--calibrate belongs to --int8")
        if kind == ONNX and any(util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
            raise CommandError("ONNX files need more packages: pip install 'vt_timm[onnx]'")
        if self.int8 and kind == AOTI and util.find_spec("torchao") is None:
            raise CommandError(f"8 bits in {AOTI} files need torchao: pip install 'vt_timm[int8]'")


@dataclass(frozen=True)
class Result:
    """The size of the file in bytes, the difference of its outputs, and the scores if they were asked for."""

    size: int
    difference: Difference
    scores: Scores | None


def export(model: Pipeline, name: str, path: Path, options: Options) -> Result:
    """Write a model's file, whole or not at all.

    Args:
        model: a classifier or a segmenter, on the CPU.
        name: the name that it was loaded by, for the metadata.
        path: the file to write; its ending says the kind.
        options: how it is exported.

    Raises:
        CommandError: in one line, for an unknown ending, a place that cannot be written, photos that are missing, a
            model that cannot be exported, and a file that answers differently.
        UserError: likewise, for data to validate with that is not complete.
    """
    kind = kind_of(path)
    options.check(kind)
    if isinstance(model.module, OnnxFile):
        raise CommandError(f"{name} is a file already: name the model that it was exported from")
    if options.calibrate or options.validate:
        read_mode(model)  # photos of other channels are refused before a minute's work
    calibration = photos_below(options.calibrate) if options.calibrate else []
    validation = open_validation(model, options.validate, options.settings) if options.validate else None
    photos = _photos_of(validation) if validation else calibration
    precision = options.precision(kind)
    facts = describe(model, name, precision)
    try:
        with whole_file(path) as temporary:
            _write(model, temporary, kind, options, facts, calibration)
            file = OnnxFile(temporary) if kind == ONNX else load_program(temporary, kind)
            images = batches(model, photos, COMPARED, 4) if photos else _without_photos(model)
            found = difference(model.module, file, images)
            check_difference(path, found, precision, options.tolerance)
            scores = score(model, file, validation) if validation else None
            return Result(temporary.stat().st_size, found, scores)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {first_line(error)}") from error


def _photos_of(validation: dict[Path, int] | SegmentationDataset) -> list[Path]:
    if isinstance(validation, SegmentationDataset):
        return [photo for photo, _ in validation.pairs]
    return list(validation)


def _write(
    model: Pipeline, path: Path, kind: str, options: Options, facts: dict[str, str], calibration: list[Path]
) -> None:
    segmenter = isinstance(model, SegmentationPipeline)
    example = _noise(model)
    module: nn.Module
    if isinstance(model.module, Segmenter):
        module = folded_segmenter(model.module)
    else:
        module = copy.deepcopy(model.module) if kind == PT2 else folded(model.module, rows=kind == AOTI)
    module.requires_grad_(False)
    photos = batches(model, calibration, options.calibrate_images) if options.int8 else iter(())
    mixed = kind == AOTI and (options.int8 or options.half)
    if options.half:
        module = InFloat32(module) if mixed else HalfInside(module)
    elif mixed:
        with exporting(kind):
            module = quantized(capture(module, example, any_size=segmenter), photos)
    write(module, example, path, kind, facts, any_size=segmenter, mixed=mixed)
    if options.int8 and kind == ONNX:
        from .quantize import quantize

        quantize(path, path, (batch.numpy() for batch in photos))


def _without_photos(model: Pipeline) -> Iterator[Tensor]:
    """What model and file are compared on where the user names no photos: those of installed libraries, or noise."""
    for sample in ("person", "photo") if model.channels in MODES else ():
        try:
            yield from batches(model, find_images(["sample"], sample), 1)
        except ImageError:  # the library is not installed
            continue
    yield _noise(model)


def _noise(model: Pipeline) -> Tensor:
    """Two images of smooth noise: at a classifier's own size and as it sees them, for a segmenter at any size."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    if model.channels not in MODES or isinstance(model, SegmentationPipeline):
        # Odd, so that the tracer meets no size that needs no padding and takes it for the rule.
        height, width = model.config["input_size"][-2:] if isinstance(model, ClassificationPipeline) else (333, 301)
        pixels = torch.randn((2, model.channels, height // 7, width // 7), generator=generator)
        return nn.functional.interpolate(pixels, (height, width), mode="bicubic")
    views = []
    for _ in range(2):
        pixels = torch.randint(0, 256, (48, 48, model.channels), generator=generator, dtype=torch.uint8)
        photo = Image.fromarray(pixels.squeeze(-1).numpy()).resize((320, 320), Image.Resampling.BICUBIC)
        views.append(model.input(model.view(photo)))
    return torch.cat(views)


def describe(model: Pipeline, name: str, precision: str) -> dict[str, str]:
    """Metadata of a model's file, texts and JSON.

    Args:
        model: a model as `pipelines.sources.load` gives it.
        name: the name that it was loaded by.
        precision: "float32", "float16", "bfloat16" or "int8".

    Returns:
        kind, class_names, mean, std, in_chans, license, source, weights_sha256, precision, version; for a classifier
        also input_size, crop_pct, crop_mode, interpolation; for a segmenter also palette, short_side, least_side,
        multiple and interpolation. Each key begins with `PREFIX`.
    """
    module = model.module
    facts: dict[str, Any] = {
        "class_names": model.class_names,
        "in_chans": model.channels,
        "license": getattr(module, "pretrained_cfg", {}).get("license") or _licence(name),
        "source": short_source(name),
        "weights_sha256": _checksum(module),
        "precision": precision,
        "version": __version__,
    }
    facts |= _of_segmenter(module) if isinstance(module, Segmenter) else _of_classifier(model)
    return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _of_classifier(model: Any) -> dict[str, Any]:
    keys = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
    return {"kind": "classifier", **{key: model.config[key] for key in keys}}


def _of_segmenter(module: Segmenter) -> dict[str, Any]:
    return {
        "kind": "segmenter",
        **module.normalization,
        "palette": palette(module.num_classes).tolist(),
        "short_side": module.short_side,
        "least_side": MIN_SIDE,
        "multiple": module.multiple,
        "interpolation": "bilinear",
    }


def _licence(name: str) -> str | None:
    """The licence on the card beside the weights, here or on the Hub: config.json has none for segmenters."""
    folder = published_segmenters().get(name) or Path(name.removeprefix("local-dir:"))
    card = next((path for path in (folder / CARD, folder / "best" / CARD) if path.is_file()), None)
    repository = name.removeprefix("hf-hub:")
    if not folder.exists() and "/" in repository:
        card = fetch_card(repository)
    try:
        return (metadata_load(card) or {}).get("license") if card else None
    except (ValueError, yaml.YAMLError):  # a person wrote the card
        return None


def short_source(name: str) -> str:
    """A model's name; for a folder its last part alone, since the rest belongs to the machine."""
    prefix, colon, path = name.rpartition(":")
    return f"{prefix}{colon}{Path(path).name}" if Path(path).exists() else name


def _checksum(module: nn.Module) -> str:
    """SHA-256 of the state dict, names and values in order: the same from a checkpoint and from a Hub folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
