"""The layers of the page's picture, and what a place of it means, in a form that the browser shows by itself."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..photos.colours import palette
from ..photos.draw import PAINT, PAINT_FIRST, map_layer

GRID = 32  # places along the long side for which the browser knows the weights of a finer map
FINE = 256  # for which it knows the class
MAP = 128  # pixels of the long side of a map, which the browser enlarges smoothly


@dataclass
class Grid:
    """Numbers for places of the picture, layer after layer, row after row."""

    rows: int
    columns: int
    values: str  # base64


@dataclass
class TokenMap:
    """One token's map as a transparent picture, and what it tells of the place, in bits."""

    picture: str
    bits: float


@dataclass
class ClassLayer:
    """One class of a segmenter as a transparent picture, and its colour."""

    label: int
    colour: str
    picture: str


def address(picture: Image.Image, kind: str = "jpeg", **options: Any) -> str:
    """Return a picture as a `data:` address: it is on the page, and no file of it is left on the server."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def information(maps_LHW: Tensor) -> Tensor:
    r"""Return what each token tells of the place where it looks, (L,), in bits.

    The Kullback-Leibler divergence :math:`\sum_x p(x|t) \log_2 \frac{p(x|t)}{p(x)}` of its map from the mean of all
    tokens' maps: 0 for a token that looks where all others do, :math:`\log_2 L` at most, where no other one looks. The
    sum leaves out the places at the rim: there it is the padding that a network sees, in the photo's place.
    """
    maps_LHW = maps_LHW.float() / maps_LHW.sum(dim=(1, 2), keepdim=True)
    bits_LHW = torch.special.xlogy(maps_LHW, maps_LHW / maps_LHW.mean(dim=0)) / math.log(2)
    return bits_LHW[:, 1:-1, 1:-1].sum(dim=(1, 2))


def token_maps(maps_LHW: Tensor, size: tuple[int, int]) -> tuple[list[TokenMap], Grid]:
    """Return every token's picture for a view of this size, and the weights themselves as float32."""
    pictures = [address(map_layer(attention, _within(size, MAP)), "webp", quality=75) for attention in maps_LHW]
    weights = maps_LHW.float()
    if max(weights.shape[1:]) > GRID:
        weights = interpolate(weights[None], _within(size, GRID)[::-1], mode="area")[0]
    bits = information(maps_LHW).tolist()
    return [TokenMap(*one) for one in zip(pictures, bits, strict=True)], _grid(weights.numpy())


def class_layers(labels_HW: Tensor, class_names: Sequence[str], size: tuple[int, int]) -> tuple[list[ClassLayer], Grid]:
    """Return a picture of each class that shows, and for every place which of these it is."""
    labels = Image.fromarray(labels_HW.numpy().astype(np.int32))
    shown = np.asarray(labels.resize(size, Image.Resampling.NEAREST))
    fine = np.asarray(labels.resize(_within(size, FINE), Image.Resampling.NEAREST))
    present = np.union1d(shown, fine)
    layers = []
    for label in present.tolist():
        red, green, blue = palette(class_names)[label].tolist()
        opacity = round(255 * (PAINT if label else PAINT_FIRST))
        layer = Image.new("RGBA", size, (red, green, blue, 0))
        layer.putalpha(Image.fromarray(np.where(shown == label, opacity, 0).astype(np.uint8)))
        layers.append(
            ClassLayer(label, f"rgb({red}, {green}, {blue})", address(layer, "webp", lossless=True, method=0))
        )
    return layers, _grid(np.searchsorted(present, fine).astype(np.uint8))


def _within(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Return the width and height of the same shape whose long side is this long."""
    width, height = size
    scale = long_side / max(size)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _grid(values: np.ndarray) -> Grid:
    rows, columns = values.shape[-2:]
    return Grid(rows, columns, base64.b64encode(values.tobytes()).decode())
