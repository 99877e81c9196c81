"""A look at a photo: what a model says of it and where its tokens look."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ..attention_maps import record_attention
from .models import Answer, PhotoModel

__all__ = ["Look", "look"]


@dataclass
class Look:
    """A photo as a model saw it, at a size to draw on, the model's answer, and one map (L, H, W) per VT module."""

    view: Image.Image
    answer: Answer
    maps: list[Tensor]
    modules: int  # VT modules that the model has; the last of a classifier has a tokenizer and no projector

    def class_at(self, x: float, y: float) -> str | None:
        """What a segmenter sees at a place, given in shares of width and height; None for a classifier."""
        labels = self.answer.labels
        if labels is None:
            return None
        height, width = labels.shape
        label = int(labels[min(int(y * height), height - 1), min(int(x * width), width - 1)])
        return self.answer.class_names[label]


def look(model: PhotoModel, photo: Image.Image, of: str = "tokenizer") -> Look:
    """Run a model on a photo and keep its attention.

    Args:
        model: a model with VT modules.
        photo: as `images.read_image` gives it.
        of: "tokenizer" or "projector", as in `record_attention`.

    Raises:
        ValueError: if the model has no such attention.
    """
    if not model.keeps_attention:
        raise ValueError("an ONNX file keeps no attention: name the model that it was exported from")
    modules = model.attention_modules()
    with record_attention(modules) as all_maps, record_attention(modules, of) as maps:
        output = model.run(model.input(model.view(photo)))
    maps = [attention[0].float().cpu() for attention in maps]
    return Look(model.display(photo), model.answer(photo, output), maps, len(all_maps))
