"""The one reader of images: which files are pictures, and how the commands and the training of segmenters read them."""

import gzip
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources, util
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence
from PIL.ImageFile import StubImageFile

from .errors import ADDRESSES, UserError, check_choice, first_line, say
from .files import leads_back

SAMPLE = "sample"  # in place of a file: a photo that an installed library ships
SAMPLES = {  # package, file, and what the package is called to pip
    "photo": ("sklearn", "datasets/images/china.jpg", "scikit-learn"),
    "person": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "matplotlib"),
}
# Pillow opens them, but a page is not a photo, and of a film it reads the size alone.
NOT_PHOTOS = {".pdf", ".ps", ".eps", ".mpg", ".mpeg"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode by the number of channels that a network takes
ARRAY = ".npy"
DRAWN_BY = "vt_timm"  # what stands in a picture of ours: a PNG's "Software", EXIF's, or a JPEG's or GIF's comment
MARKED_WITHIN = 4096  # bytes from the start of a file or from its end
DRAWINGS = (".svg", ".svgz", ".eps", ".ps")  # of lines: matplotlib writes them, and they are no photos
CREATORS = f"<dc:title>{DRAWN_BY}<", f"%%Creator: {DRAWN_BY}\n"  # as it calls us in SVG and in PostScript
SHARE = 1.5  # floats up to here are shares of white: resizing overshoots by a little, and of 255 this would be black
SHARE_BELOW = 0.2  # of white: so far below black, and above 255, a resized photo may get too
NORMALISED = 16  # what was normalised by its mean and deviation stays well below
HEIF = {".heic", ".heif", ".hif"}  # of telephones
# Photos that Pillow does not read by itself, or not everywhere; the last are what cameras call raw.
UNREAD = HEIF | {".avif", ".jxl", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}

if util.find_spec("pillow_heif") is not None:  # a plug-in for the photos of telephones
    import pillow_heif

    pillow_heif.register_heif_opener()


class ImageError(UserError):
    """A photo that is missing or cannot be read; the message names the file."""


def is_picture(path: Path) -> bool:
    """True if a file in a folder is a picture: a kind that can be read, and not hidden.

    Hidden files, the `._*` files of macOS, `Thumbs.db` and documents are left out without a message.
    """
    return _is_called_as_one(path) and path.is_file()


def _is_called_as_one(path: Path) -> bool:
    suffix = path.suffix.lower()
    return (suffix == ARRAY or suffix in photo_suffixes()) and not is_hidden(Path(path.name))


def is_hidden(path: Path) -> bool:
    """True if a part of a path is hidden, or is what macOS packs beside the photos of an archive."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def is_drawn_here(path: Path) -> bool:
    """True if a file is a picture that one of our commands has written, which the next may replace."""
    try:
        if path.suffix.lower() in DRAWINGS:
            with (gzip.open if path.suffix.lower() == ".svgz" else open)(path, "rb") as file:
                begin = file.read(MARKED_WITHIN)
            return any(creator.encode() in begin for creator in CREATORS)
        with path.open("rb") as file:  # which takes a fraction of the time that Pillow takes, for a folder of photos
            ends = file.read(MARKED_WITHIN)
            file.seek(max(file.seek(0, os.SEEK_END) - MARKED_WITHIN, 0))
            if DRAWN_BY.encode() not in ends + file.read():
                return False
        with Image.open(path) as picture:
            comment = picture.info.get("comment", b"").decode(errors="replace")
            return DRAWN_BY in (picture.info.get("Software"), comment, picture.getexif().get(ExifTags.Base.Software))
    except Exception:  # whatever Pillow raises for what is damaged, and so none that we have written
        return False


def photo_suffixes() -> set[str]:
    """Return the endings of the files that Pillow reads as photos."""
    kinds = Image.registered_extensions()
    # A stub knows a kind of file and leaves its pixels to a plug-in that is not there.
    readable = {kind for kind, (create, _) in Image.OPEN.items() if StubImageFile not in getattr(create, "__mro__", ())}
    readable |= {"MPO"} & set(kinds.values())  # of 3D cameras, which the reader of JPEG opens
    return {suffix for suffix, kind in kinds.items() if kind in readable} - NOT_PHOTOS


def find_images(names: Iterable[str], sample: str = "photo") -> list[Path]:
    """Return files as they are, folders as the pictures below them, and `sample` as a photo of an installed library.

    Of folders the pictures that our commands have drawn are left out, and photos that need another reader; how many is
    said on stderr.

    Args:
        names: what the user wrote.
        sample: which of `SAMPLES`.

    Raises:
        ImageError: for a name that does not exist, or a folder without images.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:  # which Path takes for the folder that one is in
            raise ImageError("an empty name: name a photo or a folder, the one that you are in as .")
        if os.path.isdir(path):  # unlike the method of Path, false for a name that is too long
            say_unread(path)
            found = sorted(_pictures_below(path))
            photos = [picture for picture in found if not is_drawn_here(picture)]
            if not photos:
                drawn = " but those that vt-timm drew; name them one by one" if found else ""
                raise ImageError(f"{name}: no images in this folder{drawn}")
            if len(photos) < len(found):
                say(f"left out {len(found) - len(photos)} of the pictures in {name}, which vt-timm drew")
            paths += photos
        elif os.path.exists(path):
            paths.append(path)
        elif name == SAMPLE:
            paths.append(sample_photo(sample))
        else:
            _check_no_address(name)
            raise ImageError(f"{name}: no such file or folder")
    return paths


def _check_no_address(name: str) -> None:
    if name.startswith(ADDRESSES):
        raise ImageError(f"{name}: photos are not fetched from the network; download it, and name the file")


def _files_below(root: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield what lies in a folder and in those below it, through links as timm's reader, but never in a circle."""
    for place, folders, names in os.walk(root, onerror=on_error, followlinks=True):
        here = Path(place)
        yield from (here / name for name in names)
        folders[:] = [name for name in folders if not (is_hidden(Path(name)) or leads_back(here / name, root))]


def _pictures_below(root: Path) -> Iterator[Path]:
    """Yield the pictures of a folder and of those below it."""

    def leave_out(error: OSError) -> None:  # a folder of somebody else's
        say(f"left out {error.filename}: {error.strerror}")

    called = (path for path in _files_below(root, leave_out) if _is_called_as_one(path))
    # A link that leads nowhere is for the reader to name; a pipe is no picture.
    return (path for path in called if path.is_file() or not path.exists())


def say_unread(root: Path) -> None:
    """Say how many photos of a folder and of those below it are left out, since Pillow does not read their kind."""
    found = Counter(path.suffix.lower() for path in _files_below(root) if not is_hidden(Path(path.name)))
    for suffix in sorted((UNREAD - photo_suffixes()) & found.keys()):
        say(f"left out {found[suffix]} {suffix} of {root}: {_reading_of(suffix)}")


def _reading_of(suffix: str) -> str:
    """Say how the files of an ending in `UNREAD` are read."""
    if suffix in HEIF:
        return f"{suffix} files are read after pip install 'vt_timm[heic]'"
    return f"turn {suffix} files into JPEG first"


def sample_photo(name: str = "photo") -> Path:
    """Return a photo that an installed library ships.

    >>> import vt_timm
    >>> vt_timm.sample_photo().name, vt_timm.sample_photo("person").name
    ('china.jpg', 'grace_hopper.jpg')

    Args:
        name: which of `SAMPLES`.

    Raises:
        ValueError: for another name.
        ImageError: if the library is not installed.
    """
    check_choice("name", name, SAMPLES)
    package, file, to_install = SAMPLES[name]
    if util.find_spec(package) is None:
        raise ImageError(
            f"the sample photo comes with {to_install}: pip install {to_install}, or name a photo of yours"
        )
    return Path(str(resources.files(package) / file))


def read_image(path: Path, max_side: int | None = None, channels: int = 3) -> Image.Image:
    """Read an image the right way up, with 8 bits per channel.

    EXIF orientation is applied. Greys of 16 bits (I;16) are divided by 256. In other wide modes and in .npy the range
    decides: floats from 0 to 1 are multiplied by 255, values up to 255 stay, values up to 65535 are divided by 256,
    others are spread over their own range. What resizing made of floats, a little below 0 and above 1 or 255, is cut
    off. Where a value is missing (NaN) it is black; infinities are
    the ends of the range; of booleans, true is white. A transparent background becomes white. CMYK and palettes become
    RGB.

    Args:
        path: the file.
        max_side: side in pixels that is enough; a large JPEG may be read smaller, but not smaller than this.
        channels: 1 for grey, 3 for RGB, 4 for RGB and one more.

    Raises:
        ImageError: if the file is not an image, is truncated, or is too large to be a photo (Pillow's limit).
    """
    if path.suffix.lower() == ARRAY:
        return to_image(read_channels(path, channels), channels)
    with _opened(path) as image:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))  # a JPEG is decoded at a fraction of its size
        return _upright(image, channels)


def to_image(photo: str | Path | bytes | Image.Image | np.ndarray, channels: int = 3) -> Image.Image:
    """Return a photo in whatever form one has it, as `read_image` gives it.

    Args:
        photo: a file's name, the file opened, its bytes, a PIL image, or an array (H, W) or (H, W, channels).
        channels: as for `read_image`.

    Raises:
        ImageError: as `read_image`, and for an array of another shape.
    """
    if hasattr(photo, "read"):  # a file, opened
        try:
            if hasattr(photo, "seek") and (not hasattr(photo, "seekable") or photo.seekable()):
                photo.seek(0)  # where Pillow begins too: it may have been read before
            photo = photo.read()
        except (OSError, ValueError) as error:  # closed, or open for writing
            raise ImageError(f"cannot read this file ({first_line(error)})") from error
        if isinstance(photo, str):
            raise ImageError('cannot read this file (it was opened as text): open it with the mode "rb"')
    if isinstance(photo, np.ndarray):
        try:
            values = _checked(photo, channels)
        except (TypeError, ValueError) as error:
            raise ImageError(f"cannot read this array ({first_line(error)})") from error
        return Image.fromarray(values.squeeze(-1) if channels == 1 else values, MODES[channels])
    if isinstance(photo, Image.Image):
        if 0 in photo.size:
            raise ImageError("cannot read this image (it has no pixels)")
        try:
            return _upright(photo, channels)
        except Exception as error:  # what is read late, such as the rest of a file that is cut off
            raise ImageError(f"cannot read this image ({first_line(error)})") from error
    if isinstance(photo, (bytes, bytearray, memoryview)):
        with _opened(io.BytesIO(photo), "these bytes") as image:
            return _upright(image, channels)
    if not isinstance(photo, (str, os.PathLike)):
        raise ImageError(
            f"cannot read a photo from a {type(photo).__name__}: give one photo, as a file's name, bytes, a PIL image, "
            "or a NumPy array (height, width, channels)"
        )
    if photo == "":  # which Path takes for the folder that one is in
        raise ImageError("an empty name: name a photo")
    _check_no_address(str(photo))
    return read_image(Path(photo), channels=channels)


def read_channels(path: Path, channels: int) -> np.ndarray:
    """Read the pixels of an image, (H, W, channels) of 8 bits, for any number of channels.

    1, 3 and 4 channels are read as `read_image` does. With other numbers of channels the file is a TIFF of one page per
    channel, as multispectral ones are, or a .npy file of the array (H, W, channels).

    Raises:
        ImageError: as `read_image`, and for a file with other channels.
    """
    if path.suffix.lower() == ARRAY:
        check_file(path)
        try:
            values = np.load(path, allow_pickle=False)
            if not isinstance(values, np.ndarray):
                raise ValueError("it holds several arrays")
            return _checked(values, channels)
        except Exception as error:  # whatever NumPy raises for what it was never meant to read
            raise ImageError(f"{path}: cannot read this array ({first_line(error)})") from error
    if channels in MODES:
        return np.atleast_3d(np.asarray(read_image(path, channels=channels)))
    with _opened(path) as image:
        return _pages(image, channels)


@contextmanager
def _opened(path: Path | io.BytesIO, name: object = None) -> Iterator[Image.Image]:
    """Yield the file, opened; whatever Pillow and its many plug-ins raise on reading it becomes one line."""
    if isinstance(path, Path):
        check_file(path)
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else first_line(error)
        suffix = path.suffix.lower() if isinstance(path, Path) else ""
        if suffix in UNREAD - photo_suffixes():
            reason = _reading_of(suffix)
        raise ImageError(f"{name or path}: cannot read this image ({reason})") from error


def check_file(path: Path) -> None:
    """Refuse what is no file: a folder, a link that leads nowhere, or a pipe, which would be waited for without end.

    Raises:
        ImageError: naming it.
    """
    if os.path.isdir(path):
        raise ImageError(f"{path}: this is a folder and no photo: give its photos")
    if os.path.islink(path) and not os.path.exists(path):
        raise ImageError(f"{path}: this link leads nowhere")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ImageError(f"{path}: cannot read this image (it is no file)")


def _upright(image: Image.Image, channels: int) -> Image.Image:
    """Return the image turned as its EXIF flag says, with 8 bits per channel, in the mode of so many channels."""
    image.load()  # what is damaged here is the photo
    with suppress(Exception):  # what is damaged here says how it was taken, and nothing of what is on it
        image = ImageOps.exif_transpose(image)
    return _converted(_eight_bits(image), MODES[channels])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Divide grey values of 16 bits by 256; Pillow clips wide ones at 255 when it converts them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    return Image.fromarray(_scaled(np.asarray(image)))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values of unknown range as 8 bits, by the rule of `read_image`; where there is no number, black.

    Raises:
        ValueError: for values of which none is a number.
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "uif":
        raise ValueError(f"values of the type {values.dtype} are no colours")
    fractions = values.dtype.kind == "f"
    values = values.astype(np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise ValueError("it holds no number")
    low, high = float(values[known].min()), float(values[known].max())
    values = np.nan_to_num(values, nan=min(low, 0.0), posinf=high, neginf=low)
    if fractions and low >= -SHARE_BELOW and high <= SHARE:
        return (values * 255).round().clip(0, 255).astype(np.uint8)  # as scientific software writes them
    resized = fractions and low >= -255 * SHARE_BELOW and NORMALISED < high <= 255 * (1 + SHARE_BELOW)
    if resized or (low >= 0 and high <= 255):
        return values.round().clip(0, 255).astype(np.uint8)
    if low >= 0 and high < 1 << 16:
        return (values / 256).astype(np.uint8)
    return ((values - low) / max(high - low, 1e-12) * 255).round().clip(0, 255).astype(np.uint8)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "RGBA":
        return image.convert(mode)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")  # as a browser shows it, not what lies under the transparency
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _pages(image: Image.Image, channels: int) -> np.ndarray:
    """Return (H, W, channels) of a file with one page per channel, as multispectral TIFFs are stored."""
    frames = getattr(image, "n_frames", 1)
    if frames != channels:
        bands = len(image.getbands())
        raise ValueError(
            f"it has {bands} channels and {frames} pages and the network takes {channels} channels: give a TIFF with "
            "one page per channel, or a .npy file (height, width, channels)"
        )
    pages = [np.asarray(_eight_bits(page).convert("L")) for page in ImageSequence.Iterator(image)]
    return np.stack(pages, axis=-1)


def _checked(values: np.ndarray, channels: int) -> np.ndarray:
    values = values[..., None] if values.ndim == 2 else values
    if 0 in values.shape:
        raise ValueError("it has no pixels")
    if values.ndim != 3 or (values.shape[2] != channels and not {values.shape[2], channels} <= set(MODES)):
        raise ValueError(f"the array is {values.shape} and the network takes (height, width, {channels})")
    values = values if values.dtype == np.uint8 else _scaled(values)
    if values.shape[2] == channels:
        return values
    image = Image.fromarray(values.squeeze(-1) if values.shape[2] == 1 else values, MODES[values.shape[2]])
    return np.atleast_3d(np.asarray(_converted(image, MODES[channels])))


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a network's mean or std; where images have another number of channels, their mean once per channel."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
