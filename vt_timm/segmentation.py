"""Segmenting a photo with a trained segmenter."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from .downloads import CONFIG, WEIGHTS, fetch
from .errors import first_line
from .vt_fpn import Segmenter

__all__ = ["load_segmenter", "segment"]


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


def segment(model: Segmenter, photo: Image.Image, short_side: int | None = None, max_long_side: int = 1024) -> Tensor:
    """The label of every pixel of a photo, (height, width), whatever its size.

    Args:
        model: a segmenter.
        photo: RGB.
        short_side: resize to it before the network, in pixels; best the model's `short_side`. None keeps the
            photo's own size.
        max_long_side: a longer photo is made this long before the network, so that a large one fits into memory; the
            logits are brought back to the photo's size.
    """
    height, width = photo.height, photo.width
    scale = (short_side or min(height, width)) / min(height, width)
    scale = min(scale, max_long_side / max(height, width))
    size = [max(round(height * scale), 32), max(round(width * scale), 32)]
    image = transforms.resize(transforms.pil_to_tensor(photo), size, antialias=True).float() / 255
    image = transforms.normalize(image, **model.normalization)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(image[None].to(device)).float()
        return F.interpolate(logits, (height, width), mode="bilinear").argmax(dim=1)[0].cpu()
