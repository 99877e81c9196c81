"""Recorded attention and the picture made of it."""

import pytest
import timm
import torch
from PIL import Image

import vt_timm
from tests.conftest import fill
from vt_timm.figures import draw_attention, save_figure


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


def test_picture_shows_high_attention_in_red_and_low_in_blue(tmp_path):
    """A token that looks at the top left corner: red there, blue in the opposite one."""
    attention = torch.zeros(1, 8, 8)
    attention[0, :4, :4] = 1 / 16
    figure = draw_attention(Image.new("RGB", (240, 240), "white"), attention, title="test")
    save_figure(figure, tmp_path / "a.png")
    figure.canvas.draw()
    panel = figure.axes[1].get_window_extent()
    picture = Image.open(tmp_path / "a.png").convert("RGB")

    def colour(x, y):  # fractions of the panel, from its top left
        return picture.getpixel((int(panel.x0 + x * panel.width), int(picture.height - panel.y1 + y * panel.height)))

    red, _, blue = colour(0.2, 0.2)
    assert red > blue + 60
    red, _, blue = colour(0.8, 0.8)
    assert blue > red + 60


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    figure = draw_attention(Image.new("RGB", (32, 32)), torch.rand(2, 2, 2), title="test")
    with pytest.raises(ValueError, match="xyz"):
        save_figure(figure, tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())
