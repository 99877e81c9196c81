"""Segmenters of photos."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ..errors import check_positive
from ..photos.colours import palette, place_among_named
from ..segmentation.data import MIN_SIDE
from ..segmentation.model import Segmenter
from .answers import Answer
from .onnx_file import OnnxFile
from .pipeline import DISPLAY_SCALE, Photo, Pipeline, as_it_takes, check_numbers, evaluating, smooth_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..segmentation.settings import Settings
    from .validation import Validation

MAX_LONG_SIDE, MIN_WINDOW = 1024, 64  # pixels
SCALES = (0.5, 0.66, 1.0, 1.4)  # for any photo: a person near the camera shows in a small view, shoes in a large one
SURE = 4  # power of a view's probabilities: what one view is sure of counts for more than what two suspect
STRIP = 64  # rows of a photo that are labelled at a time
SHARE_SHOWN = 0.001  # a class that covers a smaller share of a photo is named by the print and the legend alone


@dataclass(eq=False)
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

    labels: Tensor = field(repr=False, kw_only=True)

    @property
    def caption(self) -> str:
        return ", ".join(list(self.shares)[:2])

    def to_dict(self) -> dict[str, Any]:
        counts = self.labels.flatten().bincount(minlength=len(self.class_names)) / self.labels.numel()
        shares = dict.fromkeys(self.class_names, 0.0)
        for name, share in zip(self.class_names, counts.tolist(), strict=True):  # two classes may have one name
            shares[name] += share
        return {"shares": shares}

    def __str__(self) -> str:
        lines = [f"  {100 * share:5.1f} %  {name}" for name, share in self.shares.items()]
        specks = [name for name, share in self.to_dict()["shares"].items() if share and name not in self.shares]
        return "\n".join(lines + [f"  < {100 * SHARE_SHOWN:3.1f} %  {name}" for name in specks])

    def draw(self, side_by_side: bool = True) -> "Figure":
        """Draw the photo in the colours of its classes with a legend, beside the plain photo or alone.

        >>> import vt_timm
        >>> model = vt_timm.load("vt_fpn_tf_efficientnet_lite0.ccp")
        >>> figure = model(vt_timm.sample_photo("person"), scales=[0.5]).draw(side_by_side=False)
        >>> bool(figure.axes)
        True
        """
        from ..photos.draw import draw_segmentation

        return draw_segmentation(self.photo, self.labels, self.class_names, side_by_side)


class SegmentationPipeline(Pipeline):
    """A segmenter; its own attention is that of its neck, although its backbone may have VT modules too."""

    kind = "segmenter"
    command = "`vt-timm segment` colours photos"
    place = "level"
    sample = "person"
    any_size = True
    module: Segmenter | OnnxFile

    @property
    def class_names(self) -> list[str]:
        """What the module's classes are called."""
        return self.module.class_names

    def view(self, photo: Image.Image) -> Image.Image:
        return resized(photo, self.module.short_side)

    def display(self, photo: Image.Image) -> Image.Image:
        size = self.view(photo).size
        return transforms.resize(photo, [DISPLAY_SCALE * size[1], DISPLAY_SCALE * size[0]], antialias=True)

    def input(self, view: Image.Image) -> Tensor:
        return network_input(self.module, view)  # type: ignore[arg-type]

    def facts(self) -> dict[str, Any]:
        module: Any = self.module
        return {
            "kind": self.kind,
            **module.normalization,
            "palette": palette(module.class_names).tolist(),
            "short_side": module.short_side,
            "least_side": MIN_SIDE,
            "multiple": module.multiple,
            "interpolation": "bilinear",
        }

    def example(self) -> Tensor:
        """Return images of odd sides, lest the tracer meet a size that needs no padding and take it for the rule."""
        return smooth_noise(2, self.channels, 333, 301)

    def folded(self, rows: bool = False) -> nn.Module:
        from ..folding.fold_segmenter import folded_segmenter

        return folded_segmenter(self.module)  # type: ignore[arg-type]

    def validation(self, folder: str, settings: "Settings | None" = None) -> "Validation":
        from .validation import LabelledPixels

        return LabelledPixels(self, folder, settings)

    def answers(
        self,
        photos: Iterable[Photo],
        short_side: int | Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        max_long_side: int | None = None,
        window: int | None = None,
    ) -> Iterator[Segmentation]:
        """Yield the answer for one photo after the other, its labels at the photo's own size.

        Args:
            photos: as for a call.
            short_side: that of what the network sees, in pixels; None for that of its evaluation.
            max_long_side: side in pixels to which a longer photo is brought, so that it fits into memory; None for
                `MAX_LONG_SIDE`.
            scales: sizes at which it sees the photo, times the short side; None for `SCALES`.
            window: side of a window that moves over the photo at its own size instead.

        Raises:
            ValueError: for sizes that cannot be.
        """
        for name, value in dict(scales=scales, short_side=short_side, max_long_side=max_long_side).items():
            if window is not None and value is not None:
                raise ValueError(f"{name}: a window sees the photo at its own size; leave window or {name} out")
        if isinstance(short_side, int) and 0 < short_side < MIN_SIDE:
            raise ValueError(f"short_side={short_side}: the network takes photos of {MIN_SIDE} pixels at least")
        for photo, network in zip(map(self.read, photos), self.networks(), strict=False):
            labels = segment(
                network,  # type: ignore[arg-type]
                photo,
                self.module.short_side if short_side is None else short_side,
                MAX_LONG_SIDE if max_long_side is None else max_long_side,
                window,
                SCALES if scales is None else scales,
            )
            yield self._described(photo, labels)

    def describe(self, photo: Image.Image, output: Tensor) -> Segmentation:
        """Label the photo as a call does: the network sees it at other sizes too, not only as its view."""
        return next(self.answers([photo]))

    def _described(self, photo: Image.Image, labels: Tensor) -> Segmentation:
        """Return the answer: what is worn first, and the background last; of these, what covers most."""
        counts = labels.flatten().bincount(minlength=len(self.class_names))
        seen = [i for i in counts.argsort(descending=True).tolist() if counts[i] > SHARE_SHOWN * labels.numel()]
        seen.sort(key=lambda label: place_among_named(self.class_names[label]))
        shares: dict[str, float] = {}
        for i in seen:
            name = self.class_names[i]
            shares[name] = shares.get(name, 0.0) + counts[i].item() / labels.numel()
        return Segmentation(photo, self.class_names, shares, labels=labels)

    def attention_modules(self) -> nn.Module:
        return self.module.neck  # type: ignore[return-value]


def resized(
    photo: Image.Image,
    short_side: int | Sequence[int] | None = None,
    max_long_side: int = MAX_LONG_SIDE,
    scale: float = 1.0,
) -> Image.Image:
    """Bring a photo to the size that the network sees.

    Args:
        photo: a photo of the channels that the network takes.
        short_side: short side in pixels, best the model's `short_side`. Two numbers are height and width, whatever the
            photo's shape; None keeps the photo's own size.
        max_long_side: side in pixels to which a longer photo is brought, so that it fits into memory.
        scale: how much larger than that it becomes, up to `max_long_side`.
    """
    if isinstance(short_side, Sequence):
        factor = min(scale, max(max_long_side / max(short_side), 1))
        return transforms.resize(photo, [max(round(side * factor), MIN_SIDE) for side in short_side], antialias=True)
    factor = scale * (short_side or min(photo.size)) / min(photo.size)
    factor = min(factor, max_long_side / max(photo.size))
    # Cut as torchvision cuts the long side in an evaluation, so that both show a network the same. What floats may lack
    # of a whole number is less than the millionth.
    size = [max(int(side * factor + 1e-6), MIN_SIDE) for side in (photo.height, photo.width)]
    return transforms.resize(photo, size, antialias=True)


def network_input(model: Segmenter, view: Image.Image) -> Tensor:
    """Return a resized photo as a normalised batch of one, (1, channels, H, W)."""
    image = transforms.pil_to_tensor(view).float() / 255
    return transforms.normalize(image, **model.normalization)[None]  # type: ignore[arg-type]


def segment(
    model: Segmenter,
    photo: Image.Image,
    short_side: int | Sequence[int] | None = None,
    max_long_side: int = MAX_LONG_SIDE,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
) -> Tensor:
    """Label every pixel of a photo, (height, width), whatever its size.

    The network sees the photo at the size that `resized` gives it, and its logits are brought back to the photo's own
    size; with several `scales` it sees it several times, and the mean of the probabilities counts, each to the power of
    `SURE`. Or, with `window`, it sees the photo at its own size through a window that moves over it.

    Args:
        model: a segmenter.
        photo: a photo of the channels that the model takes.
        short_side, max_long_side: sides of what the network sees, in pixels, as for `resized`.
        window: side of the window in pixels, a multiple of 64.
        scales: sizes at which the network sees the photo, 1 for `short_side`; `SCALES` are what the commands use. A
            window has one.

    Raises:
        ValueError: for sides that are no whole numbers of at least 1, a window that is not such a multiple, and for no
            scales or some that are not above 0.
        UserError: for a model whose answers are no numbers.
    """
    for side in short_side if isinstance(short_side, Sequence) else [] if short_side is None else [short_side]:
        check_positive("short_side", side)
    if isinstance(short_side, Sequence) and len(short_side) != 2:
        raise ValueError(f"short_side={short_side!r} must be one number or [height, width]")
    check_positive("max_long_side", max_long_side)
    if not _are_scales(scales):
        raise ValueError(f"scales={scales!r} must be numbers above 0, such as [0.5, 1]")
    if window is None:
        views = [resized(photo, short_side, max_long_side, scale) for scale in scales]
        return _at_size(_mean_of_views(model, views), photo.height, photo.width)
    if check_positive("window", window) % MIN_WINDOW:
        raise ValueError(f"window={window} must be a multiple of {MIN_WINDOW}")
    labels = torch.zeros(photo.height, photo.width, dtype=torch.long, device="cpu")
    for top, rows in _tiles(photo.height, window):
        for left, columns in _tiles(photo.width, window):
            box = (left, top, min(left + window, photo.width), min(top + window, photo.height))
            view = resized(photo.crop(box), None, window)
            seen = _at_size(_logits(model, view), box[3] - box[1], box[2] - box[0])
            labels[rows, columns] = seen[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return labels


def _are_scales(scales: Sequence[float]) -> bool:
    try:
        return len(scales) > 0 and all(0 < scale < math.inf for scale in scales)
    except TypeError:  # one number, texts, or what else cannot be compared
        return False


def _tiles(length: int, window: int) -> Iterator[tuple[int, slice]]:
    """Yield the starts of windows that overlap by half, and what of each is kept: the middle, which sees both sides."""
    last = max(length - window, 0)
    starts = [*range(0, last, window // 2), last]
    for i, start in enumerate(starts):
        begin = 0 if i == 0 else (starts[i - 1] + window + start) // 2
        end = length if i == len(starts) - 1 else (start + window + starts[i + 1]) // 2
        yield start, slice(begin, end)


def _logits(model: Segmenter, view: Image.Image) -> Tensor:
    with torch.inference_mode(), evaluating(model):
        logits = model(as_it_takes(network_input(model, view), model)).float().cpu()
    check_numbers(logits)
    return logits


def _mean_of_views(model: Segmenter, views: Sequence[Image.Image]) -> Tensor:
    """Return the logits of a view, or of several the mean of the probabilities' powers, (1, K, H, W) of the largest.

    In a view in which a face is larger than any in training, it may be taken for clothes; smaller ones are sure of it.
    """
    outputs = [_logits(model, view) for view in {view.size: view for view in views}.values()]
    if len(outputs) == 1:
        return outputs[0]
    size = max((output.shape[-2:] for output in outputs), key=math.prod)
    votes = [F.interpolate(output.softmax(dim=1) ** SURE, size, mode="bilinear") for output in outputs]
    return torch.stack(votes).mean(dim=0)


def _at_size(logits_1KHW: Tensor, height: int, width: int) -> Tensor:
    """Return the argmax of the logits at another size, (height, width): bilinear, one strip of rows at a time.

    The logits of all classes at the size of a large photo would take gigabytes.
    """
    own = logits_1KHW.shape[-2]
    labels = torch.empty(height, width, dtype=torch.long, device="cpu")
    for start in range(0, height, STRIP):
        stop = min(start + STRIP, height)
        row = ((torch.arange(start, stop, device="cpu") + 0.5) * own / height - 0.5).clamp(0, own - 1)
        above, share = row.long(), (row - row.floor())[:, None]
        below = (above + 1).clamp(max=own - 1)
        rows_1KHW = torch.lerp(logits_1KHW[:, :, above], logits_1KHW[:, :, below], share)
        strip_1KHW = F.interpolate(rows_1KHW, (stop - start, width), mode="bilinear", align_corners=False)
        labels[start:stop] = strip_1KHW.argmax(dim=1)[0]
    return labels
