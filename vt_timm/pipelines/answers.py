"""What a model says of a photo."""

import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Answer", "Classification", "Drawing", "Look", "Segmentation"]


class Drawing(ABC):
    """Something that draws itself: in a file, in a window, and as a picture in a notebook. Needs matplotlib."""

    @abstractmethod
    def draw(self) -> "Figure":
        """Return it as a figure of matplotlib's."""

    def save(self, path: str | Path) -> Path:
        """Write it whole or not at all; the ending says the format: .png, .svg, .pdf, ...

        Raises:
            OSError: if the folder is missing or cannot be written to.
            ValueError: for an ending that matplotlib does not know.
        """
        from ..photos.draw import save_figures

        return save_figures(iter([self.draw()]), Path(path))[0]

    def show(self) -> None:
        """Open it in the system's viewer of pictures."""
        Image.open(io.BytesIO(self._repr_png_())).show()

    def _repr_png_(self) -> bytes:
        """Return it as a PNG file: notebooks call this to show it."""
        buffer = io.BytesIO()
        self.draw().savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


@dataclass
class Answer(Drawing):
    """What a model says of a photo.

    Args:
        photo: the photo.
        class_names: the names of all classes that the model knows, in its order.
        shares: the most probable classes and their probabilities, or what a segmenter sees and its share of the photo;
            the largest first, and a segmenter's background last.
    """

    photo: Image.Image = field(repr=False)
    class_names: list[str] = field(repr=False)
    shares: dict[str, float]

    @property
    def label(self) -> str:
        """The first of `shares`: the most probable class, or the one that covers most, background apart."""
        return next(iter(self.shares))

    @property
    @abstractmethod
    def caption(self) -> str:
        """The answer in a few words."""

    @property
    def labels(self) -> Tensor | None:
        """The label of every pixel, (height, width); None for a classifier."""
        return None

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as `--json` of the commands prints it."""

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join(f"  {100 * share:5.1f} %  {name}" for name, share in self.shares.items())


@dataclass
class Classification(Answer):
    """A classifier's answer.

    >>> import vt_timm
    >>> answer = vt_timm.load("vt_resnet18")(vt_timm.sample_photo())
    >>> answer.label
    'church'
    >>> print(answer.caption)
    church 89 %
    >>> list(answer.scores)[1]
    'cassette player'

    Args:
        top: name, index and probability of the most probable classes.
        scores: the probability of every class, the largest first.
    """

    top: list[dict[str, Any]]
    scores: dict[str, float] = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{self.label} {100 * self.shares[self.label]:.0f} %"

    def to_dict(self) -> dict[str, Any]:
        return {"top": self.top}

    def __str__(self) -> str:  # two classes of ImageNet's have one name, which `shares` would merge
        return "\n".join(f"  {100 * one['probability']:5.1f} %  {one['class']}" for one in self.top)

    def draw(self) -> "Figure":
        """Draw the photo, and a bar for each of the most probable classes."""
        from ..photos.draw import draw_classification

        return draw_classification(self.photo, [(one["class"], one["probability"]) for one in self.top])


@dataclass
class Segmentation(Answer):
    """A segmenter's answer.

    >>> import vt_timm
    >>> model = vt_timm.load("vt_fpn_tf_efficientnet_lite0.ccp")
    >>> answer = model(vt_timm.sample_photo("person"))
    >>> tuple(answer.labels.shape) == (answer.photo.height, answer.photo.width)
    True
    >>> "skin" in answer.shares
    True
    """

    label_map: Tensor = field(repr=False)

    @property
    def labels(self) -> Tensor:
        return self.label_map

    @property
    def caption(self) -> str:
        return ", ".join(list(self.shares)[:2])

    def to_dict(self) -> dict[str, Any]:
        counts = self.labels.flatten().bincount(minlength=len(self.class_names)) / self.labels.numel()
        return {"shares": dict(zip(self.class_names, counts.tolist(), strict=True))}

    def draw(self, side_by_side: bool = True) -> "Figure":
        """Draw the photo in the colours of its classes with a legend, beside the plain photo or alone."""
        from ..photos.draw import draw_segmentation

        return draw_segmentation(self.photo, self.labels, self.class_names, side_by_side)


@dataclass
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

    def class_at(self, x: float, y: float) -> str | None:
        """Return what a segmenter sees at a place, given in shares of width and height; None for a classifier."""
        labels = self.answer.labels
        if labels is None:
            return None
        height, width = labels.shape
        label = int(labels[min(int(y * height), height - 1), min(int(x * width), width - 1)])
        return self.answer.class_names[label]

    def draw(self, module: int = 1, tokens: list[int] | None = None) -> "Figure":
        """Draw one panel per token (Figure 7).

        Args:
            module: which VT module, counted from 1.
            tokens: which tokens, counted from 1; all if None.
        """
        from ..photos.draw import draw_attention

        title = f"module {module} of {self.modules}"
        return draw_attention([self.view], [self.maps[module - 1]], title, [self.answer.caption], tokens)
