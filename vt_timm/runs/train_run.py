"""The folder that timm's `train.py` leaves, and its model with the run's own size, crop, colours and class names.

`vt-timm run train` writes `model.json` beside the checkpoints: what `args.yaml` does not say, above all the classes in
the order in which they were trained.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, resolve_data_config
from timm.data.dataset_factory import _search_split
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.models import load_state_dict, save_for_hf, split_model_name_tag
from torch import nn

from ..cards.card import classifier_card
from ..errors import first_line
from ..files import near, whole_file
from ..images import ImageError, find_images
from ..run_files import ARGUMENTS, CHECKPOINT, CHECKPOINTS, CONFIG, SUMMARY
from ..weights.published import without_names
from .run import Publication, Run, RunError, in_16_bits, read_settings

DESCRIPTION = "model.json"


def is_run(path: Path) -> bool:
    """True if a path is a run of train.py or one of its checkpoints."""
    folder = path if path.is_dir() else path.parent
    return (folder / ARGUMENTS).is_file() and (path.is_dir() or path.name.endswith(CHECKPOINT))


def describe_classes(names: list[str]) -> dict[str, Any]:
    """Return `label_names` and `label_descriptions` of a config: a WordNet name is described as ImageNet calls it."""
    imagenet = ImageNetInfo("imagenet-1k")
    known = set(imagenet.label_names())
    described = {n: imagenet.label_name_to_description(n).split(",")[0] if n in known else n for n in names}
    return {"label_names": list(names), "label_descriptions": described}


def data_config(settings: Mapping[str, Any], description: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the part of a pretrained cfg that says how images were prepared, as the run evaluated them.

    Args:
        settings: what args.yaml holds.
        description: what model.json holds; empty for a run of a plain train.py, of which timm is asked as it was then.
        model: the run's model.
    """
    as_trained = {**resolve_data_config(dict(settings), model=model), "crop_mode": "center"}
    resolved = {**as_trained, **(description.get("data_config") or {})}
    kept = ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in resolved.items() if key in kept}
    return {**config, "test_input_size": config["input_size"], "test_crop_pct": config["crop_pct"]}


def write_description(
    folder: Path, model: nn.Module, config: Mapping[str, Any], class_to_idx: Mapping[str, int] | None
) -> None:
    """Write `model.json`.

    Args:
        folder: the run's folder.
        model: the model that is trained.
        config: how its validation images are prepared, as `resolve_data_config` returns it.
        class_to_idx: the number of each class; None for data without class folders.
    """
    own: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    description = {
        "architecture": own["architecture"],
        "classes": sorted(class_to_idx, key=class_to_idx.__getitem__) if class_to_idx else None,
        "data_config": {**config, "crop_mode": "center"},  # train.py crops so, whatever the model's config says
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    with whole_file(folder / DESCRIPTION) as new:
        new.write_text(text, encoding="utf-8")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint of train.py holds, its tensors without their values."""
    with torch.serialization.safe_globals([argparse.Namespace]):  # train.py keeps its arguments in there
        return torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `write_description` wrote; it is empty for a run of a plain train.py.

    Raises:
        RunError: if the file is no longer what was written.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({first_line(error)}): train again, or delete it") from error
    if not isinstance(description, dict):
        raise RunError(f"{path} describes no model: train again, or delete it")
    return description


def load_run(path: Path) -> nn.Module:
    """Return the trained model in eval mode, with averaged weights where the run kept some.

    Args:
        path: the run's folder, of which the best checkpoint is taken (the last where none was evaluated), or one of
            its checkpoints.

    Raises:
        RunError: for a folder without a checkpoint, and a checkpoint that cannot be read, does not fit, or holds
            what is no number.
    """
    folder = path if path.is_dir() else path.parent
    settings = read_settings(folder / ARGUMENTS, TrainRun.named)
    description = read_description(folder)
    if path.is_dir():
        found = [folder / name for name in CHECKPOINTS.values() if (folder / name).is_file()]
        if not found:
            raise RunError(f"{folder} holds no checkpoint ({', '.join(CHECKPOINTS.values())}): has the run ended?")
        path = found[0]
    weights = read_weights(path)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise RunError(f"the training of {path} diverged, its weights are no numbers: train again with a lower --lr")
    classes = description.get("classes") or []
    num_classes = settings.get("num_classes") or len(classes) or None
    options = {k: v for k, v in (settings.get("model_kwargs") or {}).items() if k != "pretrained_backbone"}
    in_chans = settings.get("in_chans") or (settings.get("input_size") or [None])[0]
    given = {"num_classes": num_classes, "in_chans": in_chans, "global_pool": settings.get("gp")}
    options.update((key, value) for key, value in given.items() if value)
    labels = describe_classes(classes) if classes and len(classes) == num_classes else {}
    try:
        architecture = description.get("architecture") or settings["model"]
        model = timm.create_model(architecture, **options)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not fit the model of {folder / ARGUMENTS}: {first_line(error)}") from error
    overlay = {**data_config(settings, description, model), **labels}
    own: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    model.pretrained_cfg = {**without_names(own), **overlay}  # type: ignore[assignment]
    return model.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint, the averaged ones if there are some; nothing is unpickled as code."""
    if not path.is_file():
        raise RunError(f"there is no file {path}{near(path)}")
    try:
        return load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # torch raises many kinds for a file that is cut, foreign or unsafe
        raise RunError(
            f"{path} cannot be read as a checkpoint of train.py: it is damaged, or holds more than weights"
        ) from error


class TrainRun(Run):
    """A folder of timm's `train.py`: args.yaml, summary.csv and checkpoints."""

    settings_file = ARGUMENTS
    keeps_checkpoints = True
    needed = (ARGUMENTS, SUMMARY)
    named = ("model",)

    @property
    def name(self) -> str:
        """MODEL.RECIPE.

        Raises:
            RunError: if args.yaml names no recipe.
        """
        if not self.settings.get("recipe"):
            raise RunError(
                f"{self.folder}: its args.yaml names no recipe to take the tag from: give NAME, as MODEL.TAG"
            )
        return f"{self._trained}.{self.settings['recipe']}"

    @property
    def _trained(self) -> str:
        """What was trained, as timm's name of it; a folder or a repository is named by its architecture."""
        model: str = self.settings["model"]
        return read_description(self.folder).get("architecture", model) if ":" in model else model

    def _path(self, checkpoint: str) -> Path:
        path = self.folder / CHECKPOINTS[checkpoint]
        if not path.is_file():
            raise RunError(f"{self.folder} has no {path.name}: choose another --checkpoint")
        return path

    def save(self, folder: Path, how: Publication) -> nn.Module:
        self._check_name(how.name)
        model = load_run(self._path(how.checkpoint))
        labels = self._class_names(how.class_folders)
        num_classes: int = model.num_classes  # type: ignore[assignment]
        if len(labels) != num_classes:
            raise RunError(f"the model has {num_classes} classes and the class folders are {len(labels)}")
        own: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        size = (own["input_size"][0], how.test_size, how.test_size) if how.test_size else own["input_size"]
        config = {
            "tag": split_model_name_tag(how.name)[1],
            # Both, since timm's ordinary two lines read the first: they then give the accuracy that the card claims.
            "input_size": size,
            "test_input_size": size,
            "license": how.licence,
            **{key: own[key] for key in ("crop_pct", "interpolation", "mean", "std")},
        }
        options = {k: v for k, v in (self.settings.get("model_kwargs") or {}).items() if k != "pretrained_backbone"}
        model.pretrained_cfg = {**own, "label_names": list(labels), "label_descriptions": labels, **config}  # type: ignore[assignment]
        if how.half:
            in_16_bits(model, self.folder)
        save_for_hf(
            model,
            str(folder),
            model_args=options or None,
            safe_serialization=True,
            model_config={"label_names": list(labels), "label_descriptions": labels, "pretrained_cfg": config},
        )
        contents = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        # It stands at the top level; transformers' AutoModel rejects it here.
        contents.get("model_args", {}).pop("num_classes", None)
        (folder / CONFIG).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
        return model.float().eval()

    def _check_name(self, name: str) -> None:
        trained, (architecture, tag) = self._trained, split_model_name_tag(name)
        model = split_model_name_tag(trained)[0]
        if architecture != model:
            raise RunError(
                f"{self.folder} trained {trained}, which {name} does not say: the name is MODEL.TAG, such as "
                f"{model}.{tag or name}"
            )
        if architecture not in timm.list_models(module="vt_resnet"):
            raise RunError(f"{self.folder} trained {architecture}; only VT-ResNets and segmenters are published here")

    def _class_names(self, class_folders: Path | None) -> dict[str, str]:
        """Return what each class is called, in the order of training; a WordNet id is called as ImageNet does.

        Raises:
            RunError: if neither the run nor its photos say them, or folders are named that have others.
        """
        names = read_description(self.folder).get("classes")
        if class_folders or not names:
            data = self.settings.get("data_dir") or self.settings.get("data")
            folder = class_folders or Path(data or "nowhere", self.settings.get("train_split") or "train")
            found = _sorted_as_trained(folder)
            if names and found != names:  # folders that were called otherwise since would be sorted otherwise
                raise RunError(
                    f"--class-folders {folder}: {self.folder / DESCRIPTION} names the classes that were trained, and "
                    "they are others: leave the option out"
                )
            names = found
        return describe_classes(names)["label_descriptions"]

    def metrics(self, config: dict[str, Any], how: Publication) -> dict[str, Any]:
        epoch = int(read_state(self._path(how.checkpoint))["epoch"])
        rows = [row for row in self.evaluations if row.get("epoch") == epoch]
        if not rows or not rows[-1].keys() >= {"eval_top1", "eval_top5"}:
            raise RunError(f"{self.folder}/summary.csv has no top-1 and top-5 for epoch {epoch} of the checkpoint")
        size = config["pretrained_cfg"]["input_size"][-1]
        return {
            **{key.removeprefix("eval_"): value for key, value in rows[-1].items() if key.startswith("eval_")},
            "images": f"the run's {self._validation_photos()}validation images",
            "origin": f"one run, as train.py itself measured after epoch {epoch} (the first is 0) at {size} x {size} "
            "pixels",
        }

    def _validation_photos(self) -> str:
        """Return how many photos the run was validated on, with a space; "" if they are no longer where they were."""
        data = self.settings.get("data_dir") or self.settings.get("data") or ""
        folder = _search_split(data, self.settings.get("val_split") or "validation")
        if self.settings.get("dataset") or folder == data:
            return ""
        try:
            return f"{len(find_images([folder]))} "
        except ImageError:
            return ""

    def card(self, config: dict[str, Any], metrics: dict[str, Any], how: Publication) -> str:
        metrics = {**metrics, "checkpoint": how.checkpoint, "dtype": how.dtype}
        with self.naming_what_is_missing():
            return classifier_card(config, self.settings, metrics, how.repository, how.source, self.data, how.licence)


def _sorted_as_trained(folder: Path) -> list[str]:
    """Return the classes of an image folder as timm numbers them: 2 before 10, folders without an image left out."""
    if not folder.is_dir():
        raise RunError(f"the run does not say what its classes are called, and there is no {folder}: --class-folders")
    _, class_to_idx = find_images_and_targets(str(folder))
    return sorted(class_to_idx, key=class_to_idx.__getitem__)
