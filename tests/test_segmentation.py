"""Segmentation: data in every layout, transforms, metrics, training, and the pictures."""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from vt_timm import Segmenter, cli
from vt_timm.photos.draw import palette
from vt_timm.segmentation import training as segmentation_training
from vt_timm.segmentation.data import SegmentationDataset
from vt_timm.segmentation.depthwise import keep_depthwise_in_float32
from vt_timm.segmentation.evaluation import evaluate
from vt_timm.segmentation.inference import load_segmenter, segment
from vt_timm.segmentation.labels import IGNORE
from vt_timm.segmentation.layouts import COCO_STUFF_CLASSES, LIP_CLASSES, DataError
from vt_timm.segmentation.settings import Settings, SettingsError
from vt_timm.segmentation.training import UpdateSampler
from vt_timm.segmentation.transforms import RandomMirror, evaluation_transform, training_transform

SUPPORT = Path(__file__).parent / "support"
FOLDERS = {
    "folder": ("{split}/images", "{split}/labels"),
    "lip": ("TrainVal_images/{split}_images", "TrainVal_parsing_annotations/{split}_segmentations"),
    "coco_stuff": ("{split}2017", "stuffthingmaps_trainval2017/{split}2017"),
}
PLAIN = dict(mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps a process's settings, such as the precision, for all that follow in it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def write_pair(root, layout, split, name, mask, image=None):
    images, labels = (root / folder.format(split=split) for folder in FOLDERS[layout])
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    if image is None:  # brightness says the label
        image = np.repeat((mask * 40 + 20).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(image).save(images / f"{name}.jpg", quality=95)
    Image.fromarray(mask.astype(np.uint8)).save(labels / f"{name}.png")


@pytest.fixture
def small(tmp_path):
    """Six training and three validation pictures of different sizes: a bright square on a dark ground."""
    random = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for i in range(number):
            mask = np.zeros((48 + 4 * i, 64), dtype=np.uint8)
            top, left = random.integers(0, 24, 2)
            mask[top : top + 24, left : left + 24] = 1
            write_pair(tmp_path, "folder", split, f"{i:03d}", mask)
    (tmp_path / "classes.txt").write_text("ground\nsquare\n")
    return tmp_path


def settings(root, **changes):
    neck = dict(channels=16, token_dim=32, num_heads=4)
    tiny = dict(backbone="vt_resnet_micro", neck_options=neck, crop_size=32, lr=0.05, updates=4, batch_size=2)
    return Settings(data_dir=str(root), **{**tiny, "evaluate_every": 2, "workers": 0, **changes})


# --- data


@pytest.mark.parametrize("layout", FOLDERS)
def test_layouts(layout, tmp_path):
    for split, number in (("train", 2), ("val", 1)):
        for i in range(number):
            write_pair(tmp_path, layout, split, f"{i}", np.full((20, 30), 5))
    (tmp_path / "classes.txt").write_text("\n".join("abcdef"))
    train, val = (SegmentationDataset(layout, tmp_path, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1)
    assert len(train.classes) == {"folder": 6, "lip": 20, "coco_stuff": 92}[layout]
    image, mask = train[0]
    assert image.shape == (3, 20, 30) and mask.shape == (20, 30)
    assert mask.unique().tolist() == [0 if layout == "coco_stuff" else 5]  # a thing, in COCO


def test_coco_stuff_labels(tmp_path):
    """The stuffthingmaps hold category ids less one: 0 to 90 things, 91 to 181 stuff, 255 unlabelled."""
    write_pair(
        tmp_path, "coco_stuff", "train", "0", np.array([[0, 90, 91], [181, 255, 92]]), np.zeros((2, 3, 3), np.uint8)
    )
    _, mask = SegmentationDataset("coco_stuff", tmp_path, "train")[0]
    assert mask.tolist() == [[0, 0, 1], [91, 255, 2]]
    assert len(set(COCO_STUFF_CLASSES)) == 92
    assert (COCO_STUFF_CLASSES[1], COCO_STUFF_CLASSES[91]) == ("banner", "wood")


def test_image_and_mask_stay_together(tmp_path):
    random = np.random.default_rng(0)
    mask = np.kron(random.integers(0, 6, (8, 8)), np.ones((16, 16), dtype=int))
    write_pair(tmp_path, "folder", "train", "0", mask)
    (tmp_path / "classes.txt").write_text("\n".join("abcdef"))
    dataset = SegmentationDataset("folder", tmp_path, "train", training_transform(96, (0.5, 2.0), **PLAIN))
    padded = 0
    for _ in range(20):
        image, labels = dataset[0]
        assert image.shape == (3, 96, 96) and labels.shape == (96, 96) and labels.dtype == torch.int64
        seen = ((image.mean(dim=0) * 255 - 20) / 40).round()
        inside = labels != IGNORE
        assert (seen[inside] == labels[inside]).double().mean() > 0.8  # but at edges, where colours mix
        assert (image[:, ~inside] == 0).all()
        padded += bool((~inside).any())
    assert 0 < padded < 20


def test_mirroring_swaps_left_and_right():
    pairs = ((14, 15), (16, 17), (18, 19))
    assert [LIP_CLASSES[a].replace("left", "right") == LIP_CLASSES[b] for a, b in pairs] == [True] * 3
    image, mask = (
        tv_tensors.Image(torch.arange(3 * 8).view(3, 1, 8)),
        tv_tensors.Mask(torch.tensor([[14, 0, 0, 255, 3, 0, 0, 19]])),
    )
    seen = {tuple(RandomMirror(pairs)(image, mask)[1][0].tolist()) for _ in range(40)}
    assert seen == {(14, 0, 0, 255, 3, 0, 0, 19), (18, 0, 0, 3, 255, 0, 0, 15)}


def test_evaluation_keeps_the_masks_size(small):
    dataset = SegmentationDataset("folder", small, "val", evaluation_transform(32))
    image, mask = dataset[2]
    assert image.shape == (3, 32, 36) and mask.shape == (56, 64)


def write_mask(mode, size, label=0):
    return lambda root: Image.new(mode, size, label).save(root / "train/labels/001.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/labels/001.png").unlink(), r"001\.jpg: its mask .*001\.png is missing"),
        (write_mask("L", (5, 7)), r"001\.png: the mask has 5 x 7 pixels and its image 001\.jpg 64 x 52"),
        (write_mask("L", (64, 52), 7), r"001\.png: label 7 is beyond the 2 classes \(0 to 1; 255"),
        (write_mask("RGB", (64, 52)), r"001\.png: a mask has one channel of labels, this has 3"),
        (
            lambda root: (root / "train/images/001.jpg").write_bytes(b"no image"),
            r"001\.jpg: cannot read this image",
        ),
        (lambda root: (root / "classes.txt").unlink(), r"classes\.txt: there is no such file"),
        (lambda root: [p.unlink() for p in (root / "train/images").iterdir()], "train/images: no images"),
    ],
)
def test_bad_data_names_the_file(spoil, message, small):
    spoil(small)
    with pytest.raises(DataError, match=message):
        list(SegmentationDataset("folder", small, "train"))


def test_a_missing_folder_and_a_wrong_layout(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        SegmentationDataset("folder", tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="layout='voc': choose one of 'folder', 'lip', 'coco_stuff'"):
        SegmentationDataset("voc", tmp_path, "train")
    with pytest.raises(ValueError, match="split='test': choose one of 'train', 'val'"):
        SegmentationDataset("folder", tmp_path, "test")


# --- metrics


class Fixed(nn.Module):
    """Predicts a class from the brightness of its pixel."""

    num_classes = 4

    def forward(self, x):
        label = (x.mean(dim=1) * 255 / 40).floor().long().clamp(0, 3)
        return nn.functional.one_hot(label, 4).permute(0, 3, 1, 2).float()


def test_metrics_by_hand(tmp_path):
    """Counted pixel by pixel over the whole set; label 255 does not count, class 3 occurs nowhere."""
    random = np.random.default_rng(0)
    hits, labelled, predicted, right, total = [0] * 4, [0] * 4, [0] * 4, 0, 0
    for i in range(5):
        mask = random.choice([0, 1, 2, IGNORE], (4 + i, 6))
        image = np.full((4 + i, 6, 3), 40 * (i % 3) + 20, dtype=np.uint8)
        write_pair(tmp_path, "folder", "val", f"{i}", mask, image)
        for label in mask[mask != IGNORE].tolist():
            guess = i % 3
            hits[label] += label == guess
            labelled[label] += 1
            predicted[guess] += 1
            right += label == guess
            total += 1
    (tmp_path / "classes.txt").write_text("\n".join("abcd"))
    result = evaluate(Fixed(), SegmentationDataset("folder", tmp_path, "val", evaluation_transform(**PLAIN)))
    iou = [100 * h / (a + b - h) for h, a, b in zip(hits[:3], labelled, predicted, strict=False)]
    assert result["iou"][:3] == pytest.approx(iou) and result["iou"][3] is None
    assert result["miou"] == pytest.approx(sum(iou) / 3)
    assert result["pixel_accuracy"] == pytest.approx(100 * right / total)
    assert result["images"] == 5


# --- training


def test_updates_see_every_image_once_an_epoch():
    run = Settings(updates=9, batch_size=2, seed=3)
    ranks = [list(UpdateSampler(6, run, start=0, rank=rank, world=2)) for rank in (0, 1)]
    draws = [draw for pair in zip(*ranks, strict=True) for batch in pair for draw in batch]
    assert sorted(number for _, number in draws) == list(range(36))
    by_number = dict((number, index) for index, number in draws)
    for epoch in range(6):
        assert sorted(by_number[6 * epoch + i] for i in range(6)) == list(range(6))
    assert list(UpdateSampler(6, run, start=4, rank=1, world=2)) == ranks[1][4:]  # as after a resume


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_writes_a_run_and_keeps_the_best(precision, small, tmp_path):
    run = settings(small, ema_decay=0.5, precision=precision, eval_size=40)
    best = segmentation_training.run(run, tmp_path / "run", resume=False)
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["update"] for row in rows] == ["2", "4"]
    assert best["miou"] == pytest.approx(max(float(row["miou"]) for row in rows))
    assert json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["miou"] == best["miou"]
    assert list((tmp_path / "run" / "tensorboard").rglob("events*"))
    model = load_segmenter(tmp_path / "run" / "best")
    assert isinstance(model, Segmenter) and model.class_names == ["ground", "square"] and model.short_side == 40
    val = SegmentationDataset("folder", small, "val", evaluation_transform(40, **model.normalization))
    assert evaluate(model, val)["miou"] == pytest.approx(best["miou"])


@pytest.mark.parametrize("neck", ["fpn", "vt_fpn"])
def test_it_learns(neck, small, tmp_path):
    options = dict(channels=16) if neck == "fpn" else dict(channels=16, token_dim=32, num_heads=4)
    best = segmentation_training.run(
        settings(small, neck=neck, neck_options=options, pretrained_backbone=True, updates=30, evaluate_every=30),
        tmp_path / "run",
        resume=False,
    )
    assert best["miou"] > 60 and best["pixel_accuracy"] > 80


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(small, tmp_path, monkeypatch):
    segmentation_training.run(settings(small, ema_decay=0.5), tmp_path / "whole", resume=False)
    append = segmentation_training.append_row

    def stop(path, row):
        append(path, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(segmentation_training, "append_row", stop)
    with pytest.raises(KeyboardInterrupt):
        segmentation_training.run(settings(small, ema_decay=0.5), tmp_path / "parts", resume=False)
    monkeypatch.setattr(segmentation_training, "append_row", append)
    segmentation_training.run(settings(small, ema_decay=0.5), tmp_path / "parts", resume=True)
    summaries = [(tmp_path / name / "summary.csv").read_text() for name in ("whole", "parts")]
    assert summaries[0] == summaries[1]
    whole, parts = (load_segmenter(tmp_path / name / "best").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_crop_without_labels_gives_no_nan(small, tmp_path):
    for path in sorted((small / "train" / "labels").iterdir())[1:]:
        with Image.open(path) as mask:
            size = mask.size
        Image.new("L", size, IGNORE).save(path)
    segmentation_training.run(settings(small), tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(neck="pan"), "neck='pan': choose one of 'fpn', 'vt_fpn', 'laterals'"),
        (dict(layout="voc"), "layout='voc'"),
        (dict(data_dir="/nowhere"), "/nowhere: there is no such folder"),
        (dict(backbone="vit_tiny_patch16_224"), "a pyramid needs four"),
        (dict(neck_options=dict(widht=3)), "unexpected keyword argument 'widht'"),
    ],
)
def test_what_cannot_work_is_said_before_training(changes, message, small, tmp_path):
    with pytest.raises(SettingsError, match=message):
        segmentation_training.run(settings(small, **changes) if "data_dir" not in changes else Settings(**changes),
                                  tmp_path / "run", resume=False)  # fmt: skip
    assert not (tmp_path / "run" / "summary.csv").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_met_while_training_is_one_line(workers, small, tmp_path, capsys):
    Image.new("L", (64, 52), 7).save(small / "train/labels/001.png")
    tiny = [
        "backbone=vt_resnet_micro",
        "crop_size=32",
        f"workers={workers}",
        "batch_size=6",
        "updates=2",
        "warmup_updates=0",
    ]
    arguments = [
        "train-segmenter",
        "--config",
        "ccp",
        "--data-dir",
        str(small),
        "-o",
        str(tmp_path / "run"),
        "--set",
        *tiny,
    ]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith(f"vt-timm: {small}/train/labels/001.png: label 7 is beyond the 2 classes")
    assert not any("Traceback" in line for line in error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "cpp"], "no recipe and no file is called cpp; did you mean ccp"),
        (["--config", "ccp"], "no data: name the data set's folder with --data-dir"),
        (["--config", "ccp", "--data-dir", "/nowhere"], "/nowhere: there is no such folder"),
        (["--config", "ccp", "--data-dir", "x", "--set", "nek=fpn"], "no setting is called nek; did you mean neck?"),
        (["--config", "ccp", "--data-dir", "x", "--set", "fpn"], "--set fpn: write KEY=VALUE"),
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "schedule=cosine"],
            "schedule='cosine': choose 'poly' or 'step'",
        ),
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "lr=1e-2"],
            "lr='1e-2' must be a number of at least 0 (in YAML",
        ),
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "workers=-1"],
            "workers=-1 must be a whole number of at least 0",
        ),
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "clip_grad=no"],
            "clip_grad=False must be a number of at least 0",
        ),
        (["--config", "ccp", "--data-dir", "x", "--set", "sync_bn=2"], "sync_bn=2 must be true or false"),
        (
            ["--config", __file__.replace("test_segmentation.py", "support/train_arguments.txt")],
            "no settings in this file",
        ),
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "updates=0"],
            "updates=0 must be a whole number of at least 1",
        ),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(["train-segmenter", *arguments, "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# --- prediction


def test_segment_writes_a_picture_with_a_legend(small, tmp_path, capsys):
    run = settings(small, pretrained_backbone=True, updates=20, evaluate_every=20)
    segmentation_training.run(run, tmp_path / "run", resume=False)
    photo, picture = small / "val" / "images" / "001.jpg", tmp_path / "out.png"
    assert cli.main(["segment", str(photo), "-o", str(picture), "--model", str(tmp_path / "run" / "best")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(picture)
    with Image.open(picture) as image:
        assert image.width > 1000


@pytest.mark.parametrize("size", [(100, 40), (2000, 900), (33, 64)])
def test_photos_of_any_size(size):
    model = Segmenter("vt_fpn", "vt_resnet_micro", 3, neck_options=dict(channels=16, token_dim=32, num_heads=4)).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[-2:])))
    for options in (dict(max_long_side=256), dict(short_side=64, max_long_side=256)):
        labels = segment(model, Image.new("RGB", size), **options)
        assert labels.shape == (size[1], size[0]) and labels.max() < 3
        assert max(seen[-1]) <= 256 and min(seen[-1]) >= 32


def test_a_folder_that_is_no_segmenter(tmp_path, small, capsys):
    photo = str(small / "val" / "images" / "001.jpg")
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path)]) == 2
    assert "is no segmenter: there is no config.json in it" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "cannot load the segmenter" in error and "Traceback" not in error


def test_the_palette_tells_classes_apart():
    colours = palette(92)
    assert len({tuple(c) for c in colours.tolist()}) == 92 and colours[0].tolist() == [0, 0, 0]


def test_depthwise_convolutions_leave_autocast_also_in_a_copy():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    whole = model(images := torch.randn(1, 4, 8, 8))
    keep_depthwise_in_float32(model)
    for network in (model, copy.deepcopy(model)):
        with torch.autocast("cpu", torch.bfloat16):
            assert network[0](images).dtype == torch.float32 and network[1](images).dtype == torch.bfloat16
        assert torch.equal(network(images), whole)
    with torch.no_grad():
        (copied := copy.deepcopy(model))[0].weight.zero_()
        copied[0].bias.zero_()
    assert not copied[0](images).any() and model[0](images).any()
