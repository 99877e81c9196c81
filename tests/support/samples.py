"""What tests need and no training made: weights, small data sets of images and masks with settings for runs on them
that take a second, and folders as training leaves them, each returned with its models.
"""

import argparse
import json
import zlib

import numpy as np
import timm
import torch
import yaml
from PIL import Image

import vt_timm
from vt_timm.segmentation.settings import Settings


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that depend on each tensor's name and shape alone, with no term of any equation left at zero."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(values / values[0].numel() ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.1 * values.clamp(-3, 3))
        elif name.endswith("weight"):  # a norm's gain; small, so that deep nets do not saturate the softmaxes
            tensor.copy_(0.4 + 0.1 * values.clamp(-3, 3))
        else:
            tensor.copy_(0.1 * values)
    return model


SOFTMAXES = (".filters.weight", ".to_filters.weight", ".key_query", ".query")


def sharpen(model: torch.nn.Module, by: float = 200.0) -> torch.nn.Module:
    """Softmaxes that choose: what makes their logits, `by` times as large. A filled model's are nearly flat, and all of
    its tokens nearly equal, so that nothing would be seen of what drops, picks or mixes tokens.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(SOFTMAXES):
                parameter *= by
    return model


FOLDERS = {
    "folder": ("{split}/images", "{split}/labels"),
    "lip": ("TrainVal_images/{split}_images", "TrainVal_parsing_annotations/{split}_segmentations"),
    "coco_stuff": ("{split}2017", "stuffthingmaps_trainval2017/{split}2017"),
}
PLAIN = dict(mean=(0.0,) * 3, std=(1.0,) * 3)


def write_pair(root, layout, split, name, mask, image=None):
    images, labels = (root / folder.format(split=split) for folder in FOLDERS[layout])
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    if image is None:  # brightness says the label
        image = np.repeat((mask * 40 + 20).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(image).save(images / f"{name}.jpg", quality=95)
    Image.fromarray(mask.astype(np.uint8)).save(labels / f"{name}.png")


def write_small(root):
    """Six training and three validation pictures of different sizes: a bright square on a dark ground."""
    random = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for i in range(number):
            mask = np.zeros((48 + 4 * i, 64), dtype=np.uint8)
            top, left = random.integers(0, 24, 2)
            mask[top : top + 24, left : left + 24] = 1
            write_pair(root, "folder", split, f"{i:03d}", mask)
    (root / "classes.txt").write_text("ground\nsquare\n")


def settings(root, **changes):
    neck = dict(channels=16, token_dim=32, num_heads=4)
    tiny = dict(backbone="vt_resnet_micro", neck_options=neck, crop_size=32, lr=0.05, updates=4, batch_size=2)
    return Settings(data_dir=str(root), **{**tiny, "evaluate_every": 2, "workers": 0, **changes})


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
