"""Measure what the tokens of a trained segmenter do, level by level, and what more sizes of a photo add.

    python -m benchmarks.segmentation.analysis RUN/best DATA/ccp          # print
    python -m benchmarks.segmentation.analysis RUN/best DATA/ccp --write  # record in benchmarks/results/records.json

A level's tokens are cut off by leaving its map as the lateral gives it, without what the projector adds. The sizes are
those of `vt-timm segment --scales`.
"""

import argparse
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from vt_timm.pipelines.segmentation import SCALES, segment
from vt_timm.recipes import SEGMENTATION, find_recipe
from vt_timm.segmentation.data import SegmentationDataset, evaluation_transform
from vt_timm.segmentation.evaluation import SCORES, Confusion
from vt_timm.segmentation.model import LEVELS, Segmenter, load_segmenter
from vt_timm.segmentation.settings import Settings

from ..common.records import keep_record
from ..tokens import cosine, entropy

PHOTOS = 20  # to describe the softmaxes
SEEN_AT = ((1.0,), (1.0, 1.4), SCALES)  # one view, what the validation photos like best, and what suits any photo


def recipe(changes: dict[str, Any] | None = None) -> Settings:
    """Return the settings of the recipe `ccp`, with changes."""
    return Settings.from_yaml(find_recipe("ccp", SEGMENTATION), {"data_dir": "ccp", **(changes or {})})


@contextlib.contextmanager
def tokens_cut_off(model: Segmenter, levels: list[int]) -> Iterator[None]:
    """Leave the maps of these levels as the laterals give them, inside."""
    neck: Any = model.neck
    with contextlib.ExitStack() as hooks:
        for level in levels:
            hooks.enter_context(neck.projectors[level].register_forward_hook(lambda _m, args, _out: args[0]))
        yield


def validation_photos(model: Segmenter, folder: str, label_options: dict[str, Any]) -> SegmentationDataset:
    """Open Clothing Co-Parsing's validation photos as the segmenter sees them."""
    transform = evaluation_transform(model.short_side, **model.normalization)  # type: ignore[arg-type]
    return SegmentationDataset("folder", folder, "val", transform, label_options)


def describe_tokens(model: Segmenter, data: SegmentationDataset, photos: int = PHOTOS) -> list[dict[str, float]]:
    """Describe each level's softmaxes and update, as means over photos.

    Returns:
        One row per level: "look" and "read" are the entropies of the tokenizer's softmax over the pixels and of the
        projector's over the tokens, as shares of a flat one's; "alike" the mean cosine between two tokens of a photo;
        "update" and "update_within" the standard deviation of what the tokens add to the map, and of how it differs
        within a photo, as shares of the map's.
    """
    neck: Any = model.neck
    sums: list[dict[str, float]] = [defaultdict(float) for _ in range(LEVELS)]
    with torch.inference_mode(), contextlib.ExitStack() as hooks:
        for tokenizer, projector, seen in zip(neck.tokenizers, neck.projectors, sums, strict=True):
            parts = ((tokenizer.attention, _look), (projector.attention, _read), (projector, _update))
            for module, describe in parts:
                hooks.enter_context(module.register_forward_hook(partial(_add, describe, seen)))
        for index in range(photos):
            model(data[index][0][None])
    return [{key: total / photos for key, total in row.items()} for row in sums]


def _add(describe: Any, sums: dict[str, float], _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    for key, value in describe(inputs, output).items():
        sums[key] += value.mean().item()


def scores_at(model: Segmenter, folder: str, label_options: dict[str, Any], scales: Sequence[float]) -> dict[str, Any]:
    """Score what `vt-timm segment --scales` gives for the validation photos, in percent; "iou" has every class."""
    photos = SegmentationDataset("folder", folder, "val", None, label_options)
    confusion = Confusion(model.class_names)
    for image, mask in photos:  # type: ignore[attr-defined]
        photo = to_pil_image(image)
        confusion.add_labels(segment(model, photo, model.short_side, scales=scales), mask)
    summary = confusion.summary()
    scores = {key: round(summary[key], 2) for key in SCORES if key in summary}
    return {**scores, "iou": [None if one is None else round(one, 2) for one in summary["iou"]]}


def _look(inputs: tuple[Tensor, ...], attention_BLHW: Tensor) -> dict[str, Tensor]:
    return {"look": entropy(attention_BLHW.flatten(2), dim=2)}


def _read(inputs: tuple[Tensor, ...], attention_NLP: Tensor) -> dict[str, Tensor]:
    return {"read": entropy(attention_NLP, dim=1)}


def _update(inputs: tuple[Tensor, ...], output_BCHW: Tensor) -> dict[str, Tensor]:
    feature_BCHW, tokens_BLD = inputs
    update = output_BCHW - feature_BCHW
    within = update - update.mean(dim=(2, 3), keepdim=True)
    spread = feature_BCHW.std()
    return {"alike": cosine(tokens_BLD), "update": update.std() / spread, "update_within": within.std() / spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("segmenter", help="folder of a trained segmenter")
    parser.add_argument("data", help="folder of Clothing Co-Parsing")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    model = load_segmenter(args.segmenter)
    options = recipe().label_options()
    levels: list[dict[str, Any]] = []
    if model.neck_name == "vt_fpn":
        for level, row in enumerate(describe_tokens(model, validation_photos(model, args.data, options))):
            levels.append({"level": level + 1, **{key: round(value, 3) for key, value in row.items()}})
            print(levels[-1], flush=True)
    scores = []
    for scales in SEEN_AT:
        scores.append({"scales": scales, **scores_at(model, args.data, options, scales)})
        print(scores[-1], flush=True)
    if args.write:
        result = {
            "segmenter": Path(args.segmenter).name,
            "data": Path(args.data).name,
            "images": len(validation_photos(model, args.data, options)),
            "levels": levels,
            "scores": scores,
        }
        keep_record("records.json", "segmenter", result)


if __name__ == "__main__":
    main()
