"""Model cards, rendered from data: a folder's config.json, the run's settings, and metrics with their origin.

No number is typed by hand.
"""

import re
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData
from timm.models import split_model_name_tag

from ..cost import count_macs, count_parameters
from ..files import without_folders
from ..recipes import FOLDER as RECIPES
from ..recipes import SEGMENTATION, list_recipes
from ..run_files import BEST, WEIGHTS
from ..weights.published import unsure_below

TEMPLATES = Path(__file__).parent / "templates"
TAG = "visual-transformers"  # every card of ours has it, and no other card

# Data sets by what the data folder's name starts with: their id on the Hub if they have a page there, and their name.
DATA_SETS: dict[str, tuple[str | None, str]] = {
    "imagenette2": ("frgfm/imagenette", "Imagenette v2"),
    "imagenet": ("ILSVRC/imagenet-1k", "ImageNet-1k"),
    "ccp": (None, "Clothing Co-Parsing"),
}

# Origin and licence of weights that others trained, by what the backbone's name starts with.
BACKBONES = {
    "tf_efficientnet_lite0": "EfficientNet-Lite0 by Google (Apache-2.0), trained on ImageNet-1k",
    "vt_resnet": "weights that ship with vt_timm (Apache-2.0)",
}

# What a card calls a neck.
NECK_NAMES = {"vt_fpn": "VT-FPN", "fpn": "a panoptic FPN", "laterals": "VT-FPN's laterals, without its tokens"}


def classifier_card(
    config: dict[str, Any],
    settings: dict[str, Any],
    metrics: dict[str, Any],
    repository: str,
    source: str,
    data: str,
    licence: str = "apache-2.0",
) -> str:
    """Return the card of a classifier.

    Args:
        config: its config.json.
        settings: args.yaml of its run.
        metrics: "top1" and "top5" in percent, "images" (which, in words) and "origin" (who measured, and how).
        repository: ORG/NAME on the Hub.
        source: what `vt_timm.load` and `timm.create_model` are given.
        data: name of the data folder.
        licence: licence of the weights.
    """
    options = {k: v for k, v in config.get("model_args", {}).items() if k not in ("in_chans", "global_pool")}
    model = timm.create_model(
        config["architecture"], device="meta", num_classes=config["num_classes"], **options
    ).eval()
    s, size = settings, config["pretrained_cfg"]["input_size"][1:]
    least = unsure_below(config["pretrained_cfg"])
    # Of five classes all are among the first five.
    scores = {f"top-{rank}": metrics[f"top{rank}"] for rank in (1, 5) if rank < config["num_classes"]}
    return _rendered(
        "classifier",
        **_common("image-classification", "timm", repository, data, licence, scores),
        start=_start(s),
        classes=_classes(list((config.get("label_descriptions") or {}).values()), config["num_classes"]),
        choice=_choice(s, metrics, data),
        params=count_parameters(model) / 1e6,
        macs=count_macs(model, (3, *size)) / 1e6,
        size=" x ".join(map(str, size)),
        options=", ".join(f"{k}={v!r}" for k, v in options.items()) or "none",
        training=_training(s, config["pretrained_cfg"]["input_size"][-1]),
        recipe=_recipe(s.get("recipe"), RECIPES) or "the run's own arguments",
        dtype=metrics.get("dtype", "16-bit floats"),
        source=source,
        availability=_availability(source, repository),
        num_classes=config["num_classes"],
        unsure=f" `vt-timm classify` calls an answer below {100 * least:.0f} % unsure." if least else "",
        scores=", ".join(f"{name} {value:.2f} %" for name, value in scores.items()),
        **{key: metrics[key] for key in ("images", "origin")},
    )


def _recipe(name: str | None, folder: Path) -> str:
    """Return where a recipe lies, nothing for one that does not come with this package."""
    return (
        f"`vt_timm/{folder.relative_to(RECIPES.parent).as_posix()}/{name}.yaml`" if name in list_recipes(folder) else ""
    )


def _availability(source: str, repository: str) -> str:
    if source.startswith("hf-hub:"):
        return f"To use it without a network later on: `vt-timm download {repository}` once."
    if source.startswith("local-dir:"):
        return "Give this folder's path. Once it is on the Hub, its name is `hf-hub:ORG/NAME`."
    return "These weights ship with vt_timm: nothing is downloaded."


def _start(settings: dict[str, Any]) -> str:
    """Return what the weights were before this training, as the beginning of a sentence."""
    if checkpoint := settings.get("initial_checkpoint"):
        path = Path(checkpoint)
        published = path.name == WEIGHTS and path.parent.name
        return f"Trained further, from {f'the weights `{published}`' if published else 'an earlier run'},"
    if settings.get("pretrained"):
        return f"Trained further, from the weights `{_with_tag(without_folders(settings['model']))}`,"
    warm = (settings.get("model_kwargs") or {}).get("pretrained_backbone")
    if warm:
        return f"Trained, from the stem and stages 1 to 3 of {without_folders(str(warm))},"
    return "Trained from scratch"


def _with_tag(name: str) -> str:
    """Return MODEL.TAG of a model of timm's, since which weights the short name means changes."""
    if not timm.is_model(name) or split_model_name_tag(name)[1]:
        return name
    config = timm.get_pretrained_cfg(name)
    if config and config.has_weights:
        return f"{name}.{config.tag}"
    return next(iter(timm.list_pretrained(f"{name}.*")), name)  # of ours, the default tag has no weights


def _choice(settings: dict[str, Any], metrics: dict[str, Any], data: str) -> str:
    """Say if the choice of checkpoint or teacher flatters the results."""
    choice = "No checkpoint was picked by its validation score: these are the weights after the last epoch."
    if metrics.get("checkpoint") == BEST:
        choice = "The checkpoint was picked by its score on these images, which flatters it."
    if settings.get("kd_model_name") and Path(data).name.startswith("imagenette"):
        choice += " Most of these images are ImageNet's training images: a teacher trained on ImageNet has seen them."
    return choice


def _training(settings: dict[str, Any], own_size: int) -> str:
    s = settings
    sizes = s.get("train_img_sizes") or [s["img_size"] or own_size]
    sizes = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    teacher, what = s.get("kd_model_name"), "features" if s.get("kd_distill_type") == "feature" else "answers"
    return (
        f"{s['epochs']} epochs, images of {sizes} px, {s['opt']}, {_learning_rate(s)}, batch size {s['batch_size']}, "
        f"seed {s['seed']}"
        + (f", mixup {s['mixup']}" if s.get("mixup") else "")
        + (f", {100 * s['gaussian_blur_prob']:.0f} % of the photos blurred" if s.get("gaussian_blur_prob") else "")
        + (f", {100 * s['grayscale_prob']:.0f} % grey" if s.get("grayscale_prob") else "")
        + (", weights averaged (EMA)" if s.get("model_ema") else "")
        + (f", distilled from the {what} of {without_folders(teacher).removeprefix('local-dir:')}" if teacher else "")
    )


def segmenter_card(
    config: dict[str, Any], settings: dict[str, Any], metrics: dict[str, Any], repository: str, data: str, source: str
) -> str:
    """Return the card of a segmenter.

    Args:
        config: its config.json.
        settings: settings.yaml of its run.
        metrics: "miou" and "pixel_accuracy" in percent, "images", "origin" (who measured, and how), "params" in
            millions, "dtype", and where they are known the other scores of an evaluation, "iou" of each class,
            "at_four_sizes" (the scores of `vt-timm segment`) and "license".
        repository: ORG/NAME on the Hub.
        data: name of the data folder.
        source: what `vt_timm.load` is given.
    """
    s = settings
    started = f", which started {_origin(s['backbone'])}" if s.get("pretrained_backbone") else ""
    if started and s.get("freeze_backbone"):
        started += " and stayed as they were"
    if s.get("initial_checkpoint"):
        start = without_folders(s["initial_checkpoint"]).removeprefix("local-dir:")
        started += f" (going on from {'earlier weights of this name' if start == source else f'the segmenter {start}'})"
    return _rendered(
        "segmenter",
        **_common(
            "image-segmentation",
            "vt_timm",
            repository,
            data,
            metrics.get("license"),
            {"mean_iou": metrics["miou"], "pixel accuracy": metrics["pixel_accuracy"]},
        ),
        source=source,
        availability=_availability(source, repository),
        scores=_scores(metrics),
        at_four_sizes=f", of the four {_scores(metrics['at_four_sizes'])}" if "at_four_sizes" in metrics else "",
        iou=_iou(config["class_names"], metrics.get("iou")),
        neck=NECK_NAMES.get(config["neck"], f"the neck `{config['neck']}`"),
        backbone=config["backbone"] + started,
        classes=_classes(config["class_names"], config["num_classes"]),
        choice=_choice_of_segmenter(metrics),
        training=f"{s['updates']} updates of {s['batch_size']} images per process, crops of {s['crop_size']} px, "
        f"{s.get('opt', 'sgd')}, lr {s['lr']}"
        + (f" (backbone {s['backbone_lr']})" if s.get("backbone_lr") else "")
        + f", seed {s['seed']}"
        + (", weights averaged (EMA)" if s.get("ema_decay") else "")
        + (f", Dice loss {s['dice']}" if s.get("dice") else "")
        + (
            f", {100 * s['background_share']:.0f} % of the samples photos without masks, all background"
            if s.get("background_photos")
            else ""
        )
        + (f" but for figures pasted onto {100 * s['background_crowds']:.0f} %" if s.get("background_crowds") else "")
        + (f", {100 * s['background_swap']:.0f} % of the others on such a photo" if s.get("background_swap") else "")
        + (f", {100 * s['start_share']:.0f} % of the weights those it went on from" if s.get("start_share") else ""),
        recipe=_recipe(s.get("recipe"), SEGMENTATION) or "the run's own settings",
        short_side=_size(config.get("short_side")),
        num_classes=config["num_classes"],
        **{key: metrics[key] for key in ("images", "origin", "params", "dtype")},
    )


def _choice_of_segmenter(metrics: dict[str, Any]) -> str:
    """Say if the choice among a run's evaluations flatters the results."""
    best = max(metrics.get("evaluations", ()), key=lambda row: row["miou"], default=metrics)
    if best.get("update") != metrics.get("update"):
        return "Another evaluation of the run had a higher mIoU on these images."
    return "The checkpoint is the best of the run's evaluations on these images, which flatters it."


def segmenter_name(neck: str, backbone: str, data: str) -> str:
    """Return NECK_BACKBONE.DATA, what a segmenter is called."""
    name = Path(backbone.rpartition(":")[2]).name  # also of a folder or a repository
    return f"{neck}_{name.partition('.')[0]}.{data}"


def _scores(metrics: dict[str, Any]) -> str:
    """Return an evaluation's scores in words, with and without the background where there is one."""
    without, foreground = (metrics.get(key) for key in ("miou_without_background", "foreground_accuracy"))
    miou, pixels = f"mIoU {metrics['miou']:.2f} %", f"pixel accuracy {metrics['pixel_accuracy']:.2f} %"
    if without is None or foreground is None:
        return f"{miou}, {pixels}"
    return f"{miou}, without the background {without:.2f} %; {pixels}, of the foreground's pixels {foreground:.2f} %"


def _iou(names: list[str], iou: list[float | None] | None) -> str:
    """Return a table of the classes, or nothing where their scores were not kept."""
    if not iou:
        return ""
    rows = [
        f"| {_as_written(name)} | {'does not occur' if one is None else f'{one:.2f}'} |"
        for name, one in zip(names, iou, strict=True)
    ]
    return "\n".join(["| class | IoU, % |", "|---|---|", *rows, "", ""])


def _size(short_side: int | list[int] | None) -> str:
    if short_side is None:
        return "the photos' own size"
    if isinstance(short_side, int):
        return f"short side {short_side} px"
    return f"{short_side[0]} x {short_side[1]} px (height x width)"


def _learning_rate(settings: dict[str, Any]) -> str:
    """Return the learning rate as the run was given it: itself, or one for a batch of some size."""
    if settings.get("lr"):
        return f"lr {settings['lr']}"
    return f"lr {settings.get('lr_base')} per batch of {settings.get('lr_base_size')}"


def _origin(backbone: str) -> str:
    """Say where a backbone's first weights come from, and name their licence if they are not ours."""
    name = Path(backbone.rpartition(":")[2]).name
    origins = (origin for start, origin in BACKBONES.items() if name.startswith(start))
    return "from " + next(origins, f"timm's weights of {name}")


def _common(
    task: str, library: str, repository: str, data: str, licence: str | None, metrics: dict[str, float]
) -> dict[str, str]:
    """Return what both kinds of card say: the Hub's front matter, and the names of model, data and licence."""
    title = repository.rpartition("/")[2]
    data_id, data_name = _data_set(data)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data_id or "imagefolder",
            dataset_name=f"{data_name}, validation",
            metric_type="mean_iou" if metric == "mean_iou" else "accuracy",
            metric_name=metric,
            metric_value=round(value, 3),
        )
        for metric, value in metrics.items()
    ]
    front_matter = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        license=licence,
        tags=[task, library, TAG],
        datasets=[data_id] if data_id else None,
        model_name=title,
        eval_results=results,
    )
    return {
        "front_matter": front_matter.to_yaml().strip(),
        "title": title,
        "data_name": _as_written(data_name),
        "license": licence
        or "the licences of the training images and of the backbone's weights hold for what was learnt",
    }


def _rendered(kind: str, **values: Any) -> str:
    """Return a card from the template of its kind; every card ends with the citation."""
    template, citation = ((TEMPLATES / f"{name}.md").read_text(encoding="utf-8") for name in (kind, "citation"))
    return template.format(**values) + citation


def _data_set(data: str) -> tuple[str | None, str]:
    folder = Path(data).name  # a run started beside its data names it by a relative path
    return next((known for start, known in DATA_SETS.items() if folder.startswith(start)), (None, folder))


def _classes(names: list[str], number: int) -> str:
    shown = ", ".join(map(_as_written, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{number} classes: {shown}" if names else f"{number} classes"


def _as_written(name: str) -> str:
    """Return a user's name such that Markdown shows it as it is: no link, no emphasis, no column of a table."""
    return re.sub(r"([\\`*\[\]<>|~&$#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(name.split()))
