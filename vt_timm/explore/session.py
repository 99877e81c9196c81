"""A model's look at a visitor's photo: the answer, and the maps of all tokens."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..attention_maps import ATTENTION, record_attention
from ..errors import UserError
from ..images import MODES, ImageError, read_image
from ..pipelines.answers import Answer
from ..pipelines.pipeline import Pipeline, read_mode
from .samples import Sample

LIMIT_MEGAPIXELS, ENOUGH_PIXELS = 150, 1600
LARGE = 1000  # pixels of the long side of the picture
NOT_A_PICTURE = "This file is not a picture that can be read. Try a JPEG or a PNG."


def open_photo(path: str) -> Image.Image:
    """Return the photo in RGB, small enough to work with.

    Raises:
        UserError: in a sentence for the visitor, if it is not a photo or far too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > LIMIT_MEGAPIXELS * 1e6:
                raise Image.DecompressionBombError
        photo = read_image(Path(path), ENOUGH_PIXELS)
    except Image.DecompressionBombError as error:
        limit = f"This picture has too many pixels. Up to {LIMIT_MEGAPIXELS} megapixels are fine."
        raise UserError(limit) from error
    except (ImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(NOT_A_PICTURE) from error
    photo.thumbnail((ENOUGH_PIXELS, ENOUGH_PIXELS))
    return photo


@dataclass
class Session:
    """A photo and what a model sees in it."""

    photo: Image.Image  # in colours, whatever the model takes
    model: str
    seen: float  # share of the photo's area that the model sees
    view: Image.Image  # the part that it sees
    answer: Answer
    maps: dict[str, list[Tensor]]  # by kind of attention, one (L, H, W) per module; a kind that it has not is left out
    sample: Sample | None = None  # the photo, if it is one of ours

    @classmethod
    def begin(cls, photo: Image.Image, name: str, model: Pipeline, sample: Sample | None = None) -> "Session":
        """Let a model look at a photo.

        Raises:
            UserError: for a number of channels that photos do not have.
        """
        seen = photo.convert(MODES[read_mode(model)])
        maps, output = _attend(model, seen)
        answer = model.describe(seen, output)
        view = model.display(seen)
        view.thumbnail((LARGE, LARGE))
        return cls(photo, name, _seen(model, photo), view, answer, maps, sample)


def _attend(model: Pipeline, photo: Image.Image) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Run the model once, and keep both kinds of its attention."""
    recorded = {}
    with ExitStack() as stack:
        for kind in () if model.in_file else ATTENTION:
            with suppress(ValueError):  # the model has none of this kind
                recorded[kind] = stack.enter_context(record_attention(model.attention_modules(), kind))
        output = model.run(model.input(model.view(photo)))
    return {kind: [attention[0].float().cpu() for attention in maps] for kind, maps in recorded.items()}, output


def _seen(model: Pipeline, photo: Image.Image) -> float:
    """Return the share of the photo that is left by the model's crop, from what it leaves of two ramps of grey."""
    mode = MODES[read_mode(model)]
    size = [max(1, round(side * LARGE / max(photo.size))) for side in photo.size]  # large enough for a fine ramp
    down = Image.linear_gradient("L")
    across = down.transpose(Image.Transpose.ROTATE_90)
    kept = 1.0
    for ramp, axis in ((across, 0), (down, 1)):
        view = model.view(ramp.resize(size).convert(mode))
        span = np.ptp(np.asarray(view.getchannel(0)).astype(float))  # middle of the first pixel to middle of the last
        if view.size[axis] > 1:
            kept *= min(float(span) / 255 * view.size[axis] / (view.size[axis] - 1), 1)
    return kept
