"""Pictures: the tokens' attention, as in Figures 5 and 7 of the paper, and segmented photos. Needs matplotlib.

They go to one file, pages of a .pdf or frames of a .gif, each written whole or not at all.
"""

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from ..files import whole_file
from ..images import DRAWINGS, DRAWN_BY
from .colours import palette, place_among_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLIDE = 13.33, 7.5  # inches
COLUMNS, DPI = 6, 200
PANEL, HEADING, BAR = 1.7, 0.25, 0.8  # inches: a panel's width, its heading of one line, the colour bar
MARGIN, FOOT, GAP = 0.1, 0.2, 0.04  # inches, inches, and the share of a panel that stays empty
TITLE_SIZE, LINE = 10, 1.2  # points, and a line's height in letters
POINTS, LETTERS = 72, 130  # per inch: points, and letters in a font of one point
STRONGEST, EVEN = 0.8, 0.5  # opacity of a map's highest value with "weight", and of every value with "even"
LEGEND = 20  # how many classes are named at most
LEGEND_WIDTH, LEGEND_LETTERS = 2.5, 20  # inches, and letters that fit in a line of the larger size
LEGEND_SIZES, LEGEND_LINE = (6.0, 12.0), 1.7  # points, and a line's height in letters
PAINT, PAINT_FIRST = 0.7, 0.3  # opacity of a class's colour, and of the first's, the background
SECONDS_PER_FRAME = 2.0
SCREEN_DPI = 100
EXIF = Image.Exif()
EXIF[ExifTags.Base.Software] = DRAWN_BY
# How a file says that we wrote it, by its ending; a .gif has a comment, too.
MARKS: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": DRAWN_BY}},
    **{ending: {"pil_kwargs": {"comment": DRAWN_BY}} for ending in (".jpg", ".jpeg")},
    **{ending: {"pil_kwargs": {"exif": EXIF}} for ending in (".tif", ".tiff", ".webp", ".avif")},
    **{ending: {"metadata": {"Creator": DRAWN_BY}} for ending in DRAWINGS},
}
NO_PICTURES = {"pgf", "raw", "rgba"}  # matplotlib writes them: for LaTeX, and bytes that do not say their size


# Fonts for letters that matplotlib's own font lacks, by what their names begin with; those that are installed are used.
SCRIPTS = (
    "Noto Sans CJK", "Source Han Sans", "WenQuanYi", "PingFang", "Hiragino", "Microsoft YaHei", "SimHei", "Yu Gothic",
    "Meiryo", "IPA", "TakaoGothic", "Malgun Gothic", "Apple SD Gothic", "Nanum", "Unifont", "Arial Unicode MS",
    "Noto Sans", "Noto Emoji", "Nirmala UI", "Segoe UI Emoji", "Droid Sans Fallback",
)  # fmt: skip


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let matplotlib draw and save by its own settings, not the user's, and texts as they are, not as mathematics.

    Letters that its font lacks come from others that are installed, and are boxes without a warning if none has them.
    """

    @wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        import matplotlib
        from matplotlib import style

        with style.context("default", after_reset=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ |Matplotlib currently does not support")
            own = matplotlib.rcParams["font.sans-serif"][0]
            with matplotlib.rc_context({"text.parse_math": False, "font.family": [own, *_fonts_of_scripts()]}):
                return function(*args, **kwargs)

    return draw


@cache
def _fonts_of_scripts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = sorted({font.name for font in fontManager.ttflist})
    return list(dict.fromkeys(name for start in SCRIPTS for name in installed if name.startswith(start)))


@_plainly
def draw_attention(
    photos: list[Image.Image],
    maps_LHW: list[Tensor],
    title: str,
    captions: list[str],
    tokens: list[int] | None = None,
    colours: str = "jet",
    opacity: str = "weight",
    columns: int | None = None,
) -> "Figure":
    """Draw one panel per token, its attention over the photo, no wider than a slide and no panel higher (Figure 7).

    Args:
        photos: what the model saw, at the size to draw.
        maps_LHW: for each photo one map per token at feature resolution, (L, H, W); upsampled bicubically, each panel
            scaled to its own range.
        title: headline of the picture.
        captions: texts over the plain photos, of one line or several.
        tokens: which tokens, counted from 1; all if None.
        colours: a colour map of matplotlib's; "jet" is the paper's, "cividis" is made for colour-blind readers.
        opacity: "weight", growing with the attention so that the photo stays visible; "even" is the paper's.
        columns: panels per row; 6 for a single photo and one row per photo for several if None.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    tokens = tokens or list(range(1, len(maps_LHW[0]) + 1))
    columns = min(columns or (COLUMNS if len(photos) == 1 else len(tokens) + 1), len(tokens) + 1)
    rows_each = math.ceil((len(tokens) + 1) / columns)
    tallest = max(photo.height / photo.width for photo in photos)
    panel = min(PANEL, (SLIDE[0] - BAR) / columns, SLIDE[1] / tallest)
    size = min(9.0, 9.0 * panel / PANEL + 2)
    letters = int(panel * LETTERS / size)
    captions = ["\n".join(fill(line, letters) for line in caption.split("\n")) for caption in captions]
    heading = HEADING + LINE * size / POINTS * max(caption.count("\n") for caption in captions)
    width = max(columns * panel + BAR, 4.2)
    title = fill(title, int((width - 2 * MARGIN) * LETTERS / TITLE_SIZE))
    top = 2 * MARGIN + LINE * TITLE_SIZE / POINTS * (1 + title.count("\n"))
    heights = [heading + panel * photo.height / photo.width for photo in photos]
    height = top + rows_each * sum(heights) + FOOT
    figure = Figure(figsize=(width, height), dpi=DPI)
    start = height - top  # of a photo's first row, from below
    for photo, maps, caption, row_height in zip(photos, maps_LHW, captions, heights, strict=True):
        pictures = [photo.convert("RGB")]  # of one channel, matplotlib would invent colours
        pictures += [overlay(photo, maps[token - 1], colours, opacity) for token in tokens]
        names = [caption, *(f"token {token}" if columns <= COLUMNS + 2 else str(token) for token in tokens)]
        for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            row, column = divmod(place, columns)
            left, bottom = MARGIN + column * panel, start - (row + 1) * row_height
            box = (left, bottom, panel * (1 - GAP), (row_height - heading) * (1 - GAP))
            axis = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            axis.axis("off")
            axis.imshow(picture)
            axis.set_title(name, fontsize=size)
        start -= rows_each * row_height
    figure.suptitle(title, fontsize=TITLE_SIZE, y=1 - MARGIN / height, va="top")
    figure.text(MARGIN / width, 0.1 / height, "each map is scaled to its own range", fontsize=7, va="center")
    right = 1 - 0.7 / width
    beside = figure.add_axes((right + 0.15 / width, 0.25, 0.1 / width, 0.5))
    bar = figure.colorbar(ScalarMappable(cmap=colours), cax=beside, ticks=[0, 1])
    bar.ax.set_yticklabels(["low", "high"], fontsize=8)
    return figure


def overlay(photo: Image.Image, map_HW: Tensor, colours: str = "jet", opacity: str = "weight") -> Image.Image:
    """Draw one attention map over a photo as a plain picture, scaled to its own range, upsampled bicubically."""
    layer = map_layer(map_HW, photo.size, colours, opacity)
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def map_layer(map_HW: Tensor, size: tuple[int, int], colours: str = "jet", opacity: str = "weight") -> Image.Image:
    """Return the same map by itself, as a transparent picture of this width and height."""
    from matplotlib import colormaps

    smooth = interpolate(map_HW[None, None].float(), size[::-1], mode="bicubic", align_corners=False)
    smooth = smooth[0, 0] - smooth.min()
    weight_HW = (smooth / smooth.max().clamp(min=1e-12)).numpy()
    layer_HW4 = colormaps[colours](weight_HW)
    layer_HW4[..., 3] = STRONGEST * weight_HW if opacity == "weight" else EVEN
    return Image.fromarray((255 * layer_HW4).round().astype(np.uint8))


def paint_segmentation(photo: Image.Image, labels_HW: Tensor, class_names: Sequence[str]) -> Image.Image:
    """Return the photo in its classes' colours, as a plain picture; labels may be of another size.

    The photo below the colours is grey, so that a colour looks the same on every cloth; what belongs to the first
    class, the background, shows through.
    """
    size, labels = photo.size, labels_HW.numpy().astype(np.int32)
    painted = Image.fromarray(palette(class_names)[labels]).resize(size, Image.Resampling.NEAREST)
    opacity = np.where(labels == 0, 255 * PAINT_FIRST, 255 * PAINT).astype(np.uint8)
    mask = Image.fromarray(opacity).resize(size, Image.Resampling.NEAREST)
    return Image.composite(painted, photo.convert("L").convert("RGB"), mask)


@_plainly
def draw_segmentation(
    photo: Image.Image, labels_HW: Tensor, class_names: list[str], side_by_side: bool = True
) -> "Figure":
    """The photo with each pixel in its class's colour, beside the plain photo; a legend of the classes that show.

    Args:
        photo: as it was read.
        labels_HW: the label of every pixel, at the photo's size.
        class_names: one per label.
        side_by_side: whether the plain photo stands beside it.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    ratio = photo.height / photo.width
    panels = 2 if side_by_side else 1
    panel = min((SLIDE[0] - LEGEND_WIDTH) / panels, SLIDE[1] / ratio)
    width = panels * panel + LEGEND_WIDTH
    counts = labels_HW.flatten().bincount(minlength=len(class_names))
    # No larger than it is drawn: matplotlib makes several copies of what it is given.
    photo = photo.convert("RGB")
    photo.thumbnail((max(int(DPI * panel), 1), max(int(DPI * panel * ratio), 1)))
    step = max(1, labels_HW.shape[1] // photo.width)
    pictures = [photo] if side_by_side else []
    pictures.append(paint_segmentation(photo, labels_HW[::step, ::step], class_names))
    colours = palette(class_names) / 255
    share = 100 * counts / counts.sum()
    present = [label for label in counts.argsort(descending=True).tolist() if counts[label]]  # all that is painted
    present.sort(key=lambda label: place_among_named(class_names[label]))
    names = [
        fill(f"{class_names[label]}  {_rounded(share[label].item())} %", LEGEND_LETTERS) for label in present[:LEGEND]
    ]
    patches = [
        Patch(facecolor=colours[label], edgecolor="grey", label=name)
        for label, name in zip(present, names, strict=False)
    ]
    lines = LEGEND_LINE * sum(1 + name.count("\n") for name in names) / POINTS  # inches that they take at one point
    height = max(panel * ratio, lines * LEGEND_SIZES[0])  # the latter beside a very wide photo
    figure = Figure(figsize=(width, height), dpi=DPI)
    for axis, picture in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        axis.axis("off")
        axis.imshow(picture)
    right, size = (width - LEGEND_WIDTH) / width, min(LEGEND_SIZES[1], height / lines)
    figure.legend(handles=patches, loc="center left", bbox_to_anchor=(right, 0.5), fontsize=size, frameon=False)
    figure.subplots_adjust(left=0, right=right, top=1, bottom=0, wspace=0.02)
    return figure


def _rounded(percent: float) -> str:
    """Return a share that is neither nothing nor all as no less than "< 1" and no more than "> 99"."""
    return "< 1" if percent < 0.5 else "> 99" if 99.5 <= percent < 100 else f"{percent:.0f}"


@_plainly
def draw_classification(photo: Image.Image, top: list[tuple[str, float]]) -> "Figure":
    """Draw the photo, and beside it a bar for the probability of each of the most probable classes.

    Args:
        photo: as it was read.
        top: names and probabilities, the largest first.
    """
    from matplotlib.figure import Figure

    height, bars = 3.0, 3.2  # inches: of the photo, and of the bars' width
    row = min(0.55, height / len(top))  # inches: a bar and its name above it
    thickness = 0.3 * row
    photo = photo.convert("RGB")
    photo.thumbnail((max(int(DPI * height), 1),) * 2)
    width = min(max(height * photo.width / photo.height, 1.0), SLIDE[0] - bars)
    figure = Figure(figsize=(width + bars, height), dpi=DPI)
    left, right = figure.subplots(1, 2, gridspec_kw=dict(width_ratios=(width, bars)))
    left.axis("off")
    left.imshow(photo)
    size = min(8.0, POINTS * 0.5 * row / LINE)
    start = (height - row * len(top)) / 2  # the rows stand in the middle
    for place, (name, share) in enumerate(top):
        middle = start + row * (place + 1) - thickness
        right.barh(middle, share, thickness, color="tab:blue")
        label = f"{name}  {_rounded(100 * share)} %"
        right.text(0, middle - 0.7 * thickness, label, fontsize=size, va="bottom", parse_math=False)
    right.set(xlim=(0, 1), ylim=(height, 0))
    right.axis("off")
    figure.subplots_adjust(left=0, right=0.98, top=1, bottom=0, wspace=0.08)
    return figure


def picture_endings() -> set[str]:
    """Return the endings of the pictures that are written, without the dot."""
    from matplotlib.backend_bases import FigureCanvasBase

    return set(FigureCanvasBase.get_supported_filetypes()) - NO_PICTURES


@_plainly
def save_figures(figures: Iterator["Figure"], path: Path) -> list[Path]:
    """Write one picture, or several: pages of a .pdf, frames of a .gif, numbered files of any other ending.

    Figures are drawn one at a time.

    Args:
        figures: at least one figure.
        path: the file, whose ending says the format.

    Raises:
        OSError: if the folder is missing or cannot be written to.
        ValueError: for a folder, and for an ending that is missing or of which no picture is made.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder; name a file in it, such as {path / 'picture.png'}")
    if not ending:
        raise ValueError(f"{path}: the ending says what kind of picture it is; name it {path}.png")
    if ending[1:] not in picture_endings():
        raise ValueError(f"{path}: pictures are {', '.join(f'.{kind}' for kind in sorted(picture_endings()))}")
    if ending == ".pdf":
        return _save_pages(figures, path)
    if ending == ".gif":
        return _save_frames(figures, path)
    written = []
    two = list(itertools.islice(figures, 2))
    for number, figure in enumerate(itertools.chain(two, figures), start=1):
        target = path if len(two) == 1 else path.with_stem(f"{path.stem}-{number}")
        with whole_file(target) as temporary:
            figure.savefig(temporary, **MARKS.get(ending, {}))
        written.append(target)
    return written


def _save_pages(figures: Iterator["Figure"], path: Path) -> list[Path]:
    from matplotlib.backends.backend_pdf import PdfPages

    with whole_file(path) as temporary, PdfPages(temporary) as pages:
        for figure in figures:
            pages.savefig(figure)
    return [path]


def _save_frames(figures: Iterator["Figure"], path: Path) -> list[Path]:
    frames = [Image.open(io.BytesIO(to_png(figure))).convert("RGB") for figure in figures]
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    frames = [ImageOps.pad(frame, size, color="white", centering=(0, 0)) for frame in frames]
    with whole_file(path) as temporary:
        duration = int(1000 * SECONDS_PER_FRAME)
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=duration, loop=0, comment=DRAWN_BY)
    return [path]


@_plainly
def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file of a screen's resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SCREEN_DPI)
    return buffer.getvalue()
