"""The names by which cards of segmenters that were published before `vt_timm.load` segment a photo."""

from ..pipelines.segmentation import SCALES, segment
from .model import load_segmenter

__all__ = ["SCALES", "load_segmenter", "segment"]
