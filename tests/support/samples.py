"""What tests need and no training made: weights, small data sets of images and masks with settings for runs on them
that take a second, and folders as training leaves them, each returned with its models.
"""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from PIL import Image

import vt_timm
from vt_timm.images import sample_photo
from vt_timm.projector import Projector
from vt_timm.segmentation.settings import Settings
from vt_timm.tokenizers import FilterTokenizer, RecurrentTokenizer
from vt_timm.transformer import TokenTransformer
from vt_timm.visual_transformer import VTModule


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


def tell_apart(model: torch.nn.Module, images: torch.Tensor, deviation: float = 3.0) -> torch.nn.Module:
    """A filled model whose tokens differ on these images, as neither pixels nor tokens of a merely filled one do.

    Batch norms get the statistics of the images, and each softmax logits of a deviation along what it weighs.
    Without that, nothing is seen of what drops, picks or mixes tokens.
    """

    def scale(attention, parameter, dim, power=1.0):
        def rescale(_module, args):
            logits = args[0]
            factor = deviation / (logits - logits.mean(dim=dim, keepdim=True)).std()
            parameter.mul_(factor**power)
            return (logits * factor,)

        return attention.register_forward_pre_hook(rescale)

    hooks, norms = [], []
    for m in model.modules():
        if isinstance(m, FilterTokenizer):
            hooks.append(scale(m.attention, m.filters.weight, (2, 3)))
        elif isinstance(m, RecurrentTokenizer):
            hooks.append(scale(m.attention, m.to_filters.weight, (2, 3)))
        elif isinstance(m, TokenTransformer):
            hooks.append(scale(m.attention, m.key_query, 2, power=0.5))  # keys times queries
        elif isinstance(m, Projector):
            hooks.append(scale(m.attention, m.query, 1))
        elif isinstance(m, torch.nn.BatchNorm2d):
            norms.append((m, m.momentum))
            m.momentum = 1.0
    model.eval()
    with torch.no_grad():
        for norm, _ in norms:
            norm.train()
        model(images)
    for norm, momentum in norms:
        norm.eval().momentum = momentum
    for hook in hooks:
        hook.remove()
    return model


STORED = Path(__file__).parent / "stored_outputs.json"  # by `python -m tests.support.store_outputs`


def spots(size, batch=1):
    """Images of large spots: in noise, all pixels of the last map are nearly the same."""
    values = 3 * torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(values, size=size)


def filled_logits(name):
    """Logits of a model whose tokens differ, and what its head makes of each token alone, (1, K) and (L, K).

    In float64, so that no rounding counts.
    """
    images = spots(96).double()
    model = tell_apart(fill(timm.create_model(name, num_classes=8)).double(), images)
    with torch.no_grad():
        tokens = model.forward_features(images)
        return model.forward_head(tokens), torch.cat([model.forward_head(token[None, None]) for token in tokens[0]])


def fresh_deviations():
    """How large a fresh VT stage's logits and updates are, for a map and tokens of deviation 1: what it starts from."""
    torch.manual_seed(0)
    L, C, D, heads = 16, 512, 1024, 16
    feature, tokens = torch.randn(4, C, 14, 14), torch.randn(4, L, D)
    options = dict(feature_dim=C, token_dim=D, num_tokens=L, num_heads=heads, relation="transformer", projector=True)
    found = {}

    def deviation(name, values):
        found[name] = round(values.std().item(), 3)

    first, later = (VTModule(tokenizer=kind, **options).train() for kind in ("filter", "recurrent"))
    normed = FilterTokenizer(C, D, L, norm_logits=True).train()
    scale_k, scale_d = 1 / math.sqrt(D / heads / 2), 1 / math.sqrt(C / heads)
    with torch.no_grad():
        for name, tokenizer in (("eq. 1", first.tokenizer), ("eq. 1, normed", normed), ("eq. 2", later.tokenizer)):
            hook = tokenizer.attention.register_forward_pre_hook(lambda _m, args, n=name: deviation(n, args[0]))
            pooled = tokenizer(feature, tokens)
            hook.remove()
            deviation(f"{name}, tokens of even maps", tokenizer.embed(feature.flatten(2).transpose(1, 2)))
            assert pooled.shape == tokens.shape
        per_head = tokens.unflatten(2, (heads, -1))
        key, query = torch.einsum("blhd,hdk->blhk", per_head, first.transformer.key_query).chunk(2, dim=-1)
        deviation("eq. 3", torch.einsum("blhk,bmhk->bhlm", key, query) * scale_k)
        deviation("eq. 4, hidden", first.transformer.f1(tokens))
        deviation("eq. 4, F2", first.transformer.f2.weight)
        key = first.projector.key(tokens).unflatten(2, (heads, -1))
        query = torch.einsum("bhdp,hde->bhpe", feature.flatten(2).unflatten(1, (heads, -1)), first.projector.query)
        deviation("eq. 5", torch.einsum("bhpe,blhe->bhpl", query, key) * scale_d)
        deviation("eq. 5, values", first.projector.value(tokens))
        deviation("eq. 5, update", first.projector(feature, tokens) - feature)
        deviation("classifier", timm.create_model("vt_resnet_micro").fc.weight)
    return found


def sample_probabilities(name):
    """What a shipped classifier says of the sample photo, by class, through timm alone."""
    model = timm.create_model(name, pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=model, use_test_size=True)
    with Image.open(sample_photo()) as photo, torch.no_grad():
        probabilities = model(timm.data.create_transform(**config)(photo.convert("RGB"))[None]).softmax(dim=-1)[0]
    return dict(zip(model.pretrained_cfg["label_descriptions"].values(), probabilities.tolist(), strict=True))


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
