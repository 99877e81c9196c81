"""Images with their masks: every layout, every kind of file and value, and what is said about wrong ones."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from vt_timm.segmentation.data import (
    RandomMirror,
    SegmentationDataset,
    class_shares,
    evaluation_transform,
    training_transform,
)
from vt_timm.segmentation.labels import COCO_STUFF_CLASSES, IGNORE, LIP_CLASSES, DataError
from vt_timm.segmentation.training_data import SeededSamples, open_splits

from .support.samples import FOLDERS, PLAIN, settings, write_pair


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
    assert mask.tolist() == [[0, 0, 1], [91, IGNORE, 2]]
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
        (write_mask("RGB", (64, 52), (0, 0, 1)), r"001\.png: a mask has one channel of labels, this has 3"),
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


def test_a_class_that_no_validation_mask_has_is_told(small, capsys):
    for mask in (small / "val" / "labels").iterdir():
        Image.fromarray(np.zeros_like(np.array(Image.open(mask)))).save(mask)
    open_splits(settings(small))
    assert "warning: square occurs in none of the validation masks" in capsys.readouterr().err


def test_photos_that_are_not_read_are_told(small, capsys):
    (small / "train" / "images" / "raw.nef").touch()
    SegmentationDataset("folder", small, "train")
    assert f"left out 1 .nef of {small / 'train' / 'images'}" in capsys.readouterr().err


def test_a_missing_folder_and_a_wrong_layout(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        SegmentationDataset("folder", tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="layout='voc': choose one of 'folder', 'lip', 'coco_stuff'"):
        SegmentationDataset("voc", tmp_path, "train")
    with pytest.raises(ValueError, match="split='test': choose one of 'train', 'val'"):
        SegmentationDataset("folder", tmp_path, "test")


# --- files

HALVES = np.repeat([[0, 1]], 6, axis=0).repeat(4, axis=1)  # 8 x 6 pixels, the right half is class 1


def only_mask(root, save, name="000.png"):
    """The data set with one training photo, whose mask `save` writes."""
    write_pair(root, "folder", "train", "000", HALVES)
    (root / "classes.txt").write_text("a\nb\n")
    (root / "train/labels/000.png").unlink()
    save(root / "train/labels" / name)
    return root


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("000.png", Image.fromarray(HALVES.astype(np.uint8))),
        ("000.PNG", Image.fromarray(HALVES.astype(np.uint8))),
        ("000.tif", Image.fromarray(HALVES.astype(np.uint8))),
        ("000.bmp", Image.fromarray(HALVES.astype(np.uint8))),
        ("000.gif", Image.fromarray(HALVES.astype(np.uint8))),
        ("000.png", Image.fromarray(HALVES.astype(np.uint16))),
        ("000.tif", Image.fromarray(HALVES.astype(np.int32))),
        ("000.tif", Image.fromarray(HALVES.astype(np.float32))),
        ("000.png", Image.fromarray(HALVES.astype(bool))),
        ("000.png", Image.merge("RGB", [Image.fromarray(HALVES.astype(np.uint8))] * 3)),
        ("000.png", Image.merge("LA", [Image.fromarray(v.astype(np.uint8)) for v in (HALVES, 255 + 0 * HALVES)])),
    ],
    ids=[
        "png",
        "upper case",
        "tif",
        "bmp",
        "gif",
        "16 bits",
        "32 bits",
        "floats",
        "1 bit",
        "grey in RGB",
        "with alpha",
    ],
)
def test_a_mask_of_any_kind_of_file(name, image, tmp_path):
    _, mask = SegmentationDataset("folder", only_mask(tmp_path, image.save, name), "train")[0]
    assert mask.tolist() == HALVES.tolist()


def test_a_mask_with_a_palette_holds_indices_or_colours(tmp_path):
    image = Image.fromarray(HALVES.astype(np.uint8)).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0])
    only_mask(tmp_path, image.save)
    for options in ({}, dict(colours=[[9, 9, 9], [200, 0, 0]])):
        dataset = SegmentationDataset("folder", tmp_path, "train", label_options=options)
        assert dataset[0][1].tolist() == HALVES.tolist()


def test_a_mask_in_an_array(tmp_path):
    root = only_mask(tmp_path, lambda path: np.save(path, HALVES), "000.npy")
    assert SegmentationDataset("folder", root, "train")[0][1].tolist() == HALVES.tolist()


def test_an_empty_array_is_no_mask(tmp_path):
    root = only_mask(tmp_path, lambda path: path.touch(), "000.npy")
    with pytest.raises(DataError, match=r"000\.npy: not a readable image \(No data left in file\)"):
        SegmentationDataset("folder", root, "train")[0]


def test_a_jpeg_of_labels_is_named_as_the_reason(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(np.uint8) * 255
    root = only_mask(tmp_path, lambda path: Image.fromarray(noise).save(path, quality=30), "000.jpg")
    dataset = SegmentationDataset("folder", root, "train", label_options=dict(values={255: 1}))
    assert "000.jpg is a JPEG, which changes labels along every edge" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"000\.jpg: label .* a JPEG does not keep labels, save masks as \.png"):
        dataset[0]


def test_a_mask_with_another_ending_of_its_name(tmp_path):
    root = only_mask(tmp_path, Image.fromarray(HALVES.astype(np.uint8)).save, "000_mask.png")
    with pytest.raises(DataError, match=r"if 000_mask is the mask, say mask_suffix=_mask"):
        SegmentationDataset("folder", root, "train")
    assert SegmentationDataset("folder", root, "train", mask_suffix="_mask")[0][1].tolist() == HALVES.tolist()


@pytest.mark.parametrize("mask_is_turned", [False, True])
def test_photos_and_masks_that_lie_on_their_side(mask_is_turned, tmp_path):
    """EXIF orientation 6: stored a quarter turn to the left. A mask drawn on the upright photo has no such flag."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo, mask = (Image.fromarray((HALVES * value).astype(np.uint8)) for value in (255, 1))
    root = only_mask(tmp_path, lambda path: None)
    turned = photo.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    turned.save(root / "train/images/000.jpg", exif=exif, quality=95)
    if mask_is_turned:
        mask.transpose(Image.Transpose.ROTATE_90).save(root / "train/labels/000.png", exif=exif)
    else:
        mask.save(root / "train/labels/000.png")
    image, labels = SegmentationDataset("folder", root, "train")[0]
    assert labels.tolist() == HALVES.tolist()
    assert ((image.float().mean(dim=0) > 128) == (labels == 1)).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_images_of_any_number_of_channels(channels, tmp_path):
    root = only_mask(tmp_path, Image.fromarray(HALVES.astype(np.uint8)).save)
    (root / "train/images/000.jpg").unlink()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, channels)).astype(np.uint8)
    if channels == 12:
        pages = [Image.fromarray(page) for page in pixels.transpose(2, 0, 1)]
        pages[0].save(root / "train/images/000.tif", save_all=True, append_images=pages[1:])
    else:
        Image.fromarray(pixels.squeeze()).save(root / "train/images/000.png")
    image, _ = SegmentationDataset("folder", root, "train", channels=channels)[0]
    assert torch.equal(image.as_subclass(torch.Tensor), torch.from_numpy(pixels).permute(2, 0, 1))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    root = only_mask(tmp_path, Image.fromarray(HALVES.astype(np.uint8)).save)
    (root / "train/images/000.jpg").unlink()
    Image.fromarray((HALVES * 32768 + 1024).astype(np.uint16)).save(root / "train/images/000.png")
    image, _ = SegmentationDataset("folder", root, "train")[0]
    assert image.unique().tolist() == [4, 132]


def test_files_that_are_not_the_users_are_left_alone(small):
    for folder in ("train/images", "train/labels"):
        for name in ("._000.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "flyer.pdf", "clip.mpg"):
            (small / folder / name).write_bytes(b"not a picture")
        (small / folder / "more.png").mkdir()
    assert len(SegmentationDataset("folder", small, "train")) == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_names_are_utf_8_with_or_without_a_byte_order_mark(encoding, small):
    (small / "classes.txt").write_text("Straße\nœuvre\n", encoding=encoding)
    assert SegmentationDataset("folder", small, "train").classes == ["Straße", "œuvre"]


def test_names_in_another_encoding_are_refused(small):
    (small / "classes.txt").write_bytes("Straße\nWasser\n".encode("latin-1"))
    with pytest.raises(Exception, match=r"classes\.txt: not UTF-8 text \(byte 4\)"):
        SegmentationDataset("folder", small, "train")


def test_everything_for_a_worker_can_be_pickled(small):
    data = SegmentationDataset("folder", small, "train", training_transform(32, mirrored=[(0, 1)]))
    samples = SeededSamples(data, seed=0)
    loader = DataLoader(samples, batch_sampler=[[(0, 0), (3, 1)]], num_workers=1, multiprocessing_context="spawn")
    image, mask = next(iter(loader))
    for batched, index, draw in ((0, 0, 0), (1, 3, 1)):
        expected = samples[index, draw]
        assert torch.equal(image[batched], expected[0]) and torch.equal(mask[batched], expected[1])
    val = pickle.loads(pickle.dumps(SegmentationDataset("folder", small, "val", evaluation_transform(40))))
    assert val[0][0].shape[1] == 40


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5)])
def test_images_of_a_few_pixels_are_stretched(size, tmp_path):
    write_pair(tmp_path, "folder", "val", "000", np.ones(size))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    image, mask = SegmentationDataset("folder", tmp_path, "val", evaluation_transform())[0]
    assert image.shape[1:] == tuple(max(side, 32) for side in size) and mask.shape == size
    transform = training_transform(32, (0.8, 1.2))
    image, mask = transform(tv_tensors.Image(torch.zeros(3, *size)), tv_tensors.Mask(torch.ones(size).long()))
    assert image.shape == (3, 32, 32) and mask.shape == (32, 32) and 1 in mask


@pytest.mark.parametrize("options", [dict(scale=(0.01, 0.01)), dict(short_sides=[40], max_long_side=1)])
def test_of_images_that_become_very_small_a_pixel_is_left(options):
    image, mask = training_transform(32, **options)(
        tv_tensors.Image(torch.zeros(3, 40, 1600)), tv_tensors.Mask(torch.ones(40, 1600).long())
    )
    assert image.shape == (3, 32, 32) and 1 in mask


def test_color_jitter_changes_colours_of_the_image_alone(tmp_path):
    image = tv_tensors.Image(torch.full((3, 40, 40), 128, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.ones(40, 40).long())
    transform = training_transform(32, (1.0, 1.0), color_jitter=0.5, **PLAIN)
    grey = []
    for seed in range(20):
        torch.manual_seed(seed)
        changed, labels = transform(image, mask)
        assert torch.all(labels == 1) and torch.allclose(changed, changed.flatten()[0].expand_as(changed))
        grey.append(changed.mean().item())
    # A grey photo has neither contrast nor saturation: its brightness is multiplied by 0.5 to 1.5.
    assert 0.5 * 128 / 255 - 1e-3 <= min(grey) < 0.45 and 0.55 < max(grey) <= 1.5 * 128 / 255 + 1e-3


# --- what is looked at before training


def test_shares_are_counted_over_the_masks(tmp_path):
    write_pair(tmp_path, "folder", "train", "0", np.array([[0, 0, 1, 255]]))
    write_pair(tmp_path, "folder", "train", "1", np.array([[1, 1, 1, 1]]))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    shares = class_shares(SegmentationDataset("folder", tmp_path, "train"))
    assert shares == pytest.approx({"a": 2 / 8, "b": 5 / 8, "c": 0, "(ignored)": 1 / 8})


def spoil_masks(root, change):
    for path in root.rglob("labels/*.png"):
        with Image.open(path) as image:
            mask = np.array(image)
        Image.fromarray(change(mask).astype(np.uint8)).save(path)


def test_an_ignored_label_that_hides_a_class_is_said(small, capsys):
    spoil_masks(small, lambda mask: np.where(mask == 1, 255, 2 * (np.arange(mask.shape[1]) % 2)))
    (small / "classes.txt").write_text("ground\nsquare\nsky\n")
    open_splits(settings(small))
    said = capsys.readouterr().err
    assert "square 0.0 %" in said and "warning: square occurs in none of the training masks" in said
    assert "the label 255 is ignored: if it is a class, say which with --set 'values={255: NUMBER}'" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 255, r"all pixels that have a class are ground, .* label 255 is ignored: .*values=\{255"),
        (lambda mask: mask * 0, "all pixels that have a class are ground, so nothing can be learnt$"),
        (lambda mask: mask * 0 + 255, "no pixel has a class, so nothing can be learnt; 100.0 %"),
    ],
)
def test_masks_from_which_nothing_can_be_learnt(change, message, small):
    spoil_masks(small, change)
    with pytest.raises(DataError, match=message):
        open_splits(settings(small))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (dict(classes={"a": [], "b": ["ground"]}), "since classes names no group for square: rest=GROUP names the one"),
        (dict(reduce_zero_label=True), "since 0 means no class: if it is one, say --set reduce_zero_label=false"),
    ],
)
def test_what_takes_the_class_from_pixels_is_named(options, hint, small):
    """The label 255, which no mask holds here, was said to, whatever did."""
    with pytest.raises(DataError, match=f"so nothing can be learnt; [0-9.]+ % of the pixels have no class, {hint}"):
        open_splits(settings(small, **options))


def test_masks_in_black_and_white_train_with_one_setting(small):
    spoil_masks(small, lambda mask: mask * 255)
    train_set, val_set = open_splits(settings(small, values={255: 1}))
    assert all(data[0][1].unique().tolist() == [0, 1] for data in (train_set, val_set))


def test_a_bad_validation_mask_is_said_before_training(small):
    Image.new("L", (64, 52), 7).save(small / "val/labels/001.png")
    with pytest.raises(DataError, match=r"val/labels/001\.png: label 7 is beyond"):
        open_splits(settings(small))
