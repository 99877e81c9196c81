"""Segmenters of photos."""

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ..segmentation.inference import SCALES, network_input, resized, segment
from ..segmentation.model import Segmenter
from .onnx_file import OnnxFile
from .pipeline import DISPLAY_SCALE, Answer, Pipeline

__all__ = ["SegmentationPipeline", "SegmenterInFile"]

SHARE_SHOWN = 0.001  # a class that covers a smaller share of a photo is not named


class SegmentationPipeline(Pipeline):
    """A segmenter; its own attention is that of its neck, although its backbone may have VT modules too."""

    place = "level"
    sample = "person"
    module: Segmenter | OnnxFile

    def __init__(self, module: Segmenter | OnnxFile) -> None:
        super().__init__(module)
        self.class_names = module.class_names

    def view(self, photo: Image.Image) -> Image.Image:
        return resized(photo, self.module.short_side)

    def display(self, photo: Image.Image) -> Image.Image:
        size = self.view(photo).size
        return transforms.resize(photo, [DISPLAY_SCALE * size[1], DISPLAY_SCALE * size[0]], antialias=True)

    def input(self, view: Image.Image) -> Tensor:
        return network_input(self.module, view)  # type: ignore[arg-type]

    def describe(self, output: Tensor) -> Answer:
        return self._described(output.argmax(dim=1)[0])

    def answer(self, photo: Image.Image, output: Tensor) -> Answer:
        """As `vt-timm segment` labels the photo: the network sees it at other sizes too, not only as its view."""
        labels = segment(self.module, photo, self.module.short_side, scales=SCALES)  # type: ignore[arg-type]
        return self._described(labels)

    def _described(self, labels: Tensor) -> Answer:
        counts = labels.flatten().bincount(minlength=len(self.class_names))
        seen = [i for i in counts.argsort(descending=True).tolist() if counts[i] > SHARE_SHOWN * labels.numel()]
        shares = {self.class_names[i]: counts[i].item() / labels.numel() for i in seen}
        return Answer(", ".join(list(shares)[:2]), shares, labels, self.class_names)

    def attention_modules(self) -> nn.Module:
        return self.module.neck  # type: ignore[return-value]


class SegmenterInFile(SegmentationPipeline):
    """A segmenter in an ONNX file, which keeps no attention either."""

    keeps_attention = False
