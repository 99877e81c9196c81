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
from timm.data import ImageNetInfo
from timm.models import load_state_dict, save_for_hf, split_model_name_tag
from torch import nn

import vt_timm  # noqa: F401  registers the models
from vt_timm.errors import first_line
from vt_timm.weights.download import CONFIG

__all__ = ["CHECKPOINTS", "Run", "RunError", "export_classifier", "export_segmenter", "read_run", "same_outputs"]

CHECKPOINTS = {"last": "last.pth.tar", "best": "model_best.pth.tar"}


class RunError(Exception):
    """What a folder lacks to be published, in one line."""


@dataclass
class Run:
    """A training run: its folder, settings and evaluations, and of what kind it is."""

    folder: Path
    settings: dict[str, Any]
    evaluations: list[dict[str, float]]
    segmenter: bool

    @property
    def name(self) -> str:
        """architecture.tag, if the run's settings say which recipe it followed."""
        if self.segmenter:
            backbone = Path(self.settings["backbone"].rpartition(":")[2]).name  # of a folder or a repository too
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
    with (folder / "summary.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    settings = yaml.safe_load((folder / needed[0]).read_text())
    return Run(folder, settings, rows, segmenter)


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
        run: of timm's train.py.
        name: architecture.tag.
        folder: where to.
        checkpoint: "last" or "best".
        class_folders: folder whose subfolders are the classes; by default the run's own training images.
        test_size: image size for evaluation if it differs from the training's, pixels.
        half: store 16-bit floats.
        licence: of the weights.

    Returns:
        The model as stored, in eval mode, and the epoch it comes from.

    Raises:
        RunError: if the checkpoint is missing or does not fit the name.
    """
    s = run.settings
    architecture, tag = split_model_name_tag(name)
    if architecture != split_model_name_tag(s["model"])[0]:
        raise RunError(f"{run.folder} trained {s['model']}, which {name} does not say: the name is MODEL.TAG")
    if architecture not in timm.list_models(module="vt_resnet"):
        raise RunError(f"{run.folder} trained {architecture}; only VT-ResNets and segmenters are published here")
    path = run.folder / CHECKPOINTS[checkpoint]
    if not path.is_file():
        raise RunError(f"{run.folder} has no {path.name}: choose another --checkpoint")
    try:
        weights = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
        with torch.serialization.safe_globals([argparse.Namespace]):  # train.py keeps its arguments in there
            epoch = int(torch.load(path, map_location="meta", weights_only=True, mmap=True)["epoch"])
    except Exception as error:
        raise RunError(f"{path} cannot be read: {first_line(error)}") from error
    labels = _class_names(run, class_folders)
    if labels and len(labels) != s["num_classes"]:
        raise RunError(f"the model has {s['num_classes']} classes and the class folders are {len(labels)}")
    options = {k: v for k, v in (s.get("model_kwargs") or {}).items() if k != "pretrained_backbone"}
    model = timm.create_model(architecture, num_classes=s["num_classes"], **options)
    model.load_state_dict(weights)
    model = model.half() if half else model
    size = s["img_size"] or model.pretrained_cfg["input_size"][-1]  # type: ignore[index]
    pretrained_cfg = {
        "tag": tag,
        "input_size": (3, size, size),
        "test_input_size": (3, test_size or size, test_size or size),
        "crop_pct": s["crop_pct"] or 0.875,
        "interpolation": s["interpolation"] or s["train_interpolation"],
        "license": licence,
    }
    descriptions = {"label_names": list(labels), "label_descriptions": labels} if labels else {}
    save_for_hf(
        model,
        str(folder),
        model_args=options or None,
        safe_serialization=True,
        model_config={**descriptions, "pretrained_cfg": pretrained_cfg},
    )
    contents = json.loads((folder / CONFIG).read_text())
    contents.get("model_args", {}).pop("num_classes", None)  # at the top level; transformers' AutoModel rejects it here
    (folder / CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
    return model.float().eval(), epoch


def _class_names(run: Run, class_folders: Path | None) -> dict[str, str]:
    """Folder of each class -> what it is called, a WordNet id as ImageNet calls it; empty if they are unknown."""
    s = run.settings
    data, split = s.get("data_dir") or s.get("data"), s.get("train_split", "train")
    folder = class_folders or (Path(data) / split if data else None)
    if class_folders and not class_folders.is_dir():
        raise RunError(f"{class_folders}: there is no such folder of classes")
    if folder is None or not folder.is_dir():
        return {}
    imagenet = ImageNetInfo("imagenet-1k")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    known = set(imagenet.label_names())
    return {n: imagenet.label_name_to_description(n).split(",")[0] if n in known else n for n in names}


def export_segmenter(run: Run, folder: Path, half: bool = False) -> nn.Module:
    """Write config.json and model.safetensors of the best evaluation.

    Args:
        run: of `vt-timm train-segmenter`.
        folder: where to.
        half: store 16-bit floats.

    Returns:
        The segmenter as stored, in eval mode.

    Raises:
        RunError: if a weight is beyond what 16 bits can hold.
    """
    from vt_timm.segmentation.inference import load_segmenter

    model = load_segmenter(run.folder / "best")
    if half:
        model.half()
        for name, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise RunError(f"{run.folder}: {name} is beyond what 16-bit floats can hold: leave --half out")
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return model.float()


def same_outputs(model: nn.Module, folder: Path, segmenter: bool) -> bool:
    """Whether the folder, loaded as a user would, gives bit for bit what the model gives."""
    from vt_timm.segmentation.inference import load_segmenter

    again = load_segmenter(folder) if segmenter else timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(model(images), again(images))
