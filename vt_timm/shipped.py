"""The weights that ship with the package: Hub model folders (config.json, model.safetensors, README.md)."""

import json
from pathlib import Path
from typing import Any

__all__ = ["shipped_cfgs"]

PACKAGE = Path(__file__).parent
HUB = PACKAGE / "hub" if (PACKAGE / "hub").is_dir() else PACKAGE.parent / "hub"  # installed wheel, or a checkout


def shipped_cfgs() -> dict[str, dict[str, Any]]:
    """timm pretrained cfgs by `architecture.tag`, the name of the folder, each pointing at its weights."""
    cfgs = {}
    for config in sorted(HUB.glob("*/config.json")):
        contents = json.loads(config.read_text())
        cfgs[config.parent.name] = {
            **contents["pretrained_cfg"],
            "num_classes": contents["num_classes"],
            "label_names": contents.get("label_names"),
            "label_descriptions": contents.get("label_descriptions"),
            "file": str(config.parent / "model.safetensors"),
        }
    return cfgs
