"""What a run of a segmenter can be told, what it refuses, and what it leaves on disk."""

import copy
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import SafetensorError
from timm.models import save_for_hf

from vt_timm import Segmenter, create_segmenter
from vt_timm.errors import UserError
from vt_timm.files import alone_in
from vt_timm.pipelines.segmentation import resized
from vt_timm.pipelines.sources import load
from vt_timm.segmentation import training, training_data
from vt_timm.segmentation.labels import IGNORE
from vt_timm.segmentation.loss import segmentation_loss
from vt_timm.segmentation.model import load_segmenter
from vt_timm.segmentation.settings import Settings, SettingsError
from vt_timm.segmentation.training_data import Backgrounds, fit_batch, open_splits
from vt_timm.vt_fpn import NECKS

from .support.samples import fill, settings

FPN = dict(neck="fpn", neck_options=dict(channels=8), updates=2)


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def started(root, **changes):
    return training.Training(settings(root, **{**FPN, **changes}), root / "run", resume=False)


# --- the loss


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
@pytest.mark.parametrize("dice", [0.0, 0.7])
def test_the_loss_by_hand(weights, dice):
    """Pixel by pixel in Python; a pixel without a class counts nothing, class 2 occurs nowhere."""
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64).float()
    masks = torch.randint(2, (2, 4, 5))
    masks[0, :2] = IGNORE
    entropy, weight_sum, inside, predicted, size = 0.0, 0.0, [0.0] * 3, [0.0] * 3, [0.0] * 3
    for b, y, x in np.ndindex(2, 4, 5):
        label = int(masks[b, y, x])
        if label == IGNORE:
            continue
        p = np.exp(logits[b, :, y, x].double().numpy())
        p /= p.sum()
        weight = weights[label] if weights else 1.0
        entropy -= weight * np.log(p[label])
        weight_sum += weight
        inside[label] += p[label]
        size[label] += 1
        predicted = [a + b for a, b in zip(predicted, p, strict=True)]
    overlap = [2 * inside[k] / (predicted[k] + size[k]) for k in (0, 1)]
    expected = entropy / weight_sum + dice * (1 - sum(overlap) / 2)
    loss = segmentation_loss(logits, masks, torch.tensor(weights) if weights else None, dice)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_a_batch_without_labels_teaches_nothing(dice):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), IGNORE), None, dice)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# --- recipes


@pytest.mark.parametrize("opt", ["sgd", "adamw", "muon", "lion"])
def test_any_optimizer_and_a_rate_of_its_own_for_the_backbone(opt, small):
    run = started(small, opt=opt, lr=0.01, backbone_lr=0.001, weight_decay=0.1)
    backbone = {id(p) for p in run.bare_model().backbone.parameters()}
    seen = 0
    for group in run.optimizer.param_groups:
        (of_backbone,) = {id(p) in backbone for p in group["params"]}
        assert group["lr"] == (0.001 if of_backbone else 0.01)
        flat = all(p.ndim <= 1 for p in group["params"])
        assert group["weight_decay"] == (0.0 if flat and opt != "sgd" else 0.1)
        seen += len(group["params"])
    assert seen == len(list(run.bare_model().parameters()))
    before = {k: p.clone() for k, p in run.bare_model().named_parameters()}
    run.update(*next(iter(run.batches())))
    moved = [k for k, p in run.bare_model().named_parameters() if not torch.equal(p, before[k])]
    assert any(k.startswith("backbone.") for k in moved) and any(k.startswith("head.") for k in moved)


def test_every_update_is_as_the_settings_say(small, monkeypatch):
    """The rate of the schedule, the momentum, the norm of the gradient, and the weights in the loss."""
    changes = dict(lr=0.1, warmup_updates=2, updates=4, clip_grad=1e-3, momentum=0.7)
    run = started(small, **changes, class_weights={"square": 3.0}, dice=0.5)
    weights, rates, norms = [], [], []

    def loss(logits, masks, class_weights, dice):
        weights.append((class_weights.tolist(), dice))
        return segmentation_loss(logits, masks, class_weights, dice)

    def step():
        groups = run.optimizer.param_groups
        assert {group["momentum"] for group in groups} == {0.7} and len({group["lr"] for group in groups}) == 1
        rates.append(groups[0]["lr"])
        norms.append(torch.cat([p.grad.flatten() for p in run.bare_model().parameters()]).norm().item())

    monkeypatch.setattr(training, "segmentation_loss", loss)
    monkeypatch.setattr(run.optimizer, "step", step)
    for batch in run.batches():
        run.update(*batch)
    assert rates == pytest.approx([0.05, 0.1, 0.1 * 0.5**0.9, 0.1 * 0.25**0.9])
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3) and weights == [([1.0, 3.0], 0.5)] * 4


def test_averaged_weights_are_what_is_scored_and_kept(small):
    """With a decay of nearly 1 the average stays where the first update took it, while the network moves on."""
    run = started(small, lr=0.5, ema_decay=1 - 1e-9, updates=3, evaluate_every=3)
    first, *others = run.batches()
    run.update(*first)
    before = run.bare_model().head.classifier.weight.clone()
    for batch in others:
        run.update(*batch)
    run.output.mkdir(exist_ok=True)
    run.evaluate_and_save()
    kept = load_segmenter(run.output / "best").head.classifier.weight
    torch.testing.assert_close(kept, before, atol=1e-6, rtol=0)
    assert (run.bare_model().head.classifier.weight - before).abs().max() > 1e-3


def test_photos_are_changed_as_the_settings_say(small, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "training_transform", lambda *args, **options: seen.append((args, options)))
    started(small, crop_size=40, scale=(0.7, 1.3), short_sides=[33, 44], max_long_side=99, color_jitter=0.25)
    (((crop, scale, sides, longest, jitter, mirrored), colours),) = seen
    assert (crop, tuple(scale), sides, longest, jitter, mirrored) == (40, (0.7, 1.3), [33, 44], 99, 0.25, ())
    assert set(colours) == {"mean", "std"}


def test_a_frozen_backbone_stays_as_it_is(small):
    run = started(small, freeze_backbone=True, pretrained_backbone=True)
    before = {k: v.clone() for k, v in run.bare_model().state_dict().items()}
    for batch in run.batches():
        run.update(*batch)
    same = {k: torch.equal(v, before[k]) for k, v in run.bare_model().state_dict().items()}
    assert all(v for k, v in same.items() if k.startswith("backbone."))  # the batch norms' statistics too
    assert not any(v for k, v in same.items() if k.startswith("head.classifier"))


def test_photos_without_masks_are_background(small):
    """Six photos with masks and a share of 0.4 are ten samples an epoch; four of them are of the folder, whole."""
    (small / "classes.txt").write_text("square\nbackground\n")
    for name, grey in (("things/a.png", 200), ("things/below/b.png", 240)):
        (small / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (grey,) * 3).save(small / name)
    changes = dict(background_photos=[str(small / "things")], background_share=0.4, scale=(1.5, 1.5), updates=5)
    epoch = [list(started(small, **changes).batches()) for _ in range(2)]
    colours = torch.cat([images for images, _ in epoch[0]]).flatten(1)
    masks = torch.cat([masks for _, masks in epoch[0]])
    things = (colours.amin(dim=1) > 0.8) & (masks == 1).flatten(1).all(dim=1)
    assert len(masks) == 10 and things.sum() == 4 and (masks[~things] == 0).flatten(1).any(dim=1).any()
    assert len({round(value.item(), 2) for value in colours[things].mean(dim=1)}) == 2  # of both photos
    for (images, masks), (again, same) in zip(*epoch, strict=True):  # as a run that goes on would see them
        assert torch.equal(images, again) and torch.equal(masks, same)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_another_photo_takes_the_place_of_the_background(share, small):
    """Of the photo that stands for the background every pixel tells from where it is: none is stretched or left out."""
    (small / "classes.txt").write_text("background\nsquare\n")
    (small / "things").mkdir()
    place = np.indices((90, 40)).transpose(1, 2, 0)  # higher than all of the training photos, and narrower
    Image.fromarray(np.dstack([place, np.full((90, 40), 7)]).astype(np.uint8)).save(small / "things" / "a.png")
    options = dict(background_photos=[str(small / "things")], background_share=0, background_swap=share)
    of_settings = settings(small, **options)
    dataset, _ = open_splits(of_settings)
    samples, swapped = Backgrounds(dataset, of_settings), 0
    for index in [*range(len(dataset))] * 8:
        (image, mask), (plain, same) = samples[index], dataset[index]
        assert image.shape == plain.shape and image.dtype == plain.dtype and torch.equal(mask, same)
        assert torch.equal(image[:, mask == 1], plain[:, mask == 1])
        if not torch.equal(image, plain):
            swapped += 1
            rows, columns, sevens = image.float()
            rows[mask == 1] = columns[mask == 1] = float("nan")
            for steps, size in ((rows.diff(dim=0), 40), (columns.diff(dim=1), 40)):
                steps = steps[~steps.isnan()]
                assert steps.mean() == pytest.approx(size / mask.shape[1], rel=0.05)  # it is as wide as the mask
            assert (sevens[mask == 0] == 7).all()
    assert swapped == share * 48 if share != 0.5 else 12 < swapped < 36


def write_figure(root):
    """A photo, 60 x 40, of a figure, 50 x 20, above red, labelled 1, below green, labelled 2; a blue one of nobody."""
    pixels, labels = np.full((60, 40, 3), 90, np.uint8), np.zeros((60, 40), np.uint8)
    for label, rows, colour in ((1, slice(5, 30), (200, 0, 0)), (2, slice(30, 55), (0, 200, 0))):
        pixels[rows, 10:30], labels[rows, 10:30] = colour, label
    labels[0] = 255  # belongs to no figure
    for split in ("train", "val"):
        for folder, values in (("images", pixels), ("labels", labels)):
            (root / split / folder).mkdir(parents=True)
            Image.fromarray(values).save(root / split / folder / "a.png")
    (root / "classes.txt").write_text("background\nabove\nbelow\n")
    (root / "things").mkdir()
    Image.new("RGB", (80, 50), (7, 7, 250)).save(root / "things" / "a.png")


@pytest.mark.parametrize(("crowds", "figures"), [(0.0, (2, 12)), (1.0, (1, 1)), (1.0, (2, 12)), (0.5, (2, 12))])
def test_figures_of_training_photos_are_pasted_onto_photos_of_nobody(crowds, figures, tmp_path, monkeypatch):
    write_figure(tmp_path)
    monkeypatch.setattr(training_data, "FIGURES", figures)
    options = dict(background_photos=[str(tmp_path / "things")], background_share=0.5, background_crowds=crowds)
    of_settings = settings(tmp_path, **options)
    dataset, _ = open_splits(of_settings)
    samples, pasted, cut, heights, parts = Backgrounds(dataset, of_settings), 0, 0, [], []
    for _ in range(60):
        image, mask = samples[1]
        red, green, blue = image.int()
        assert ((mask == 0) == (blue > 180)).float().mean() > 0.9  # all but the edges of figures
        assert (red[mask == 1] > 60).float().mean() > 0.9 or not (mask == 1).any()
        assert (green[mask == 2] > 60).float().mean() > 0.9 or not (mask == 2).any()
        pasted += bool(mask.any())
        if not mask.any():
            assert image.shape[1:] == (50, 80)
            continue
        assert image.shape[1:] == (40, 60)  # lies, and is as large as a training photo
        if figures == (1, 1):
            rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
            cut += not (mask == 2).any()
            heights.append(len(rows))
            inside = columns[0] > 0 and columns[-1] < 59
            if inside and abs((mask == 2).any(dim=1).sum() - len(rows) / 2) < 1 and len(rows) > 10:
                parts.append(len(columns) / len(rows))
    assert pasted == 60 * crowds if crowds != 0.5 else 15 < pasted < 45
    if figures == (1, 1):
        assert min(heights) < 10 and 32 < max(heights) <= 40 and cut > 3
        assert np.mean(parts) == pytest.approx(20 / 50, rel=0.1) and len(parts) > 5


def test_figures_stand_in_the_order_of_their_size_and_photos_without_one_give_none(tmp_path, monkeypatch):
    write_figure(tmp_path)
    Image.new("L", (40, 60)).save(tmp_path / "train" / "labels" / "b.png")  # nobody
    Image.new("RGB", (40, 60), (90, 90, 90)).save(tmp_path / "train" / "images" / "b.png")
    options = dict(background_photos=[str(tmp_path / "things")], background_share=0.5, background_crowds=1.0)
    of_settings = settings(tmp_path, **options)
    dataset, _ = open_splits(of_settings)
    samples, seen = Backgrounds(dataset, of_settings), []
    place = Backgrounds._place
    monkeypatch.setattr(Backgrounds, "_place", lambda self, *args: seen.append(args) or place(self, *args))
    image, mask = samples[2]
    assert 2 <= len(seen) <= 12 and [args[2] for args in seen] == sorted(args[2] for args in seen)
    assert all(8 <= args[2] <= 40 for args in seen)
    monkeypatch.setattr(dataset, "pairs", [pair for pair in dataset.pairs if pair[0].name == "b.png"])
    image, mask = samples[2]
    assert not mask.any() and (image[2] == 250).all()


def test_classes_merge_and_the_model_is_called_by_them(small):
    (small / "classes.txt").write_text("ground\nsquare\nsky\n")
    run = settings(small, classes={"thing": ["square"], "rest": ["ground"]}, rest="rest", **FPN)
    training.run(run, small / "run", resume=False)
    model = load_segmenter(small / "run" / "best")
    assert model.class_names == ["thing", "rest"] and model.num_classes == 2
    kept = Settings.from_yaml(small / "run" / "settings.yaml", {})  # which may be trained or scored with anew
    assert kept.label_options() == run.label_options() and list(kept.classes) == ["thing", "rest"]


def test_a_run_goes_on_from_a_trained_segmenter_and_its_classes_of_the_same_name(small, capsys):
    training.run(settings(small, updates=1, evaluate_every=1), small / "first", resume=False)
    first = load_segmenter(small / "first" / "best")
    classes = {"new": ["square"], "ground": ["ground"]}
    options = dict(updates=1, evaluate_every=1, lr=0.0, classes=classes, freeze_backbone=True)
    for i, source in enumerate((small / "first", f"local-dir:{small / 'first' / 'best'}")):
        training.run(settings(small, initial_checkpoint=str(source), **options), small / f"second{i}", resume=False)
        assert "which knows 1 of 2 classes" in capsys.readouterr().err
        second = load_segmenter(small / f"second{i}" / "best")
        ours, theirs = dict(second.named_parameters()), dict(first.named_parameters())
        for name in ours.keys() - {"head.classifier.weight", "head.classifier.bias"}:
            assert torch.equal(ours[name], theirs[name])
        rows, others = second.head.classifier.weight, first.head.classifier.weight
        assert second.class_names == ["new", "ground"] and first.class_names == ["ground", "square"]
        assert torch.equal(rows[1], others[0]) and not torch.equal(rows[0], others[1])
        assert "going on from the segmenter first" in (small / f"second{i}" / "best" / "README.md").read_text()


def test_the_weights_that_are_kept_are_drawn_to_the_start(small):
    training.run(settings(small, **FPN), small / "first", resume=False)
    start = load_segmenter(small / "first" / "best")
    going_on = {**FPN, "initial_checkpoint": str(small / "first"), "ema_decay": 0.5, "updates": 3}
    kept = {}
    for share in (0.0, 0.25):
        output = small / f"share{share}"
        training.run(settings(small, **going_on, start_share=share, evaluate_every=3), output, resume=False)
        kept[share] = load_segmenter(output / "best").state_dict()
    moved = 0
    for name, before in start.state_dict().items():
        after, mixed = kept[0.0][name], kept[0.25][name]
        if before.is_floating_point():
            torch.testing.assert_close(mixed, 0.25 * before + 0.75 * after)
            moved += not torch.equal(before, after)
        else:
            assert torch.equal(mixed, after)
    assert moved > 5


def test_a_run_cannot_go_on_from_what_does_not_fit(small):
    training.run(settings(small, updates=1, evaluate_every=1), small / "first", resume=False)
    for changes, said in (
        ({"neck": "laterals", "neck_options": {"channels": 16}}, "another backbone or neck"),
        ({"neck_options": {"channels": 24, "token_dim": 32, "num_heads": 4}}, "another backbone or neck"),
        ({"initial_checkpoint": str(small / "nowhere")}, "nowhere"),
        ({"initial_checkpoint": 3}, "initial_checkpoint=3 must be a name"),
        ({"initial_checkpoint": "", "start_share": 0.5}, "start_share needs a start"),
        ({"start_share": 1}, "start_share=1 must be a number from 0, below 1"),
    ):
        with pytest.raises(SettingsError, match=said) as caught:
            training.run(
                settings(small, **{"initial_checkpoint": str(small / "first"), **changes}), small / "b", resume=False
            )
        assert "\n" not in str(caught.value)


def test_a_run_ends_early_when_it_no_longer_improves(small, monkeypatch):
    scores = iter([50.0, 40.0, 45.0, 60.0])

    def evaluate(*args):
        return {"miou": next(scores), "pixel_accuracy": 50.0, "iou": [50.0, None], "images": 3}

    monkeypatch.setattr(training, "evaluate", evaluate)
    best = training.run(settings(small, **{**FPN, "updates": 8}, patience=2), small / "run", resume=False)
    assert best["miou"] == 50.0 and best["update"] == 2
    rows = (small / "run" / "summary.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_training_on_images_of_other_channels(channels, small):
    for path in list(small.rglob("images/*.jpg")):
        with Image.open(path) as photo:
            grey = np.array(photo.convert("L"))
        np.save(path.with_suffix(".npy"), np.repeat(grey[..., None], channels, axis=2))
        path.unlink()
    run = settings(small, **FPN, backbone_options=dict(in_chans=channels))
    training.run(run, small / "run", resume=False)
    assert load_segmenter(small / "run" / "best").in_chans == channels


def test_a_backbone_that_wants_one_size_by_default(small):
    """Swin takes any size when told so."""
    options = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    name = "swin_tiny_patch4_window7_224"
    training.run(settings(small, **FPN, backbone=name, backbone_options=options), small / "run", resume=False)
    assert load_segmenter(small / "run" / "best")(torch.zeros(1, 3, 50, 71)).shape == (1, 2, 50, 71)


def test_photos_are_seen_at_the_size_of_the_evaluation(small):
    training.run(settings(small, **FPN, eval_size=[32, 64]), small / "run", resume=False)
    model = load_segmenter(small / "run" / "best")
    assert model.short_side == [32, 64]
    assert resized(Image.new("RGB", (33, 100)), model.short_side).size == (64, 32)


def cut(path):
    """Leave of a photo what is read before its pixels are."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_things(root):
    (root / "classes.txt").write_text("background\nsquare\n")
    (root / "things").mkdir()
    for i in range(5):
        Image.effect_noise((64, 48), 50).convert("RGB").save(root / "things" / f"{i}.jpg")


@pytest.mark.parametrize(
    ("file", "spoil", "said", "scored"),
    [
        ("train/images/003.jpg", cut, "cannot read this image", 3),
        ("train/labels/003.png", lambda path: Image.new("L", (5, 7)).save(path), "the mask has 5 x 7 pixels", 3),
        ("val/images/000.jpg", cut, "cannot read this image", 2),
        ("val/images/002.jpg", cut, "cannot read this image", 2),
        ("things/3.jpg", cut, "cannot read this image", 3),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_used_is_said_once_and_left_out(file, spoil, said, scored, workers, small, capfd):
    """A training of hours once ended at the first, with nothing kept. Every epoch meets all photos."""
    write_things(small)
    run = settings(
        small, **FPN | dict(updates=8), workers=workers, background_photos=[str(small / "things")], background_share=0.5
    )
    spoil(small / file)
    best = training.run(run, small / "run", resume=False)
    lines = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1 and file in lines[0] and said in lines[0]
    assert best["images"] == scored and load_segmenter(small / "run" / "best").class_names == ["background", "square"]
    if file.startswith("val"):
        scores = load(str(small / "run" / "best")).score(small)
        assert scores["mIoU"] == pytest.approx(best["miou"]) and f"left out {small / file}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("train/images", "6 files in a row cannot be used, the last of them .*jpg: cannot read this image"),
        ("val/images", "none of the 3 photos to validate on can be used"),
        ("things", "5 files in a row cannot be used, the last of them .*jpg: cannot read this image"),
    ],
)
def test_a_folder_of_files_that_cannot_be_used_is_an_error(folder, said, small):
    write_things(small)
    for path in (small / folder).iterdir():
        cut(path)
    run = settings(small, **FPN, background_photos=[str(small / "things")], background_share=0.5)
    with pytest.raises(SettingsError, match=said):
        training.run(run, small / "run", resume=False)


# --- what is refused before training


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "vt_resnet_micro", "regnetx_002"])
def test_what_synchronised_norms_train_is_what_is_loaded(backbone):
    """The norms of EfficientNets and RegNets hold an activation, which a converter may lose without a word."""
    model = fill(create_segmenter("vt_fpn", backbone, 3)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trained = training.synchronised(copy.deepcopy(model), torch.device("cuda")).eval()
        torch.testing.assert_close(trained(images), model(images))
    assert trained.state_dict().keys() == model.state_dict().keys()
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in trained.modules())
    assert not any(type(m) is torch.nn.BatchNorm2d for m in trained.modules())


def test_a_frozen_backbone_takes_one_photo_at_a_time(small):
    """Its norms take no statistics, which the last map's one pixel has none of."""
    frozen = {**FPN, "backbone": "resnet10t", "batch_size": 1, "freeze_backbone": True}
    training.run(settings(small, **frozen), small / "run", resume=False)
    assert (small / "run" / "best").is_dir()


def test_norms_that_cannot_be_synchronised_are_refused_before_training(small, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(SettingsError, match="on GPUs alone; here say --set sync_bn=false"):
        started(small, sync_bn=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(crop_size=16), r"cannot take batches of 2 x 3 x 16 x 16: the image is too small.*another crop_size"),
        (dict(backbone="resnet10t", batch_size=1), "Expected more than 1 value per channel.*a larger batch_size"),
        (dict(backbone="maxvit_nano_rw_256"), r"made for images of 256 x 256 \(crop_size=256 'eval_size=\[256, 256\]'"),
        (
            dict(backbone="vt_resnet50", pretrained_backbone=True),
            "its weights cannot be loaded.*pretrained_backbone=false",
        ),
        (dict(class_weights={"moon": 2}), "class_weights: there is no class moon; the classes are ground, square"),
        *((dict([(name, None)]), f"{name}=None must be a name") for name in ("opt", "backbone", "neck", "layout")),
        (dict(backbone=50), "backbone=50 must be a name; one of digits stands in quotes"),
        (dict(opt="adamm"), "opt='adamm' is not an optimizer of timm's; did you mean adam"),
        (dict(opt_kwargs=dict(bogus=1)), "bogus"),
        (dict(ema_decay=1.0), "ema_decay=1.0 must be below 1"),
        (dict(classes=["ground", "square"]), "classes=.*: write it as classes='{top: "),
        (dict(classes={"a": ["ground"], "b": ["squares"]}), "classes: 'squares' is none of the data set's classes"),
        (dict(values=[1]), "values=.*: write it as values='{255: 1}'"),
        (dict(colours=[0, 1]), "colours=.*: write it as"),
        (dict(scale=2), "scale=2: write it as"),
        (dict(color_jitter=-0.1), "color_jitter=-0.1 must be a number of at least 0"),
        (dict(color_jitter=0.4, backbone_options=dict(in_chans=4)), "color_jitter=0.4 needs photos of 1 or 3 channels"),
        *((dict(eval_size=s), "eval_size=.*: write it as eval_size=512") for s in ("big", 31.5, [64.5, 64], [64])),
        *((dict(short_sides=s), "short_sides=.*: write it as") for s in ([], [40.5])),
        (dict(ignore_colour=[0.5, 0, 0]), "ignore_colour=.*: write it as"),
        (dict(colours=[[0, 0, 0], [0.5, 0, 0]]), "colours=.*: write it as"),
        (dict(max_long_side=0.5, short_sides=[40]), "max_long_side=0.5 must be a whole number of at least 0"),
        *(
            (dict([(field.name, float("nan"))]), f"{field.name}=nan must be")
            for field in dataclasses.fields(Settings)
            if field.type in (float, float | None)
        ),
        (dict(background_photos="things"), r"background_photos='things': write it as background_photos='\[FOLDER"),
        (dict(background_share=1), "background_share=1 must be a number from 0, below 1"),
        (dict(background_swap=1.5), "background_swap=1.5 must be a number from 0 to 1"),
        (dict(background_crowds=True), "background_crowds=True must be a number from 0 to 1"),
        (dict(background_crowds=0.5), "background_crowds needs photos: name their folders by background_photos"),
        (dict(background_swap=0.5), "background_swap needs photos: name their folders by background_photos"),
        (dict(background_photos=["."]), "background_photos needs a class 'background'; the classes are ground, square"),
        (
            dict(background_photos=["nowhere"], classes={"background": ["ground"], "square": ["square"]}),
            "background_photos: nowhere: no such file or folder",
        ),
        (dict(ignore_label=-1), "ignore_label=-1 must be a whole number of at least 0"),
    ],
)
def test_settings_that_cannot_work(changes, message, small):
    with pytest.raises(SettingsError, match=message):
        training.run(settings(small, **{**FPN, **changes}), small / "run", resume=False)
    assert not (small / "run" / "best").exists()


@pytest.mark.parametrize(("photos", "world", "batch"), [(6, 1, 6), (6, 2, 3), (8, 1, 8), (9, 1, 8), (1, 2, 1)])
def test_the_batch_is_not_larger_than_the_data(photos, world, batch, tmp_path, capsys):
    assert fit_batch(settings(tmp_path, batch_size=8), photos, world).batch_size == batch
    assert ("batch_size=8 is more than" in capsys.readouterr().err) == (batch < 8)


# --- what is left on disk


def test_a_run_is_not_written_to_a_file(small):
    with pytest.raises(UserError, match=r"classes\.txt is a file: name a folder"):
        training.run(settings(small, **FPN), small / "classes.txt", resume=False)


def test_a_second_run_never_destroys_the_first(small, capsys):
    run, output = settings(small, **FPN), small / "run"
    training.run(run, output, resume=False)
    first = (output / "best" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"run holds a run already \(best, last, summary.csv\): .*--resume"):
        training.run(run, output, resume=False)
    shutil.move(output / "last", small / "elsewhere")
    with pytest.raises(UserError, match="there is no last/ to go on from; name another folder"):
        training.run(run, output, resume=True)
    shutil.move(small / "elsewhere", output / ".last.old")  # as where the run was killed between two moves
    with pytest.raises(UserError, match="last does not fit these settings"):
        training.run(settings(small, **{**FPN, "neck_options": dict(channels=16)}), output, resume=True)
    kept = (output / "settings.yaml").read_bytes()
    names = (small / "classes.txt").read_text()
    for other in ("square\nbackground\n", "background\nhat\n"):  # a label would mean something else
        (small / "classes.txt").write_text(other)
        with pytest.raises(UserError, match=r"the run to resume has other classes than the data .* was square"):
            training.run(run, output, resume=True)
    (small / "classes.txt").write_text(names)
    training.run(settings(small, **{**FPN, "lr": 1.0}), output, resume=True)  # with nothing left to train
    assert (output / "best" / "model.safetensors").read_bytes() == first
    assert (output / "settings.yaml").read_bytes() == kept and "nothing was left to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("last/model.safetensors", lambda data: data[:1000]),
        ("last/model.safetensors", None),
        ("last/optimizer.bin", lambda data: b""),
        ("last/optimizer.bin", lambda data: data[:-100]),
        ("last/optimizer.bin", lambda data: b"no weights"),
        ("last/custom_checkpoint_0.pkl", lambda data: b""),
        ("summary.csv", lambda data: data.replace(b",", b";")),
        ("summary.csv", lambda data: data.replace(b"\n1,", b"\none,")),
        ("summary.csv", lambda data: b"\xff" + data),
    ],
)
def test_a_damaged_run_to_resume_is_one_line_before_training(name, damage, small):
    run, output = settings(small, **{**FPN, "updates": 1}), small / "run"
    training.run(run, output, resume=False)
    if damage is None:
        (output / name).unlink()
    else:
        (output / name).write_bytes(damage((output / name).read_bytes()))
    message = r"last is damaged \(.*initial_checkpoint=.*run$" if "last" in name else r"summary\.csv is no longer what"
    with pytest.raises(UserError, match=message) as caught:
        training.run(dataclasses.replace(run, updates=2), output, resume=True)
    assert "\n" not in str(caught.value) and json.loads((output / "best/metrics.json").read_text())["update"] == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_another_training_writes_to_is_refused(resume, small):
    """By any of its names, and free again when that training has ended."""
    (small / "link").symlink_to(small, target_is_directory=True)
    with alone_in(small / "run"), pytest.raises(UserError, match=r"another training writes to .*run: name another"):
        training.run(settings(small, **FPN), small / "link" / "run", resume)
    assert not (small / "run").exists()
    training.run(settings(small, **FPN), small / "run", resume)
    assert not list((small / "run").glob(".*"))


def test_a_folder_alone_is_written_to_and_nothing_beside_it(small, monkeypatch):
    """It may be a mount point, whose neighbours are others'."""
    (small / "run").mkdir()
    before = set(small.iterdir())
    seen = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda *args: (seen.append(set(small.iterdir())), train(*args))[1])
    training.run(settings(small, **FPN), small / "run", resume=False)
    assert seen == [before] and set(small.iterdir()) == before


@pytest.mark.parametrize("late", [False, True])
def test_two_trainings_of_one_folder_are_one_line(late, small, monkeypatch):
    """The other one moves to its place what this one writes, while it does or once it has."""
    save = Accelerator.save_state

    def save_beside_another(self, folder):
        if late:
            save(self, folder)
            shutil.move(folder, small / "run" / "last")
        else:
            torch.save({}, f"{folder}/optimizer.bin")

    monkeypatch.setattr("accelerate.Accelerator.save_state", save_beside_another)
    with pytest.raises(UserError, match=r"run is written by another training too: give each a folder of its own"):
        training.run(settings(small, **FPN), small / "run", resume=False)


@pytest.mark.parametrize("place", ["best", "last"])
def test_a_full_disk_while_a_run_is_saved_is_one_line(place, small, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    target = "vt_timm.segmentation.model.Segmenter.save_pretrained"
    monkeypatch.setattr(target if place == "best" else "accelerate.Accelerator.save_state", fail)
    with pytest.raises(UserError, match=rf"^cannot write .*run/{place}: .*No space left on device"):
        training.run(settings(small, **FPN), small / "run", resume=False)


def test_the_best_model_has_a_card_and_can_be_read_by_others(small):
    (small / "classes.txt").write_text("ground|floor\nsquare\n")
    best = training.run(settings(small, **FPN), small / "run", resume=False)
    folder = small / "run" / "best"
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-segmentation" and card.data.library_name == "vt_timm"
    assert f"mIoU {best['miou']:.2f} %" in card.text and "More Information Needed" not in card.text
    assert f"| square | {best['iou'][1]:.2f} |" in card.text and r"| ground\|floor |" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    photo = str(next((small / "val" / "images").iterdir()))
    scope: dict = {}
    exec(code.replace("FOLDER", str(folder)).replace("photo.jpg", photo), scope)
    with Image.open(photo) as image:
        assert scope["labels"].shape == (image.height, image.width)
    if os.name == "posix":
        assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}


def test_a_neck_that_one_adds_is_trained_kept_and_read_back(small, monkeypatch):
    """By the two lines that CONTRIBUTING names: a class, and its entry. A card once knew three necks alone."""

    class Upside(NECKS["fpn"]):  # type: ignore[misc,name-defined]
        def forward(self, features):
            return [-level for level in super().forward(features)]

    monkeypatch.setitem(NECKS, "upside", Upside)
    training.run(settings(small, **{**FPN, "neck": "upside"}), small / "run", resume=False)
    assert "the neck `upside`" in (small / "run" / "best" / "README.md").read_text()
    assert isinstance(load_segmenter(small / "run" / "best").neck, Upside)


# --- saved segmenters


def test_a_segmenter_on_a_local_backbone_loads_where_that_folder_is_not(tmp_path):
    backbone = timm.create_model("vt_resnet_micro", pretrained=True)
    save_for_hf(backbone, tmp_path / "backbone", safe_serialization=True)
    model = create_segmenter(
        "fpn", f"local-dir:{tmp_path / 'backbone'}", 2, pretrained_backbone=True, channels=8
    ).eval()
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "backbone")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(Segmenter.from_pretrained(tmp_path / "saved")(images), model(images))
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


def test_from_pretrained_takes_what_older_hub_clients_pass(tmp_path):
    """huggingface_hub 0.x hands on `proxies` and `resume_download`."""
    create_segmenter("fpn", "vt_resnet_micro", 2, channels=8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    how = dict(revision=None, cache_dir=None, force_download=False, local_files_only=False, token=None)
    old = dict(proxies=None, resume_download=None)
    assert Segmenter._from_pretrained(model_id=str(tmp_path), **how, **old, **config).num_classes == 2
    with pytest.raises(TypeError, match="widht"):
        Segmenter._from_pretrained(model_id=str(tmp_path), **how, **config, widht=3)
