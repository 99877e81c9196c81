"""Segmenters of photos."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ..photos.colours import palette
from ..segmentation.data import MIN_SIDE
from ..segmentation.inference import MAX_LONG_SIDE, SCALES, network_input, resized, segment
from ..segmentation.labels import BACKGROUND
from ..segmentation.model import Segmenter
from .answers import Segmentation
from .onnx_file import OnnxFile
from .pipeline import DISPLAY_SCALE, Photo, Pipeline, smooth_noise

if TYPE_CHECKING:
    from ..segmentation.settings import Settings
    from .validation import Validation

__all__ = ["SegmentationPipeline", "SegmenterInFile"]

SHARE_SHOWN = 0.001  # a class that covers a smaller share of a photo is not named


class SegmentationPipeline(Pipeline):
    """A segmenter; its own attention is that of its neck, although its backbone may have VT modules too."""

    kind = "segmenter"
    place = "level"
    sample = "person"
    any_size = True
    module: Segmenter | OnnxFile

    def __init__(self, module: Segmenter | OnnxFile, name: str = "") -> None:
        super().__init__(module, name)
        self.class_names = module.class_names

    def view(self, photo: Image.Image) -> Image.Image:
        return resized(photo, self.module.short_side)

    def display(self, photo: Image.Image) -> Image.Image:
        size = self.view(photo).size
        return transforms.resize(photo, [DISPLAY_SCALE * size[1], DISPLAY_SCALE * size[0]], antialias=True)

    def input(self, view: Image.Image) -> Tensor:
        return network_input(self.module, view)  # type: ignore[arg-type]

    def facts(self) -> dict[str, Any]:
        module: Any = self.module
        return {
            "kind": self.kind,
            **module.normalization,
            "palette": palette(module.class_names).tolist(),
            "short_side": module.short_side,
            "least_side": MIN_SIDE,
            "multiple": module.multiple,
            "interpolation": "bilinear",
        }

    def example(self) -> Tensor:
        """Odd, so that the tracer meets no size that needs no padding and takes it for the rule."""
        return smooth_noise(2, self.channels, 333, 301)

    def folded(self, rows: bool = False) -> nn.Module:
        from ..export.fold_segmenter import folded_segmenter

        return folded_segmenter(self.module)  # type: ignore[arg-type]

    def validation(self, folder: str, settings: "Settings | None" = None) -> "Validation":
        from .validation import LabelledPixels

        return LabelledPixels(self, folder, settings)

    def answers(
        self,
        photos: Iterable[Photo],
        short_side: int | Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        max_long_side: int = MAX_LONG_SIDE,
        window: int | None = None,
    ) -> Iterator[Segmentation]:
        """Yield the answer for one photo after the other, its labels at the photo's own size.

        Args:
            photos: as for a call.
            short_side, max_long_side: sides of what the network sees, in pixels; None for those of its evaluation.
            scales: sizes at which it sees the photo, times the short side; None for `segmentation.inference.SCALES`.
            window: side of a window that moves over the photo at its own size instead.

        Raises:
            ValueError: for sizes that cannot be.
        """
        if window and scales:
            raise ValueError("scales: a window sees the photo at its own size; leave window or scales out")
        for photo in map(self.read, photos):
            labels = segment(
                self.network,  # type: ignore[arg-type]
                photo,
                short_side or self.module.short_side,
                max_long_side,
                window,
                scales or SCALES,
            )
            yield self._described(photo, labels)

    def describe(self, photo: Image.Image, output: Tensor) -> Segmentation:
        """Label the photo as a call does: the network sees it at other sizes too, not only as its view."""
        return next(self.answers([photo]))

    def _described(self, photo: Image.Image, labels: Tensor) -> Segmentation:
        """Return the answer: what covers most first, and the background, of which most photos have most, last."""
        counts = labels.flatten().bincount(minlength=len(self.class_names))
        seen = [i for i in counts.argsort(descending=True).tolist() if counts[i] > SHARE_SHOWN * labels.numel()]
        seen.sort(key=lambda label: self.class_names[label] == BACKGROUND)
        shares = {self.class_names[i]: counts[i].item() / labels.numel() for i in seen}
        return Segmentation(photo, self.class_names, shares, labels)

    def attention_modules(self) -> nn.Module:
        return self.module.neck  # type: ignore[return-value]


class SegmenterInFile(SegmentationPipeline):
    """A segmenter in an ONNX file, which keeps no attention either."""

    keeps_attention = False
