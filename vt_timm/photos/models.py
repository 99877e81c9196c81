"""A pretrained classifier on photos: loading it, naming its classes, predicting."""

import difflib
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

from ..errors import CommandError, first_line

__all__ = ["class_names", "display_view", "load_model", "model_input", "predict"]


def load_model(name: str, device: str = "cpu") -> nn.Module:
    """A pretrained model in eval mode; every way it can fail becomes one line."""
    try:
        return timm.create_model(name, pretrained=True).eval().to(device)
    except Exception as error:
        reason = first_line(error)
        hint = ""
        if reason.startswith("Unknown model"):
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
        elif "No pretrained weights" in reason:
            hint = " `vt-timm models` lists the models that have weights."
        raise CommandError(f"cannot load {name}: {reason}{hint}") from error


def class_names(model: nn.Module) -> list[str]:
    """What the classes are called: from the model's own config, or ImageNet's names by class count, or numbers."""
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    num_classes: int = model.num_classes  # type: ignore[assignment]
    info: CustomDatasetInfo | ImageNetInfo | None = None
    if config.get("label_names"):
        info = CustomDatasetInfo(config["label_names"], config.get("label_descriptions"))
    elif subset := infer_imagenet_subset({"num_classes": num_classes}):
        info = ImageNetInfo(subset)
    if info is None:
        return [f"class {i}" for i in range(num_classes)]
    return [info.index_to_description(i) for i in range(num_classes)]


def predict(model: nn.Module, batch: torch.Tensor, topk: int) -> list[list[dict[str, Any]]]:
    names = class_names(model)
    with torch.inference_mode():
        values, indices = model(batch).softmax(dim=-1).topk(min(topk, len(names)))
    return [
        [{"class": names[i], "index": i, "probability": round(p, 6)} for p, i in zip(row, columns, strict=True)]
        for row, columns in zip(values.tolist(), indices.tolist(), strict=True)
    ]


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
