"""The licence of a model's weights."""

from pathlib import Path

import yaml
from huggingface_hub.repocard import metadata_load

from ..weights.download import CARD, fetch_card
from ..weights.published import published_segmenters

__all__ = ["licence_on_card"]


def licence_on_card(name: str) -> str | None:
    """Return the licence that the card beside the weights names, here or on the Hub: segmenters' config has none."""
    folder = published_segmenters().get(name) or Path(name.removeprefix("local-dir:"))
    card = next((path for path in (folder / CARD, folder / "best" / CARD) if path.is_file()), None)
    repository = name.removeprefix("hf-hub:")
    if not folder.exists() and "/" in repository:
        card = fetch_card(repository)
    try:
        return (metadata_load(card) or {}).get("license") if card else None
    except (ValueError, yaml.YAMLError):  # a person wrote the card
        return None
