"""Pictures: the tokens' attention, as in the paper's Figures 5 and 7, and segmented photos. Needs matplotlib."""

import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .segmentation_data import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_attention", "draw_segmentation", "save_figure"]

COLUMNS = 6
LEGEND, LEGEND_FROM = 20, 0.5  # classes named, the largest first, and from how many percent of the pixels on


def draw_attention(photo: Image.Image, maps_LHW: Tensor, title: str, caption: str = "photo") -> "Figure":
    """One panel a token: its spatial attention over the photo, red high and blue low (Figure 5).

    Args:
        photo: what the model saw, at the size to draw.
        maps_LHW: one map a token at feature resolution, (L, H, W); upsampled bicubically, each panel scaled to its
            own range.
        title: headline of the picture.
        caption: over the plain photo.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    size = (photo.height, photo.width)
    maps = interpolate(maps_LHW[None].float().cpu(), size, mode="bicubic", align_corners=False)[0]
    rows = math.ceil((len(maps) + 1) / COLUMNS)
    panel = 1.7  # inches
    figure = Figure(figsize=(COLUMNS * panel + 0.8, rows * (panel * photo.height / photo.width + 0.25) + 0.6), dpi=160)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(photo)
    axes[0].set_title(caption, fontsize=9)
    for token, (axis, attention) in enumerate(zip(axes[1:], maps, strict=False), start=1):
        axis.imshow(photo)
        axis.imshow(attention, cmap="jet", alpha=0.5)
        axis.set_title(f"token {token}", fontsize=9)
    figure.suptitle(f"{title} (each map scaled to its own range)", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.92, top=1 - 0.62 / figure.get_figheight(), bottom=0.02, wspace=0.04)
    bar = figure.colorbar(ScalarMappable(cmap="jet"), cax=figure.add_axes((0.935, 0.25, 0.012, 0.5)), ticks=[0, 1])
    bar.ax.set_yticklabels(["low", "high"], fontsize=8)
    return figure


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
    figure = Figure(figsize=(2 * panel + 2.0, panel * photo.height / photo.width + 0.1), dpi=160)
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


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the picture whole or not at all; the ending says the format.

    Raises:
        OSError: if the folder is missing or cannot be written to.
        ValueError: for an ending that matplotlib does not know.
    """
    handle, temporary = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
