"""From any name that a user has for a trained model to the model."""

import json
from pathlib import Path
from typing import Any

import timm

from ..errors import CommandError, UserError, did_you_mean, first_line
from ..runs.train_run import is_run, load_run
from ..segmentation.inference import load_segmenter
from ..weights.download import CONFIG, fetch
from ..weights.published import published_segmenters
from .classification import ClassificationPipeline, ClassifierInFile
from .onnx_file import OnnxFile
from .pipeline import Pipeline
from .segmentation import SegmentationPipeline, SegmenterInFile

__all__ = ["load"]


def load(name: str, device: str = "cpu") -> Pipeline:
    """A trained model by any name that a user has for it.

    Args:
        name: a model of timm's with weights, `local-dir:FOLDER`, `hf-hub:ORG/NAME`, `ORG/NAME`, a folder of either
            kind of model, a training run of `vt-timm run train` or `train-segmenter`, a checkpoint of the former, or
            a file of `vt-timm export`, FILE.onnx.
        device: the device to put it on.

    Raises:
        UserError: in one line, for every way in which loading can fail.
    """
    if name.endswith(".onnx"):
        file = OnnxFile(name)
        return SegmenterInFile(file) if file.is_segmenter else ClassifierInFile(file)
    path = published_segmenters().get(name) or Path(name.removeprefix("local-dir:"))
    if path.is_dir() and (path / "best" / CONFIG).is_file():
        path = path / "best"
    if path.is_dir() and _describes_segmenter(path):
        return _segmenter(str(path), device)
    if is_run(path):
        return _classifier(name, lambda: load_run(path), device)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CommandError(f"{name} holds neither a model (config.json) nor a training run (args.yaml)")
        return _classifier(name, lambda: timm.create_model(f"local-dir:{path}", pretrained=True), device)
    repository = name.removeprefix("hf-hub:")
    if "/" in repository and not name.startswith("local-dir:"):
        if _describes_segmenter(_hub_folder(repository)):
            return _segmenter(repository, device)
        name = f"hf-hub:{repository}"
    return _classifier(name, lambda: timm.create_model(name, pretrained=True), device)


def _hub_folder(repository: str) -> Path:
    return fetch(repository, CONFIG).parent


def _describes_segmenter(folder: Path) -> bool:
    try:
        return "neck" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _segmenter(source: str, device: str) -> Pipeline:
    try:
        return SegmentationPipeline(load_segmenter(source, device))
    except RuntimeError as error:
        raise CommandError(str(error)) from error


def _classifier(name: str, create: Any, device: str) -> Pipeline:
    try:
        return ClassificationPipeline(create().eval().to(device))
    except UserError:
        raise
    except Exception as error:  # timm, torch and the Hub's client raise whatever they like for a bad name or file
        reason = first_line(error)
        hint = ""
        if reason.startswith("Unknown model"):
            hint = did_you_mean(name, [*timm.list_models(), *published_segmenters()], 3)
        elif "No pretrained weights" in reason:
            hint = " `vt-timm models` lists the models that have weights."
        raise CommandError(f"cannot load {name}: {reason}{hint}") from error
