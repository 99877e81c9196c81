"""The metadata of a model's file."""

import hashlib
import json

from torch import nn

from .. import __version__
from ..names import without_folders
from ..pipelines.onnx_file import PREFIX
from ..pipelines.pipeline import Pipeline

__all__ = ["describe"]


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
        "weights_sha256": _checksum(model.module),
        "precision": precision,
        "version": __version__,
        **model.facts(),
    }
    return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _checksum(module: nn.Module) -> str:
    """Return the SHA-256 of the state dict, names and values in order, the same for a checkpoint and a Hub folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
