"""Classifiers of photos."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import CustomDatasetInfo, ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from torch import Tensor, nn

from .pipeline import DISPLAY_SCALE, Answer, Pipeline

__all__ = ["ClassificationPipeline", "ClassifierInFile", "class_names", "top_classes"]

TOP = 5


class ClassificationPipeline(Pipeline):
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


class ClassifierInFile(ClassificationPipeline):
    """A classifier in an ONNX file, which answers but keeps no attention."""

    keeps_attention = False


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
