"""Segmenting photos with a trained segmenter."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ..errors import UserError, first_line
from ..weights.download import CONFIG, WEIGHTS, fetch
from .data import MIN_SIDE
from .model import Segmenter

MAX_LONG_SIDE, MIN_WINDOW = 1024, 64  # pixels
SCALES = (0.5, 0.66, 1.0, 1.4)  # for any photo: a person near the camera shows in a small view, shoes in a large one
STRIP = 64  # rows of a photo that are labelled at a time

__all__ = ["SCALES", "load_segmenter", "network_input", "resized", "segment"]


def load_segmenter(source: str | Path, device: str = "cpu") -> Segmenter:
    """A trained segmenter in eval mode, from a folder (`best/` of a training run) or a Hub repository.

    Raises:
        RuntimeError: in one line, if it is not there, damaged, or no segmenter.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = fetch(str(source), CONFIG).parent
        fetch(str(source), WEIGHTS)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise RuntimeError(f"{source} is not a segmenter: there is no {name} in it; name the best/ folder of a run")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "neck" not in config:
            raise ValueError(f"it is a classifier, {config.get('architecture', 'of no name')}, and not a segmenter")
        return Segmenter.from_pretrained(str(folder)).eval().to(device)
    except UserError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise RuntimeError(f"cannot load the segmenter {source}: {first_line(error)}") from error


def resized(
    photo: Image.Image,
    short_side: int | Sequence[int] | None = None,
    max_long_side: int = MAX_LONG_SIDE,
    scale: float = 1.0,
) -> Image.Image:
    """The photo at the size that the network sees.

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
    size = [max(round(side * factor), MIN_SIDE) for side in (photo.height, photo.width)]
    return transforms.resize(photo, size, antialias=True)


def network_input(model: Segmenter, view: Image.Image) -> Tensor:
    """A resized photo as a normalised batch of one, (1, channels, H, W)."""
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
    """The label of every pixel of a photo, (height, width), whatever its size.

    The network sees the photo at the size that `resized` gives it, and its logits are brought back to the photo's own
    size; with several `scales` it sees it several times, and the mean of the probabilities counts. Or, with `window`,
    it sees the photo at its own size through a window that moves over it.

    Args:
        model: a segmenter.
        photo: a photo of the channels that the model takes.
        short_side, max_long_side: sides of what the network sees, in pixels, as for `resized`.
        window: side of the window in pixels, a multiple of 64.
        scales: sizes at which the network sees the photo, 1 for `short_side`; `SCALES` are what the commands use. A
            window has one.

    Raises:
        ValueError: for a window that is not such a multiple, and for no scales or some that are not above 0.
    """
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales={list(scales)} must be numbers above 0")
    if window is None:
        views = [resized(photo, short_side, max_long_side, scale) for scale in scales]
        return _at_size(_mean_of_views(model, views), photo.height, photo.width)
    if window < MIN_WINDOW or window % MIN_WINDOW:
        raise ValueError(f"window={window} must be a multiple of {MIN_WINDOW}")
    labels = torch.zeros(photo.height, photo.width, dtype=torch.long)
    for top, rows in _tiles(photo.height, window):
        for left, columns in _tiles(photo.width, window):
            box = (left, top, min(left + window, photo.width), min(top + window, photo.height))
            view = resized(photo.crop(box), None, window)
            seen = _at_size(_logits(model, view), box[3] - box[1], box[2] - box[0])
            labels[rows, columns] = seen[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return labels


def _tiles(length: int, window: int) -> Iterator[tuple[int, slice]]:
    """Starts of windows that overlap by a half, and what of each is kept: the middle, which sees both sides."""
    last = max(length - window, 0)
    starts = [*range(0, last, window // 2), last]
    for i, start in enumerate(starts):
        begin = 0 if i == 0 else (starts[i - 1] + window + start) // 2
        end = length if i == len(starts) - 1 else (start + window + starts[i + 1]) // 2
        yield start, slice(begin, end)


def _logits(model: Segmenter, view: Image.Image) -> Tensor:
    device = next(model.parameters()).device
    with torch.inference_mode():
        return model(network_input(model, view).to(device)).float().cpu()


def _mean_of_views(model: Segmenter, views: Sequence[Image.Image]) -> Tensor:
    """The logits of a view, or the mean of the probabilities of several, (1, K, H, W) of the largest output."""
    outputs = [_logits(model, view) for view in {view.size: view for view in views}.values()]
    if len(outputs) == 1:
        return outputs[0]
    size = max((output.shape[-2:] for output in outputs), key=math.prod)
    return torch.stack([F.interpolate(output.softmax(dim=1), size, mode="bilinear") for output in outputs]).mean(dim=0)


def _at_size(logits_1KHW: Tensor, height: int, width: int) -> Tensor:
    """Argmax of the logits at another size, (height, width): bilinear, one strip of rows at a time.

    The logits of all classes at the size of a large photo would take gigabytes.
    """
    own = logits_1KHW.shape[-2]
    labels = torch.empty(height, width, dtype=torch.long)
    for start in range(0, height, STRIP):
        stop = min(start + STRIP, height)
        row = ((torch.arange(start, stop) + 0.5) * own / height - 0.5).clamp(0, own - 1)
        above, share = row.long(), (row - row.floor())[:, None]
        below = (above + 1).clamp(max=own - 1)
        rows_1KHW = torch.lerp(logits_1KHW[:, :, above], logits_1KHW[:, :, below], share)
        strip_1KHW = F.interpolate(rows_1KHW, (stop - start, width), mode="bilinear", align_corners=False)
        labels[start:stop] = strip_1KHW.argmax(dim=1)[0]
    return labels
