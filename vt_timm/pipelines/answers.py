"""What a model says of a photo."""

import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import plain
from ..files import identity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing(ABC):
    """Something that draws itself: in a file, in a window, and as a picture in a notebook. Needs matplotlib."""

    photo: Image.Image

    @abstractmethod
    def draw(self) -> "Figure":
        """Return it as a figure of matplotlib's."""

    def __eq__(self, other: object) -> bool:  # that of a dataclass would ask tensors for one truth value
        return type(self) is type(other) and _alike(list(vars(self).values()), list(vars(other).values()))

    def save(self, path: str | Path) -> Path:
        """Write it whole or not at all; the ending says the format: .png, .svg, .pdf, ...

        Raises:
            OSError: if the folder is missing or cannot be written to.
            ValueError: for a folder, for an ending that is missing or of which no picture is made, and for the file of
                the photo.
        """
        from ..photos.draw import save_figures

        read = getattr(self.photo, "filename", None)  # of a photo that was a file
        if read and identity(Path(read)) == identity(Path(path)):
            raise ValueError(f"{path}: this is the photo, and would be overwritten; write to another place")
        return save_figures(iter([self.draw()]), Path(path))[0]

    def show(self) -> None:
        """Open it in the system's viewer of pictures."""
        Image.open(io.BytesIO(self._repr_png_())).show()

    def _repr_png_(self) -> bytes:
        """Return it as a PNG file: notebooks call this to show it."""
        from ..photos.draw import to_png

        return to_png(self.draw())


@dataclass(eq=False)
class Answer(Drawing):
    """An answer of a model for a photo.

    Args:
        photo: the photo.
        class_names: the names of all classes that the model knows, in its order.
        shares: the most probable classes and their probabilities, or what a segmenter sees and its share of the photo;
            the largest first, and a segmenter's background last.
        labels: the label of every pixel, (height, width); None for a classifier.
    """

    photo: Image.Image = field(repr=False)
    class_names: list[str] = field(repr=False)
    shares: dict[str, float]
    labels: Tensor | None = field(default=None, repr=False, kw_only=True)

    @property
    def label(self) -> str:
        """The first of `shares`: the most probable class, or the one that covers most, background apart.

        It is empty for a model without classes.
        """
        return next(iter(self.shares), "")

    @property
    @abstractmethod
    def caption(self) -> str:
        """The answer in a few words."""

    @property
    def unsure(self) -> bool:
        """True if the model's config says that so weak an answer is often wrong; a segmenter's never does."""
        return False

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as `--json` of the commands prints it."""

    def to_json(self) -> str:
        """Return `to_dict` as JSON.

        >>> import json, vt_timm
        >>> answer = vt_timm.load("vt_resnet18")(vt_timm.sample_photo())
        >>> json.loads(answer.to_json())["top"][0]["class"]
        'church'
        """
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @abstractmethod
    def __str__(self) -> str:
        """Return it as the commands print it, a line per class."""


def _alike(one: Any, other: Any) -> bool:
    """Compare what may hold tensors."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _check_counted(what: str, number: int, last: int) -> None:
    if not 1 <= number <= last:
        raise ValueError(f"{what} {number}: there are {what}s 1 to {last}")


@dataclass(eq=False)
class Look(Drawing):
    """A photo as a model saw it, the model's answer, and where its tokens look.

    >>> import vt_timm
    >>> look = vt_timm.load("vt_resnet18").attention(vt_timm.sample_photo())
    >>> [tuple(maps.shape) for maps in look.maps]
    [(16, 12, 12), (16, 12, 12)]

    Args:
        view: the photo at a size to draw on.
        answer: the model's answer.
        maps: (L, h, w) of each VT module: one map per token, at the feature map's resolution.
        modules: VT modules that the model has; the last of a classifier has a tokenizer and no projector.
    """

    view: Image.Image
    answer: Answer
    maps: list[Tensor]
    modules: int

    @property
    def photo(self) -> Image.Image:  # type: ignore[override]
        """The photo that was looked at."""
        return self.answer.photo

    def draw(self, module: int = 1, tokens: list[int] | None = None) -> "Figure":
        """Draw one panel per token (Figure 7).

        >>> import vt_timm
        >>> look = vt_timm.load("vt_resnet18").attention(vt_timm.sample_photo())
        >>> figure = look.draw(module=2, tokens=[1, 5, 9])
        >>> [axis.get_title() for axis in figure.axes[1:4]]
        ['token 1', 'token 5', 'token 9']

        Args:
            module: which VT module, counted from 1.
            tokens: which tokens, counted from 1; all if None.

        Raises:
            ValueError: for a module or a token that there is not, and for no tokens.
        """
        from ..photos.draw import draw_attention

        tokens = None if tokens is None else plain(list(tokens))
        _check_counted("module", module, len(self.maps))
        for token in tokens if tokens is not None else ():
            _check_counted("token", token, len(self.maps[module - 1]))
        if tokens is not None and not len(tokens):
            raise ValueError("tokens=[]: name one at least")
        title = f"module {module} of {self.modules}"
        return draw_attention([self.view], [self.maps[module - 1]], title, [self.answer.caption], tokens)
