"""Photos in timm's scripts, read as the commands read them."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import ImageDataset, add_img_extensions

from ..errors import say
from ..images import MODES, ImageError, check_file, is_hidden, photo_suffixes, say_unread, to_image

_logger = logging.getLogger(__name__)


class Reading:
    """A transform behind our reader: the bytes of a photo, or one that a reader of timm's opened, in; its result out.

    A photo keeps its EXIF flag when timm converts its colours, so that it can be turned afterwards too.

    Args:
        mode: Pillow's mode that timm's data set asks for.
        transform: timm's transform, or None.
    """

    def __init__(self, mode: str, transform: Callable[..., Any] | None) -> None:
        self.channels = {mode: number for number, mode in MODES.items()}.get(mode, 3)
        self.transform = transform

    def __call__(self, photo: Any) -> Any:
        if isinstance(photo, (bytes, Image.Image)):
            photo = to_image(photo, self.channels)
        return photo if self.transform is None else self.transform(photo)


class PhotoDataset(ImageDataset):
    """timm's data set, which goes on to the next photo when one cannot be read, whatever Pillow raises."""

    def __getitem__(self, index: int) -> Any:
        for step in range(self._max_retries):
            at = (index + step) % len(self.reader)
            try:
                if type(self.reader).__name__ == "ReaderImageFolder":
                    check_file(Path(self.reader.samples[at][0]))
                return super().__getitem__(at)
            except (ImageError, FileNotFoundError) as error:  # the latter for a link that leads nowhere
                _logger.warning(f"Skipped {self.filename(at)}: {error}")
        raise ImageError(
            f"{self._max_retries} photos in a row, from {self.filename(index)} on, cannot be read: take them out of "
            "the data, or bring them back"
        )


def finding_photos(create_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Return timm's `create_dataset`, which finds in a folder the photos that the commands find.

    timm's own takes .png and .jpg alone, and hidden files and folders too, the latter as classes.
    """

    @functools.wraps(create_dataset)
    def create(*args: Any, **kwargs: Any) -> Any:
        add_img_extensions(sorted(photo_suffixes()))
        try:
            dataset = create_dataset(*args, **kwargs)
        except RuntimeError:  # timm's, of a folder without photos that it knows
            say_unread(Path(kwargs.get("root") or "."))
            raise
        reader: Any = getattr(dataset, "reader", None)
        if type(reader).__name__ == "ReaderImageFolder":
            say_unread(Path(reader.root))
            _leave_out_hidden(reader, renumber=not kwargs.get("class_map"))
        return dataset

    return create


def _leave_out_hidden(reader: Any, renumber: bool) -> None:
    """Leave out of a folder of timm's what is hidden, and the classes that are then empty unless they were given."""
    seen = [(path, label) for path, label in reader.samples if not is_hidden(Path(path).relative_to(reader.root))]
    if not seen:
        raise RuntimeError(f"all images in subfolders of {reader.root} are hidden")
    if len(seen) == len(reader.samples):
        return
    if renumber:
        left = {label for _, label in seen}
        names = [name for name, label in reader.class_to_idx.items() if label in left]  # as timm sorts them
        numbers = {reader.class_to_idx[name]: number for number, name in enumerate(names)}
        seen = [(path, numbers[label]) for path, label in seen]
        reader.class_to_idx = {name: number for number, name in enumerate(names)}
    reader.samples = seen


def reading_photos(create_loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return timm's `create_loader`, or its sibling for NaFlex, whose photos are read as the commands read them.

    They stand upright as their EXIF flag says, 16 bits become 8, and transparency becomes white.
    """

    @functools.wraps(create_loader)
    def create(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        base = getattr(dataset, "dataset", dataset)  # AugMix wraps the data set
        reader: Any = getattr(base, "reader", None)
        mode = getattr(base, "input_img_mode", None) or getattr(reader, "input_img_mode", None) or "RGB"
        if type(base) is ImageDataset and not base.load_bytes:
            base.__class__, base.load_bytes = PhotoDataset, True
        elif hasattr(reader, "input_img_mode") and type(reader).__name__ in ("ReaderWds", "ReaderHfids"):
            reader.input_img_mode = None  # the photo as it is, with its transparency and its 16 bits
        elif type(reader).__name__ in ("ReaderTfds", "ReaderTfrecord"):
            say("TensorFlow reads these photos without their EXIF flag: turned ones lie on their side")
        loader = create_loader(dataset, *args, **kwargs)
        base.transform = Reading(mode, getattr(base, "transform", None))
        return loader

    return create
