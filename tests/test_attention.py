"""Recorded attention and the picture made of it."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vt_timm
from tests.support.samples import fill
from vt_timm.cli import main
from vt_timm.photos.draw import draw_attention, overlay, save_figures


def test_maps_are_distributions_over_the_pixels():
    model = fill(timm.create_model("vt_resnet18")).eval()
    with vt_timm.record_attention(model) as maps:
        model(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 6)] * 2
    for attention in maps:
        torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(2, 16))
        assert (attention >= 0).all() and attention.std() > 0


def test_maps_are_those_of_the_filter_tokenizer():
    model = fill(timm.create_model("vt_resnet_micro")).eval()
    x = torch.randn(1, 3, 64, 64)
    with vt_timm.record_attention(model) as maps, torch.no_grad():
        model(x)
        feature = model.vt_stage.lift(model.forward_intermediates(x, indices=[3], intermediates_only=True)[0])
        logits = torch.einsum("bchw,lc->blhw", feature, model.vt_stage.blocks[0].tokenizer.filters.weight[:, :, 0, 0])
    expected = logits.flatten(2).softmax(-1).reshape(logits.shape)
    torch.testing.assert_close(maps[0], expected)


def test_each_pass_replaces_the_maps_and_none_is_recorded_after():
    model = timm.create_model("vt_resnet_micro").eval()
    with vt_timm.record_attention(model) as maps:
        model(torch.randn(1, 3, 64, 64))
        model(torch.randn(3, 3, 32, 32))
        assert [len(m) for m in maps] == [3, 3]
    model(torch.randn(5, 3, 32, 32))
    assert [len(m) for m in maps] == [3, 3]


def test_a_model_without_tokens_is_refused():
    with (
        pytest.raises(ValueError, match="ResNet has no VT module"),
        vt_timm.record_attention(timm.create_model("resnet18")),
    ):
        pass


def test_a_pipeline_is_told_where_its_attention_is():
    with (
        pytest.raises(TypeError, match=r"give its \.module, or call its attention"),
        vt_timm.record_attention(vt_timm.load("vt_resnet_micro")),
    ):
        pass


@pytest.mark.parametrize("tokens", [np.array([1, 5]), torch.tensor([1, 5]), (1, 5), range(1, 6, 4)])
def test_tokens_to_draw_are_named_by_any_sequence(tokens):
    look = vt_timm.load("vt_resnet_micro").attention(Image.new("RGB", (64, 64)))
    assert [axis.get_title() for axis in look.draw(tokens=tokens).axes[1:3]] == ["token 1", "token 5"]


def test_picture_shows_high_attention_in_red_and_low_in_blue(tmp_path):
    """A token that looks at the top left corner: red there, blue in the opposite one."""
    attention = torch.zeros(1, 8, 8)
    attention[0, :4, :4] = 1 / 16
    figure = draw_attention(
        [Image.new("RGB", (240, 240), "white")], [attention], title="test", captions=["photo"], opacity="even"
    )
    save_figures(iter([figure]), tmp_path / "a.png")
    figure.canvas.draw()
    panel = figure.axes[1].get_window_extent()
    picture = Image.open(tmp_path / "a.png").convert("RGB")

    def colour(x, y):  # fractions of the panel, from its top left
        return picture.getpixel((int(panel.x0 + x * panel.width), int(picture.height - panel.y1 + y * panel.height)))

    red, _, blue = colour(0.2, 0.2)
    assert red > blue + 60
    red, _, blue = colour(0.8, 0.8)
    assert blue > red + 60


def test_panels_of_a_thin_photo_are_no_higher_than_a_slide():
    """A photo of 32 x 1024 made a picture of three rows of more than a metre each."""
    figure = draw_attention([Image.new("RGB", (32, 1024))], [torch.rand(16, 32, 1)], "test", ["photo"])
    assert figure.get_figheight() < 3 * 8 + 1


@pytest.mark.parametrize("columns", [None, 1, 3, 8, 17])
@pytest.mark.parametrize("photos", [1, 3])
def test_nothing_lies_over_anything_else(photos, columns):
    """The title of `--columns 8` once lay over the panels."""
    figure = draw_attention(
        [Image.new("RGB", (64, 48))] * photos,
        [torch.rand(16, 3, 4)] * photos,
        title="vt_resnet18, VT module 1 of 2, tokenizer: where each of the sixteen tokens looks, drawn over the photo",
        captions=["a photo with a long name.jpg: church 99.1 %"] * photos,
        columns=columns,
    )
    figure.canvas.draw()
    texts = [*figure.texts, figure._suptitle, *(axis.title for axis in figure.axes if axis.get_title())]
    boxes = [text.get_window_extent() for text in {id(text): text for text in texts}.values()]
    boxes += [axis.get_window_extent() for axis in figure.axes[: 17 * photos]]
    assert len(boxes) == 2 + 34 * photos
    whole = figure.bbox
    for i, box in enumerate(boxes):
        assert box.y0 >= whole.y0 and box.y1 <= whole.y1 and box.x0 >= whole.x0 - 1, box
        for other in boxes[:i]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert width < 1 or height < 1, (box, other)


def test_colours_cover_the_photo_only_where_a_token_looks():
    attention = torch.zeros(4, 4)
    attention[0, 0] = 1
    photo = Image.new("RGB", (80, 80), (20, 200, 30))
    seen = overlay(photo, attention, colours="Reds")
    assert seen.getpixel((10, 10))[1] < 100
    assert max(abs(a - b) for a, b in zip(seen.getpixel((70, 70)), (20, 200, 30), strict=True)) < 30


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    figure = draw_attention([Image.new("RGB", (32, 32))], [torch.rand(2, 2, 2)], title="test", captions=["photo"])
    with pytest.raises(ValueError, match="xyz"):
        save_figures(iter([figure]), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_projector_maps_are_those_of_eq_5_over_the_tokens():
    """Attention in plain loops over heads and pixels, for a VT module on its own."""
    module = fill(vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", token_dim=64, num_heads=4)).eval()
    projector = module.neck.projectors[0]
    feature, tokens = torch.randn(2, 256, 3, 5), torch.randn(2, 8, 64)
    with vt_timm.record_attention(projector, of="projector") as maps, torch.no_grad():
        projector(feature, tokens)
    heads, d = projector.num_heads, projector.head_dim
    for b in range(2):
        keys = (tokens[b] @ projector.key.weight.T).detach()
        for y in range(3):
            for x in range(5):
                weights = torch.zeros(8)
                for h in range(heads):
                    part = slice(h * d, (h + 1) * d)
                    query = feature[b, part, y, x] @ projector.query[h].detach()
                    weights += (keys[:, part] @ query / d**0.5).softmax(0) / heads
                torch.testing.assert_close(maps[0][b, :, y, x], weights, rtol=1e-4, atol=1e-6)


def test_attention_of_every_level_of_a_segmenter():
    model = vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", tokens=[3, 4, 5, 6], token_dim=64, num_heads=4).eval()
    for of, axes in (("tokenizer", (2, 3)), ("projector", 1)):
        with vt_timm.record_attention(model, of) as maps, torch.no_grad():
            model(torch.randn(1, 3, 64, 96))
        of_neck = maps[-4:]  # the backbone has two VT modules of its own, which come first
        assert [tuple(m.shape) for m in of_neck] == [(1, 3, 16, 24), (1, 4, 8, 12), (1, 5, 4, 6), (1, 6, 4, 6)]
        for attention in of_neck:
            assert torch.allclose(attention.sum(axes), torch.ones(()), atol=1e-5)


def test_an_unknown_kind_of_attention_is_refused():
    with (
        pytest.raises(ValueError, match="of='transformer': choose one of 'tokenizer', 'projector'"),
        vt_timm.record_attention(timm.create_model("vt_resnet_micro"), of="transformer"),
    ):
        pass


@pytest.mark.parametrize(("ending", "files"), [("png", 2), ("svg", 2), ("pdf", 1), ("gif", 1)])
def test_many_photos_make_files_pages_or_frames(ending, files, tmp_path):
    def figures():
        for side in (40, 60):
            photo = Image.new("RGB", (side, 40))
            yield draw_attention([photo], [torch.rand(2, 2, 2)], title="test", captions=["photo"])

    written = save_figures(figures(), tmp_path / f"a.{ending}")
    assert sorted(written) == sorted(tmp_path.iterdir()) and len(written) == files
    if ending == "gif":
        assert Image.open(written[0]).n_frames == 2
    if ending == "pdf":
        assert written[0].read_bytes().count(b"/Type /Page\n") == 2 or b"/Count 2" in written[0].read_bytes()


def test_several_photos_are_named_in_the_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("vt_timm.cli.photos.write", lambda figures, output: drawn.extend(figures))
    names = ["a.png", f"{'long' * 9}.png"]
    for name in names:
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    for photos in (names, names[:1]):
        command = ["attention", *(str(tmp_path / name) for name in photos), "--model", "vt_resnet_micro"]
        assert main([*command, "-o", str(tmp_path / "out.png"), "--tokens", "1"]) == 0
    several, alone = ([axis.get_title() for axis in figure.axes] for figure in drawn)
    assert several[0].startswith("a.png\n") and several[2].startswith("longlonglonglonglon…") and "%" in several[2]
    assert not alone[0].startswith("a.png")
