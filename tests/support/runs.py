"""Folders as training leaves them, for tests of publishing, each returned with its models."""

import argparse
import json

import timm
import torch
import yaml
from PIL import Image

import vt_timm
from tests.support.fill import fill

NAME = "vt_resnet_micro.trial_two"
REPOSITORY = f"somebody/{NAME}"


def write_train_run(tmp_path):
    """What train.py leaves behind, for a model with an option and two classes."""
    run = tmp_path / "run"
    run.mkdir()
    for wordnet_id in ("n02102040", "n01440764"):
        (tmp_path / "photos" / "train" / wordnet_id).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "train" / wordnet_id / "1.png")
    args = {
        "model": "vt_resnet_micro",
        "num_classes": 2,
        "img_size": 128,
        "crop_pct": 1.0,
        "amp": False,
        "amp_dtype": "float16",
        "model_ema": False,
        "experiment": "run",
        "interpolation": "",
        "train_interpolation": "bilinear",
        "train_split": "train",
        "model_kwargs": {"num_tokens": 9},
        "data_dir": str(tmp_path / "photos"),
        "output": "/somebody/output",
        "epochs": 4,
        "opt": "sgd",
        "lr": 0.1,
        "batch_size": 8,
        "seed": 42,
    }
    models = []
    for file, epoch in (("last.pth.tar", 3), ("model_best.pth.tar", 2)):
        models.append(fill(timm.create_model("vt_resnet_micro", num_classes=2, num_tokens=9)).eval())
        with torch.no_grad():
            models[-1].fc.bias += epoch
        state = {"state_dict": models[-1].state_dict(), "epoch": epoch, "args": argparse.Namespace(**args)}
        torch.save(state, run / file)
    (run / "args.yaml").write_text(yaml.safe_dump(args))
    header = "epoch,train_loss,eval_top1,eval_top5"  # timm writes it again where a run was resumed
    (run / "summary.csv").write_text(f"{header}\n2,1.0,75.5,100.0\n{header}\n3,0.9,50.0,100.0\n")
    (run / "log").write_text("noise\nTrain: 3 Loss 1\n/somebody/secret\nTest: 3\n")
    return run, models


def write_segmenter_run(tmp_path):
    """What vt-timm train-segmenter leaves behind."""
    run = tmp_path / "segmenter"
    torch.manual_seed(0)
    model = vt_timm.create_segmenter(
        "vt_fpn", "vt_resnet_micro", 2, class_names=["ground", "square"], short_side=64, token_dim=64, num_heads=4
    )
    model.save_pretrained(run / "best")
    metrics = {"miou": 61.5, "pixel_accuracy": 80.25, "images": 7, "update": 40}
    (run / "best" / "metrics.json").write_text(json.dumps(metrics))
    settings = {"neck": "vt_fpn", "backbone": "vt_resnet_micro", "data_dir": "/somebody/squares", "updates": 50}
    settings |= {"batch_size": 4, "crop_size": 64, "lr": 0.05, "seed": 1}
    (run / "settings.yaml").write_text(yaml.safe_dump(settings))
    (run / "summary.csv").write_text("update,miou\n40,61.5\n50,60.0\n")
    return run, model.eval()


def logits(model, size=64):
    with torch.inference_mode():
        return model(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
