"""The view of one visitor: a photo, the model's answer, its tokens' maps, and the place that was clicked."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import UserError
from ..images import MODES, ImageError, read_image
from ..photos.draw import overlay, paint_segmentation
from ..pipelines.answers import Look
from ..pipelines.pipeline import Pipeline, read_mode

LIMIT_MEGAPIXELS, ENOUGH_PIXELS = 150, 1600
LARGE, THUMBNAIL = 800, 200  # pixels of the long side: of the picture, and of one token in the gallery
TOP_TOKENS = 4  # so many are named for a place
KINDS = ("tokenizer", "projector")
NOT_A_PICTURE = "This file is not a picture that can be read. Try a JPEG or a PNG."

_one_at_a_time = threading.Lock()  # attention is recorded by hooks on a model that all visitors share


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
    """A look at a photo, and what of it is chosen."""

    photo: Image.Image  # in colours, whatever the model takes
    model: str
    seen: float  # share of the photo's area that the model sees
    looks: dict[str, Look]  # by kind of attention; a model that shows no tokens has one look without maps
    kind: str = KINDS[0]
    module: int = 0
    token: int = 0
    place: tuple[float, float] | None = None  # the one that was clicked, in shares of width and height
    show_map: bool = True
    show_classes: bool = True  # only a segmenter has them
    own_photo: bool = True  # whether the visitor chose it

    @classmethod
    def begin(cls, photo: Image.Image, name: str, model: Pipeline, own_photo: bool = True) -> "Session":
        """Let a model look at a photo.

        Raises:
            UserError: for a number of channels that photos do not have.
        """
        found = _look(model, photo, KINDS[0])
        sizes = [maps[0].numel() for maps in found.maps]
        coarsest = sizes.index(min(sizes)) if sizes else 0  # fine maps are dots that are hard to see
        looks, classifies = {KINDS[0]: found}, found.answer.labels is None
        return cls(photo, name, _seen(model, photo), looks, module=coarsest, show_map=classifies, own_photo=own_photo)

    def switch(self, kind: str, model: Pipeline) -> None:
        """Show the other kind of attention of the same photo; token and place stay chosen.

        Raises:
            UserError: if the model has no such attention.
        """
        if kind not in self.looks:
            found = _look(model, self.photo, kind)
            if not found.maps:
                raise UserError("This model uses its tokens for its answer only, and not at places of the photo.")
            self.looks[kind] = found
        self.kind = kind
        self.module = min(self.module, len(self.look.maps) - 1)
        self.token = min(self.token, len(self.maps) - 1)

    @property
    def look(self) -> Look:
        return self.looks[self.kind]

    @property
    def has_tokens(self) -> bool:
        return bool(self.look.maps)

    @property
    def maps(self) -> Tensor:
        """(L, H, W) of the chosen module."""
        return self.look.maps[self.module]

    def picture(self) -> Image.Image:
        """Return the photo as the model sees it, with the layers switched on and a ring around the clicked place."""
        picture, labels = self.look.view, self.look.answer.labels
        if self.show_classes and labels is not None:
            picture = paint_segmentation(picture, labels, self.look.answer.class_names)
        if self.show_map and self.has_tokens:
            picture = overlay(picture, self.maps[self.token])
        if self.place is not None:
            picture = picture.copy()
            _ring(picture, self.place[0] * picture.width, self.place[1] * picture.height)
        return picture

    def thumbnails(self) -> list[Image.Image]:
        """Return the map of every token, small."""
        small = self.look.view.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        return [overlay(small, attention) for attention in self.maps] if self.has_tokens else []

    def claims(self) -> list[tuple[int, float]]:
        """Return the tokens with the largest weights at the clicked place, and their shares of all weights there."""
        if self.place is None or not self.has_tokens:
            return []
        view = self.look.view
        x, y = (min(int(at * size), size - 1) for at, size in zip(self.place, view.size, strict=True))
        size = (view.height, view.width)
        weights = interpolate(self.maps[None].float(), size, mode="bilinear", align_corners=False)[0, :, y, x]
        shares = weights / weights.sum()
        return [(i, shares[i].item()) for i in shares.argsort(descending=True)[:TOP_TOKENS].tolist()]

    def class_at_place(self) -> str | None:
        """Return what a segmenter sees at the clicked place."""
        return None if self.place is None else self.look.class_at(*self.place)


def _look(model: Pipeline, photo: Image.Image, kind: str) -> Look:
    """Return a look without maps if the model has no such attention to show."""
    with _one_at_a_time:
        found = model.look(photo, kind)
    found.view.thumbnail((LARGE, LARGE))
    return found


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


def _ring(picture: Image.Image, x: float, y: float) -> None:
    radius = max(6, max(picture.size) // 50)
    draw = ImageDraw.Draw(picture)
    for wider, colour, width in ((2, "black", 6), (0, "white", 3)):
        draw.ellipse(
            (x - radius - wider, y - radius - wider, x + radius + wider, y + radius + wider), None, colour, width
        )
