"""What an exported file says of itself: all that is needed to use it, and where its weights come from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..photos.models import Classifier
from ..photos.onnx_file import PREFIX

__all__ = ["describe", "short_source"]


def describe(model: Classifier, source: str, precision: str) -> dict[str, str]:
    """Metadata of a model's file, texts and JSON.

    Args:
        model: as `photos.models.load` gives it.
        source: the name that it was loaded by, without folders of this machine.
        precision: "float32", "float16" or "int8".

    Returns:
        kind, class_names, mean, std, in_chans, input_size, crop_pct, crop_mode, interpolation, license, source,
        weights_sha256, precision, version; each key with `PREFIX`.
    """
    module = model.module
    facts: dict[str, Any] = {
        "kind": "classifier",
        "class_names": model.class_names,
        "in_chans": model.channels,
        "source": source,
        "weights_sha256": _checksum(module),
        "precision": precision,
        "version": __version__,
        "license": getattr(module, "pretrained_cfg", {}).get("license"),
    }
    config = model.config
    facts |= {key: config[key] for key in ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")}
    return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def short_source(name: str) -> str:
    """A model's name; of a folder its last part alone, since the rest belongs to the machine."""
    prefix, colon, path = name.rpartition(":")
    return f"{prefix}{colon}{Path(path).name}" if Path(path).exists() else name


def _checksum(module: nn.Module) -> str:
    """SHA-256 of the state dict, names and values in order: the same from a checkpoint and from a Hub folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
