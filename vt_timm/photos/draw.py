"""Pictures: the tokens' attention, as in Figures 5 and 7 of the paper, and segmented photos. Needs matplotlib."""

import itertools
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_attention", "draw_segmentation", "overlay", "paint_segmentation", "save_figures"]

COLUMNS, PANEL, DPI = 6, 1.7, 200  # panels in a row of a single photo, inches of a panel, for print
LEGEND, LEGEND_FROM = 20, 0.5  # classes named, the largest first, and from how many percent of the pixels on


def draw_attention(
    photos: list[Image.Image],
    maps_LHW: list[Tensor],
    title: str,
    captions: list[str] | None = None,
    tokens: list[int] | None = None,
    colours: str = "jet",
    strength: float = 0.5,
) -> "Figure":
    """A panel a token, its attention over the photo: one photo over several rows, several photos a row each (Figure 7).

    Args:
        photos: what the model saw, at the size to draw.
        maps_LHW: for each photo one map a token at feature resolution, (L, H, W); upsampled bicubically, each panel
            scaled to its own range.
        title: headline of the picture.
        captions: over the plain photos.
        tokens: which tokens, counted from 1; all by default.
        colours: a colour map of matplotlib's; "jet" is the paper's, "cividis" is made for colour-blind readers.
        strength: of the colours over the photo, 0 to 1.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    tokens = tokens or list(range(1, len(maps_LHW[0]) + 1))
    captions = captions or ["photo"] * len(photos)
    columns = min(COLUMNS, len(tokens) + 1) if len(photos) == 1 else len(tokens) + 1
    rows_each = math.ceil((len(tokens) + 1) / columns)
    heights = [PANEL * photo.height / photo.width + 0.25 for photo in photos for _ in range(rows_each)]
    width = max(columns * PANEL + 0.8, 4.2)
    figure = Figure(figsize=(width, sum(heights) + 0.6), dpi=DPI)
    axes = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw=dict(height_ratios=heights))
    for axis in axes.flatten():
        axis.axis("off")
    for row, (photo, maps, caption) in enumerate(zip(photos, maps_LHW, captions, strict=True)):
        panels = axes[row * rows_each : (row + 1) * rows_each].flatten()
        size = (photo.height, photo.width)
        smooth = interpolate(maps[None].float().cpu(), size, mode="bicubic", align_corners=False)[0]
        panels[0].imshow(photo)
        panels[0].set_title(caption, fontsize=9)
        for token, axis in zip(tokens, panels[1:], strict=False):
            axis.imshow(photo)
            axis.imshow(smooth[token - 1], cmap=colours, alpha=strength)
            axis.set_title(f"token {token}", fontsize=9)
    figure.suptitle(title, fontsize=10, wrap=True)
    figure.text(0.01, 0.1 / figure.get_figheight(), "each map is scaled to its own range", fontsize=7, va="center")
    right = 1 - 0.7 / width
    top, bottom = 1 - 0.62 / figure.get_figheight(), 0.22 / figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=right, top=top, bottom=bottom, wspace=0.04)
    place = figure.add_axes((right + 0.15 / width, 0.25, 0.1 / width, 0.5))
    bar = figure.colorbar(ScalarMappable(cmap=colours), cax=place, ticks=[0, 1])
    bar.ax.set_yticklabels(["low", "high"], fontsize=8)
    return figure


def overlay(photo: Image.Image, map_HW: Tensor, colours: str = "jet", strength: float = 0.5) -> Image.Image:
    """One attention map over a photo as a plain picture, scaled to its own range, upsampled bicubically."""
    from matplotlib import colormaps

    smooth = interpolate(map_HW[None, None].float(), (photo.height, photo.width), mode="bicubic", align_corners=False)
    smooth = smooth[0, 0] - smooth.min()
    coloured = colormaps[colours]((smooth / smooth.max().clamp(min=1e-12)).numpy(), bytes=True)
    return Image.blend(photo, Image.fromarray(coloured).convert("RGB"), strength)


def palette(num_classes: int) -> np.ndarray:
    """A colour a class, (num_classes, 3) of 0 to 255: black, then far apart from one another in the bits' order.

    The scheme of PASCAL VOC: bits of the class number spread over the high bits of red, green and blue.
    """
    colours = np.zeros((num_classes, 3), dtype=np.uint8)
    for label in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours


def paint_segmentation(photo: Image.Image, labels_HW: Tensor, num_classes: int, opacity: float = 0.6) -> Image.Image:
    """The photo with each pixel in its class's colour, as a plain picture; labels may be of another size."""
    painted = Image.fromarray(palette(num_classes).astype("uint8")[labels_HW.numpy()])
    return Image.blend(photo, painted.resize(photo.size, Image.Resampling.NEAREST), opacity)


def draw_segmentation(photo: Image.Image, labels_HW: Tensor, class_names: list[str], opacity: float = 0.6) -> "Figure":
    """The photo, and beside it the same with each pixel in its class's colour; a legend of the classes that show.

    Args:
        photo: RGB.
        labels_HW: the label of every pixel, at the photo's size.
        class_names: one a label.
        opacity: of the colours, 0 to 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = palette(len(class_names)) / 255
    panel = 4.0  # inches wide
    figure = Figure(figsize=(2 * panel + 2.0, panel * photo.height / photo.width + 0.1), dpi=DPI)
    left, right = figure.subplots(1, 2)
    for axis in (left, right):
        axis.axis("off")
        axis.imshow(photo)
    right.imshow(colours[labels_HW.numpy()], alpha=opacity)
    counts = labels_HW.flatten().bincount(minlength=len(class_names))
    share = 100 * counts / counts.sum()
    present = [label for label in counts.argsort(descending=True).tolist() if share[label] >= LEGEND_FROM]
    figure.legend(
        handles=[
            Patch(facecolor=colours[label], edgecolor="grey", label=f"{class_names[label]}  {share[label]:.0f} %")
            for label in present[:LEGEND]
        ],
        loc="center left",
        bbox_to_anchor=(2 * panel / (2 * panel + 2.0), 0.5),
        fontsize=8,
        frameon=False,
    )
    figure.subplots_adjust(left=0.005, right=2 * panel / (2 * panel + 2.0), top=0.99, bottom=0.01, wspace=0.02)
    return figure


def save_figures(figures: Iterator["Figure"], path: Path, seconds_each: float = 2.0) -> list[Path]:
    """Write one picture, or several: pages of a .pdf, frames of a .gif, numbered files of any other ending.

    Each file is written whole or not at all; figures are drawn one at a time.

    Args:
        figures: at least one.
        path: the ending says the format.
        seconds_each: a frame of a .gif.

    Raises:
        OSError: if the folder is missing or cannot be written to.
        ValueError: for an ending that matplotlib does not know.
    """
    ending = path.suffix.lower()
    if ending == ".pdf":
        from matplotlib.backends.backend_pdf import PdfPages

        with _whole(path) as temporary, PdfPages(temporary) as pages:
            for figure in figures:
                pages.savefig(figure)
        return [path]
    if ending == ".gif":
        frames = [_rendered(figure) for figure in figures]
        size = max(frame.width for frame in frames), max(frame.height for frame in frames)
        frames = [ImageOps.pad(frame, size, color="white", centering=(0, 0)) for frame in frames]
        with _whole(path) as temporary:
            frames[0].save(
                temporary, save_all=True, append_images=frames[1:], duration=int(1000 * seconds_each), loop=0
            )
        return [path]
    written = []
    first = next(figures)
    second = next(figures, None)
    rest = itertools.chain([] if second is None else [second], figures)
    for number, figure in enumerate(itertools.chain([first], rest), start=1):
        target = path if second is None else path.with_stem(f"{path.stem}-{number}")
        with _whole(target) as temporary:
            figure.savefig(temporary)
        written.append(target)
    return written


def _rendered(figure: "Figure") -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI // 2)  # for a screen
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside the one to write, which takes its place if all goes well."""
    handle, name = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
