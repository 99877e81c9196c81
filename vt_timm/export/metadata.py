"""What an exported file says of itself: all that is needed to use it, and where its weights come from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load
from torch import nn

from .. import __version__
from ..photos.draw import palette
from ..photos.models import PhotoModel
from ..segmentation.data import MIN_SIDE
from ..segmentation.model import Segmenter
from ..weights.download import CARD, fetch_card
from ..weights.local import PREFIX
from ..weights.published import published_segmenters

__all__ = ["describe", "short_source"]


def describe(model: PhotoModel, name: str, precision: str) -> dict[str, str]:
    """Metadata of a model's file, texts and JSON.

    Args:
        model: a model as `photos.models.load` gives it.
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
