"""From a training run to config.json and model.safetensors of a Hub repository, and what the run says of itself.

A run of timm's train.py holds args.yaml, summary.csv and checkpoints; one of `vt-timm train-segmenter` holds
settings.yaml, summary.csv and best/.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.models import save_for_hf, split_model_name_tag
from torch import nn

from ..errors import read_text
from ..images import MODES
from ..pipelines.classification import ClassificationPipeline
from ..pipelines.segmentation import SegmentationPipeline
from ..pipelines.sources import load
from ..runs.train_run import CHECKPOINTS, RunError, describe_classes, load_run, read_description
from ..segmentation.inference import load_segmenter
from ..segmentation.model import Segmenter
from ..weights.download import CONFIG

__all__ = [
    "CHECKPOINTS",
    "Run",
    "RunError",
    "export_classifier",
    "export_segmenter",
    "read_evaluations",
    "read_run",
    "same_predictions",
]


@dataclass
class Run:
    """A training run: its folder, settings and evaluations, and of what kind it is."""

    folder: Path
    settings: dict[str, Any]
    evaluations: list[dict[str, float]]
    segmenter: bool

    @property
    def name(self) -> str:
        """MODEL.RECIPE of a classifier, NECK_BACKBONE.DATA of a segmenter.

        Raises:
            RunError: if a classifier's args.yaml names no recipe.
        """
        if self.segmenter:
            backbone = Path(self.settings["backbone"].rpartition(":")[2]).name  # also for a folder or a repository
            return f"{self.settings['neck']}_{backbone.partition('.')[0]}.{self.data}"
        if not self.settings.get("recipe"):
            raise RunError(
                f"{self.folder}: its args.yaml names no recipe to take the tag from: give NAME, as MODEL.TAG"
            )
        return f"{self.settings['model']}.{self.settings['recipe']}"

    @property
    def data(self) -> str:
        """The last part of the data folder's name, or the data set's name in timm's terms."""
        s = self.settings
        return Path(s.get("data_dir") or s.get("data") or "").name or s.get("dataset") or "unknown"

    def evaluation(self, epoch: int) -> dict[str, float]:
        """The run's own evaluation after an epoch."""
        rows = [row for row in self.evaluations if row["epoch"] == epoch]
        if not rows:
            raise RunError(f"{self.folder}/summary.csv has no row for epoch {epoch} of the checkpoint")
        return {key.removeprefix("eval_"): value for key, value in rows[-1].items() if key.startswith("eval_")}


def read_run(folder: Path) -> Run:
    """The records of a run.

    Raises:
        RunError: if the folder is not a run, naming the file that is missing.
    """
    segmenter = (folder / "settings.yaml").is_file()
    needed = ("settings.yaml", "summary.csv", "best/metrics.json") if segmenter else ("args.yaml", "summary.csv")
    for name in needed:
        if not (folder / name).is_file():
            raise RunError(f"{folder} is not a finished run of train.py or vt-timm train-segmenter: it has no {name}")
    settings = yaml.safe_load(read_text(folder / needed[0]))
    return Run(folder, settings, read_evaluations(folder / "summary.csv"), segmenter)


def read_evaluations(path: Path) -> list[dict[str, float]]:
    """The rows of a run's summary.csv; timm writes the header once more where a run was resumed."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if any(key != value for key, value in row.items())]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def export_classifier(
    run: Run,
    name: str,
    folder: Path,
    checkpoint: str = "last",
    class_folders: Path | None = None,
    test_size: int | None = None,
    half: bool = False,
    licence: str = "apache-2.0",
) -> tuple[nn.Module, int]:
    """Write config.json and model.safetensors, with the EMA weights if the run kept some.

    Args:
        run: a run of timm's train.py.
        name: architecture.tag.
        folder: the folder to write.
        checkpoint: "last" or "best".
        class_folders: folder whose subfolders are the classes; by default the run's own training images.
        test_size: image size for evaluation if it differs from the training's, pixels.
        half: whether to store 16-bit floats.
        licence: licence of the weights.

    Returns:
        The model as stored, in eval mode, and the epoch it comes from.

    Raises:
        RunError: for a missing checkpoint, a name that is not the run's model, a model that is not a VT-ResNet, class
            names that are missing or too few, or with `half` a weight beyond 16-bit floats.
    """
    _check_name(run, name)
    path = run.folder / CHECKPOINTS[checkpoint]
    if not path.is_file():
        raise RunError(f"{run.folder} has no {path.name}: choose another --checkpoint")
    model, epoch = load_run(path), _epoch(path)
    labels = _class_names(run, class_folders)
    num_classes: int = model.num_classes  # type: ignore[assignment]
    if len(labels) != num_classes:
        raise RunError(f"the model has {num_classes} classes and the class folders are {len(labels)}")
    own: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    asked = (own["input_size"][0], test_size, test_size) if test_size else None
    config = {
        "tag": split_model_name_tag(name)[1],
        "test_input_size": asked or own.get("test_input_size") or own["input_size"],
        "license": licence,
        **{key: own[key] for key in ("input_size", "crop_pct", "interpolation", "mean", "std")},
    }
    options = {k: v for k, v in (run.settings.get("model_kwargs") or {}).items() if k != "pretrained_backbone"}
    model.pretrained_cfg = {**own, "label_names": list(labels), "label_descriptions": labels, **config}  # type: ignore[assignment]
    model = _in_16_bits(model, run.folder) if half else model
    save_for_hf(
        model,
        str(folder),
        model_args=options or None,
        safe_serialization=True,
        model_config={"label_names": list(labels), "label_descriptions": labels, "pretrained_cfg": config},
    )
    contents = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    contents.get("model_args", {}).pop("num_classes", None)  # at the top level; transformers' AutoModel rejects it here
    (folder / CONFIG).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    return model.float().eval(), epoch


def _check_name(run: Run, name: str) -> None:
    trained, (architecture, _) = run.settings["model"], split_model_name_tag(name)
    if architecture != split_model_name_tag(trained)[0]:
        raise RunError(f"{run.folder} trained {trained}, which {name} does not say: the name is MODEL.TAG")
    if architecture not in timm.list_models(module="vt_resnet"):
        raise RunError(f"{run.folder} trained {architecture}; only VT-ResNets and segmenters are published here")


def _epoch(checkpoint: Path) -> int:
    with torch.serialization.safe_globals([argparse.Namespace]):  # train.py keeps its arguments in there
        return int(torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)["epoch"])


def _class_names(run: Run, class_folders: Path | None) -> dict[str, str]:
    """Each class in the order of training -> what it is called, a WordNet id as ImageNet calls it.

    Raises:
        RunError: if neither the run nor its photos say them.
    """
    names = read_description(run.folder).get("classes")
    if class_folders or not names:
        data = run.settings.get("data_dir") or run.settings.get("data")
        folder = class_folders or Path(data or "nowhere", run.settings.get("train_split") or "train")
        names = _sorted_as_trained(folder)
    return describe_classes(names)["label_descriptions"]


def _sorted_as_trained(folder: Path) -> list[str]:
    """The classes of an image folder as timm numbers them: 2 before 10, folders without an image left out."""
    if not folder.is_dir():
        raise RunError(f"the run does not say what its classes are called, and there is no {folder}: --class-folders")
    _, class_to_idx = find_images_and_targets(str(folder))
    return sorted(class_to_idx, key=class_to_idx.__getitem__)


def _in_16_bits(model: nn.Module, folder: Path) -> nn.Module:
    """The model in 16-bit floats.

    Raises:
        RunError: if a weight is beyond what they can hold.
    """
    model.half()
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise RunError(f"{folder}: {name} is beyond what 16-bit floats can hold: leave --half out")
    return model


def export_segmenter(run: Run, folder: Path, half: bool = False) -> nn.Module:
    """Write config.json and model.safetensors of the best evaluation.

    Args:
        run: a run of `vt-timm train-segmenter`.
        folder: the folder to write.
        half: whether to store 16-bit floats.

    Returns:
        The segmenter as stored, in eval mode.

    Raises:
        RunError: if a weight is beyond what 16 bits can hold.
    """
    model = load_segmenter(run.folder / "best")
    if half:
        _in_16_bits(model, run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return model.float()


def same_predictions(model: nn.Module, folder: Path) -> bool:
    """Whether the folder, loaded as a user would load it, gives the model's answer for a photo, bit for bit."""
    kind = SegmentationPipeline if isinstance(model, Segmenter) else ClassificationPipeline
    pixels = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    photo = Image.fromarray(pixels.numpy()).resize((320, 240))
    answers = []
    for one in (kind(model), load(str(folder))):  # type: ignore[arg-type]
        photo_as_read = photo.convert(MODES[one.channels])
        output = one.run(one.input(one.view(photo_as_read)))
        answers.append((output, one.class_names, one.describe(output).shares))
    (logits, *said), (logits_again, *said_again) = answers
    return torch.equal(logits, logits_again) and said == said_again
