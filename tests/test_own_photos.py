"""Photos as people have them, in every place that reads them: turned, transparent, damaged, linked, without a value."""

import argparse
import csv
import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import types
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from timm.data import create_dataset, create_loader, create_naflex_loader
from timm.utils import CheckpointSaver, update_summary

import vt_timm
from vt_timm.cli import main
from vt_timm.files import find_circle
from vt_timm.images import ImageError, find_images, photo_suffixes, read_channels, read_image, to_image
from vt_timm.runs.train_run import load_run
from vt_timm.timm_scripts.around_train import TrainingRun
from vt_timm.timm_scripts.best import best_epoch, keep_best, report
from vt_timm.timm_scripts.checks import ScriptError, check_checkpoints, check_data_folder
from vt_timm.timm_scripts.fitting import fit_to_photos
from vt_timm.timm_scripts.reading import finding_photos, reading_photos

NEEDS = "needs the package: pip install '.[clients]'"

TURNED = 6  # EXIF's orientation of a photo that is to be turned by 90 degrees


def upright():
    """A photo whose four quarters differ, so that a turned one cannot pass for it."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32], pixels[:32, 32:], pixels[32:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return Image.fromarray(pixels)


def photo_bytes(kind):
    file, photo = io.BytesIO(), upright()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = TURNED
        photo.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif, quality=100)
    elif kind == "turned png":
        exif = Image.Exif()
        exif[0x0112] = TURNED
        photo.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    elif kind == "transparent":
        pixels = np.dstack([np.asarray(photo), np.full((64, 64), 255, np.uint8)])
        pixels[32:, 32:] = (7, 7, 7, 0)  # what lies under the transparency is not what a viewer shows
        Image.fromarray(pixels).save(file, "PNG")
    elif kind == "16 bits":
        Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 256).save(file, "PNG")
    return file.getvalue()


def write_tar(path, files):
    """Write a tar file of names and their bytes."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def dataset_of(reader, root, content, **options):
    """Write a photo, or one per class, as a reader of timm's takes it, and return timm's data set of it."""
    suffix = ".jpg" if content[:2] == b"\xff\xd8" else ".png"
    name, place = "", root
    if reader == "tar":
        place = root / "photos.tar"
        write_tar(place, {f"cat/a{suffix}": content})
    elif reader == "wds":
        pytest.importorskip("webdataset", reason=NEEDS)
        name = "wds/photos"
        write_tar(root / "0.tar", {f"a{suffix}": content, "a.cls": b"0"})
        split = {"name": "train", "num_samples": 1, "filenames": ["0.tar"], "shard_lengths": [1]}
        (root / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    else:
        for label in ("cat", "dog"):
            (root / "train" / label).mkdir(parents=True)
            (root / "train" / label / f"a{suffix}").write_bytes(content)
    if reader in ("hfds", "hfids"):
        pytest.importorskip("datasets", reason=NEEDS)
        name, place = f"{reader}/{root}", root / "cache"
        options |= {"num_samples": 2} if reader == "hfids" else {}
    return create_dataset(name, str(place), "train", batch_size=1, **options)


@pytest.mark.parametrize("reader", ["folder", "tar", "wds", "hfds", "hfids"])
@pytest.mark.parametrize("kind", ["turned", "turned png", "transparent", "16 bits"])
def test_timms_loaders_see_what_the_commands_see(reader, kind, tmp_path):
    content = photo_bytes(kind)
    dataset = dataset_of(reader, tmp_path, content, is_training=False)
    loader = reading_photos(create_loader)(
        dataset, (3, 64, 64), 1, use_prefetcher=False, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1), num_workers=0
    )
    seen, _ = next(iter(loader))
    (tmp_path / "alone.png").write_bytes(content)
    expected = np.asarray(read_image(tmp_path / "alone.png"))
    assert abs(255 * seen[0].permute(1, 2, 0).numpy() - expected).max() < 2


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_naflex_sees_a_turned_photo_upright(reader, trains, tmp_path):
    """The patches of a photo that lies on its side are those of the same photo, stored upright."""
    upright_png = io.BytesIO()
    upright().save(upright_png, "PNG")
    seen = []
    for name, content in (("turned", photo_bytes("turned")), ("upright", upright_png.getvalue())):
        (tmp_path / name).mkdir()
        dataset = dataset_of(reader, tmp_path / name, content, is_training=trains)
        size = dict(train_seq_lens=(16,), no_aug=True) if trains else dict(max_seq_len=16)
        loader = reading_photos(create_naflex_loader)(
            dataset, is_training=trains, batch_size=1, use_prefetcher=False, num_workers=0, **size
        )
        seen.append(next(iter(loader))[0]["patches"].float())
    assert seen[0].shape == seen[1].shape and seen[1].std() > 0.1
    assert (seen[0] - seen[1]).abs().mean() < 0.05 * seen[1].std()


def test_a_photo_that_a_reader_of_timms_has_opened_is_turned_too(tmp_path):
    """A reader may hand out images and not bytes; what it converts keeps its EXIF flag."""

    class Opened(torch.utils.data.Dataset):
        transform = None

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.transform(Image.open(io.BytesIO(photo_bytes("turned"))).convert("RGB")), 0

    loader = reading_photos(create_loader)(
        Opened(), (3, 64, 64), 1, use_prefetcher=False, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1), num_workers=0
    )
    ((seen, _),) = list(loader)
    assert abs(255 * seen[0].permute(1, 2, 0).numpy() - np.asarray(upright())).mean() < 5


def _damaged_dds():
    file = io.BytesIO()
    Image.new("RGBA", (64, 48)).save(file, "DDS")
    content = bytearray(file.getvalue())
    content[80:84] = (0x4100).to_bytes(4, "little")
    return bytes(content)


def _cut(kind):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dds", _damaged_dds()),
        *[(f"a.{kind.lower()}", _cut(kind)) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "JPEG2000", "ICNS")],
        ("a.jpg", b""),
        ("a.npy", b"\x93NUMPY"),
        ("a.png", b"no picture at all"),
    ],
)
def test_a_damaged_photo_is_one_line_and_training_goes_on(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cannot read this"):
        read_image(path)
    for split in ("cat", "dog"):
        (tmp_path / "train" / split).mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.jpg").write_bytes(content)
    upright().save(tmp_path / "train" / "dog" / "b.jpg")
    dataset = create_dataset("", str(tmp_path), "train", is_training=False)
    loader = reading_photos(create_loader)(dataset, (3, 64, 64), 2, use_prefetcher=False, num_workers=0)
    ((_, labels),) = list(loader)
    assert labels.tolist() == [1, 1]


def test_linked_folders_are_found_as_timm_finds_them_and_circles_end(tmp_path):
    from timm.data.readers.reader_image_folder import find_images_and_targets

    for folder in ("store/cat", "photos/dog"):
        (tmp_path / folder).mkdir(parents=True)
        upright().save(tmp_path / folder / "a.jpg")
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "store" / "cat", target_is_directory=True)
    timms, _ = find_images_and_targets(str(tmp_path / "photos"))
    assert sorted(find_images([str(tmp_path / "photos")])) == sorted(Path(path) for path, _ in timms)
    (tmp_path / "photos" / "dog" / "up").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert len(find_images([str(tmp_path / "photos")])) == 2


@pytest.mark.parametrize("target", [".", "cat", "../.."])
def test_training_refuses_a_folder_that_goes_round(target, tmp_path):
    """timm follows links without end: forty times the same photos, under the names of other classes."""
    photo = tmp_path / "photos" / "train" / "cat"
    photo.mkdir(parents=True)
    upright().save(photo / "a.jpg")
    (tmp_path / "photos" / "val").symlink_to(tmp_path / "photos" / "train", target_is_directory=True)
    assert find_circle(tmp_path / "photos") is None  # a second name is no circle
    link = tmp_path / "photos" / "train" / "link"
    link.symlink_to(link.parent / target, target_is_directory=True)
    if target == "cat":  # nor is a class of two names
        assert find_circle(tmp_path / "photos") is None
        return
    arguments = argparse.Namespace(dataset="", data_dir=str(tmp_path / "photos"))
    with pytest.raises(ScriptError, match=r"leads back to a folder that it lies in.*: delete this link$") as caught:
        check_data_folder(arguments)
    assert Path(str(caught.value).split(" leads")[0]).is_symlink()


@pytest.mark.parametrize(("folders", "named"), [([], "they lie in no class folder"), (["cat"], "cat")])
def test_photos_of_one_class_are_refused(folders, named, tmp_path):
    """Top-1 would be 100 % of nothing."""
    for folder in folders or ["."]:
        (tmp_path / folder).mkdir(exist_ok=True)
        upright().save(tmp_path / folder / "a.png")
    arguments = arguments_of(tmp_path)
    with pytest.raises(ScriptError, match=rf"are of one class \({named}\).*PHOTOS/train/CLASS"):
        fit_to_photos(arguments, create_dataset, 1, False)


def put(root, *names):
    """Write a photo under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        upright().save(root / name)


@pytest.mark.parametrize("class_map", ["", "classes.txt"])
def test_a_training_finds_the_photos_that_the_commands_find(class_map, tmp_path):
    """Of every kind that can be read, and nothing that is hidden, neither as a photo nor as a class."""
    put(tmp_path, "train/fox/a.jpg", "train/fox/b.webp", "train/cat/c.TIFF", "train/cat/d.bmp", "train/10/e.gif")
    put(tmp_path, "train/.thumbs/f.png", "train/__MACOSX/cat/g.png", "train/cat/.h.png", "train/2/i.png")
    (tmp_path / "train" / "fox" / "._a.jpg").write_bytes(b"x")
    (tmp_path / "classes.txt").write_text("fox\ncat\n2\n10\n")
    dataset = finding_photos(create_dataset)(
        "", str(tmp_path), "train", class_map=class_map and str(tmp_path / class_map)
    )
    found = {Path(path): label for path, label in dataset.reader.samples}
    assert sorted(found) == sorted(find_images([str(tmp_path / "train")]))
    order = ["fox", "cat", "2", "10"] if class_map else ["2", "10", "cat", "fox"]
    assert dataset.reader.class_to_idx == {name: i for i, name in enumerate(order)}
    assert all(label == order.index(path.parent.name) for path, label in found.items())


def arguments_of(root, **changes):
    defaults = dict(dataset="", train_split="train", val_split="validation", class_map="", num_classes=None)
    return argparse.Namespace(
        **{**defaults, "data_dir": str(root), "batch_size": 2, "train_img_sizes": None, **changes}
    )


@pytest.mark.parametrize(
    ("splits", "changes", "message"),
    [
        (["train"], {}, "has no folder validation, so that"),
        (["train", "test"], {}, "has no folder validation, so that"),
        (["trainx", "val"], {}, "has no folder train, so that"),
        (["."], {}, "has no folder train and no folder validation, so that"),
        (["train", "val"], {"train_split": "nope"}, "has no folder nope, so that"),
        (["train", "val"], {}, None),
        (["training", "valid"], {}, None),
        (["a", "b"], {"train_split": "a", "val_split": "b"}, None),
        (["train"], {"val_split": "train"}, None),  # as one says it
    ],
)
def test_what_is_trained_on_is_not_validated_with(splits, changes, message, tmp_path):
    """timm takes the whole folder for a split that it does not find, and calls its score the validation's."""
    for split in splits:
        put(tmp_path, f"{split}/cat/a.png", f"{split}/cat/b.png", f"{split}/dog/a.png", f"{split}/dog/b.png")
    fit = functools.partial(fit_to_photos, arguments_of(tmp_path, **changes), create_dataset, 1, True)
    if message is None:
        assert fit() == ["--num-classes", "2"]
        return
    with pytest.raises(ScriptError, match=message):
        fit()


def test_the_classes_of_tar_files_are_counted_and_named(tmp_path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", {f"{name}/{i}.png": photo_bytes("16 bits") for name in "ab" for i in "12"})
    arguments = arguments_of(tmp_path, train_split="train.tar", val_split="val.tar")
    assert fit_to_photos(arguments, create_dataset, 1, True) == ["--num-classes", "2"]
    run = TrainingRun(types.SimpleNamespace(create_dataset=create_dataset), argparse.Namespace(resume=""), ExitStack())
    run.name, run.model = "net", types.SimpleNamespace(num_classes=2)
    run.create_dataset("", root=str(tmp_path), split="train.tar")
    assert run.class_to_idx == {"a": 0, "b": 1}
    write_tar(tmp_path / "val.tar", {"a/1.png": photo_bytes("16 bits"), "c/1.png": photo_bytes("16 bits")})
    with pytest.raises(ScriptError, match=r"only train.tar has photos of b; only val.tar has photos of c"):
        run.create_dataset("", root=str(tmp_path), split="val.tar")


def test_an_empty_class_folder_is_told_from_a_missing_one_before_a_network_is_built(tmp_path):
    put(tmp_path, "train/a, b/1.png", "train/c/1.png", "validation/c/1.png")
    (tmp_path / "validation" / "a, b").mkdir()
    with pytest.raises(ScriptError, match=r"only train has photos of 'a, b'$"):
        fit_to_photos(arguments_of(tmp_path), create_dataset, 1, True)


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",), ("validation",)])
def test_photos_beside_the_class_folders_are_no_class(splits, tmp_path):
    put(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "validation") for name in ("cat", "dog")))
    put(tmp_path, *(f"{split}/stray.png" for split in splits))
    named = re.escape(str(tmp_path / splits[0] / "stray.png"))
    message = f"^{named} lies in no class folder: move it into one, or out of the data$"
    with pytest.raises(ScriptError, match=message):
        fit_to_photos(arguments_of(tmp_path), create_dataset, 1, True)
    if splits == ("validation",):
        return
    with pytest.raises(ScriptError, match=message):
        fit_to_photos(arguments_of(tmp_path, val_split="train"), create_dataset, 1, True)


def test_folders_below_those_of_the_classes_are_refused_where_they_would_mix(tmp_path):
    put(tmp_path, *(f"{split}/{name}/2019/1.png" for split in ("train", "validation") for name in ("cat", "dog")))
    put(tmp_path, *(f"{split}/cat/2020/1.png" for split in ("train", "validation")))
    with pytest.raises(ScriptError, match=r"cat/2019 and .*dog/2019 would be one class, 2019"):
        fit_to_photos(arguments_of(tmp_path), create_dataset, 1, True)


def test_a_batch_that_the_data_of_a_reader_does_not_fill_is_refused(tmp_path):
    """No photo is counted before of data that may first have to be downloaded."""
    put(tmp_path, *[f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(4)])
    run = TrainingRun(types.SimpleNamespace(create_dataset=create_dataset), argparse.Namespace(resume=""), ExitStack())
    run.model, create = types.SimpleNamespace(num_classes=2), run.create_dataset
    options = dict(root=str(tmp_path), split="train", is_training=True)
    assert len(create("", **options, batch_size=8)) == 8
    with pytest.raises(ScriptError, match="8 photos per process give no batch of 64: pass --batch-size 8"):
        create("", **options, batch_size=64)
    assert len(create("", **{**options, "is_training": False}, batch_size=64)) == 8  # the last may be smaller


def test_a_training_skips_what_is_no_file(tmp_path, caplog):
    put(tmp_path, "train/cat/c.png", "train/dog/a.png")
    os.mkfifo(tmp_path / "train" / "cat" / "a.jpg")
    (tmp_path / "train" / "cat" / "b.jpg").symlink_to("nothing.jpg")
    dataset = finding_photos(create_dataset)("", str(tmp_path), "train", is_training=False)
    loader = reading_photos(create_loader)(dataset, (3, 64, 64), 4, use_prefetcher=False, num_workers=0)
    ((_, labels),) = list(loader)
    assert labels.tolist() == [0, 0, 0, 1] and caplog.text.count("Skipped") == 3


@pytest.mark.parametrize("option", ["initial_checkpoint", "resume", "checkpoint"])
def test_a_checkpoint_that_is_not_there(option, tmp_path):
    with pytest.raises(ScriptError, match=f"--{option.replace('_', '-')} nope.pth: there is no such file"):
        check_checkpoints(argparse.Namespace(**{option: "nope.pth"}))
    (tmp_path / "last.pth.tar").touch()
    for value in ("", None, str(tmp_path / "last.pth.tar")):
        check_checkpoints(argparse.Namespace(**{option: value}))
    folder = argparse.Namespace(**{option: str(tmp_path)})
    if option == "checkpoint":  # validate.py takes all of a folder
        check_checkpoints(folder)
        return
    with pytest.raises(ScriptError, match=r"this is a folder; name a checkpoint in it, such as .*model_best\.pth\.tar"):
        check_checkpoints(folder)


def strange(root):
    """What may lie in a folder of photos beside a photo, none of which is waited for or ends the command."""
    upright().save(root / "a.png")
    os.mkfifo(root / "pipe.jpg")
    (root / "itself.jpg").symlink_to("itself.jpg")
    (root / "nowhere.jpg").symlink_to("nothing.jpg")
    for name in (".DS_Store", "Thumbs.db", "._a.png", ".hidden.png"):
        (root / name).write_bytes(b"\0")
    (root / "folder.jpg").mkdir()
    upright().save(root / "folder.jpg" / "new\nline.png")


def test_a_folder_of_strange_files(tmp_path):
    strange(tmp_path)
    found = find_images([str(tmp_path)])
    links = ["itself.jpg", "nowhere.jpg"]  # which are named as they are read
    assert [path.name for path in found] == ["a.png", "new\nline.png", *links]
    assert find_circle(tmp_path) is None
    reasons = {"pipe.jpg": "it is no file", "folder.jpg": "this is a folder", **dict.fromkeys(links, "leads nowhere")}
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name)


def test_a_link_that_leads_nowhere_is_named_and_skipped(tmp_path, capsys):
    upright().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").symlink_to("nothing.jpg")
    assert main(["classify", str(tmp_path), "--model", "vt_resnet_micro"]) == 1
    assert capsys.readouterr().err == f"vt-timm: skipped {tmp_path / 'b.jpg'}: this link leads nowhere\n"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Image.open(io.BytesIO(_cut("JPEG"))),
        lambda: Image.fromarray(np.full((8, 8), np.nan, np.float32)),
        lambda: np.full((8, 8, 3), None),
    ],
)
def test_an_image_that_cannot_be_read_is_one_line(bad):
    with pytest.raises(ImageError, match=r"cannot read this (image|array) \(.+\)"):
        to_image(bad())


@pytest.mark.parametrize("empty", [np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 4))])
def test_a_photo_without_pixels(empty):
    with pytest.raises(ImageError, match="it has no pixels"):
        to_image(empty)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (" ", "the model has no name"),
        ("none.onnx", "there is no file none.onnx"),
        ("pipe.onnx", "there is no file pipe.onnx; a pipe or a device has this name"),
        ("pipe.pth.tar", "there is no file pipe.pth.tar; a pipe or a device has this name"),
        ("nowhere.onnx", "there is no file nowhere.onnx; a link that leads nowhere has this name"),
        ("./nowhere", "there is no model at nowhere: no such file or folder; a link that leads nowhere has this name"),
        ("a.png", "is a file and no model: name its folder"),
        ("./a.png", "is a file and no model: name its folder"),
        ("alone.pth.tar", "is read with the args.yaml of its run, which is not beside it"),
        ("none.pth.tar", "there is no file none.pth.tar"),
        ("hf-hub:", "hf-hub: names no repository: write hf-hub:ORG/NAME"),
        ("folder.onnx", "holds neither a model"),
        ("null", "null: its config.json names no architecture"),
        ("list", "list: its config.json names no architecture"),
        ("nameless", "nameless: its config.json names no architecture"),
        ("local-dir:broken", r"local-dir:broken: its config.json is no JSON \(Expecting"),
        ("vt_fpn", "did you mean vt_fpn_tf_efficientnet_lite0.ccp?"),
        ("vt_resnet18.Robust_imagenette", "; its weights are vt_resnet18.robust_imagenette$"),
        ("x" * 300, "File name too long|cannot load|Unknown model"),
    ],
)
def test_names_that_are_no_models(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    upright().save("a.png")
    Path("folder.onnx").mkdir()
    Path("alone.pth.tar").touch()
    for kind in ("onnx", "pth.tar"):
        os.mkfifo(f"pipe.{kind}")
    for link in ("nowhere", "nowhere.onnx"):
        Path(link).symlink_to("gone")
    for folder, config in (("null", "null"), ("list", "[1]"), ("nameless", '{"num_classes": 2}'), ("broken", "{")):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(config)
    assert main(["classify", "a.png", "--model", name]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and "Traceback" not in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("device", ["", "gpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there(device, tmp_path, capsys):
    upright().save(tmp_path / "a.png")
    assert main(["classify", str(tmp_path / "a.png"), "--model", "vt_resnet_micro", "--device", device]) == 2
    assert f"the device {device!r} is not to be had here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("noending", "name it noending.png"),
        ("y" * 300 + ".png", "File name too long"),
        ("", "name a file, such as picture.png"),
        ("new/", "name a file, such as new/picture.png"),
    ],
)
def test_places_that_no_picture_can_be_written_to(output, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    upright().save("a.png")
    assert main(["attention", "a.png", "--model", "vt_resnet_micro", "-o", output]) == 2
    assert message in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_opened_file_is_a_photo(tmp_path):
    upright().save(tmp_path / "a.png")
    model = vt_timm.load("vt_resnet_micro")
    expected = model(tmp_path / "a.png").scores
    with (tmp_path / "a.png").open("rb") as file:
        assert model(file).scores == expected
        assert model(file).scores == expected  # read to its end by now
    with (tmp_path / "a.png").open("rb") as one, (tmp_path / "a.png").open("rb") as other:
        for answer in model([one, other]):  # two at a time round differently from one
            assert answer.scores == pytest.approx(expected, abs=1e-5)
    with (tmp_path / "a.png").open("rb") as file:
        assert model.attention(file).answer.scores == pytest.approx(expected, abs=1e-4)


def test_a_file_opened_as_text_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n")
    with (tmp_path / "a.txt").open() as file, pytest.raises(ImageError) as caught:
        to_image(file)
    assert str(caught.value) == 'cannot read this file (it was opened as text): open it with the mode "rb"'


def test_a_folder_s_photos_are_what_pillow_gives_pixels_of(tmp_path):
    """Photos of a 3D camera are opened as JPEGs; a film and data in HDF5 have an opener that gives no pixels."""
    for name in ("a.mpo", "b.jpg"):
        upright().save(tmp_path / name, "JPEG")
    for name in ("c.mpg", "d.h5", "e.emf", "f.pdf"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_images([str(tmp_path)])] == ["a.mpo", "b.jpg"]


@pytest.mark.parametrize("factor", [1.0, 1.0001, 1.2])
def test_floats_a_little_above_one_are_as_bright_as_those_up_to_one(factor):
    """Resizing leaves such; they were taken for values up to 255, and the photo for a black one."""
    pixels = np.asarray(upright())
    seen = np.asarray(to_image(pixels / 255 * factor)).astype(int)
    assert abs(seen - np.minimum(pixels * factor, 255)).max() <= 1


@pytest.mark.parametrize("dark", [1, 6])
@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_resized_array_is_a_little_beyond_black_and_white(dark, white, dtype):
    """Bicubic resizing undershoots at an edge; the photo was spread over its own range, or taken for 16 bits."""
    pixels = torch.from_numpy(np.asarray(upright()) // dark).permute(2, 0, 1)[None].double()
    larger = torch.nn.functional.interpolate(pixels, scale_factor=1.5, mode="bicubic")[0].permute(1, 2, 0).numpy()
    assert larger.min() < -1 and larger.max() > pixels.max() + 1
    seen = np.asarray(to_image((larger / 255 * white).astype(dtype))).astype(int)
    assert abs(seen - larger.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("mean", [0.2, 0.485])
def test_a_normalised_array_is_spread_over_its_range(mean):
    values = (np.asarray(upright()) / 255 - mean) / 0.229
    seen = np.asarray(to_image(values)).astype(int)
    assert abs(seen - np.asarray(upright()) / 250 * 255).max() <= 1


HOLED = np.linspace(0.1, 0.9, 64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [1, 200, 60000])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_value_that_is_missing_changes_no_other(hole, scale, suffix, tmp_path):
    whole = HOLED * scale
    holed = whole.copy()
    holed[0] = hole
    for name, values in (("whole", whole), ("holed", holed)):
        path = tmp_path / f"{name}{suffix}"
        np.save(path, values) if suffix == ".npy" else Image.fromarray(values).save(path)
    seen, expected = (read_channels(tmp_path / f"{n}{suffix}", 1)[1:].astype(int) for n in ("holed", "whole"))
    assert abs(seen - expected).max() <= 1


def test_arrays_of_other_kinds(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([[True, False]]))
    assert read_channels(tmp_path / "mask.npy", 1)[..., 0].tolist() == [[255, 0]]
    for name, values, message in (
        ("none.npy", np.full((4, 4), np.nan), "it holds no number"),
        ("complex.npy", np.ones((4, 4), complex), "complex128 are no colours"),
        ("text.npy", np.array([["a", "b"]]), "cannot read this array"),
    ):
        np.save(tmp_path / name, values)
        with pytest.raises(ImageError, match=message):
            read_channels(tmp_path / name, 1)


@pytest.mark.parametrize("suffix", ["", ".npy"])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 4), (40, 50, 3)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_get_the_channels_that_the_network_takes_as_pictures_do(shape, channels, suffix, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mode = {2: "L", 1: "L", 4: "RGBA", 3: "RGB"}[shape[-1] if len(shape) == 3 else 2]
    expected = to_image(Image.fromarray(pixels.squeeze(-1) if shape[-1] == 1 else pixels, mode), channels)
    if suffix:
        np.save(tmp_path / "a.npy", pixels)
    found = to_image(str(tmp_path / "a.npy") if suffix else pixels, channels)
    assert found.mode == expected.mode and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("values", [np.zeros((4, 4, 2)), np.zeros((4, 4), "datetime64[s]"), np.zeros((4, 4), object)])
def test_arrays_that_are_no_photos(values):
    with pytest.raises(ImageError, match="cannot read this array"):
        to_image(values)


def test_floats_of_nothing_and_one_are_black_and_white(tmp_path):
    values = np.array([[0.0, 1.0]], dtype=np.float32)
    np.save(tmp_path / "a.npy", values)
    Image.fromarray(values).save(tmp_path / "a.tif")
    for photo in (values, tmp_path / "a.npy", tmp_path / "a.tif"):
        assert np.asarray(to_image(photo, 1)).tolist() == [[0, 255]]
    assert np.asarray(to_image(values.astype(np.uint8), 1)).tolist() == [[0, 1]]


UNREAD = {
    ".heic": ".heic files are read after pip install 'vt_timm[heic]'",
    ".NEF": "turn .nef files into JPEG first",
}


@pytest.mark.parametrize("suffix", UNREAD)
@pytest.mark.parametrize("below", ["", "class"])
def test_photos_of_kinds_that_are_not_read_are_not_left_out_silently(suffix, below, tmp_path, capsys):
    if suffix in photo_suffixes():
        pytest.skip("pillow-heif is installed")
    place = tmp_path / below
    place.mkdir(exist_ok=True)
    for name in (f"a{suffix}", f"b{suffix}", f"._a{suffix}"):
        (place / name).write_bytes(b"ftypheic")
    with pytest.raises(ImageError, match="no images in this folder"):
        find_images([str(tmp_path)])
    upright().save(place / "c.png")
    assert find_images([str(tmp_path)]) == [place / "c.png"]
    assert capsys.readouterr().err == 2 * f"vt-timm: left out 2 {suffix.lower()} of {tmp_path}: {UNREAD[suffix]}\n"
    with pytest.raises(ImageError) as error:
        read_image(place / f"a{suffix}")
    assert str(error.value) == f"{place / f'a{suffix}'}: cannot read this image ({UNREAD[suffix]})"


@pytest.mark.parametrize("others", [True, False])
def test_a_training_says_which_photos_it_cannot_read(others, tmp_path, capsys):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.nef").write_bytes(b"raw")
    create = functools.partial(finding_photos(create_dataset), "", root=str(tmp_path), split="train")
    if others:
        upright().save(tmp_path / "train" / "a" / "2.png")
        assert len(create()) == 1
    else:
        with pytest.raises(RuntimeError, match="Found 0 images"):
            create()
    assert "left out 1 .nef of " in capsys.readouterr().err


def test_a_drawing_is_not_saved_to_a_folder(tmp_path):
    upright().save(tmp_path / "a.png")
    answer = vt_timm.load("vt_resnet_micro")(tmp_path / "a.png")
    with pytest.raises(ValueError, match="this is a folder; name a file in it"):
        answer.save(tmp_path)


class Named:
    """A path of another library's."""

    def __init__(self, path):
        self.path = str(path)

    def __fspath__(self):
        return self.path


def test_a_photo_in_yet_other_forms(tmp_path):
    upright().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    model = vt_timm.load("vt_resnet_micro")
    expected = model(tmp_path / "a.png").scores
    for photo in (bytearray(data), memoryview(data), Named(tmp_path / "a.png")):
        assert model(photo).scores == expected


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (torch.zeros(3, 64, 64), "cannot read a photo from a Tensor: give one photo, as a file's name"),
        (None, "from a NoneType"),
        (3, "from a int"),
        ([None], "from a NoneType"),
        ([["a.png"]], "from a list"),
        ({"image": "a.png"}, "from a dict"),
        ("https://example.org/a.jpg", "not fetched from the network"),
        ("", "an empty name: name a photo"),
        (os.curdir, "this is a folder and no photo: give its photos"),
        (Path(), "this is a folder and no photo: give its photos"),
    ],
)
def test_what_is_no_photo_is_one_line(photo, message):
    with pytest.raises(ImageError, match=message):
        vt_timm.load("vt_resnet_micro")(photo)


def test_a_closed_file_is_one_line(tmp_path):
    upright().save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        pass
    with pytest.raises(ImageError, match="closed file"):
        vt_timm.load("vt_resnet_micro")(file)


def test_damage_in_what_a_png_says_of_itself_costs_no_photo(tmp_path):
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n  8\nno hexadecimal digits\n")
    upright().save(tmp_path / "a.png", pnginfo=text)
    upright().save(tmp_path / "b.png")
    assert read_image(tmp_path / "a.png").tobytes() == read_image(tmp_path / "b.png").tobytes()


@pytest.mark.parametrize("name", ["picture", "a.pgf", "a.raw", "a.xyz"])
def test_answers_are_saved_as_pictures_alone(name, tmp_path):
    upright().save(tmp_path / "a.png")
    answer = vt_timm.load("vt_resnet_micro")(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"name it .*\.png|pictures are .*\.svg, "):
        answer.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("ask", ["__call__", "attention"])
def test_an_answer_is_not_saved_over_its_photo(ask, tmp_path):
    photo, linked = tmp_path / "a.png", tmp_path / "linked.png"
    upright().save(photo)
    linked.symlink_to(photo)
    before = photo.read_bytes()
    answer = getattr(vt_timm.load("vt_resnet_micro"), ask)(str(photo))
    for place in (photo, str(linked)):
        with pytest.raises(ValueError, match="this is the photo, and would be overwritten"):
            answer.save(place)
    assert photo.read_bytes() == before and answer.save(tmp_path / "b.png").is_file()


@pytest.mark.parametrize("how", ["picture", "opened", "relative"])
def test_a_photo_that_was_given_opened_is_not_overwritten_either(how, tmp_path, monkeypatch):
    upright().save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    with open("a.png", "rb") as file:
        photo = {"picture": Image.open("a.png"), "opened": file, "relative": "a.png"}[how]
        answer = vt_timm.load("vt_resnet_micro")(photo)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="this is the photo, and would be overwritten"):
        answer.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before and answer.save("a.png").is_file()


@pytest.mark.parametrize("size", [(3000, 3), (3, 3000)])
def test_a_strip_is_drawn_no_wider_than_a_slide(size):
    figure = vt_timm.load("vt_resnet_micro")(Image.new("RGB", size)).draw()
    assert figure.get_size_inches()[0] <= 13.34 and figure.get_size_inches()[1] <= 7.5


def test_a_picture_of_the_longest_name_is_written(tmp_path):
    upright().save(tmp_path / "a.png")
    name = tmp_path / f"{'n' * 251}.png"
    vt_timm.load("vt_resnet_micro")(tmp_path / "a.png").save(name)
    assert name.is_file() and len(list(tmp_path.iterdir())) == 2


# --- runs of timm's train.py


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"img_size": 96}, (3, 96, 96)),
        ({"input_size": [3, 96, 128]}, (3, 96, 128)),
        ({"input_size": [3, 96, 128], "img_size": 64}, (3, 96, 128)),
        ({"input_size": [1, 96, 96]}, (1, 96, 96)),
        ({"in_chans": 1, "img_size": 96}, (1, 96, 96)),
        ({}, (3, 224, 224)),  # as train.py evaluates, and not at the 288 px that this model is tested at
    ],
)
def test_a_plain_run_is_looked_at_as_it_was_evaluated(settings, size, tmp_path):
    weights = timm.create_model("resnet18", num_classes=3, in_chans=size[0]).state_dict()
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({"model": "resnet18.a1_in1k", "num_classes": 3, **settings}))
    torch.save({"state_dict": weights, "epoch": 0, "arch": "resnet18"}, tmp_path / "last.pth.tar")
    config = load_run(tmp_path).pretrained_cfg
    assert config["test_input_size"] == config["input_size"] == size and config["crop_mode"] == "center"


def test_a_run_has_no_threshold_of_the_weights_that_it_began_with(tmp_path):
    begun = timm.create_model("vt_resnet18.robust_imagenette", pretrained=True)
    assert vt_timm.load("vt_resnet18.robust_imagenette")(upright()).unsure_below > 0
    (tmp_path / "args.yaml").write_text("model: vt_resnet18.robust_imagenette\nnum_classes: 10\n")
    torch.save({"state_dict": begun.state_dict(), "epoch": 0, "arch": "vt_resnet18"}, tmp_path / "last.pth.tar")
    assert vt_timm.load(tmp_path)(upright()).unsure_below == 0


@pytest.mark.parametrize("restored", [True, False])
def test_the_best_is_kept_also_after_a_resume_and_of_equal_top1_the_lower_loss(restored, tmp_path, capsys):
    """timm keeps the first of equals: of a few validation photos, a network that has just begun to learn.

    After a resume not every version of train.py tells its saver what was best before.
    """
    model = torch.nn.Linear(1, 1)

    def train(saver, epochs):
        for epoch, (top1, loss) in epochs.items():
            torch.nn.init.constant_(model.weight, epoch)
            metrics = {"loss": loss, "top1": top1, "top5": 100.0}
            update_summary(epoch, {"loss": loss}, metrics, str(tmp_path / "summary.csv"), write_header=epoch in (0, 4))
            saver.save_checkpoint(epoch, metric=top1)

    def kept():
        return torch.load(tmp_path / "model_best.pth.tar", weights_only=True)["epoch"]

    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(tmp_path), max_history=2)
    keep_best(saver, "top1")
    train(saver, {0: (50.0, 0.9), 1: (90.0, 0.8), 2: (90.0, 0.3), 3: (90.0, 0.4)})
    assert kept() == 2
    resumed = CheckpointSaver(model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(tmp_path), max_history=2)
    if restored and hasattr(resumed, "load_state_dict_from_checkpoint"):
        resumed.load_state_dict_from_checkpoint(str(tmp_path / "last.pth.tar"))
    keep_best(resumed, "top1")
    train(resumed, {4: (70.0, 0.1)})
    assert kept() == 2
    train(resumed, {5: (90.0, 0.5)})
    assert kept() == 2
    train(resumed, {6: (90.0, 0.2)})
    assert kept() == 6
    with (tmp_path / "summary.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("0123456")  # one header
    report(tmp_path, "top1")
    said = capsys.readouterr().out
    assert "best: top-1 90.00 %, loss 0.2 on the validation photos, after epoch 6" in said
    assert "next: vt-timm classify PHOTO --model " in said
    row = best_epoch(tmp_path, "loss")
    assert row is not None and row["eval_loss"] == min(0.2, row["eval_loss"])


@pytest.mark.parametrize("losses", [("nan", "0.5"), ("0.5", "nan")])
def test_of_equal_epochs_the_one_with_a_loss_is_the_best(losses, tmp_path):
    rows = [f"{epoch},1,50.0,{loss}" for epoch, loss in enumerate(losses)]
    (tmp_path / "summary.csv").write_text("\n".join(["epoch,train_loss,eval_top1,eval_loss", *rows]))
    assert best_epoch(tmp_path, "top1")["eval_loss"] == best_epoch(tmp_path, "loss")["eval_loss"] == 0.5


def test_a_run_that_diverged_says_so(tmp_path, capsys):
    (tmp_path / "summary.csv").write_text("epoch,train_loss,eval_top1,eval_loss\n0,nan,50.0,nan\n")
    (tmp_path / "model_best.pth.tar").write_bytes(b"x")
    with pytest.raises(ScriptError, match=r"the training diverged, .*lower --lr"):
        report(tmp_path, "top1")
    assert capsys.readouterr().out == ""


def test_a_run_that_diverged_after_a_good_epoch_keeps_it_and_says_so(tmp_path, capsys):
    (tmp_path / "summary.csv").write_text(
        "epoch,train_loss,eval_top1,eval_loss\n0,1.5,50.0,1.25\n1,nan,10.0,nan\n2,nan,10.0,nan\n"
    )
    report(tmp_path, "top1")
    said = capsys.readouterr()
    assert "best: top-1 50.00 %" in said.out and "after epoch 0" in said.out
    assert "the training diverged" in said.err


# --- every way of starting


@pytest.mark.parametrize("arguments", [["vt-timm.py"], ["vt-timm"], ["mine.py", "-m", "vt_timm"]])
def test_models_are_registered_whatever_the_program_is_called(arguments, tmp_path):
    code = "import timm, vt_timm\nassert timm.is_model('vt_resnet_micro')\n"
    (tmp_path / arguments[0]).write_text(code)
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_console(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["recipes"]) == 0
    assert main(["classify", "/nowhere.jpg"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "sample", "--modle", "x"], "unrecognized arguments: --modle x; did you mean --model?"),
        (["attention", "a.jpg", "-o", "x.png", "b.jpg"], "unrecognized arguments: b.jpg; name all photos in one place"),
        (["recipes", "finetune", "x"], "unrecognized arguments: x\n"),
        (["classify", "-dash.jpg"], "-dash.jpg begins like an option: name the file ./-dash.jpg"),
        (["classify", "a.jpg", "-dash.jpg"], "-dash.jpg begins like an option: name the file ./-dash.jpg"),
        (["classify", "-none.jpg"], "the following arguments are required: IMAGE"),
        (["run", "trian"], "timm has no script trian that runs here; did you mean train?"),
        (["run", "publish_it"], "timm has no script publish_it that runs here; there are train, validate, benchmark"),
    ],
)
def test_a_mistyped_word_gets_the_commands_own_usage(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("-dash.jpg").touch()
    Path("--topk").touch()  # which is the option, whatever lies here
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: vt-timm {arguments[0]} ") and message in said
