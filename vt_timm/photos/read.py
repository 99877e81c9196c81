"""Photos in: finding, reading and preparing them for a model."""

from collections.abc import Iterable
from importlib import resources, util
from pathlib import Path

from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

__all__ = ["ImageError", "display_view", "find_images", "model_input", "read_image"]

SAMPLE = "sample"  # stands for a photo that scikit-learn ships


class ImageError(Exception):
    """A photo that is missing or cannot be read; the message names the file."""


def find_images(names: Iterable[str]) -> list[Path]:
    """Files as they are, folders as the images anywhere below them, and `sample` as a photo that scikit-learn ships.

    Raises:
        ImageError: for a name that does not exist, or a folder without images.
    """
    extensions = Image.registered_extensions()
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in extensions and p.is_file())
            if not found:
                raise ImageError(f"{name}: no images in this folder")
            paths += found
        elif path.exists():
            paths.append(path)
        elif name == SAMPLE:
            paths.append(_sample_photo())
        else:
            raise ImageError(f"{name}: no such file or folder")
    return paths


def _sample_photo() -> Path:
    if util.find_spec("sklearn") is None:
        raise ImageError("the sample photo comes with scikit-learn: pip install scikit-learn, or name a photo of yours")
    return Path(str(resources.files("sklearn.datasets") / "images" / "china.jpg"))


def read_image(path: Path, max_side: int | None = None) -> Image.Image:
    """The photo as RGB, the right way up.

    Args:
        path: of the file.
        max_side: pixels that are enough; a large JPEG may come smaller, but not smaller than that.

    Raises:
        ImageError: if the file is no image, is truncated, or is too large to be a photo (Pillow's limit).
    """
    try:
        with Image.open(path) as image:
            if max_side is not None:
                image.draft("RGB", (max_side, max_side))  # a JPEG is decoded at a fraction of its size
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise ImageError(f"{path}: cannot read this image ({reason})") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips grey values of 16 bits at 255 when it converts them; here they are divided."""
    return image.point(lambda value: value / 256).convert("L") if image.mode.startswith("I;16") else image


def model_input(model: nn.Module, image: Image.Image) -> Tensor:
    """The photo as the model was evaluated: resized, cropped and normalised. Shape (1, 3, H, W)."""
    return create_transform(**resolve_data_config({}, model=model, use_test_size=True))(image).unsqueeze(0)


def display_view(model: nn.Module, image: Image.Image, scale: int = 3) -> Image.Image:
    """What the model sees of the photo, `scale` times as many pixels each way, to draw on."""
    config = resolve_data_config({}, model=model, use_test_size=True)
    channels, height, width = config["input_size"]
    config["input_size"] = (channels, scale * height, scale * width)
    *geometry, _to_tensor, _normalize = create_transform(**config).transforms
    for step in geometry:
        image = step(image)
    return image
