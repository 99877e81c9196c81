"""Segmenting a photo with a trained segmenter."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ..errors import first_line
from ..weights.download import CONFIG, WEIGHTS, fetch
from .model import Segmenter

__all__ = ["load_segmenter", "network_input", "resized", "segment"]


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
            raise RuntimeError(f"{source} is no segmenter: there is no {name} in it; name the best/ folder of a run")
    try:
        config = json.loads((folder / CONFIG).read_text())
        if "neck" not in config:
            raise ValueError(f"it is no segmenter, its config.json describes {config.get('architecture', 'no model')}")
        return Segmenter.from_pretrained(str(folder)).eval().to(device)
    except Exception as error:
        raise RuntimeError(f"cannot load the segmenter {source}: {first_line(error)}") from error


def resized(photo: Image.Image, short_side: int | None = None, max_long_side: int = 1024) -> Image.Image:
    """The photo at the size that the network sees.

    Args:
        photo: RGB.
        short_side: in pixels; best the model's `short_side`. None keeps the photo's own size.
        max_long_side: a longer photo is made this long, so that a large one fits into memory.
    """
    scale = (short_side or min(photo.size)) / min(photo.size)
    scale = min(scale, max_long_side / max(photo.size))
    size = [max(round(side * scale), 32) for side in (photo.height, photo.width)]
    return transforms.resize(photo, size, antialias=True)


def network_input(model: Segmenter, view: Image.Image) -> Tensor:
    """A resized photo as a normalised batch of one, (1, 3, H, W)."""
    image = transforms.pil_to_tensor(view).float() / 255
    return transforms.normalize(image, **model.normalization)[None]  # type: ignore[arg-type]


def segment(model: Segmenter, photo: Image.Image, short_side: int | None = None, max_long_side: int = 1024) -> Tensor:
    """The label of every pixel of a photo, (height, width), whatever its size.

    The network sees the photo at the size that `resized` gives it; the logits are brought back to the photo's own.

    Args:
        model: a segmenter.
        photo: RGB.
        short_side, max_long_side: of what the network sees, pixels.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(network_input(model, resized(photo, short_side, max_long_side)).to(device)).float()
        size = (photo.height, photo.width)
        return F.interpolate(logits, size, mode="bilinear").argmax(dim=1)[0].cpu()
