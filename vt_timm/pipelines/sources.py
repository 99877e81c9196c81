"""From any name that a user has for a trained model to the model."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import ADDRESSES, CommandError, UserError, first_line, say
from ..files import near
from ..run_files import ARGUMENTS, BEST, CHECKPOINT, CONFIG, SETTINGS
from ..runs.train_run import is_run, load_run
from ..segmentation.model import Segmenter, load_segmenter
from ..weights.download import check_reachable, fetch
from ..weights.published import is_known, name_that_was_meant, published_segmenters
from .classification import ClassificationPipeline
from .onnx_file import OnnxFile
from .pipeline import Pipeline
from .segmentation import SegmentationPipeline


@dataclass(frozen=True)
class Source:
    """A place where a trained model lies, and what it is.

    Args:
        name: the name that the user gave.
        kind: "classifier" or "segmenter" (a folder, a repository of the Hub or a name of timm's), "run" (of timm's
            train.py, or one of its checkpoints), or "onnx" (a file of `vt-timm export`).
        place: the folder or file; for a repository ORG/NAME, for what timm finds by itself its name there.
    """

    name: str
    kind: str
    place: str

    def load(self, device: str = "cpu") -> Pipeline:
        """Load it.

        Raises:
            UserError: in one line, for every way in which that can fail.
        """
        # Before a device is asked for that does not matter.
        if self.kind == "onnx" and str(device).partition(":")[0] != "cpu":
            raise CommandError(f"{self.name}: an ONNX file runs on the processor; leave --device out")
        _check_device(device)
        if self.kind == "onnx":
            return pipeline_of(OnnxFile(self.place), self.name)
        if self.kind == "segmenter":
            return pipeline_of(load_segmenter(self.place, device), self.name)
        if self.kind == "run":
            return pipeline_of(self._try(lambda: load_run(Path(self.place)).to(device)), self.name)
        if not self.place.startswith("local-dir:"):
            check_reachable(self.place)
        module = self._try(lambda: timm.create_model(self.place, pretrained=True).eval().to(device))
        return pipeline_of(module, self.name)

    def _try(self, create: Callable[[], nn.Module]) -> nn.Module:
        try:
            return create()
        except UserError:
            raise
        except Exception as error:  # timm, torch and the Hub's client raise whatever they like for a bad name or file
            reason = first_line(error)
            hint = name_that_was_meant(self.name, reason)
            if "No pretrained weights" in reason:
                reason = "it has no trained weights"
                hint = ": name a training run of yours, or a model with weights (`vt-timm models` lists them)"
            raise CommandError(f"cannot load {self.name}: {reason}{hint}") from error


def pipeline_of(module: nn.Module, name: str = "") -> Pipeline:
    """Return the pipeline around a trained network."""
    if isinstance(module, Segmenter) or (isinstance(module, OnnxFile) and module.is_segmenter):
        return SegmentationPipeline(module, name)
    return ClassificationPipeline(module, name)


def resolve(name: str) -> Source:
    """Find what a name means: a file, a folder, a training run, a repository of the Hub, or a model of timm's.

    Raises:
        UserError: in one line, for a folder that holds no model, one that is not there, and a repository that cannot
            be reached.
    """
    if not name.strip():
        raise CommandError("the model has no name: `vt-timm models` lists those that there are")
    if name.lower().endswith(".onnx") and not Path(name).is_dir():
        if not Path(name).is_file():
            raise CommandError(f"there is no file {name}{near(Path(name))}")
        return Source(name, "onnx", name)
    if name.startswith(ADDRESSES):
        raise CommandError(f"{name} is an address: name what is on the Hub as ORG/NAME, anything else by its folder")
    path = Path(name.removeprefix("local-dir:"))
    if is_known(name):  # before a folder that is called so
        if any((path / file).is_file() for file in (CONFIG, ARGUMENTS, SETTINGS)):
            say(f"{name} is taken for the model of this name; the folder here is called ./{name}")
        segmenter = published_segmenters().get(name)
        return Source(name, "segmenter", str(segmenter)) if segmenter else Source(name, "classifier", name)
    if os.path.exists(path) or name.endswith(CHECKPOINT):
        return _on_disk(name, path)
    if name.endswith("/"):  # as a shell completes the name of a folder, of which there is none
        if not is_known(name.rstrip("/")):
            _check_not_mistyped(path)
        return resolve(name.rstrip("/"))
    repository = name.removeprefix("hf-hub:")
    if not repository:
        raise CommandError(f"{name} names no repository: write hf-hub:ORG/NAME")
    if "/" not in repository or name.startswith("local-dir:"):
        return Source(name, "classifier", name)
    if repository == name:
        _check_not_mistyped(path)
    folder = fetch(repository, CONFIG).parent
    if _describes_segmenter(folder):
        return Source(name, "segmenter", repository)
    _check_config(name, folder)
    return Source(name, "classifier", f"hf-hub:{repository}")


def _on_disk(name: str, path: Path) -> Source:
    path = path / BEST if (path / BEST / CONFIG).is_file() else path
    if _describes_segmenter(path):
        return Source(name, "segmenter", str(path))
    if is_run(path):
        return Source(name, "run", str(path))
    if name.endswith(CHECKPOINT) and not path.is_dir():
        if not path.is_file():
            raise CommandError(f"there is no file {name}{near(path)}")
        raise CommandError(f"{name}: a checkpoint is read with the {ARGUMENTS} of its run, which is not beside it")
    if path.is_file():
        raise CommandError(
            f"{name} is a file and no model: name its folder, a checkpoint of a run (.pth.tar), or a file of "
            "`vt-timm export` (.onnx)"
        )
    if (path / SETTINGS).is_file():
        raise CommandError(f"{name} is a run of train-segmenter that has kept no weights yet: go on with its --resume")
    if not (path / CONFIG).is_file() and (path.parent / SETTINGS).is_file():
        raise CommandError(f"{name} is a part of a run of train-segmenter: name the run, {path.parent}, or its best/")
    if not (path / CONFIG).is_file():
        raise CommandError(f"{name} holds neither a model (config.json) nor a training run (args.yaml)")
    _check_config(name, path)
    return Source(name, "classifier", f"local-dir:{path}")


def load(name: str | os.PathLike[str], device: str = "cpu") -> Pipeline:
    """Load a trained model by any name that one has for it.

    >>> import vt_timm
    >>> model = vt_timm.load("vt_resnet18")
    >>> print(model(vt_timm.sample_photo()).label)
    church

    Args:
        name: a model of timm's with weights, `local-dir:FOLDER`, `hf-hub:ORG/NAME`, `ORG/NAME`, a folder of either
            kind of model, a training run of `vt-timm run train` or `train-segmenter`, a checkpoint of the former, or
            a file of `vt-timm export`, FILE.onnx.
        device: the device to put it on.

    Returns:
        A pipeline: called with a photo it answers.

    Raises:
        UserError: in one line, for every way in which loading can fail.
        TypeError: for what is no name.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"load takes a model's name, not a {type(name).__name__}: save a network, and name its folder")
    return resolve(os.fspath(name)).load(device)


def load_network(name: str, kind: str) -> Any:
    """Load the network of a trained model by any name, to train it further or to look inside.

    Raises:
        UserError: as `load`, and for a model that is not of that kind, "classifier" or "segmenter".
    """
    return load(name).expect(kind).module


def _describes_segmenter(folder: Path) -> bool:
    try:
        return "neck" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def _check_config(name: str, folder: Path) -> None:
    """Refuse a config.json that timm cannot read: its own errors do not name the file.

    Raises:
        CommandError: saying what it lacks.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandError(f"{name}: its {CONFIG} is no JSON ({first_line(error)})") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise CommandError(f"{name}: its {CONFIG} names no architecture, as that of a timm model does")
    names, number = config.get("label_names"), config.get("num_classes")
    if isinstance(names, list) and number and len(names) != number:
        say(
            f"warning: {name}: its {CONFIG} has {len(names)} label_names for {number} classes, so it names none of them"
        )


def _check_not_mistyped(path: Path) -> None:
    """Refuse a name that can only be a folder or nearly is one: the Hub would be asked for it in vain.

    Raises:
        CommandError: naming the folder that is near.
    """
    meant = near(path)
    if meant or path.is_absolute() or path.parts[:1] in (("..",), ("~",)) or len(path.parts) > 2:
        raise CommandError(f"there is no model at {path}: no such file or folder{meant}")


def _check_device(device: str) -> None:
    """Refuse a device that is not to be had here, or that keeps no numbers (meta)."""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device has its own for this
        raise CommandError(
            f"the device {device!r} is not to be had here ({first_line(error)}): leave it out for the processor"
        ) from error
