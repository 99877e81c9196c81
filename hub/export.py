"""Turn a run folder of timm's `train.py` into a Hub model folder under `hub/`, and keep its log as a record.

    python -m hub.export RUN_FOLDER vt_resnet18.basic_imagenette --class-folders DATA/imagenette2-224/train \\
        --log train.log --test-size 160

Writes `hub/NAME/config.json` and `model.safetensors` (16-bit floats, EMA weights if there are), and
`benchmarks/results/runs/NAME/` with the run's arguments, its summary and its log, without this machine's paths.
`python -m hub.card NAME` adds the model card once the accuracy is measured.
"""

import argparse
import json
import sys
from pathlib import Path

import timm
import yaml
from timm.data import ImageNetInfo
from timm.models import load_state_dict, save_for_hf, split_model_name_tag

import vt_timm  # noqa: F401  registers the models
from benchmarks.records import keep_run

HUB = Path(__file__).parent


def export(run: Path, name: str, class_folders: Path, test_size: int) -> None:
    architecture, tag = split_model_name_tag(name)
    args = yaml.safe_load((run / "args.yaml").read_text())
    wordnet_ids = sorted(p.name for p in class_folders.iterdir() if p.is_dir())
    imagenet = ImageNetInfo("imagenet-1k")

    model = timm.create_model(architecture, num_classes=len(wordnet_ids), **(args["model_kwargs"] or {}))
    model.load_state_dict(load_state_dict(str(run / "last.pth.tar"), weights_only=True))
    size = args["img_size"]
    pretrained_cfg = {
        "tag": tag,
        "input_size": (3, size, size),
        "test_input_size": (3, test_size, test_size),
        "crop_pct": args["crop_pct"] or 0.875,
        "interpolation": args["train_interpolation"],
        "license": "apache-2.0",
    }
    save_for_hf(
        model.half(),
        str(HUB / name),
        model_args=args["model_kwargs"] or None,
        safe_serialization=True,
        model_config={
            "label_names": wordnet_ids,
            "label_descriptions": {w: imagenet.label_name_to_description(w).split(",")[0] for w in wordnet_ids},
            "pretrained_cfg": pretrained_cfg,
        },
    )
    config = HUB / name / "config.json"
    contents = json.loads(config.read_text())
    contents.get("model_args", {}).pop(
        "num_classes", None
    )  # said at the top level; transformers' AutoModel chokes on it here
    config.write_text(json.dumps(contents, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="train.py's output folder: args.yaml, summary.csv, last.pth.tar")
    parser.add_argument("name", help="architecture.tag, the name of the folder under hub/")
    parser.add_argument("--class-folders", type=Path, required=True, help="folder whose subfolders are the classes")
    parser.add_argument("--log", type=Path, required=True, help="what train.py printed")
    parser.add_argument("--test-size", type=int, required=True, help="image size for evaluation, pixels")
    args = parser.parse_args()
    for needed in (args.run / "args.yaml", args.run / "summary.csv", args.run / "last.pth.tar", args.log):
        if not needed.is_file():
            parser.error(f"{needed}: no such file")
    export(args.run, args.name, args.class_folders, args.test_size)
    keep_run(args.run, args.name, args.log)
    print(HUB / args.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
