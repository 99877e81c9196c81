"""Render the model card of a Hub folder from its records: `python -m hub.card vt_resnet18.basic_imagenette`.

Every number comes from `benchmarks/results/accuracy_NAME.json` and `benchmarks/results/runs/NAME/`.
"""

import json
import sys
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from benchmarks.complexity import count
from benchmarks.records import RESULTS

HUB = Path(__file__).parent

TEMPLATE = """---
{front_matter}
---

# {name}

A VT-ResNet: a ResNet whose last stage is visual transformers, from "Visual Transformers: Token-based Image
Representation and Processing for Computer Vision" (Wu et al., 2020, arXiv:2006.03677). Trained from scratch on
Imagenette v2, ten classes of ImageNet-1k: {classes}.

**Results** on Imagenette's {images} validation images, one run, seed {seed}, measured on {date} with `{command}`:
top-1 {top1:.2f} %, top-5 {top5:.2f} % at {test_size} x {test_size} pixels (crop {crop_pct}, {interpolation}).
No checkpoint was picked by its validation score: these are the weights after the last epoch.

| | |
|---|---|
| parameters | {params:.2f} M with the classifier of 1000 classes |
| multiply-accumulates | {macs:.0f} M at 224 x 224 |
| training | {epochs} epochs, image sizes {sizes}, {opt} lr {lr}, batch {batch_size} |
| recipe | `vt_timm/recipes/{recipe}` |
| weights | 16-bit floats, safetensors |

## Use

```python
import timm
import vt_timm  # registers the models

model = timm.create_model("{name}", pretrained=True).eval()
config = timm.data.resolve_data_config({{}}, model=model, use_test_size=True)
transform = timm.data.create_transform(**config)
# model(transform(photo).unsqueeze(0)).softmax(-1); the classes are model.pretrained_cfg["label_descriptions"]
```

## Intended use and limits

For trying the models, testing code, and as a start for fine-tuning. It knows ten classes and 9,469 training photos:
it will name one of the ten whatever a photo shows. It says nothing about the paper's ImageNet results.

## Licence and citation

Weights and code: Apache-2.0. Imagenette is fast.ai's subset of ImageNet-1k; the photos belong to their owners and are
not part of this repository.

```bibtex
@article{{wu2020visual,
  title={{Visual Transformers: Token-based Image Representation and Processing for Computer Vision}},
  author={{Wu, Bichen and Xu, Chenfeng and Dai, Xiaoliang and Wan, Alvin and Zhang, Peizhao and Yan, Zhicheng and
          Tomizuka, Masayoshi and Gonzalez, Joseph and Keutzer, Kurt and Vajda, Peter}},
  journal={{arXiv preprint arXiv:2006.03677}},
  year={{2020}}
}}
```
"""


def card(name: str) -> str:
    config = json.loads((HUB / name / "config.json").read_text())
    accuracy = json.loads((RESULTS / f"accuracy_{name}.json").read_text())
    run = RESULTS / "runs" / name
    args = yaml.safe_load((run / "args.yaml").read_text())
    macs, params = count(config["architecture"])
    front_matter = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["image-classification", "timm", "visual-transformers"],
        datasets=["frgfm/imagenette"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type="frgfm/imagenette",
                dataset_name="Imagenette v2, validation",
                metric_type="accuracy",
                metric_name=metric,
                metric_value=accuracy[key],
            )
            for metric, key in (("top-1", "top1"), ("top-5", "top5"))
        ],
    ).to_yaml()
    sizes = args.get("train_img_sizes") or [args["img_size"]]
    return TEMPLATE.format(
        front_matter=front_matter.strip(),
        name=name,
        classes=", ".join(config["label_descriptions"].values()),
        params=params,
        macs=macs,
        test_size=accuracy["input_size"][-1],
        sizes=" to ".join(str(s) for s in dict.fromkeys((sizes[0], sizes[-1]))),
        recipe=name.partition(".")[2] + ".yaml",
        **{k: accuracy[k] for k in ("images", "date", "command", "top1", "top5", "crop_pct", "interpolation")},
        **{k: args[k] for k in ("seed", "epochs", "opt", "lr", "batch_size")},
    )


def main() -> int:
    if len(sys.argv) != 2 or not (HUB / sys.argv[1] / "config.json").is_file():
        print(f"usage: python -m hub.card NAME, a folder of {HUB.name}/", file=sys.stderr)
        return 2
    text = card(sys.argv[1])
    (HUB / sys.argv[1] / "README.md").write_text(text)
    print(HUB / sys.argv[1] / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
