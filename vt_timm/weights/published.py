"""The weights that we publish: Hub model folders (config.json, model.safetensors, README.md), and their names there."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["ORGANISATION", "hub_name", "published_cfgs", "published_segmenters"]

PACKAGE = Path(__file__).parents[1]
HUB = PACKAGE / "hub" if (PACKAGE / "hub").is_dir() else PACKAGE.parent / "hub"  # installed wheel, or a checkout
ORGANISATION = os.environ.get("VT_TIMM_HUB_ORGANISATION", "vt-timm")  # that owns the repositories on the Hub


def hub_name(name: str) -> str:
    """`vt_resnet18.muon_imagenette` -> `vt-timm/vt_resnet18.muon_imagenette`, the repository on the Hub."""
    return f"{ORGANISATION}/{name}"


def published_cfgs() -> dict[str, dict[str, Any]]:
    """timm pretrained cfgs by `architecture.tag`, the name of the folder.

    Each names its repository on the Hub and, where the folder holds them, the weights that ship; timm prefers a file.
    """
    cfgs = {}
    for config in sorted(HUB.glob("*/config.json")):
        contents = json.loads(config.read_text())
        weights = config.with_name("model.safetensors")
        if contents.get("architecture", "").startswith("vt_resnet"):  # a folder may also hold a segmenter
            cfgs[config.parent.name] = {
                **contents["pretrained_cfg"],
                "num_classes": contents["num_classes"],
                "label_names": contents.get("label_names"),
                "label_descriptions": contents.get("label_descriptions"),
                "hf_hub_id": hub_name(config.parent.name),
                **({"file": str(weights)} if weights.is_file() else {}),
            }
    return cfgs


def published_segmenters() -> dict[str, Path]:
    """The folders of the segmenters that ship, by name."""
    folders = {}
    for config in sorted(HUB.glob("*/config.json")):
        is_segmenter = "neck" in json.loads(config.read_text(encoding="utf-8"))
        if is_segmenter and config.with_name("model.safetensors").is_file():
            folders[config.parent.name] = config.parent
    return folders
