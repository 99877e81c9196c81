"""What is run for each table: a recipe, `matched_imagenette` but for transfer, and what differs from it; and the
labelled sets to fine-tune on, made from what is at hand: scikit-learn's digits and crops of Clothing Co-Parsing.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .runs import run_named

__all__ = [
    "CLASSES",
    "GARMENTS",
    "INGREDIENTS",
    "LEARNING_RATES",
    "SEED",
    "SEEDS",
    "SETS",
    "TRANSFER_RATES",
    "TRANSFER_SETS",
    "Experiment",
    "ablations",
    "best_learning_rates",
    "digits",
    "garments",
    "has_diverged",
    "ingredients",
    "prepare",
    "searches",
    "table_2",
    "transfer",
]

SEED, SEEDS = 42, {"resnet18": (42, 43, 44), "vt_resnet18": (42, 43, 44), "resnet34": (42,), "vt_resnet34": (42,)}
LEARNING_RATES = (0.1, 0.2, 0.4)
CLASSES = 10

# Tables 3 to 7: options of vt_resnet18, each changing one thing of the default.
ABLATIONS: dict[str, dict[str, Any]] = {
    "cluster": {"tokenizer": "cluster"},
    "pool": {"tokenizer": "pool"},
    "not_recurrent": {"recurrent": False},
    "graph": {"relation": "graph"},
    "no_relation": {"relation": "none"},
    "tokens32": {"num_tokens": 32},
    "tokens64": {"num_tokens": 64},
    "no_projector": {"projector": False},
}
# Section 5.2: each alone on top of the basic recipe, with the values of advanced_in1k. The averaging is shortened as
# the schedule is. RMSProp's rate is scaled to the batch; it falls to 0.7 % in five epochs after warm-up, there in 395.
INGREDIENTS: dict[str, dict[str, Any]] = {
    "rmsprop": dict(opt="rmsproptf", opt_eps=0.001, lr=0.005, sched="step", decay_epochs=1, decay_rate=0.37),
    "autoaugment": dict(aa="original"),
    "smoothing": dict(smoothing=0.1),
    "drop_path": dict(drop_path=0.1),
    "dropout": dict(drop=0.2),
    "ema": dict(model_ema=True, model_ema_decay=0.99),
    "distillation": dict(distill_loss_weight=0.8, task_loss_weight=0.2, kd_temperature=1.0),
}
# Section 5.2 is run in float32: a CPU without AVX512-BF16 is many times slower in bfloat16. Of these two there are
# earlier runs in bfloat16 too.
ALSO_BFLOAT16 = ("vt_resnet18_smoothing", "vt_resnet18_ema")
# What differs from the recipe `finetune` for other sets, from the shipped weights and from scratch. A digit must not be
# mirrored, nor cut to a third.
TRANSFER_SETS: dict[str, dict[str, Any]] = {
    "digits": dict(num_classes=10, img_size=64, val_interval=20, hflip=0.0, scale=(0.7, 1.0)),
    "garments": dict(num_classes=11, img_size=96, val_interval=20, epochs=10),
}
TRANSFER_RATES = (0.02, 0.1, 0.2)
# The classes of Clothing Co-Parsing with at least a hundred crops for training, skin and background left out.
GARMENTS = ("bag", "blouse", "coat", "dress", "hair", "jeans", "pants", "purse", "shirt", "shoes", "skirt")
SMALLEST = 32  # pixels of a crop's shorter side

Labelled = Iterator[tuple[str, str, Image.Image]]  # split, class, image


@dataclass(frozen=True)
class Experiment:
    """One run: a model with options, and settings of train.py that differ from the recipe's."""

    name: str
    model: str
    lr: float
    seed: int = SEED
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ingredient: str = ""  # a key of `INGREDIENTS`
    recipe: str = "matched_imagenette"
    dataset: str = ""  # a key of `TRANSFER_SETS`, where the data is not Imagenette
    dtype: str = "bfloat16"  # autocast's; "float32" goes without autocast

    @property
    def is_reference(self) -> bool:
        """A run of Table 2: the model and the recipe as they are, whose accuracy on training images is measured too."""
        return not (self.options or self.settings)

    def arguments(self, teacher: str) -> list[str]:
        """The arguments for `vt-timm run train`."""
        settings = {"config": self.recipe, "model": self.model, "lr": self.lr, "seed": self.seed, **self.settings}
        flags: list[str] = []
        for key, value in settings.items():
            values = [] if value is True else map(str, value if isinstance(value, tuple) else [value])
            flags += [f"--{key.replace('_', '-')}", *values]
        if self.options:
            flags += ["--model-kwargs", *(f"{key}={value!r}" for key, value in self.options.items())]
        return flags + (["--kd-model-name", teacher] if self.ingredient == "distillation" else [])


def search(model: str) -> list[Experiment]:
    """The same learning rates for every model, one seed."""
    return [Experiment(f"{model}_lr{lr}", model, lr) for lr in LEARNING_RATES]


def searches() -> dict[str, list[Experiment]]:
    """The searches of the learning rate, each by what it is for: a model, or a data set and its start."""
    starts = [(dataset, start) for dataset in TRANSFER_SETS for start in ("pretrained", "scratch")]
    return {
        **{model: search(model) for model in SEEDS},
        **{f"{dataset}_{start}": [_transfer(dataset, start, lr) for lr in TRANSFER_RATES] for dataset, start in starts},
    }


def best_learning_rates() -> dict[str, float]:
    """The rate with the highest validation top-1, for each search that is complete."""
    best = {}
    for key, experiments in searches().items():
        results = [(run_named(experiment.name), experiment.lr) for experiment in experiments]
        if all(record for record, _ in results):
            best[key] = max(results, key=lambda pair: pair[0]["val_top1"] or 0.0)[1]  # type: ignore[index]
    return best


def has_diverged(record: dict[str, Any], classes: int = CLASSES) -> bool:
    """Whether a recorded run was stopped, or ended with a validation loss above that of guessing."""
    return record["val_top1"] is None or not (record["val_loss"] or math.inf) <= math.log(classes)


def table_2(best: Mapping[str, float]) -> list[Experiment]:
    """The searches of all four models, then the other seeds of those whose best learning rate is known."""
    runs = [experiment for model in SEEDS for experiment in search(model)]
    for model in SEEDS:
        if model in best:
            lr = best[model]
            runs += [Experiment(f"{model}_lr{lr}_seed{s}", model, lr, s) for s in SEEDS[model] if s != SEED]
    return runs


def ablations(best: Mapping[str, float]) -> list[Experiment]:
    """Tables 3 to 7 at the best learning rate of vt_resnet18."""
    model = "vt_resnet18"
    if model not in best:
        return []
    return [Experiment(f"{model}_{name}", model, best[model], options=options) for name, options in ABLATIONS.items()]


def ingredients(best: Mapping[str, float]) -> list[Experiment]:
    """Section 5.2, one ingredient at a time, on vt_resnet18 and on resnet18."""
    runs = []
    for model in ("vt_resnet18", "resnet18"):
        for name, settings in INGREDIENTS.items():
            if model in best:
                own = {key: value for key, value in settings.items() if key != "lr"}
                lr = settings.get("lr", best[model])
                run = Experiment(f"{model}_{name}", model, lr, settings=own, ingredient=name)
                if run.name in ALSO_BFLOAT16:
                    runs.append(run)
                runs.append(replace(run, name=f"{run.name}_float32", dtype="float32"))
    return runs


def transfer(best: Mapping[str, float]) -> list[Experiment]:
    """Every set from the shipped weights and from scratch: the searches, then another seed at the best rate."""
    runs = []
    for key, tried in searches().items():
        dataset, _, start = key.partition("_")
        if dataset in TRANSFER_SETS:
            runs += tried + [_transfer(dataset, start, best[key], seed) for seed in (43,) if key in best]
    return runs


def _transfer(dataset: str, start: str, lr: float, seed: int = SEED) -> Experiment:
    name = f"{dataset}_{start}_lr{lr}" + (f"_seed{seed}" if seed != SEED else "")
    settings = {**TRANSFER_SETS[dataset], **({"pretrained": True} if start == "pretrained" else {})}
    return Experiment(name, "vt_resnet18", lr, seed, settings=settings, recipe="finetune", dataset=dataset)


def digits(data: Path | None = None) -> Labelled:
    """scikit-learn's 1,797 digits, 8 x 8 pixels enlarged to 64 x 64: the first 50 of a class for training."""
    from sklearn.datasets import load_digits

    seen: dict[int, int] = defaultdict(int)
    bunch = load_digits()
    for values, label in zip(bunch.images, bunch.target, strict=True):
        split = "train" if seen[label] < 50 else "val"
        seen[label] += 1
        image = Image.fromarray((values * 255 / 16).astype(np.uint8))
        yield split, str(label), image.resize((64, 64), Image.Resampling.BICUBIC)


def garments(data: Path) -> Labelled:
    """The square around each garment of Clothing Co-Parsing, named after it: the first 100 of a class for training.

    Args:
        data: folder with {train,val}/{images,labels} and classes.txt.
    """
    names = (data / "classes.txt").read_text().split("\n")
    wanted = {names.index(name): name for name in GARMENTS}
    for split, most in (("train", 100), ("val", None)):
        seen: dict[str, int] = defaultdict(int)
        for mask in sorted((data / split / "labels").glob("*.png")):
            labels = np.array(Image.open(mask))
            photo = Image.open(data / split / "images" / f"{mask.stem}.jpg").convert("RGB")
            for label in np.unique(labels):
                name = wanted.get(int(label))
                box = square(labels == label) if name else None
                if name and box and seen[name] != most:
                    seen[name] += 1
                    yield split, name, photo.crop(box).resize((128, 128), Image.Resampling.BICUBIC)


def square(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the square around a mask; it may leave the photo. None if the mask is too small."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    if min(bottom - top, right - left) < SMALLEST:
        return None
    side = max(bottom - top, right - left)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return int(x), int(y), int(x + side), int(y + side)


SETS = {"digits": digits, "garments": garments}


def prepare(name: str, data: Path, folder: Path) -> Path:
    """`folder/name/{train,val}/CLASS/*.png`, made once."""
    done = folder / name
    if not done.is_dir():
        unfinished = folder / f"{name}.unfinished"
        for i, (split, label, image) in enumerate(SETS[name](data)):
            path = unfinished / split / label / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        unfinished.rename(done)
    return done
