"""FPN and VT-FPN: cost, wiring, and what every segmenter must do."""

import json
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from benchmarks.common.counting import count_segmenter
from benchmarks.common.paper_tables import FPN_TABLES
from tests.support.samples import fill
from vt_timm import Segmenter, create_segmenter
from vt_timm.projector import Projector
from vt_timm.segmentation.model import SemanticHead
from vt_timm.tokenizers import FilterTokenizer
from vt_timm.vt_fpn import FPN, NECKS, VTFPN, Laterals
from vt_timm.weights.download import DownloadError

SMALL = dict(channels=32, token_dim=64, num_heads=4)


def build(neck="vt_fpn", backbone="vt_resnet_micro", num_classes=5, **kwargs):
    options = SMALL if neck == "vt_fpn" else {"channels": 32}
    return fill(create_segmenter(neck, backbone, num_classes, **{**options, **kwargs}))


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("table", FPN_TABLES)
@pytest.mark.parametrize("depth", [50, 101])
def test_cost_is_that_of_tables_9_and_10(table, depth):
    rows = [row for row in FPN_TABLES[table] if row.backbone == f"resnet{depth}"]
    fpn, vt_fpn = (count_segmenter(row) for row in rows)
    assert fpn.neck == pytest.approx(rows[0].neck, rel=0.01)
    assert vt_fpn.neck == pytest.approx(rows[1].neck, rel=0.05)
    assert fpn.neck / vt_fpn.neck >= 6.4
    for cost, row in zip((fpn, vt_fpn), rows, strict=True):
        assert cost.total_stride_in_1x1 == pytest.approx(row.total, rel=0.01)
        assert cost.total == pytest.approx(row.total, rel=0.045)


def normalized(norm, tokens_BLD):
    return (tokens_BLD - norm.running_mean) / (norm.running_var + norm.eps).sqrt()


def test_vt_fpn_is_figure_4():
    """Level by level: one transformer relates all tokens, each map gets back its own."""
    neck = fill(VTFPN([3, 4, 5, 6], channels=8, tokens=[1, 2, 3, 4], token_dim=16, depth=2, num_heads=4)).eval()
    features = [torch.randn(2, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate((3, 4, 5, 6))]
    actual = neck(features)
    levels = [
        conv_and_norm[1](torch.einsum("oc,bchw->bohw", conv_and_norm[0].weight[:, :, 0, 0], feature))
        for conv_and_norm, feature in zip(neck.laterals, features, strict=True)
    ]
    tokens = [normalized(neck.token_norms[i], neck.tokenizers[i](level)) for i, level in enumerate(levels)]
    tokens = torch.cat(tokens, dim=1)
    assert tokens.shape == (2, 10, 16)
    tokens = neck.transformer[1](neck.transformer[0](tokens))
    for i, (start, end) in enumerate([(0, 1), (1, 3), (3, 6), (6, 10)]):
        own = normalized(neck.related_norms[i], tokens[:, start:end])
        torch.testing.assert_close(actual[i], neck.projectors[i](levels[i], own))


def test_a_trained_tokenizer_with_normalized_logits_is_equation_1():
    """In inference it is a plain filter tokenizer with other filters."""
    tokenizer, plain = fill(FilterTokenizer(8, 16, 5, norm_logits=True)).eval(), FilterTokenizer(8, 16, 5)
    feature, norm = torch.randn(2, 8, 6, 7), tokenizer.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        plain.filters.weight.copy_(tokenizer.filters.weight * scale[:, None, None, None])
        plain.embed.weight.copy_(tokenizer.embed.weight)
        torch.testing.assert_close(tokenizer(feature), plain(feature))


def test_a_norm_before_a_trained_projector_is_equation_5():
    """In inference the norm's scale folds into W_K and W_V, and its shift is gone."""
    norm, projector = fill(nn.BatchNorm1d(16, affine=False)).eval(), fill(Projector(8, 16, num_heads=2)).eval()
    feature, tokens = torch.randn(2, 8, 6, 7), torch.randn(2, 5, 16)
    scale = 1 / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        expected = projector(feature, normalized(norm, tokens))
        projector.bn.running_mean += projector.value.weight @ (norm.running_mean * scale)
        for linear in (projector.key, projector.value):
            linear.weight *= scale
        torch.testing.assert_close(projector(feature, tokens), expected)


def test_levels_tell_one_another_through_the_tokens():
    for neck in (VTFPN([4] * 4, **SMALL), FPN([4] * 4, 32)):
        fill(neck).eval()
        features = [torch.randn(1, 4, 16 // 2**i, 16 // 2**i) for i in range(4)]
        before = neck(features)
        features[3] = features[3] + 1
        assert not torch.allclose(before[0], neck(features)[0])


def test_laterals_alone_tell_one_another_nothing():
    neck = fill(Laterals([4] * 4, 32)).eval()
    features = [torch.randn(1, 4, 16 // 2**i, 16 // 2**i) for i in range(4)]
    before = neck(features)
    after = neck([*features[:3], features[3] + 1])
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert not torch.allclose(before[3], after[3])


def test_laterals_are_vt_fpn_without_what_the_tokens_add():
    neck, laterals = VTFPN([4] * 4, **SMALL, gain=0.0), Laterals([4] * 4, 32)
    laterals.load_state_dict(neck.laterals.state_dict())
    features = [torch.randn(2, 4, 8, 8) for _ in range(4)]
    for level, expected in zip(neck(features), laterals(features), strict=True):
        torch.testing.assert_close(level, expected)


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_tokens_of_a_new_vt_fpn_differ_and_reach_the_map_whatever_the_scale_of_the_backbone(scale):
    torch.manual_seed(0)
    neck = VTFPN([16] * 4, channels=64, token_dim=128, num_heads=4)
    features = [scale * (3 + torch.randn(4, 16, 32 // 2**i, 32 // 2**i)) for i in range(4)]
    for i, (level, feature) in enumerate(zip(neck(features), features, strict=True)):
        lateral = neck.laterals[i](feature)
        tokens = neck.tokenizers[i](lateral).transpose(1, 2).unsqueeze(-1)
        tokens = neck.token_norms[i](tokens).squeeze(-1).transpose(1, 2)
        alike = torch.nn.functional.cosine_similarity(tokens[:, :, None], tokens[:, None], dim=-1)
        assert (alike.sum() - 4 * 8) / (4 * 8 * 7) < 0.5  # of an image's tokens, leaving out each with itself
        update = level - lateral
        within_image = update - update.mean(dim=(2, 3), keepdim=True)
        assert within_image.std() > 0.05 * lateral.std()


def test_head_has_detectrons_shape():
    head = SemanticHead(32, [4, 8, 16, 32], num_classes=7)
    assert [len(convolutions) for convolutions in head.scales] == [1, 1, 2, 3]
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 7 + [(1, 1)]
    assert {c.out_channels for c in convolutions} == {128, 7}
    assert sum(isinstance(m, nn.GroupNorm) for m in head.modules()) == 7
    levels = [torch.randn(1, 32, *size) for size in ((119, 60), (60, 30), (30, 15), (15, 8))]  # of 473 x 240 pixels
    assert head(levels).shape == (1, 7, 119, 60)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize(
    "backbone", ["resnet18", "vt_resnet_micro", "convnext_atto", "efficientnet_b0", "swin_tiny_patch4_window7_224"]
)
def test_any_backbone_with_four_levels(neck, backbone):
    size = (224, 224) if "swin" in backbone else (64, 96)
    model = build(neck, backbone).eval()
    with torch.no_grad():
        assert model(images(*size)).shape == (2, 5, *size)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (119, 121), (473, 64)])
def test_any_size(neck, size):
    with torch.no_grad():
        assert build(neck).eval()(images(*size)).shape == (2, 5, *size)


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "dla34"])
def test_a_backbone_that_takes_no_odd_maps(backbone):
    """It adds maps that it has made twice as large to those of the level before."""
    with torch.no_grad():
        assert build("fpn", backbone).eval()(images(97, 131)).shape == (2, 5, 97, 131)


@pytest.mark.parametrize(("backbone", "refused"), [("hiera_tiny_224", [256, 224]), ("mvitv2_tiny", None)])
def test_a_backbone_for_some_sizes_needs_one_of_them(backbone, refused):
    said = rf"backbone='{backbone}' was made for images of 224 x 224 .*, short_side=\[224, 224\] of create_segmenter"
    with pytest.raises(ValueError, match=said):
        build("fpn", backbone, short_side=refused)
    with torch.no_grad():
        assert build("fpn", backbone, short_side=[224, 224]).eval()(images(224, 224)).shape == (2, 5, 224, 224)


@pytest.mark.parametrize("options", [dict(), dict(tokens=[2, 3, 4, 5]), dict(depth=3), dict(token_dim=32)], ids=str)
def test_every_parameter_learns(options):
    model = build(**options).train()
    model(images()).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()]
    assert not dead


@pytest.mark.parametrize("neck", NECKS)
def test_trace_and_export_agree(neck):
    model, x = build(neck).eval(), images()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@pytest.mark.parametrize(
    ("neck", "options"),
    [("fpn", dict(channels=48)), ("laterals", dict(channels=48)), ("vt_fpn", dict(tokens=[2, 2, 4, 4], depth=2))],
    ids=str,
)
def test_a_saved_folder_gives_the_same_logits(neck, options, tmp_path):
    model = build(neck, **options).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["neck"] == neck
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    again = Segmenter.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("number", [int, np.int64, torch.tensor])
def test_a_segmenter_made_with_numpys_numbers_keeps_them_all(number, tmp_path):
    """JSON cannot say them, and the mixin of the Hub's client leaves out what JSON cannot say."""
    colours = {"mean": np.float32([0.1, 0.2, 0.3, 0.4]), "std": torch.full((4,), 0.25)}
    model = Segmenter(
        "vt_fpn", "vt_resnet_micro", number(3), np.array(["a", "b", "c"]), [number(64), number(96)],
        neck_options={"channels": number(48), "tokens": number(4)}, backbone_options={"in_chans": number(4)},
        colours=colours,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path).eval()
    assert again.class_names == model.class_names == ["a", "b", "c"] and again.short_side == [64, 96]
    assert list(again.normalization["mean"]) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert list(again.normalization["std"]) == 4 * [0.25]
    with torch.no_grad():
        image = torch.rand(1, 4, 64, 64)
        assert torch.equal(again(image), model(image))


@pytest.mark.parametrize("colours", [{"mean": [0.5, 0.5, 0.5]}, {"mean": 0.5, "std": 0.5}])
def test_colours_are_both_mean_and_deviation(colours):
    with pytest.raises(ValueError, match="must have mean and std"):
        Segmenter("fpn", "vt_resnet_micro", 3, colours=colours)


def test_a_pretrained_backbone_is_kept_and_not_looked_for_again(tmp_path, monkeypatch):
    model = create_segmenter("vt_fpn", "vt_resnet_micro", 5, pretrained_backbone=True, **SMALL)
    trained = timm.create_model("vt_resnet_micro", pretrained=True)
    assert torch.equal(model.backbone.model.layer3[0].conv1.weight, trained.layer3[0].conv1.weight)
    model.save_pretrained(tmp_path)
    create_model = timm.create_model
    asked = []
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: asked.append(k.get("pretrained")) or create_model(*a, **k)
    )
    again = Segmenter.from_pretrained(tmp_path)
    assert torch.equal(again.backbone.model.layer3[0].conv1.weight, trained.layer3[0].conv1.weight)
    assert asked and not any(asked)


def test_a_segmenter_is_not_loaded_from_the_folder_of_its_run(tmp_path):
    build().save_pretrained(tmp_path / "run" / "best")
    for folder, message in (
        ("run", f"it is a training run, name its model, {tmp_path / 'run' / 'best'}"),
        ("", "holds no"),
    ):
        with pytest.raises(DownloadError, match=re.escape(message)):
            Segmenter.from_pretrained(tmp_path / folder)


def test_attention_is_recorded_of_every_level():
    from vt_timm import record_attention

    model = build(backbone="resnet10t", tokens=[1, 2, 3, 4]).eval()
    with record_attention(model) as maps, torch.no_grad():
        model(images(64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 1, 16, 24), (2, 2, 8, 12), (2, 3, 4, 6), (2, 4, 2, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(neck="pan"), "neck='pan': choose one of 'fpn', 'vt_fpn', 'laterals'"),
        (dict(num_classes=0), "num_classes=0 must be a whole number"),
        (dict(tokens=[8, 8]), r"tokens=\[8, 8\] must be one number, or one for each of the 4 levels"),
        (dict(tokens=0), "tokens=0 must be a whole number"),
        (dict(depth=0), "depth=0 must be a whole number"),
        (dict(token_dim=100), "token_dim=100 must be a multiple of 2 \\* num_heads"),
        (dict(channels=30), "must be a multiple of num_heads=8"),
        (dict(backbone="vit_tiny_patch16_224"), r"has feature maps at strides \[16, 16, 16\]; a pyramid needs four"),
        (dict(channels="32"), "channels='32' must be a whole number"),
        (dict(gain="half"), "gain='half' must be a number"),
        (dict(short_side="64"), "short_side='64' must be a whole number"),
        (dict(short_side=[64, 0.5]), "short_side=0.5 must be a whole number"),
        (dict(short_side=[64]), r"short_side=\[64\] must be a whole number"),
        (dict(class_names="abcde"), "class_names='abcde' must be a list of names"),
        (dict(backbone=50), "backbone=50 must be the name of a model"),
        (dict(backbone_options="in_chans"), "backbone_options='in_chans' must be a dictionary"),
        (dict(pretrained_backbone="no"), "pretrained_backbone='no': choose one of True, False"),
        (dict(backbone="no_such_net"), "backbone='no_such_net' cannot hand out feature maps: Unknown model"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_segmenter(**{"neck": "vt_fpn", "backbone": "vt_resnet_micro", "num_classes": 5, **SMALL, **arguments})


@pytest.mark.parametrize("neck", NECKS)
def test_unknown_options_are_type_errors(neck):
    with pytest.raises(TypeError, match="not_an_option"):
        create_segmenter(neck, "vt_resnet_micro", 5, not_an_option=1)
