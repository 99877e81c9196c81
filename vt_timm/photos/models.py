"""Any model as the commands and the page use it: a photo in, an answer out, and where its attention is.

    model = load("vt_resnet18")                          # or a segmenter's folder, local-dir:, hf-hub:, a training run
    output = model.run(model.input(model.view(photo)))   # of the photo as the network sees it
    answer = model.answer(photo, output)
    found = look(model, photo)                           # the answer, and one map per token and VT module

`Classifier` and `SegmenterOnPhotos` are the two kinds; nobody else has to know which one a model is.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import (
    CustomDatasetInfo,
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_data_config,
)
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ..attention_maps import record_attention
from ..errors import CommandError, UserError, did_you_mean, first_line
from ..images import MODES
from ..segmentation.inference import SCALES, load_segmenter, network_input, resized, segment
from ..segmentation.model import Segmenter
from ..weights.download import CONFIG, fetch
from ..weights.local import OnnxFile, is_run, load_run
from ..weights.published import published_segmenters

__all__ = [
    "Answer",
    "Classifier",
    "Look",
    "PhotoModel",
    "SegmenterOnPhotos",
    "class_names",
    "load",
    "look",
    "read_mode",
    "top_classes",
]

DISPLAY_SCALE = 3  # pixels of a picture to draw on, for each pixel that the network sees
TOP = 5
SHARE_SHOWN = 0.001  # a class that covers a smaller share of a photo is not named


@dataclass
class Answer:
    """What a model says of a photo."""

    caption: str
    shares: dict[str, float]  # the probability of the top classes, or each class's share of the picture
    labels: Tensor | None = None  # a segmenter's, (height, width), whatever the size
    class_names: list[str] = field(default_factory=list)


class PhotoModel(ABC):
    """What every model does with a photo."""

    place = "VT module"  # what one of its attention maps belongs to
    sample = "photo"  # which of `images.SAMPLES` suits it
    class_names: list[str]
    keeps_attention = True  # whether its attention can be recorded

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.device = next(module.parameters()).device

    @property
    def channels(self) -> int:
        """The number of channels of the images that it takes."""
        return int(getattr(self.module, "in_chans", 3))

    @abstractmethod
    def view(self, photo: Image.Image) -> Image.Image:
        """The part of the photo that the network sees, at the size at which it does."""

    @abstractmethod
    def display(self, photo: Image.Image) -> Image.Image:
        """The same part with more pixels, to draw on."""

    @abstractmethod
    def input(self, view: Image.Image) -> Tensor:
        """A view as a normalised batch of one, (1, channels, H, W)."""

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(batch.to(self.device)).float().cpu()

    @abstractmethod
    def describe(self, output: Tensor) -> Answer:
        """The answer for one image, from the network's output (1, ...)."""

    def answer(self, photo: Image.Image, output: Tensor) -> Answer:
        """The answer for a photo, from the network's output for its view."""
        return self.describe(output)

    def attention_modules(self) -> nn.Module:
        """The part of the network whose attention is looked at, for `record_attention`."""
        return self.module


class Classifier(PhotoModel):
    """Any classifier of timm's: its own size, crop, interpolation, colours and class names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        config = resolve_data_config({}, model=module, use_test_size=True)
        self.config = {**config, "mean": self._per_channel(config["mean"]), "std": self._per_channel(config["std"])}
        *self.geometry, self.to_tensor, self.normalize = create_transform(**self.config).transforms
        self.class_names = class_names(module)

    def _per_channel(self, values: Sequence[float]) -> tuple[float, ...]:
        same = len(values) == self.channels
        return tuple(values) if same else (sum(values) / len(values),) * self.channels

    def view(self, photo: Image.Image) -> Image.Image:
        return _apply(self.geometry, photo)

    def display(self, photo: Image.Image) -> Image.Image:
        channels, height, width = self.config["input_size"]
        config = {**self.config, "input_size": (channels, DISPLAY_SCALE * height, DISPLAY_SCALE * width)}
        return _apply(create_transform(**config).transforms[:-2], photo)

    def input(self, view: Image.Image) -> Tensor:
        return self.normalize(self.to_tensor(view)).unsqueeze(0)

    def describe(self, output: Tensor) -> Answer:
        (top,) = top_classes(output, self.class_names, TOP)
        caption = "{} {:.0f} %".format(top[0]["class"], 100 * top[0]["probability"])
        return Answer(caption, {one["class"]: one["probability"] for one in top}, class_names=self.class_names)


class SegmenterOnPhotos(PhotoModel):
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


def _apply(steps: Sequence[Any], image: Image.Image) -> Image.Image:
    for step in steps:
        image = step(image)
    return image


def class_names(model: nn.Module) -> list[str]:
    """What the classes are called: from the model's own config, or ImageNet's names by class count, or numbers.

    If there are more or fewer names than classes, they belong to another head and are not used.
    """
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})  # type: ignore[assignment]
    num_classes: int = model.num_classes  # type: ignore[assignment]
    info: CustomDatasetInfo | ImageNetInfo | None = None
    if len(config.get("label_names") or ()) == num_classes:
        info = CustomDatasetInfo(config["label_names"], config.get("label_descriptions"))
    elif subset := infer_imagenet_subset({"num_classes": num_classes}):
        info = ImageNetInfo(subset)
    if info is None:
        return [f"class {i}" for i in range(num_classes)]
    return [info.index_to_description(i) for i in range(num_classes)]


def top_classes(logits_BK: Tensor, names: list[str], topk: int) -> list[list[dict[str, Any]]]:
    """For each image the most probable classes with name, index and probability.

    A model with one logit answers yes or no: its probability is the sigmoid, and the rest is "not" that class.
    """
    if logits_BK.shape[1] == 1:
        yes = logits_BK.sigmoid()
        logits_BK, names = torch.cat([yes, 1 - yes], dim=1).log(), [names[0], f"not {names[0]}"]
    values, indices = logits_BK.softmax(dim=-1).topk(min(topk, len(names)))
    return [
        [{"class": names[i], "index": i, "probability": round(p, 6)} for p, i in zip(row, columns, strict=True)]
        for row, columns in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def load(name: str, device: str = "cpu") -> PhotoModel:
    """A trained model by any name that a user has for it.

    Args:
        name: a model of timm's with weights, `local-dir:FOLDER`, `hf-hub:ORG/NAME`, `ORG/NAME`, a folder of either
            kind of model, a training run of `vt-timm run train` or `train-segmenter`, a checkpoint of the former, or
            a file of `vt-timm export`, FILE.onnx.
        device: the device to put it on.

    Raises:
        UserError: in one line, for every way in which loading can fail.
    """
    if name.endswith(".onnx"):
        file = OnnxFile(name)
        return SegmenterInFile(file) if file.is_segmenter else ClassifierInFile(file)
    path = published_segmenters().get(name) or Path(name.removeprefix("local-dir:"))
    if path.is_dir() and (path / "best" / CONFIG).is_file():
        path = path / "best"
    if path.is_dir() and _describes_segmenter(path):
        return _segmenter(str(path), device)
    if is_run(path):
        return _classifier(name, lambda: load_run(path), device)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CommandError(f"{name} holds neither a model (config.json) nor a training run (args.yaml)")
        return _classifier(name, lambda: timm.create_model(f"local-dir:{path}", pretrained=True), device)
    repository = name.removeprefix("hf-hub:")
    if "/" in repository and not name.startswith("local-dir:"):
        if _describes_segmenter(_hub_folder(repository)):
            return _segmenter(repository, device)
        name = f"hf-hub:{repository}"
    return _classifier(name, lambda: timm.create_model(name, pretrained=True), device)


class ClassifierInFile(Classifier):
    """A classifier in an ONNX file, which answers but keeps no attention."""

    keeps_attention = False


class SegmenterInFile(SegmenterOnPhotos):
    """A segmenter in an ONNX file, which keeps no attention either."""

    keeps_attention = False


def _hub_folder(repository: str) -> Path:
    return fetch(repository, CONFIG).parent


def _describes_segmenter(folder: Path) -> bool:
    try:
        return "neck" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _segmenter(source: str, device: str) -> PhotoModel:
    try:
        return SegmenterOnPhotos(load_segmenter(source, device))
    except RuntimeError as error:
        raise CommandError(str(error)) from error


def _classifier(name: str, create: Any, device: str) -> PhotoModel:
    try:
        return Classifier(create().eval().to(device))
    except UserError:
        raise
    except Exception as error:  # timm, torch and the Hub's client raise whatever they like for a bad name or file
        reason = first_line(error)
        hint = ""
        if reason.startswith("Unknown model"):
            hint = did_you_mean(name, [*timm.list_models(), *published_segmenters()], 3)
        elif "No pretrained weights" in reason:
            hint = " `vt-timm models` lists the models that have weights."
        raise CommandError(f"cannot load {name}: {reason}{hint}") from error


def read_mode(model: PhotoModel) -> int:
    """The number of channels to read a photo with.

    Raises:
        CommandError: for a number that Pillow has no mode for.
    """
    if model.channels not in MODES:
        raise CommandError(
            f"the model takes {model.channels} channels: the commands read photos of 1, 3 or 4, so use it in Python"
        )
    return model.channels


@dataclass
class Look:
    """A photo as a model saw it, at a size to draw on, the model's answer, and one map (L, H, W) per VT module."""

    view: Image.Image
    answer: Answer
    maps: list[Tensor]
    modules: int  # VT modules that the model has; the last of a classifier has a tokenizer and no projector

    def class_at(self, x: float, y: float) -> str | None:
        """What a segmenter sees at a place, given in shares of width and height; None for a classifier."""
        labels = self.answer.labels
        if labels is None:
            return None
        height, width = labels.shape
        label = int(labels[min(int(y * height), height - 1), min(int(x * width), width - 1)])
        return self.answer.class_names[label]


def look(model: PhotoModel, photo: Image.Image, of: str = "tokenizer") -> Look:
    """Run a model on a photo and keep its attention.

    Args:
        model: a model with VT modules.
        photo: as `images.read_image` gives it.
        of: "tokenizer" or "projector", as in `record_attention`.

    Raises:
        ValueError: if the model has no such attention.
    """
    if not model.keeps_attention:
        raise ValueError("an ONNX file keeps no attention: name the model that it was exported from")
    modules = model.attention_modules()
    with record_attention(modules) as all_maps, record_attention(modules, of) as maps:
        output = model.run(model.input(model.view(photo)))
    maps = [attention[0].float().cpu() for attention in maps]
    return Look(model.display(photo), model.answer(photo, output), maps, len(all_maps))
