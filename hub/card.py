"""Model cards, rendered from data: a folder's config.json, the run's settings, and metrics with their origin.

    python -m hub.card                                  # the shipped models' cards and MODEL_CARD.md, from the records
    python -m hub.card vt_resnet18.basic_imagenette     # one of them

`python -m hub.publish` renders the card of a new model. No number is typed by hand: those of shipped models come from
`benchmarks/results/accuracy_NAME.json` and `benchmarks/results/runs/NAME/`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from benchmarks.counting import count
from benchmarks.records import RESULTS, without_folders
from vt_timm.shipped import hub_name

__all__ = ["DATA_SETS", "classifier_card", "segmenter_card", "shipped_card"]

HUB = Path(__file__).parent
FAMILY = HUB.parent / "MODEL_CARD.md"

# Data sets by what the data folder's name starts with: their id on the Hub if they have a page there, and their name.
DATA_SETS: dict[str, tuple[str | None, str]] = {
    "imagenette2": ("frgfm/imagenette", "Imagenette v2"),
    "imagenet": ("ILSVRC/imagenet-1k", "ImageNet-1k"),
    "ccp": (None, "Clothing Co-Parsing"),
}

CITATION = """```bibtex
@article{wu2020visual,
  title={Visual Transformers: Token-based Image Representation and Processing for Computer Vision},
  author={Wu, Bichen and Xu, Chenfeng and Dai, Xiaoliang and Wan, Alvin and Zhang, Peizhao and Yan, Zhicheng and
          Tomizuka, Masayoshi and Gonzalez, Joseph and Keutzer, Kurt and Vajda, Peter},
  journal={arXiv preprint arXiv:2006.03677},
  year={2020}
}
```
"""

CLASSIFIER = """---
{front_matter}
---

# {title}

A VT-ResNet: a ResNet whose last stage is visual transformers, from "Visual Transformers: Token-based Image
Representation and Processing for Computer Vision" (Wu et al., 2020, arXiv:2006.03677). {start} on
{data_name}, {classes}.

**Results** on {images}: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {origin}.
{choice}

| | |
|---|---|
| parameters | {params:.2f} M |
| multiply-accumulates | {macs:.0f} M at 224 x 224 |
| options | {options} |
| training | {training} |
| recipe | {recipe} |
| weights | {dtype}, safetensors |

## Use

```python
import timm
import torch
import vt_timm  # registers the models
from PIL import Image

model = timm.create_model("{source}", pretrained=True).eval()
config = timm.data.resolve_data_config({{}}, model=model, use_test_size=True)
transform = timm.data.create_transform(**config)

photo = Image.new("RGB", (320, 240))  # in its place: Image.open("photo.jpg").convert("RGB")
with torch.no_grad():
    probabilities = model(transform(photo).unsqueeze(0)).softmax(-1)[0]
print(probabilities.topk(2))  # the classes are model.pretrained_cfg["label_names"]
```

{availability}

## Intended use and limits

For trying the models, testing code, and as a start for fine-tuning. It knows {num_classes} classes and will name one of
them whatever a photo shows. It says nothing about the paper's ImageNet results.

## Licence and citation

Weights: {license}. Code: Apache-2.0. The training photos belong to their owners and are not part of this repository.

"""

SEGMENTER = """---
{front_matter}
---

# {title}

Semantic segmentation with {neck}, from "Visual Transformers: Token-based Image Representation and Processing for
Computer Vision" (Wu et al., 2020, arXiv:2006.03677), on the backbone {backbone}. Trained on {data_name}, {classes}.

**Results** on {images} validation images: mIoU {miou:.2f} %, pixel accuracy {pixel_accuracy:.2f} %, {origin}.
{choice}

| | |
|---|---|
| parameters | {params:.2f} M |
| training | {training} |
| recipe | {recipe} |
| evaluated at | {short_side} |
| weights | 32-bit floats, safetensors |

## Use

```python
import torch
import vt_timm
from PIL import Image
from vt_timm.segmentation import load_segmenter, segment

model = load_segmenter("{repository}")
photo = Image.new("RGB", (320, 240))  # in its place: Image.open("photo.jpg").convert("RGB")
labels = segment(model, photo, model.short_side)  # (240, 320), numbers into model.class_names
```

`vt-timm segment PHOTO -o segmented.png --model {repository}` draws it.

## Intended use and limits

For trying VT-FPN and as a start for fine-tuning. Every pixel gets one of {num_classes} classes, whatever it shows.

## Licence and citation

Weights: {license}. Code: Apache-2.0. The training photos belong to their owners and are not part of this repository.

"""

FAMILY_CARD = """# Model card: VT-ResNets

**Models.** `vt_resnet18`, `34`, `50`, `101`: timm's ResNet with the last stage replaced by visual transformers, after
"Visual Transformers: Token-based Image Representation and Processing for Computer Vision" (Wu et al., 2020,
arXiv:2006.03677); `vt_resnet_micro`, under a million parameters, for tests. This is an independent implementation, not
the authors'.

**Weights that exist.** {count}, trained by this project from scratch on Imagenette v2 (9,469 photos of ten ImageNet-1k
classes), shipped with the package and meant for the Hub under the names given; nothing has been uploaded there yet:

| weights | top-1, {images} validation images | image size | runs | card |
|---|---|---|---|---|
{rows}

One run each, the weights after the last epoch; no spread is known. Records: arguments, epoch summary and log
under `benchmarks/results/runs/`, accuracy under `benchmarks/results/accuracy_*.json`. For comparison, the public
Imagenette leaderboard (mostly xresnet50, 128 px, from scratch) stands at 87.43 % after 5 epochs and 91.57 % after 20.

**Intended use.** Trying the models without a download, testing code, starting a fine-tuning run.

**Limits.** The shipped weights know ten classes and will name one of them whatever a photo shows. There are no ImageNet
weights; the paper's ImageNet accuracies have not been reproduced here and are not claimed. Attention pictures show
where a token's weighted mean takes its pixels from, which is not an explanation of a prediction. On the photos that we
looked at, tokens of `vt_resnet18.basic_imagenette` sit on the object, but they are far from sixteen different concepts:
in the second module most of them look at the same pixels.

**Data.** Imagenette v2 is fast.ai's subset of ImageNet-1k. No photo is part of this repository.

**Licence.** Apache-2.0, code and weights.
"""


def classifier_card(
    config: dict[str, Any],
    settings: dict[str, Any],
    metrics: dict[str, Any],
    repository: str,
    source: str,
    data: str,
    licence: str = "apache-2.0",
) -> str:
    """The card of a classifier.

    Args:
        config: its config.json.
        settings: args.yaml of its run.
        metrics: "top1" and "top5" in percent, "images" (of what, in words) and "origin" (who measured, and how).
        repository: ORG/NAME on the Hub.
        source: what `timm.create_model` is given.
        data: name of the data folder.
        licence: of the weights.
    """
    title = repository.partition("/")[2]
    data_id, data_name = _data_set(data)
    options = {k: v for k, v in config.get("model_args", {}).items() if k not in ("in_chans", "global_pool")}
    macs, params = count(config["architecture"], num_classes=config["num_classes"], **options)
    s = settings
    sizes = s.get("train_img_sizes") or [s["img_size"] or config["pretrained_cfg"]["input_size"][-1]]
    sizes = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    best = metrics.get("checkpoint") == "best"
    warm = (s.get("model_kwargs") or {}).get("pretrained_backbone")
    start = "Trained from scratch"
    if s.get("pretrained") or s.get("initial_checkpoint"):
        start = "Fine-tuned"
    elif warm:
        start = f"Trained, from the stem and stages 1 to 3 of {without_folders(str(warm))},"
    teacher = s.get("kd_model_name")
    return (
        CLASSIFIER.format(
            front_matter=_front_matter(
                title,
                "image-classification",
                ["image-classification", "timm", "visual-transformers"],
                "timm",
                licence,
                data_id,
                data_name,
                {"top-1": metrics["top1"], "top-5": metrics["top5"]},
            ),
            title=title,
            start=start,
            data_name=data_name,
            classes=_classes(list((config.get("label_descriptions") or {}).values()), config["num_classes"]),
            choice=(
                "The checkpoint was picked by its score on these images, which flatters it."
                if best
                else "No checkpoint was picked by its validation score: these are the weights after the last epoch."
            ),
            params=params,
            macs=macs,
            options=", ".join(f"{k}={v!r}" for k, v in options.items()) or "none",
            training=f"{s['epochs']} epochs, images of {sizes} px, {s['opt']}, lr {s['lr']}, batch size "
            f"{s['batch_size']}, seed {s['seed']}"
            + (", weights averaged (EMA)" if s.get("model_ema") else "")
            + (f", distilled from {without_folders(teacher)}" if teacher else ""),
            recipe=f"`vt_timm/recipes/{s['recipe']}.yaml`" if s.get("recipe") else "the run's own arguments",
            dtype=metrics.get("dtype", "16-bit floats"),
            source=source,
            availability=(
                f"To use it without a network later on: `vt-timm download {repository}` once."
                if source.startswith("hf-hub:")
                else "These weights ship with vt_timm: nothing is downloaded."
            ),
            num_classes=config["num_classes"],
            license=licence,
            **{key: metrics[key] for key in ("images", "top1", "top5", "origin")},
        )
        + CITATION
    )


def segmenter_card(
    config: dict[str, Any],
    settings: dict[str, Any],
    metrics: dict[str, Any],
    repository: str,
    data: str,
    params: float,
    licence: str = "apache-2.0",
) -> str:
    """The card of a segmenter; `metrics` also hold "miou" and "pixel_accuracy" in percent, `params` is in millions."""
    title = repository.partition("/")[2]
    data_id, data_name = _data_set(data)
    s = settings
    return (
        SEGMENTER.format(
            front_matter=_front_matter(
                title,
                "image-segmentation",
                ["image-segmentation", "semantic-segmentation", "visual-transformers"],
                "vt_timm",
                licence,
                data_id,
                data_name,
                {"mean_iou": metrics["miou"], "pixel accuracy": metrics["pixel_accuracy"]},
            ),
            title=title,
            neck="VT-FPN" if config["neck"] == "vt_fpn" else "a panoptic FPN",
            backbone=config["backbone"],
            data_name=data_name,
            classes=_classes(config["class_names"], config["num_classes"]),
            choice="The checkpoint is the best of the run's evaluations on these images, which flatters it.",
            params=params,
            training=f"{s['updates']} updates of {s['batch_size']} images a process, crops of {s['crop_size']} px, "
            f"SGD, lr {s['lr']}, seed {s['seed']}" + (", weights averaged (EMA)" if s.get("ema_decay") else ""),
            recipe=f"`vt_timm/recipes/segmentation/{s['recipe']}.yaml`"
            if s.get("recipe")
            else "the run's own settings",
            short_side=f"short side {config['short_side']} px" if config.get("short_side") else "the photos' own size",
            repository=repository,
            num_classes=config["num_classes"],
            license=licence,
            **{key: metrics[key] for key in ("images", "miou", "pixel_accuracy", "origin")},
        )
        + CITATION
    )


def _front_matter(
    title: str,
    task: str,
    tags: list[str],
    library: str,
    licence: str,
    data_id: str | None,
    data_name: str,
    metrics: dict[str, float],
) -> str:
    return (
        ModelCardData(
            library_name=library,
            pipeline_tag=task,
            license=licence,
            tags=tags,
            datasets=[data_id] if data_id else None,
            model_name=title,
            eval_results=[
                EvalResult(
                    task_type=task,
                    dataset_type=data_id or "imagefolder",
                    dataset_name=f"{data_name}, validation",
                    metric_type="mean_iou" if metric == "mean_iou" else "accuracy",
                    metric_name=metric,
                    metric_value=round(value, 3),
                )
                for metric, value in metrics.items()
            ],
        )
        .to_yaml()
        .strip()
    )


def _data_set(folder: str) -> tuple[str | None, str]:
    for start, (data_id, name) in DATA_SETS.items():
        if folder.startswith(start):
            return data_id, name
    return None, folder


def _classes(names: list[str], number: int) -> str:
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{number} classes: {shown}" if names else f"{number} classes"


def shipped_card(name: str) -> str:
    """The card of a folder under hub/, from its records."""
    config = json.loads((HUB / name / "config.json").read_text())
    record = json.loads((RESULTS / f"accuracy_{name}.json").read_text())
    settings = yaml.safe_load((RESULTS / "runs" / name / "args.yaml").read_text())
    settings = {"recipe": name.partition(".")[2], **settings}
    return classifier_card(config, settings, measured(record), hub_name(name), name, settings["data_dir"])


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """Metrics for a card from a record of `benchmarks.pretrained`."""
    size, crop = record["input_size"][-1], record["crop_pct"]
    return {
        "top1": record["top1"],
        "top5": record["top5"],
        "images": f"{record['images']} validation images",
        "origin": f"one run, at {size} x {size} pixels (crop {crop}, {record['interpolation']}), measured on "
        f"{record['date']} with `{record['command']}`",
    }


def family_card() -> str:
    """MODEL_CARD.md."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("accuracy_*.json"))]
    records = [r for r in records if (HUB / r["model"] / "config.json").is_file()]
    rows = [
        f"| `{r['model']}` | {r['top1']:.2f} % | {r['input_size'][-1]} px | 1 | [card](hub/{r['model']}/README.md) |"
        for r in records
    ]
    (images,) = {r["images"] for r in records}
    words = {1: "One", 2: "Two", 3: "Three", 4: "Four", 5: "Five"}
    return FAMILY_CARD.format(count=words[len(rows)], images=f"{images:,}", rows="\n".join(rows))


def main() -> int:
    names = sys.argv[1:] or sorted(p.parent.name for p in HUB.glob("*/config.json"))
    for name in names:
        if not (HUB / name / "config.json").is_file():
            print(f"usage: python -m hub.card [NAME ...], folders of {HUB.name}/", file=sys.stderr)
            return 2
        (HUB / name / "README.md").write_text(shipped_card(name))
        print(HUB / name / "README.md")
    if not sys.argv[1:]:
        FAMILY.write_text(family_card())
        print(FAMILY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
