"""A run of `vt-timm train-segmenter` and its model."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..cards.card import segmenter_card, segmenter_name
from ..cost import count_parameters
from ..run_files import BEST, METRICS, SETTINGS, SUMMARY
from ..segmentation.model import load_segmenter
from .run import Publication, Run, RunError, in_16_bits


class SegmenterRun(Run):
    """A folder of `vt-timm train-segmenter`: settings.yaml, summary.csv and best/."""

    settings_file = SETTINGS
    keeps_checkpoints = False
    needed = (settings_file, SUMMARY, f"{BEST}/{METRICS}")
    named = ("neck", "backbone")

    @property
    def name(self) -> str:
        """NECK_BACKBONE.DATA."""
        return segmenter_name(self.settings["neck"], self.settings["backbone"], self.data)

    def save(self, folder: Path, how: Publication) -> nn.Module:
        model = load_segmenter(self.folder / BEST)
        if how.half:
            in_16_bits(model, self.folder)
        model.save_pretrained(folder)
        return model.float()

    def metrics(self, config: dict[str, Any], how: Publication) -> dict[str, Any]:
        path = self.folder / BEST / METRICS
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))
            update = measured["update"]
        except (ValueError, TypeError, LookupError) as error:
            raise RunError(f"{path} is not what a training writes: bring it back, or train again") from error
        params = count_parameters(load_segmenter(self.folder / BEST)) / 1e6
        precision = self.settings.get("precision", "no")
        kind = "" if precision == "no" else f" in {precision}"
        origin = f"one run, as the training itself measured{kind} after update {update}"
        return {**measured, "origin": origin, "dtype": how.dtype, "params": params, "license": how.licence}

    def card(self, config: dict[str, Any], metrics: dict[str, Any], how: Publication) -> str:
        with self.naming_what_is_missing():
            return segmenter_card(config, self.settings, metrics, how.repository, self.data, how.source)
