"""The drawing commands: `vt-timm attention` and `vt-timm segment`."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..attention_maps import record_attention
from ..errors import CommandError
from ..images import ImageError, find_images, read_image
from ..segmentation.model import Segmenter
from .models import display_view, load_model, model_input, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Look", "attention", "load", "look", "segment_photo"]

NOUNS = {"tokenizer": "where each visual token looks", "projector": "which pixels read each visual token"}


@dataclass
class Look:
    """A photo as a model saw it, what the model says of it, and its attention, one (L, H, W) a VT module."""

    view: Image.Image
    caption: str
    maps: list[Tensor]
    shares: dict[str, float]  # the five most probable classes, or of each class seen its share of the picture
    labels: Tensor | None = None  # of a segmenter, (height, width) of what it saw
    class_names: list[str] = field(default_factory=list)  # of a segmenter

    def class_at(self, x: float, y: float) -> str | None:
        """What a segmenter sees at a place, given in shares of width and height; None of a classifier."""
        if self.labels is None:
            return None
        height, width = self.labels.shape
        return self.class_names[int(self.labels[min(int(y * height), height - 1), min(int(x * width), width - 1)])]


def look(model: nn.Module, photo: Image.Image, of: str = "tokenizer") -> Look:
    """Run a classifier or a segmenter on a photo and keep its attention.

    Args:
        model: with VT modules, in eval mode.
        photo: RGB.
        of: "tokenizer" or "projector", as in `record_attention`.

    Raises:
        ValueError: if the model has no such attention.
    """
    device = next(model.parameters()).device
    # A segmenter's backbone may have VT modules too; VT-FPN's are those of the neck.
    with record_attention(model.neck if isinstance(model, Segmenter) else model, of) as maps:
        if isinstance(model, Segmenter):
            from ..segmentation.inference import network_input, resized

            view = resized(photo, model.short_side)
            with torch.inference_mode():
                labels = model(network_input(model, view).to(device)).argmax(dim=1)[0].cpu()
            counts = labels.flatten().bincount(minlength=model.num_classes)
            seen = [i for i in counts.argsort(descending=True).tolist() if counts[i]]
            shares = {model.class_names[i]: counts[i].item() / labels.numel() for i in seen}
            caption = ", ".join(list(shares)[:2])
            view = resized(photo, 3 * min(view.size), 3 * max(view.size))
        else:
            (top,) = predict(model, model_input(model, photo).to(device), topk=5)
            shares = {one["class"]: one["probability"] for one in top}
            caption = "{} {:.0f} %".format(top[0]["class"], 100 * top[0]["probability"])
            labels = None
            view = display_view(model, photo)
    names = model.class_names if isinstance(model, Segmenter) else []
    return Look(view, caption, [attention[0].cpu() for attention in maps], shares, labels, names)


def attention(args: argparse.Namespace) -> int:
    """Figures 5 and 7 of the paper: what each token of one VT module looks at, for one photo or many."""
    _check_drawing(args.output)
    _check_colours(args.colours)
    if not 0 <= args.strength <= 1:
        raise CommandError(f"--strength {args.strength} must be between 0 and 1")
    paths = find_images(args.images)
    model = load(args.model, args.device)
    looks, skipped = _looks(model, paths, args)
    chosen = [found.maps[args.module - 1] for found in looks]
    if args.save_maps:
        _save_maps(Path(args.save_maps), chosen)
    tokens = args.tokens or list(range(1, len(chosen[0]) + 1))
    if max(tokens) > len(chosen[0]):
        raise CommandError(f"--tokens {max(tokens)}: the module has tokens 1 to {len(chosen[0])}")
    what = "level" if isinstance(model, Segmenter) else "VT module"
    name = "/".join(Path(args.model).resolve().parts[-2:]) if Path(args.model).is_dir() else args.model
    title = f"{name}, {what} {args.module} of {len(looks[0].maps)}: {NOUNS[args.of]}"

    def figures() -> Iterator["Figure"]:
        from .draw import draw_attention

        for start in range(0, len(looks), args.photos):
            page = slice(start, start + args.photos)
            shown = looks[page]
            yield draw_attention(
                [one.view for one in shown],
                chosen[page],
                title,
                [one.caption for one in shown],
                tokens,
                args.colours,
                args.strength,
            )

    _write(figures(), args.output)
    return 1 if skipped else 0


def load(name: str, device: str) -> nn.Module:
    """A segmenter for a folder or repository that holds one, else a classifier of timm's."""
    if Path(name).is_dir() or ("/" in name and not name.startswith(("local-dir:", "hf-hub:"))):
        from ..segmentation.inference import load_segmenter

        try:
            return load_segmenter(name, device)
        except RuntimeError as error:
            raise CommandError(str(error)) from error
    return load_model(name, device)


def _looks(model: nn.Module, paths: list[Path], args: argparse.Namespace) -> tuple[list[Look], int]:
    looks, skipped = [], 0
    for path in paths:
        try:
            photo = read_image(path)
        except ImageError as error:
            if len(paths) == 1:
                raise
            print(f"vt-timm: skipped {error}", file=sys.stderr)
            skipped += 1
            continue
        try:
            looks.append(look(model, photo, args.of))
        except ValueError as error:
            raise CommandError(str(error)) from error
        number = len(looks[-1].maps)
        if not 1 <= args.module <= number:
            kind = "levels" if isinstance(model, Segmenter) else f"VT modules with a {args.of}"
            raise CommandError(f"--module {args.module}: {args.model} has {kind} 1 to {number}")
    if not looks:
        raise CommandError("none of the images could be read")
    return looks, skipped


def _save_maps(path: Path, maps_LHW: list[Tensor]) -> None:
    """As they are, at feature resolution: (photos, L, H, W)."""
    arrays = [attention.float().cpu().numpy() for attention in maps_LHW]
    if len({array.shape for array in arrays}) > 1:
        raise CommandError(f"--save-maps {path}: the photos differ in shape, and so do their maps: name one at a time")
    try:
        np.save(path, np.stack(arrays))
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error}") from error
    print(path if path.suffix == ".npy" else f"{path}.npy")


def segment_photo(args: argparse.Namespace) -> int:
    """A photo beside itself in the colours of its classes, with a legend."""
    _check_drawing(args.output)
    image = read_image(find_images([args.image])[0])
    from ..segmentation.inference import load_segmenter, segment
    from .draw import draw_segmentation

    try:
        model = load_segmenter(args.model, args.device)
    except RuntimeError as error:
        raise CommandError(str(error)) from error
    labels = segment(model, image, args.short_side or model.short_side, args.max_long_side)
    _write(iter([draw_segmentation(image, labels, model.class_names)]), args.output)
    return 0


def _check_drawing(output: str) -> None:
    """Before the model runs: whether the picture can be drawn and written."""
    if util.find_spec("matplotlib") is None:
        raise CommandError("drawing needs matplotlib: pip install 'vt_timm[plots]'")
    folder = Path(output).parent
    if not folder.is_dir():
        raise CommandError(f"{output}: the folder {folder} does not exist")


def _check_colours(name: str) -> None:
    from matplotlib import colormaps

    if name not in colormaps:
        raise CommandError(f"--colours {name}: matplotlib has no such colour map; try jet, viridis or cividis")


def _write(figures: Iterator["Figure"], output: str) -> None:
    from .draw import save_figures

    try:
        for path in save_figures(figures, Path(output)):
            print(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {output}: {error}") from error
