"""Using a segmenter: photos of any size, seen at several scales, drawn, and from a folder that holds none."""

import itertools
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import to_image
from torchvision.tv_tensors import Mask

from vt_timm import Segmenter, cli
from vt_timm.cli.segmentation import _save_labels
from vt_timm.photos import draw
from vt_timm.photos.colours import palette
from vt_timm.photos.draw import draw_classification, draw_segmentation, save_figures, to_png
from vt_timm.pipelines.segmentation import Segmentation, SegmentationPipeline, resized, segment
from vt_timm.pipelines.sources import load
from vt_timm.segmentation import training as segmentation_training
from vt_timm.segmentation.data import evaluation_transform
from vt_timm.segmentation.labels import LIP_CLASSES

from .support.samples import settings

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_segment_writes_a_picture_with_a_legend(small, tmp_path, capsys):
    run = settings(small, pretrained_backbone=True, updates=20, evaluate_every=20)
    segmentation_training.run(run, tmp_path / "run", resume=False)
    photo, picture = small / "val" / "images" / "001.jpg", tmp_path / "out.png"
    capsys.readouterr()
    assert cli.main(["segment", str(photo), "-o", str(picture), "--model", str(tmp_path / "run" / "best")]) == 0
    first, *shares, last = capsys.readouterr().out.splitlines()
    assert first == str(photo) and last == str(picture)
    assert all(float(line.split(" % ")[0]) <= 100 for line in shares) and 1 <= len(shares) <= 2
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


class BySize(nn.Module):
    """Answers by the height of what it sees, everywhere the same."""

    logits: ClassVar = {32: [0.0, 4.0, 0.0], 64: [10.0, 0.0, 0.0], 96: [0.0, 4.0, 0.0]}
    logits |= {48: [0.0, 0.0, 1.6], 80: [0.0, 0.0, 1.6]}  # a probability of 0.71
    normalization: ClassVar = dict(mean=(0.0,) * 3, std=(1.0,) * 3)

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0))

    def forward(self, images):
        height, width = images.shape[-2:]
        return torch.tensor(self.logits[height])[None, :, None, None].expand(1, 3, height // 4, width // 4)


@pytest.mark.parametrize(
    ("scales", "label"),
    [
        ([1], 0),
        ([0.5], 1),
        ([0.5, 1], 0),
        ([0.5, 1, 1.5], 1),  # the means of the probabilities are 0.34 and 0.64, of the logits 3.3 and 2.7
        ([0.75, 1.25], 2),
        (
            [0.75, 1, 1.25],
            0,
        ),  # one is sure; the means of the probabilities are 0.43 and 0.47, of their powers 0.33 and 0.17
        ([1, 1.5, 1.9], 0),  # the last two are one view, of 96 x 192 pixels: no larger is allowed, and it counts once
    ],
)
def test_several_scales_average_the_probabilities_powers(scales, label):
    labels = segment(BySize(), Image.new("RGB", (200, 100)), 64, max_long_side=192, scales=scales)
    assert labels.shape == (100, 200) and labels.unique().tolist() == [label]


class ByBrightness(BySize):
    """Class 1 where what it sees is bright, a class for every 4 x 4 pixels."""

    def forward(self, images):
        bright = 20 * (nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4) - 0.5)
        return torch.cat([-bright, bright], dim=1)


def test_every_scale_looks_at_the_same_place():
    """A bright corner is bright in the mean of all scales, but for the pixels along its edge."""
    expected = torch.zeros(96, 160, dtype=torch.long)
    expected[56:, 104:] = 1
    photo = Image.fromarray((255 * expected).numpy().astype(np.uint8)).convert("RGB")
    labels = segment(ByBrightness(), photo, 96, scales=(0.5, 0.66, 1, 1.4))
    differ = (labels != expected).nonzero()
    assert len(differ) < 200 and ((differ[:, 0] - 56).abs().minimum((differ[:, 1] - 104).abs()) <= 4).all()


def test_shares_name_what_is_worn_first_and_the_background_last():
    names = ["background", "hair", "skin", "top", "jacket", "face"]
    labels = torch.arange(6).repeat_interleave(torch.tensor([40, 20, 30, 1, 2, 7]))[None]
    model = ByBrightness()
    model.class_names = names
    answer = SegmentationPipeline(model)._described(Image.new("RGB", (100, 1)), labels)
    assert list(answer.shares) == ["jacket", "top", "face", "skin", "hair", "background"]
    assert answer.caption == "jacket, top"

    model = ByBrightness()
    model.class_names, model.short_side = ["background", "square"], 96
    photo = Image.new("RGB", (160, 96))
    photo.paste("white", (80, 48, 160, 96))
    answer = SegmentationPipeline(model)(photo)
    assert list(answer.shares) == ["square", "background"] and answer.label == "square"
    assert answer.shares == pytest.approx({"square": 0.25, "background": 0.75}, abs=0.02)
    alone = SegmentationPipeline(model)(Image.new("RGB", (160, 96)))
    assert alone.shares == {"background": 1.0} and alone.caption == "background"


def test_a_photo_is_as_large_as_in_an_evaluation():
    """A pixel more moved labels at one pixel of a hundred, and so the score."""
    for width, height in itertools.product((64, 83, 334), range(334, 600, 7)):
        photo = Image.new("RGB", (width, height))
        image, _ = evaluation_transform(341)(to_image(photo), Mask(torch.zeros(height, width)))
        assert resized(photo, 341, 10_000).size == image.shape[:0:-1]


@pytest.mark.parametrize(
    ("short_side", "sizes"), [(None, [(100, 50), (200, 100), (300, 150)]), ([64, 96], [(48, 32), (96, 64), (144, 96)])]
)
def test_scales_are_of_the_short_side_or_of_both_sides(short_side, sizes):
    photo = Image.new("RGB", (200, 100))
    assert [resized(photo, short_side, 1024, scale).size for scale in (0.5, 1, 1.5)] == sizes
    assert resized(photo, short_side, 96, 1000.0).size == ((96, 48) if short_side is None else (96, 64))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        *(
            (dict(scales=s), "scales=.* must be numbers above 0")
            for s in ([], [1, 0], [-1], [math.nan], [math.inf], 1.0, "1", ["1"])
        ),
        *((dict(short_side=s), f"short_side={s} must be a whole number of at least 1") for s in (0, -5, 64.5)),
        (dict(short_side=31), "short_side=31: the network takes photos of 32 pixels at least"),
        (dict(short_side=(64, -96)), "short_side=-96 must be a whole number of at least 1"),
        (dict(short_side=[64]), r"short_side=\[64\] must be one number or \[height, width\]"),
        *((dict(max_long_side=s), f"max_long_side={s} must be a whole number of at least 1") for s in (0, -3)),
        *((dict(window=s), f"window={s} must be a whole number of at least 1") for s in (64.0, 0, -64)),
        (dict(window=96), "window=96 must be a multiple of 64"),
        *((dict([("window", 64), o]), f"leave window or {o[0]} out") for o in dict(scales=[1], short_side=32).items()),
        (dict(window=64, max_long_side=512), "leave window or max_long_side out"),
    ],
)
def test_sizes_that_cannot_be(sizes, said):
    model = BySize()
    model.class_names, model.short_side = ["background", "square", "disc"], 64
    with pytest.raises(ValueError, match=said):
        SegmentationPipeline(model)(Image.new("RGB", (64, 64)), **sizes)


def test_the_command_and_the_page_see_a_photo_alike(tmp_path, capsys):
    """Labels of the same scales; --scales 1 are those of one view."""
    torch.manual_seed(0)
    options = dict(channels=16, token_dim=32, num_heads=4)
    model = Segmenter("vt_fpn", "vt_resnet_micro", 3, short_side=96, neck_options=options).eval()
    model.save_pretrained(tmp_path / "model")
    random = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(random).resize((160, 120), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    command = ["segment", str(tmp_path / "photo.png"), "--model", str(tmp_path / "model"), "--save-labels"]
    written = {}
    for name, extra in {"all": [], "one": ["--scales", "1"]}.items():
        status, (said, err) = cli.main([*command, str(tmp_path / name), *extra]), capsys.readouterr()
        assert (status, said.splitlines()[-1]) == (0, str(tmp_path / name / "photo.png")), err
        written[name] = torch.from_numpy(np.array(Image.open(tmp_path / name / "photo.png")))
    torch.testing.assert_close(written["one"].long(), segment(model, photo, 96))
    torch.testing.assert_close(written["all"].long(), load(str(tmp_path / "model")).attention(photo).answer.labels)
    assert (written["one"] != written["all"]).any()


def test_a_folder_that_is_no_segmenter(tmp_path, small, capsys):
    photo = str(small / "val" / "images" / "001.jpg")
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path)]) == 2
    assert "holds neither a model (config.json) nor a training run" in capsys.readouterr().err
    (tmp_path / "last").mkdir()
    (tmp_path / "settings.yaml").write_text("")  # of a run
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path / "last")]) == 2
    assert f"is a part of a run of train-segmenter: name the run, {tmp_path}" in capsys.readouterr().err
    (tmp_path / "settings.yaml").unlink()
    (tmp_path / "config.json").write_text('{"neck": "fpn"}')
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path)]) == 2
    assert "is not a segmenter: there is no model.safetensors in it" in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert cli.main(["segment", photo, "-o", str(tmp_path / "o.png"), "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "cannot load the segmenter" in error and "Traceback" not in error


CCP = "background, hair, skin, top, jacket, dress, skirt, trousers, legwear, shoes, bag, accessories".split(", ")


@pytest.mark.parametrize("missing", [None, 0, 1])
@pytest.mark.parametrize(
    ("names", "apart", "apart_if_missing"),
    [
        (CCP, 80, 55),
        (LIP_CLASSES, 42, 35),
        (["ground", "thing"], 300, 270),
        ([f"class {i}" for i in range(59)], 20, 15),
    ],
)
def test_the_palette_tells_classes_apart(names, apart, apart_if_missing, missing):
    """Any two of them, also for eyes whose long (0) or middle (1) cones are missing.

    By "redmean", 765 between black and white, and by a simulation that is not the palette's: what a missing cone sees
    is what the other one of the two does (cones of Hunt, Pointer and Estevez).
    """
    colours = torch.from_numpy(palette(names)).double()
    assert colours.shape == (len(names), 3) and colours[0].unique().numel() == 1
    if missing is not None:
        cones = torch.tensor([[0.314, 0.639, 0.047], [0.155, 0.758, 0.087], [0.018, 0.109, 0.873]]).double()
        seen = (colours / 255) ** 2.2 @ cones.T
        seen[:, missing] = seen[:, 1 - missing]
        colours = 255 * (seen @ cones.inverse().T).clamp(0, 1) ** (1 / 2.2)
    red, green, blue = (colours[:, None] - colours[None]).unbind(-1)
    mean = (colours[:, None, 0] + colours[None, :, 0]) / 2
    distance = ((2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2).sqrt()
    assert distance.fill_diagonal_(765).min() > (apart if missing is None else apart_if_missing)


def test_colours_say_what_they_are():
    """Whatever the classes' order: skin is light and reddish, hair brown and dark, denim blue, and a face is skin."""
    names = ["background", "left shoe", "blue jeans", "thing", "face", "hair"]
    of = dict(zip(names, palette(names).astype(int).tolist(), strict=True))
    assert min(of["face"]) > 150 and of["face"][0] > of["face"][1] > of["face"][2]
    assert max(of["hair"]) < 100 and of["hair"][0] > of["hair"][1] > of["hair"][2]
    assert of["blue jeans"][2] > of["blue jeans"][1] > of["blue jeans"][0]
    assert palette(["background", "face"])[1].tolist() == palette(["background", "skin"])[1].tolist()


# What each class of the shipped segmenter is painted with, as one would say it: no other of them fits.
SAID = {
    "background": lambda r, g, b: r == g == b,
    "hair": lambda r, g, b: r > g > b and r < 100,
    "skin": lambda r, g, b: r > g > b > 150,
    "top": lambda r, g, b: g > max(r, b) and r > 100,
    "jacket": lambda r, g, b: g >= b > r and r < 60,
    "dress": lambda r, g, b: r > b > g and r > 200,
    "skirt": lambda r, g, b: b > r > g > 150,
    "trousers": lambda r, g, b: b > g > r and b > 130,
    "legwear": lambda r, g, b: b >= r > g and g < 80 < r,
    "shoes": lambda r, g, b: r > g > b and 100 < r < 150,
    "bag": lambda r, g, b: 150 < r < 220 and r > g > b and b < 100,
    "accessories": lambda r, g, b: r > 220 and g > 190 and b < 120,
}


@pytest.mark.parametrize("name", CCP)
def test_each_class_has_its_own_colour_and_no_other_ones(name):
    colour = palette(CCP)[CCP.index(name)].astype(int).tolist()
    assert [said for said in CCP if SAID[said](*colour)] == [name]


@pytest.mark.parametrize(
    ("pixels", "legend"),
    [
        ((0, 997, 3), ["top  < 1 %", "skin  > 99 %"]),
        ((600, 399, 1), ["top  < 1 %", "skin  40 %", "background  60 %"]),
        ((0, 1000, 0), ["skin  100 %"]),
    ],
)
def test_what_is_painted_is_named(pixels, legend):
    """Sunglasses cover a thousandth of a photo, and one asks what the yellow in the face is."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(pixels))[None].expand(10, -1)
    figure = draw_segmentation(Image.new("RGB", (1000, 10)), labels, ["background", "skin", "top"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == legend


@pytest.mark.parametrize("classes", [1, 3, 5, 30])
def test_the_bars_of_a_classification_lie_apart_from_their_names(classes):
    """Shares as the page says them, and bars of one height, however few there are."""
    shares = [0.993, *[0.001] * (classes - 1)]
    figure = draw_classification(Image.new("RGB", (64, 48)), [(f"type {i}", share) for i, share in enumerate(shares)])
    figure.canvas.draw()
    axis = figure.axes[1]
    assert [text.get_text() for text in axis.texts[:2]] == ["type 0  99 %", "type 1  < 1 %"][:classes]
    names, bars = ([one.get_window_extent() for one in some] for some in (axis.texts, axis.patches))
    assert max(bar.height for bar in bars) < 0.1 * figure.bbox.height
    boxes = [box for pair in zip(names, bars, strict=True) for box in pair]  # from above
    assert all(low.y1 <= high.y0 for high, low in itertools.pairwise(boxes))
    assert boxes[0].y1 <= figure.bbox.y1 and boxes[-1].y0 >= figure.bbox.y0 - 1


@pytest.mark.parametrize("name", ["猫", "نص", "नमस्ते", "😀"])
def test_a_class_of_any_script_is_drawn_without_a_warning(name, tmp_path, recwarn):
    figure = draw_classification(Image.new("RGB", (64, 48)), [(name, 1.0)])
    labels = torch.zeros(48, 64, dtype=torch.long)
    for one in (figure, draw_segmentation(Image.new("RGB", (64, 48)), labels, [name])):
        to_png(one)
    save_figures(iter([figure]), tmp_path / "a.pdf")
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning) or "support" in str(warning)]


def test_a_script_takes_an_installed_font_that_has_it(monkeypatch):
    from matplotlib.font_manager import FontEntry, fontManager

    monkeypatch.setattr(
        fontManager, "ttflist", [FontEntry(name=name) for name in ("Noto Sans CJK JP", "Comic", "IPAex")]
    )
    assert draw._fonts_of_scripts.__wrapped__() == ["Noto Sans CJK JP", "IPAex"]


@pytest.mark.parametrize("order", [range(12), [0, 5, 3, 8], [1, 0, 11]])
@pytest.mark.parametrize("beside", [False, True])
def test_a_picture_has_the_colours_of_its_legend(order, beside, tmp_path):
    """Colour and opacity of every class, found from how a black and a white photo come out."""
    names = [CCP[i] for i in order]
    labels = torch.arange(len(names)).repeat_interleave(10)[None].expand(40, -1)
    black, white = (
        draw_segmentation(Image.new("RGB", (10 * len(names), 40), shade), labels, names, beside)
        for shade in ("black", "white")
    )
    seen = [np.asarray(figure.axes[-1].images[0].get_array()).astype(float) for figure in (black, white)]
    legend = {
        text.get_text().split("  ")[0]: 255 * np.array(patch.get_facecolor())
        for text, patch in zip(black.legends[0].get_texts(), black.legends[0].get_patches(), strict=True)
    }
    assert set(legend) == set(names) and all(colour[3] == 255 for colour in legend.values())
    _save_labels(tmp_path / "labels.png", labels, names)
    with Image.open(tmp_path / "labels.png") as image:
        saved = np.asarray(image.convert("RGB"))
    opacities = []
    for i, name in enumerate(names):
        y, x = seen[0].shape[0] // 2, (2 * i + 1) * seen[0].shape[1] // (2 * len(names))
        opacity = 1 - (seen[1][y, x] - seen[0][y, x]) / 255
        assert opacity.std() < 0.01
        assert seen[0][y, x] / opacity.mean() == pytest.approx(legend[name][:3], abs=2)
        assert saved[20, 10 * i + 5] == pytest.approx(legend[name][:3], abs=1)
        opacities.append(opacity.mean())
    assert opacities[0] < 0.5 < min(opacities[1:]) and max(opacities[1:]) - min(opacities[1:]) < 0.01


@pytest.mark.parametrize("size", [(96, 96), (96, 83), (75, 96), (65, 97)])
def test_a_backbone_with_tensorflows_padding_sees_whole_strides(size):
    """A photo of any size gives what the photo, filled up to whole strides, gives."""
    model = Segmenter("laterals", "tf_efficientnet_lite0", 3, neck_options=dict(channels=16)).eval()
    image = torch.randn(1, 3, *size)
    filled = torch.zeros(1, 3, *(-(-side // 32) * 32 for side in size))
    filled[..., : size[0], : size[1]] = image
    with torch.no_grad():
        torch.testing.assert_close(model(image), model(filled)[..., : size[0], : size[1]])


def test_the_print_names_every_class_that_the_legend_names():
    """By hand: of 10,000 pixels one is a hat, a hundredth of a percent; the legend told it, and the print did not."""
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[:50], labels[99, 99] = 1, 2
    names = ["background", "shirt", "hat", "shoe"]
    answer = Segmentation(Image.new("RGB", (100, 100)), names, {"shirt": 0.5, "background": 0.4999}, labels=labels)
    assert str(answer).split("\n") == ["   50.0 %  shirt", "   50.0 %  background", "  < 0.1 %  hat"]
    (legend,) = answer.draw().legends
    told = {text.get_text().split("  ")[0] for text in legend.get_texts()}
    assert told == {line.split("%  ")[1] for line in str(answer).split("\n")}


@pytest.mark.parametrize(("height", "number"), [(40, 25), (40, 3), (480, 8)])
def test_the_legend_stays_in_the_picture_and_can_be_read(height, number):
    names = [f"a class of a long name {i}" for i in range(number)]
    labels = torch.arange(320).expand(height, 320) * number // 320
    figure = draw_segmentation(Image.new("RGB", (320, height)), labels, names)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    around, inside = figure.bbox, legend.get_window_extent()
    assert around.x0 <= inside.x0 and inside.x1 <= around.x1 and around.y0 <= inside.y0 and inside.y1 <= around.y1
    assert all(5.99 < text.get_fontsize() <= 12 for text in legend.get_texts())
