"""Segmentation: metrics, training, pictures, and what is said about values and options that mean nothing."""

import copy
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vt_timm import Segmenter, cli
from vt_timm.segmentation import training as segmentation_training
from vt_timm.segmentation.data import SegmentationDataset, evaluation_transform
from vt_timm.segmentation.evaluation import evaluate
from vt_timm.segmentation.labels import IGNORE, LabelError, Labels
from vt_timm.segmentation.model import load_segmenter
from vt_timm.segmentation.settings import Settings, SettingsError
from vt_timm.segmentation.training import UpdateSampler, keep_depthwise_in_float32

from .support.samples import PLAIN, settings, write_pair

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# --- metrics


class Fixed(nn.Module):
    """Predicts a class from the brightness of its pixel."""

    num_classes = 4

    def forward(self, x):
        label = (x.mean(dim=1) * 255 / 40).floor().long().clamp(0, 3)
        return nn.functional.one_hot(label, 4).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("background", [None, 0, 2, 3])
def test_metrics_by_hand(background, tmp_path):
    """Counted pixel by pixel over the whole set; label 255 does not count, class 3 occurs nowhere."""
    random = np.random.default_rng(0)
    hits, labelled, predicted, right, total, shown, shown_right = [0] * 4, [0] * 4, [0] * 4, 0, 0, 0, 0
    for i in range(5):
        mask = random.choice([0, 1, 2, 255], (4 + i, 6))
        image = np.full((4 + i, 6, 3), 40 * (i % 3) + 20, dtype=np.uint8)
        write_pair(tmp_path, "folder", "val", f"{i}", mask, image)
        for label in mask[mask != 255].tolist():
            guess = i % 3
            hits[label] += label == guess
            labelled[label] += 1
            predicted[guess] += 1
            right += label == guess
            total += 1
            shown += label != background
            shown_right += label == guess != background
    names = ["background" if i == background else name for i, name in enumerate("abcd")]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    result = evaluate(Fixed(), SegmentationDataset("folder", tmp_path, "val", evaluation_transform(**PLAIN)))
    iou = [100 * h / (a + b - h) for h, a, b in zip(hits[:3], labelled, predicted, strict=False)]
    assert result["iou"][:3] == pytest.approx(iou) and result["iou"][3] is None
    assert result["miou"] == pytest.approx(sum(iou) / 3)
    assert result["pixel_accuracy"] == pytest.approx(100 * right / total)
    assert result["images"] == 5
    without = [value for i, value in enumerate(iou) if i != background]
    expected = {
        "miou_without_background": sum(without) / len(without),
        "foreground_accuracy": 100 * shown_right / shown,
    }
    assert {key: result[key] for key in expected if key in result} == pytest.approx(
        {} if background is None else expected
    )


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
        Image.new("L", size, 255).save(path)
    segmentation_training.run(settings(small), tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(neck="pan"), "neck='pan': choose one of 'fpn', 'vt_fpn', 'laterals'"),
        (dict(layout="voc"), "layout='voc'"),
        (dict(data_dir="/nowhere"), "/nowhere: there is no such folder"),
        (dict(backbone="vit_tiny_patch16_224"), "a pyramid needs four"),
        (dict(neck_options=dict(widht=3)), "the neck 'vt_fpn' has no option 'widht'; its options are channels, tokens"),
        (
            dict(neck="laterals", neck_options=dict(tokens=8)),
            "'laterals' has no option 'tokens'; its options are channels$",
        ),
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


OF_OTHERS = {"miou_without_background": 32.5, "foreground_accuracy": 70.126}


@pytest.mark.parametrize(
    ("rank", "more", "said"),
    [
        ("0", {}, ""),
        ("0", OF_OTHERS, ", mIoU without background 32.50 %, foreground accuracy 70.13 %"),
        ("1", {}, ""),
        ("", {}, ""),  # set by something else than torchrun
    ],
)
def test_a_training_ends_with_what_it_reached_and_what_to_type_next(rank, more, said, monkeypatch, capsys):
    best = {"miou": 41.638, "pixel_accuracy": 76.5, **more, "update": 40, "iou": [1.0], "images": 7}
    monkeypatch.setattr("vt_timm.segmentation.training.run", lambda *_: best)
    monkeypatch.setenv("RANK", rank)
    assert cli.main(["train-segmenter", "--config", "ccp", "--data-dir", "x", "-o", "my run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"best: mIoU 41.64 %, pixel accuracy 76.50 %{said} on the validation photos, after update 40",
        "kept: my run/best",
        "next: vt-timm segment PHOTO -o segmented.png --model 'my run'",
    ] * (rank != "1")


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
        (
            ["--config", "ccp", "--data-dir", "x", "--set", "clip_grad=0"],
            "clip_grad=0 would leave nothing; null sets no limit",
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


# --- values of masks

AB = ["a", "b"]


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [0, 1, 255], [0, 1, IGNORE]),
        (dict(values={255: 1}), [0, 255], [0, 1]),  # black and white
        (dict(values={128: 0, 255: 1}, ignore=0), [0, 128, 255], [IGNORE, 0, 1]),
        (dict(reduce_zero=True), [0, 1, 2, 255], [IGNORE, 0, 1, IGNORE]),
        (dict(reduce_zero=True, groups={"y": ["b"], "x": ["a"]}), [0, 1, 2], [IGNORE, 1, 0]),
        (dict(groups={"y": ["b"], "x": ["a"]}), [0, 1], [1, 0]),
        (dict(ignore=7), [0, 1, 7], [0, 1, IGNORE]),
        (dict(ignore=0, values={2: 0}), [0, 1, 2], [IGNORE, 1, 0]),
    ],
)
def test_values_become_labels(options, values, expected):
    assert Labels(AB, **options)(np.array([values])).tolist() == [expected]


@pytest.mark.parametrize(("rest", "expected"), [(None, [0, 0, IGNORE, 1]), ("y", [0, 0, 1, 1]), ("x", [0, 0, 0, 1])])
def test_classes_merge_into_groups(rest, expected):
    labels = Labels(["a", "b", "c", "d"], groups={"x": ["a", "b"], "y": ["d"]}, rest=rest)
    assert labels.classes == ["x", "y"]
    assert labels(np.array([[0, 1, 2, 3]])).tolist() == [expected]


def test_more_classes_than_eight_bits_hold():
    """300 classes in masks of 16 bits, where 255 is a class like any other."""
    labels = Labels([f"class {i}" for i in range(300)], ignore=65535)
    mask = np.array([[0, 254, 255, 256, 299, 65535]], dtype=np.uint16)
    assert labels(mask).tolist() == [[0, 254, 255, 256, 299, IGNORE]]
    assert Labels(labels.names)(mask[:, :5]).tolist() == [[0, 254, IGNORE, 256, 299]]  # 255, if nobody says otherwise


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_in_colour(channels):
    mask = np.zeros((1, 3, channels), dtype=np.uint8)
    mask[0, :, :3] = [[0, 0, 0], [128, 0, 64], [224, 224, 192]]
    labels = Labels(AB, colours=[[0, 0, 0], [128, 0, 64]], ignore_colour=[224, 224, 192])
    assert labels(mask).tolist() == [[0, 1, IGNORE]]
    merged = Labels(AB, colours=labels.colours, ignore_colour=labels.ignore_colour, groups={"y": ["b"], "x": ["a"]})
    assert merged(mask).tolist() == [[1, 0, IGNORE]]
    with pytest.raises(LabelError, match=r"the colour \[224, 224, 192\] is none of the 2 .* say ignore_colour="):
        Labels(AB, colours=labels.colours)(mask)


def test_a_colour_of_the_256th_class_is_not_the_ignored_label():
    colours = [[i % 16, i // 16, 7] for i in range(256)]
    mask = np.array([[colours[255], colours[3]]], dtype=np.uint8)
    assert Labels([f"class {i}" for i in range(256)], colours=colours)(mask).tolist() == [[255, 3]]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["crack"], {}, r"there is one class \(crack\): .* name the background"),
        (["a", "a"], {}, "two classes are called 'a'"),
        (AB, dict(values={255: 2}), "values: 255 becomes 2, and the 2 classes are 0 to 1"),
        (AB, dict(values={70000: 1}), "values: 70000 is not a value of a mask"),
        (AB, dict(ignore=-1), "ignore_label: -1 is not a value of a mask"),
        (AB, dict(groups={"x": ["a", "c"]}), "classes: 'c' is none of the data set's classes"),
        (AB, dict(groups={"x": ["a"], "y": ["b", "a"]}), "classes: 'a' stands in two groups"),
        (AB, dict(groups={"x": ["a", "b"]}), "there is one class"),
        (AB, dict(groups={"x": ["a"], "y": ["b"]}, rest="z"), "rest: 'z' is none of the groups"),
        (AB, dict(colours=[[0, 0, 0]]), "colours: 1 colours for 2 classes"),
        (AB, dict(colours=[[1, 1, 1], [1, 1, 1]]), r"colours: \[1, 1, 1\] is the colour of two classes"),
        (AB, dict(ignore_colour=[1, 1, 1]), "ignore_colour needs colours"),
    ],
)
def test_options_about_labels_that_do_not_fit(names, options, message):
    with pytest.raises(LabelError, match=message):
        Labels(names, **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0, 255]]), r"label 255 is beyond .*values=\{255: NUMBER\}', .* ignore_label=255"),
        (np.array([[-1, 0]]), "-1 is not a label"),
        (np.array([[0, 1 << 20]]), "1048576 is not a label"),
        (np.array([[0.0, 0.5]]), "0.5 is not a label"),
        (np.array([[[0, 1, 2]]]), "a mask has one channel of labels, this has 3"),
    ],
)
def test_values_that_mean_nothing(mask, message):
    with pytest.raises(LabelError, match=message):
        Labels(AB, ignore=None)(mask)
