"""A trained model as the commands and the page use it: a photo in, an answer out, and where its attention is.

model = sources.load("vt_resnet18")                  # or a segmenter's folder, local-dir:, hf-hub:, a training run
output = model.run(model.input(model.view(photo)))   # of the photo as the network sees it
answer = model.answer(photo, output)
found = look(model, photo)                           # the answer, and one map per token and VT module
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn

from ..attention_maps import record_attention
from ..errors import CommandError
from ..images import MODES

__all__ = ["DISPLAY_SCALE", "Answer", "Look", "Pipeline", "look", "read_mode"]

DISPLAY_SCALE = 3  # pixels of a picture to draw on, for each pixel that the network sees


@dataclass
class Answer:
    """What a model says of a photo."""

    caption: str
    shares: dict[str, float]  # the probability of the top classes, or each class's share of the picture
    labels: Tensor | None = None  # a segmenter's, (height, width), whatever the size
    class_names: list[str] = field(default_factory=list)


class Pipeline(ABC):
    """What every model does with a photo."""

    place = "VT module"  # what one of its attention maps belongs to
    sample = "photo"  # which of `images.SAMPLES` suits it
    class_names: list[str]
    keeps_attention = True  # whether its attention can be recorded

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.device = next(module.parameters()).device

    @property
    def channels(self) -> int:
        """The number of channels of the images that it takes."""
        return int(getattr(self.module, "in_chans", 3))

    @abstractmethod
    def view(self, photo: Image.Image) -> Image.Image:
        """The part of the photo that the network sees, at the size at which it does."""

    @abstractmethod
    def display(self, photo: Image.Image) -> Image.Image:
        """The same part with more pixels, to draw on."""

    @abstractmethod
    def input(self, view: Image.Image) -> Tensor:
        """A view as a normalised batch of one, (1, channels, H, W)."""

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(batch.to(self.device)).float().cpu()

    @abstractmethod
    def describe(self, output: Tensor) -> Answer:
        """The answer for one image, from the network's output (1, ...)."""

    def answer(self, photo: Image.Image, output: Tensor) -> Answer:
        """The answer for a photo, from the network's output for its view."""
        return self.describe(output)

    def attention_modules(self) -> nn.Module:
        """The part of the network whose attention is looked at, for `record_attention`."""
        return self.module


def read_mode(model: Pipeline) -> int:
    """The number of channels to read a photo with.

    Raises:
        CommandError: for a number that Pillow has no mode for.
    """
    if model.channels not in MODES:
        raise CommandError(
            f"the model takes {model.channels} channels: the commands read photos of 1, 3 or 4, so use it in Python"
        )
    return model.channels


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


def look(model: Pipeline, photo: Image.Image, of: str = "tokenizer") -> Look:
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
