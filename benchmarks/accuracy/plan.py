"""Plan what is run for each table: a recipe, mostly `matched_imagenette`, and what differs from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .runs import run_named

SEED, SEEDS = 42, {"resnet18": (42, 43, 44), "vt_resnet18": (42, 43, 44), "resnet34": (42,), "vt_resnet34": (42,)}
LEARNING_RATES = (0.1, 0.2, 0.4)
MUON_RATES = (0.0015, 0.003, 0.006, 0.012, 0.024, 0.048)  # the last was added when 20 epochs at the best had begun
STAGE_RATE, STAGE_FACTORS = 0.024, (0.25, 0.1)  # a rate, and parts of it for a stage 5 alone
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
# What the paper's tables lack: the trunk and the lift without tokens, and with a single one. What VT has over them is
# what its tokens are worth. Beside them the start at which a VT stage did best on stored maps (token_trials.py). They
# train for 20 epochs, as vt_resnet18 and resnet18 did: after six, no stage 5 is ahead of pooling.
ONE_TOKEN = dict(layers=(2, 2, 2, 1), num_tokens=1, relation="none", projector=False)
CONTROLS: dict[str, dict[str, Any]] = {
    "pooled": dict(tokenizer="pool", **ONE_TOKEN),
    "one_filter": dict(tokenizer="filter", **ONE_TOKEN),
    "awake": dict(projector_gain=0.5),
}
# Second runs of this seed: the first, of the table "longer", left no weights to show larger photos to.
AGAIN = ("vt_resnet18_seed43", "resnet18_seed43")
# Networks of the controls' table by name: a model and its options.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("vt_resnet18", options) for name, options in CONTROLS.items()},
    "vt_resnet18": ("vt_resnet18", {}),
    "resnet18": ("resnet18", {}),
}
# The same networks asked for an ImageNet teacher's answers over its thousand classes, and for no label (answers.py).
ANSWERS: dict[str, Any] = dict(
    epochs=12,
    num_classes=1000,
    smoothing=0.0,
    kd_img_size=128,
    distill_loss_weight=1.0,
    task_loss_weight=0.0,
    kd_temperature=1.0,
)
# The same on mixtures of two photos each, of which there are more than can be learnt by heart.
MIXED: dict[str, Any] = dict(ANSWERS, mixup=1.0)
# Two epochs more on larger photos, from where `ANSWERS` ended.
ENDS: dict[str, Any] = dict(
    ANSWERS,
    epochs=2,
    warmup_epochs=0,
    img_size=192,
    train_img_sizes=(192,),
    train_size_schedule="constant",
    val_interval=2,
)
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
# What differs from the recipe `finetune` for other sets, from the shipped weights and from scratch. A digit must not be
# mirrored, nor cut to a third.
TRANSFER_SETS: dict[str, dict[str, Any]] = {
    "digits": dict(num_classes=10, img_size=64, val_interval=20, hflip=0.0, scale=(0.7, 1.0)),
    "garments": dict(num_classes=11, img_size=96, val_interval=20, epochs=10),
}
TRANSFER_RATES = (0.02, 0.1, 0.2)


@dataclass(frozen=True)
class Experiment:
    """A run: a model with options, and settings of train.py that differ from the recipe's."""

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
    after: str = ""  # the experiment whose weights it begins with

    def arguments(self, teacher: str) -> list[str]:
        """Return the arguments for `vt-timm run train`."""
        settings = {"config": self.recipe, "model": self.model, "lr": self.lr, "seed": self.seed, **self.settings}
        flags: list[str] = []
        for key, value in settings.items():
            values = [] if value is True else map(str, value if isinstance(value, tuple) else [value])
            flags += [f"--{key.replace('_', '-')}", *values]
        if self.options:
            flags += ["--model-kwargs", *(f"{key}={value!r}" for key, value in self.options.items())]
        return flags + (["--kd-model-name", teacher] if self.ingredient == "distillation" else [])


def search(model: str) -> list[Experiment]:
    """Plan the same learning rates for every model, one seed."""
    return [Experiment(f"{model}_lr{lr}", model, lr) for lr in LEARNING_RATES]


def searches() -> dict[str, list[Experiment]]:
    """Return the searches of the learning rate by what they are for: a model, or a data set and its start."""
    starts = [(dataset, start) for dataset in TRANSFER_SETS for start in ("pretrained", "scratch")]
    return {
        **{model: search(model) for model in SEEDS},
        **{f"{dataset}_{start}": [_transfer(dataset, start, lr) for lr in TRANSFER_RATES] for dataset, start in starts},
    }


def best_learning_rates() -> dict[str, float]:
    """Find the rate with the highest validation top-1, for each search that is complete."""
    best = {}
    for key, experiments in searches().items():
        results = [(run_named(experiment.name), experiment.lr) for experiment in experiments]
        if all(record for record, _ in results):
            best[key] = max(results, key=lambda pair: pair[0]["val_top1"] or 0.0)[1]  # type: ignore[index]
    return best


def has_diverged(record: dict[str, Any], classes: int = CLASSES) -> bool:
    """True if a recorded run was stopped, or ended with a validation loss above that of guessing."""
    return record["val_top1"] is None or not (record["val_loss"] or math.inf) <= math.log(classes)


def table_2(best: Mapping[str, float]) -> list[Experiment]:
    """Plan the searches of all four models, then the other seeds of those whose best learning rate is known."""
    runs = [experiment for model in SEEDS for experiment in search(model)]
    for model in SEEDS:
        if model in best:
            lr = best[model]
            runs += [Experiment(f"{model}_lr{lr}_seed{s}", model, lr, s) for s in SEEDS[model] if s != SEED]
    return runs


def ablations(best: Mapping[str, float]) -> list[Experiment]:
    """Plan Tables 3 to 7 at the best learning rate of vt_resnet18."""
    model = "vt_resnet18"
    if model not in best:
        return []
    return [Experiment(f"{model}_{name}", model, best[model], options=options) for name, options in ABLATIONS.items()]


def controls(_best: Mapping[str, float]) -> list[Experiment]:
    """Plan the controls and whole networks, at the rate of the recipe, seed by seed."""
    return [
        Experiment(control(name, seed), model, 0.003, seed, options, recipe="muon_imagenette")
        for seed in SEEDS["vt_resnet18"]
        for name, (model, options) in NETWORKS.items()
    ]


def control(name: str, seed: int) -> str:
    """Return what the run of one of `NETWORKS` in the controls' table is called."""
    run = f"{name}_seed{seed}"
    return f"{run}_again" if run in AGAIN else run


def muon_search(name: str) -> list[Experiment]:
    """Plan the same rates of the controls' recipe for every one of `NETWORKS`, six epochs and one seed."""
    model, options = NETWORKS[name]
    settings = {"epochs": 6}
    return [
        Experiment(f"{name}_muon_lr{lr}", model, lr, options=options, settings=settings, recipe="muon_imagenette")
        for lr in MUON_RATES
    ]


def muon_quarter(name: str) -> Experiment:
    """Plan a high rate with a quarter of it for what Muon leaves to AdamW: norms, and the weights of heads."""
    (high,) = (e for e in muon_search(name) if e.lr == 0.012)
    settings = {**high.settings, "opt_kwargs": ("nesterov=True", "fallback_lr_scale=0.25")}
    return replace(high, name=f"{high.name}_fallback0.25", settings=settings)


def muon_stage(name: str) -> list[Experiment]:
    """Plan a high rate with a part of it for what stands in the place of stage 5, the lift excepted."""
    (high,) = (e for e in muon_search(name) if e.lr == STAGE_RATE)
    part = "layer4" if high.model == "resnet18" else "vt_stage.blocks"
    return [
        replace(high, name=f"{high.name}_stage{factor}", settings={**high.settings, "lr_scale": (f"{part}={factor}",)})
        for factor in STAGE_FACTORS
    ]


def controls_at_best(_best: Mapping[str, float]) -> list[Experiment]:
    """Plan the controls and whole networks once more, each at its best rate up to `STAGE_RATE`, seed by seed.

    Each has one rate for all of it, another run with a part of the rate for its stage 5 where that was better, and
    another at a rate above `STAGE_RATE` that was.
    """
    runs = []
    for name in NETWORKS:
        every = muon_search(name)
        one, high, parts = map(_best_of, ([e for e in every if e.lr <= STAGE_RATE], every, muon_stage(name)))
        chosen = {
            f"{name}_best": one,
            f"{name}_best_stage": parts if one and parts and parts[1] > one[1] else None,
            f"{name}_best_high": high if high and high[0].lr > STAGE_RATE else None,
        }
        for run, best in chosen.items():
            if best:
                settings = {key: value for key, value in best[0].settings.items() if key != "epochs"}
                runs += [
                    replace(best[0], name=f"{run}_seed{seed}", seed=seed, settings=settings)
                    for seed in SEEDS["vt_resnet18"]
                ]
    return sorted(runs, key=lambda run: run.seed)


def _best_of(tried: list[Experiment]) -> tuple[Experiment, float] | None:
    """Return the experiment of the highest recorded top-1, None if none has a record."""
    found = [(e, run["val_top1"] or 0.0) for e in tried if (run := run_named(e.name))]
    return max(found, key=lambda pair: pair[1], default=None)


def rates(_best: Mapping[str, float]) -> list[Experiment]:
    """Plan the rates of the controls' recipe for the networks of their table, and another for those with a stage 5."""
    searched = [experiment for name in NETWORKS for experiment in (*muon_search(name), *muon_stage(name))]
    return searched + [muon_quarter(name) for name in ("vt_resnet18", "resnet18")]


def answers(_best: Mapping[str, float]) -> list[Experiment]:
    """Plan controls and whole networks that are asked for a teacher's thousand answers, one seed.

    They are asked on photos, then on larger ones, and anew on mixtures of photos.
    """
    begun = [
        Experiment(f"answers_{name}", model, 0.003, SEED, options, ANSWERS, recipe="muon_imagenette")
        for name, (model, options) in NETWORKS.items()
    ]
    ends = [
        replace(one, name=one.name.replace("answers", "answers192"), lr=0.0006, settings=ENDS, after=one.name)
        for one in begun
    ]
    mixed = [replace(one, name=one.name.replace("answers", "mixed"), settings=MIXED) for one in begun]
    return begun + ends + mixed


def ingredients(best: Mapping[str, float]) -> list[Experiment]:
    """Plan section 5.2, one ingredient at a time, on vt_resnet18 and on resnet18.

    They run in float32: a CPU without AVX512-BF16 is many times slower in bfloat16.
    """
    runs = []
    for model in ("vt_resnet18", "resnet18"):
        for name, settings in INGREDIENTS.items():
            if model in best:
                own = {key: value for key, value in settings.items() if key != "lr"}
                lr = settings.get("lr", best[model])
                full = f"{model}_{name}_float32"
                runs.append(Experiment(full, model, lr, settings=own, ingredient=name, dtype="float32"))
    return runs


def transfer(best: Mapping[str, float]) -> list[Experiment]:
    """Plan every set from the shipped weights and from scratch: the searches, then another seed at the best rate."""
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
