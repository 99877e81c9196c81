"""The folder that timm's `train.py` leaves, and its model with the run's own size, crop, colours and class names.

`vt-timm run train` writes `model.json` beside the checkpoints: what `args.yaml` does not say, above all the classes in
the order in which they were trained.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.data import ImageNetInfo
from timm.models import load_state_dict
from torch import nn

from ..errors import UserError, first_line, read_text

__all__ = [
    "ARGUMENTS",
    "CHECKPOINTS",
    "DESCRIPTION",
    "RunError",
    "data_config",
    "describe_classes",
    "is_run",
    "load_run",
    "read_description",
    "write_description",
]

ARGUMENTS, DESCRIPTION = "args.yaml", "model.json"
CHECKPOINTS = {"best": "model_best.pth.tar", "last": "last.pth.tar"}


class RunError(UserError):
    """What a run lacks to be used, in one line."""


def is_run(path: Path) -> bool:
    """Whether a path is a run of train.py or one of its checkpoints."""
    folder = path if path.is_dir() else path.parent
    return (folder / ARGUMENTS).is_file() and (path.is_dir() or path.name.endswith(".pth.tar"))


def describe_classes(names: list[str]) -> dict[str, Any]:
    """`label_names` and `label_descriptions` of a config: a WordNet name is described as ImageNet calls it."""
    imagenet = ImageNetInfo("imagenet-1k")
    known = set(imagenet.label_names())
    described = {n: imagenet.label_name_to_description(n).split(",")[0] if n in known else n for n in names}
    return {"label_names": list(names), "label_descriptions": described}


def data_config(settings: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a pretrained cfg that says how images were prepared, as the run evaluated them.

    Args:
        settings: what args.yaml holds.
        description: what model.json holds; empty for a run of a plain train.py.
    """
    resolved = dict(description.get("data_config") or {})
    size = settings.get("img_size")
    if size and "input_size" not in resolved:
        resolved["input_size"] = [settings.get("in_chans") or 3, size, size]
    for key, argument in (
        ("crop_pct", "crop_pct"),
        ("interpolation", "interpolation"),
        ("mean", "mean"),
        ("std", "std"),
    ):
        if settings.get(argument) and key not in resolved:
            resolved[key] = settings[argument]
    kept = ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in resolved.items() if key in kept}
    if "input_size" in config:
        config["test_input_size"] = config["input_size"]
    return config


def write_description(
    folder: Path, model: nn.Module, config: Mapping[str, Any], class_to_idx: Mapping[str, int] | None
) -> None:
    """Write `model.json`.

    Args:
        folder: the run's folder.
        model: the model that is trained.
        config: how its validation images are prepared, as `resolve_data_config` returns it.
        class_to_idx: the number of each class; None for data without class folders.
    """
    own: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    description = {
        "architecture": own["architecture"],
        "classes": sorted(class_to_idx, key=class_to_idx.__getitem__) if class_to_idx else None,
        "data_config": {**config, "crop_mode": "center"},  # train.py crops so, whatever the model's config says
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """What `write_description` wrote; empty for a run of a plain train.py.

    Raises:
        RunError: if the file is no longer JSON.
    """
    path = folder / DESCRIPTION
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({first_line(error)}): train again, or delete it") from error


def load_run(path: Path) -> nn.Module:
    """The trained model in eval mode, with averaged weights where the run kept some.

    Args:
        path: the run's folder, of which the best checkpoint is taken (the last where none was evaluated), or one of
            its checkpoints.

    Raises:
        RunError: for a folder without a checkpoint, and a checkpoint that cannot be read or does not fit.
    """
    folder = path if path.is_dir() else path.parent
    settings = yaml.safe_load(read_text(folder / ARGUMENTS))
    description = read_description(folder)
    if path.is_dir():
        found = [folder / name for name in CHECKPOINTS.values() if (folder / name).is_file()]
        if not found:
            raise RunError(f"{folder} holds no checkpoint ({', '.join(CHECKPOINTS.values())}): has the run ended?")
        path = found[0]
    weights = read_weights(path)
    classes = description.get("classes") or []
    num_classes = settings.get("num_classes") or len(classes) or None
    options = {k: v for k, v in (settings.get("model_kwargs") or {}).items() if k != "pretrained_backbone"}
    if settings.get("in_chans"):
        options["in_chans"] = settings["in_chans"]
    if settings.get("gp"):
        options["global_pool"] = settings["gp"]
    labels = describe_classes(classes) if classes and len(classes) == num_classes else {}
    overlay = {**data_config(settings, description), **labels}
    try:
        architecture = description.get("architecture") or settings["model"]
        if num_classes:
            options["num_classes"] = num_classes
        model = timm.create_model(architecture, **options)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not fit the model of {folder / ARGUMENTS}: {first_line(error)}") from error
    own: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    model.pretrained_cfg = {**own, "label_names": None, "label_descriptions": None, **overlay}  # type: ignore[assignment]
    return model.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint of train.py's, the averaged ones if there are some; nothing is unpickled as code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # train.py keeps its arguments in there
            return load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is cut, foreign or unsafe
        raise RunError(f"{path} cannot be read as a checkpoint of train.py: {first_line(error)}") from error
