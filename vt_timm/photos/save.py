"""Pictures to files: one file, pages of a .pdf, frames of a .gif, each written whole or not at all."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_figures", "whole_file"]

SECONDS_PER_FRAME = 2.0
SCREEN_DPI = 100


def save_figures(figures: Iterator["Figure"], path: Path) -> list[Path]:
    """Write one picture, or several: pages of a .pdf, frames of a .gif, numbered files of any other ending.

    Figures are drawn one at a time.

    Args:
        figures: at least one figure.
        path: the file, whose ending says the format.

    Raises:
        OSError: if the folder is missing or cannot be written to.
        ValueError: for an ending that matplotlib does not know.
    """
    ending = path.suffix.lower()
    if ending == ".pdf":
        return _save_pages(figures, path)
    if ending == ".gif":
        return _save_frames(figures, path)
    written = []
    first = next(figures)
    second = next(figures, None)
    rest = itertools.chain([] if second is None else [second], figures)
    for number, figure in enumerate(itertools.chain([first], rest), start=1):
        target = path if second is None else path.with_stem(f"{path.stem}-{number}")
        with whole_file(target) as temporary:
            figure.savefig(temporary)
        written.append(target)
    return written


def _save_pages(figures: Iterator["Figure"], path: Path) -> list[Path]:
    from matplotlib.backends.backend_pdf import PdfPages

    with whole_file(path) as temporary, PdfPages(temporary) as pages:
        for figure in figures:
            pages.savefig(figure)
    return [path]


def _save_frames(figures: Iterator["Figure"], path: Path) -> list[Path]:
    frames = [_rendered(figure) for figure in figures]
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    frames = [ImageOps.pad(frame, size, color="white", centering=(0, 0)) for frame in frames]
    with whole_file(path) as temporary:
        duration = int(1000 * SECONDS_PER_FRAME)
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return [path]


def _rendered(figure: "Figure") -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(SCREEN_DPI)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
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
