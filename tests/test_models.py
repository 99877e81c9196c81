"""What every VT-ResNet must do beyond timm's own tests (those run by `tests/timm_suite.py`)."""

import json

import numpy as np
import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.models import save_for_hf

from tests.support.samples import STORED, fill, filled_logits, fresh_deviations
from vt_timm.tokenizers import LOGIT_SCALE, FilterTokenizer
from vt_timm.transformer import TokenTransformer

MODELS = ["vt_resnet18", "vt_resnet34", "vt_resnet50", "vt_resnet101", "vt_resnet_micro"]


def build(name="vt_resnet_micro", **kwargs):
    return timm.create_model(name, **kwargs)


def images(size=64, batch=2, chans=3):
    height, width = size if isinstance(size, tuple) else (size, size)
    return torch.randn(batch, chans, height, width, generator=torch.Generator().manual_seed(3))


def test_all_are_registered():
    assert set(timm.list_models("vt_resnet*")) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_output_has_not_changed_in_silence(name):
    """Run `python -m tests.support.store_outputs` where a change is meant, and say so in the commit."""
    (logits,), by_token = filled_logits(name)
    stored = json.loads(STORED.read_text())["logits"][name]
    torch.testing.assert_close(logits, torch.tensor(stored, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    # Every token says something of its own, so that nothing that picks, drops or mixes tokens stays unseen.
    apart = (by_token[:, None] - by_token).abs().amax(dim=2).fill_diagonal_(torch.inf)
    assert apart.min() > 0.002 and (by_token - logits).abs().amax(dim=1).min() > 0.002


def test_a_fresh_stage_starts_where_it_did():
    """The scales of the softmaxes' logits, and the terms that start at 0: those that `store_outputs` wrote."""
    stored = json.loads(STORED.read_text())["fresh"]
    found = fresh_deviations()
    assert found.keys() == stored.keys()
    for name, deviation in found.items():
        assert deviation == pytest.approx(stored[name], rel=0.1), name


@pytest.mark.parametrize("tokenizer", ["filter", "cluster", "pool"])
def test_a_fresh_projector_leaves_the_map_as_it_is_and_eq_4_the_tokens(tokenizer):
    stage = build(tokenizer=tokenizer, last_projector=True).vt_stage
    feature = torch.randn(2, 128, 6, 6)
    for training in (False, True):
        x, tokens = stage.train(training)(feature)
        assert torch.equal(x, feature)
        last = stage.blocks[1]
        before = last.tokenizer(feature, stage.blocks[0](feature, None)[1])
        torch.testing.assert_close(tokens, before + last.transformer.relate(before))


@pytest.mark.parametrize("gain", [0.5, 2])
def test_a_gain_at_the_start_scales_what_every_fresh_projector_adds(gain):
    """`X_out - X` of a fresh projector is its gain times `softmax(...) normalised(T W_V)`, in either module."""
    torch.manual_seed(1)
    one = build(projector_gain=1, last_projector=True).vt_stage.eval()
    torch.manual_seed(1)
    scaled = build(projector_gain=gain, last_projector=True).vt_stage.eval()
    feature, tokens = torch.randn(2, 128, 6, 6), torch.randn(2, 16, 192)
    for ours, unit in zip(scaled.blocks, one.blocks, strict=True):
        update = unit.projector(feature, tokens) - feature
        assert update.std() > 0.01
        torch.testing.assert_close(ours.projector(feature, tokens) - feature, gain * update, rtol=1e-3, atol=1e-5)


def test_logits_of_a_fresh_tokenizer_have_the_deviation_that_is_said():
    """1 for pixels and tokens of deviation 1, `LOGIT_SCALE` for normalised logits whatever the map's."""
    fresh = fresh_deviations()
    assert fresh["eq. 1"] == pytest.approx(1, rel=0.1) and fresh["eq. 2"] == pytest.approx(1, rel=0.1)
    logits = []
    tokenizer = FilterTokenizer(64, 64, 8, norm_logits=True).train()
    tokenizer.attention.register_forward_pre_hook(lambda _module, args: logits.append(args[0]))
    for scale in (0.05, 20):
        tokenizer(scale * (1 + torch.randn(8, 64, 10, 10)))
    assert [one.std().item() for one in logits] == pytest.approx([LOGIT_SCALE] * 2, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("features_only", [False, True])
def test_every_parameter_learns(name, features_only):
    """Gradients that are present and not zero: no layer unused, no output thrown away."""
    model = fill(build(name, features_only=features_only)).train()
    output = model(images())
    loss = sum(f.square().sum() for f in output) if features_only else output.square().sum()
    loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("name", MODELS)
def test_no_block_is_shared(name):
    model = build(name, device="meta")
    modules = [m for m in model.modules()]
    assert sum(1 for _ in model.named_modules(remove_duplicate=False)) == len(modules)
    parameters = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert len(parameters) == len(list(model.parameters()))


@pytest.mark.parametrize("name", MODELS)
def test_stage_follows_table_11(name):
    """Filter tokenizer first, recurrent after; 16 tokens; no projector that would feed nothing."""
    model = build(name, device="meta")
    *first, last = model.vt_stage.blocks
    kinds = [type(block.tokenizer).__name__ for block in model.vt_stage.blocks]
    assert kinds == ["FilterTokenizer"] + ["RecurrentTokenizer"] * len(first)
    assert last.projector is None and all(block.projector is not None for block in first)
    tokens = model.eval().forward_features(torch.empty(2, 3, 224, 224, device="meta"))
    assert tokens.shape == (2, 16, 192 if name == "vt_resnet_micro" else 1024)


@pytest.mark.parametrize(
    ("name", "modules", "channels"),
    [("vt_resnet18", 2, 512), ("vt_resnet34", 3, 512), ("vt_resnet50", 3, 1024), ("vt_resnet101", 3, 1024)],
)
def test_depth_and_width_follow_table_11(name, modules, channels):
    model = build(name, device="meta")
    assert len(model.vt_stage.blocks) == modules
    assert model.feature_info[-1] == dict(num_chs=channels, reduction=16, module="vt_stage")
    trunk = timm.create_model(name.removeprefix("vt_"), device="meta").state_dict()
    ours = model.state_dict()
    for key, value in trunk.items():  # stem and stages 1-3 are timm's, name by name
        if not key.startswith(("layer4", "fc")):
            assert ours[key].shape == value.shape


def test_micro_is_small():
    assert sum(p.numel() for p in build().parameters()) < 1e6


@pytest.mark.parametrize("size", [32, (32, 47), (65, 33), 160])
def test_any_size_from_32(size):
    model = build(num_classes=7).eval()
    assert model(images(size)).shape == (2, 7)


@pytest.mark.parametrize("size", [31, (64, 16), (8, 64)])
def test_too_small_an_image_is_refused(size):
    with pytest.raises(AssertionError, match="at least 32 x 32"):
        build()(images(size))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(in_chans):
    assert build(in_chans=in_chans).eval()(images(chans=in_chans)).shape == (2, 1000)


def test_without_classifier():
    model = build(num_classes=0).eval()
    tokens = model.forward_features(images())
    torch.testing.assert_close(model(images()), tokens.mean(dim=1))


def test_head_is_mean_then_linear():
    model = fill(build(num_classes=5)).eval()
    tokens = model.forward_features(images())
    expected = tokens.mean(dim=1) @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(images()), expected)


def test_thousand_classes_unless_pretrained():
    assert build("vt_resnet18").num_classes == 1000
    assert build("vt_resnet18", num_classes=3).num_classes == 3


@pytest.mark.parametrize("name", MODELS)
def test_unknown_keyword_is_a_type_error(name):
    with pytest.raises(TypeError, match="not_an_option"):
        build(name, device="meta", not_an_option=1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(block="fancy"), "block='fancy': choose one of 'basic', 'bottleneck'"),
        (dict(global_pool="token"), "global_pool='token': choose one of 'avg', 'max', 'avgmax', ''"),
        (dict(output_stride=4), "output_stride=4: choose one of 8, 16, 32"),
    ],
)
def test_wrong_options_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_drop_path_grows_over_blocks_and_modules():
    model = build("vt_resnet18", drop_path_rate=0.1, device="meta")
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    # Five residual blocks after the first, which drops nothing; then transformer and projector, and a transformer.
    expected = [0.1 * i / 7 for i in (1, 2, 3, 4, 5, 6, 6, 7)]
    assert rates == pytest.approx(expected)


def test_drop_rate_acts_in_training_only():
    model = fill(build(drop_rate=0.5))
    tokens = torch.ones(1, 16, 192)
    assert (model.train().forward_head(tokens, pre_logits=True) == 0).any()
    assert (model.eval().forward_head(tokens, pre_logits=True) == 1).all()


def test_features_have_five_levels():
    model = build("vt_resnet18", features_only=True, output_stride=16).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16]
    assert model.feature_info.channels() == [64, 64, 128, 256, 512]
    maps = model(images((64, 96)))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 4, 6)]


def test_last_level_is_the_vt_stage_map():
    """A backbone built from a classifier's weights starts with the map that the last module read."""
    classifier = fill(build()).eval()
    backbone = build(features_only=True, output_stride=16, pretrained=True, pretrained_cfg_overlay=dict(
        state_dict=classifier.state_dict())).eval()  # fmt: skip
    stage = classifier.vt_stage
    x = classifier.forward_intermediates(images(), indices=[3], intermediates_only=True)[0]
    expected, _ = stage.blocks[0](stage.lift(x), None)
    torch.testing.assert_close(backbone(images())[-1], expected)


def test_checkpointing_leaves_gradients_unchanged():
    gradients = []
    for enable in (False, True):
        model = fill(build(num_classes=5)).train()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_layer_decay_groups_go_from_stem_to_head():
    from timm.optim import param_groups_layer_decay

    model = build("vt_resnet18", device="meta")
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    order = ["conv1.weight", "layer1.0.conv1.weight", "layer3.1.conv1.weight", "vt_stage.lift.conv.weight",
             "vt_stage.blocks.0.transformer.f1.weight", "vt_stage.blocks.1.transformer.f1.weight",
             "fc.weight"]  # fmt: skip
    scales = [scale[id(model.get_parameter(name))] for name in order]
    assert scales == sorted(scales) and len(set(scales)) == len(scales)


def test_sync_batchnorm_conversion_reaches_every_norm():
    model = convert_sync_batchnorm(build("vt_resnet18", features_only=True))
    norms = [type(m).__name__ for m in model.modules() if "BatchNorm" in type(m).__name__]
    assert norms and all("Sync" in name for name in norms)


@pytest.mark.parametrize("tokenizer", ["filter", "cluster", "pool"])
def test_script_and_trace_say_nothing_of_our_code(tokenizer, recwarn):
    """As on timm's ResNet: neither a warning of the tracer nor one of the TorchScript compiler."""
    model = build(tokenizer=tokenizer)
    torch.jit.script(model)
    torch.jit.trace(model.eval(), images(), check_trace=False)
    said = [str(w.message) for w in recwarn if "deprecated" not in str(w.message)]
    assert not said


def test_trace_and_export_agree():
    model = fill(build(num_classes=5)).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


def test_reset_parameters_reaches_the_grouped_weights():
    """Weights that torch does not know how to initialise: none is left as it was allocated."""
    module = TokenTransformer(64, 4)
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(float("nan"))
    module.reset_parameters()
    assert all(p.isfinite().all() for p in module.parameters())


def test_config_rebuilds_the_model(tmp_path):
    model = fill(build(num_classes=5, num_tokens=9)).eval()
    save_for_hf(model, tmp_path, model_args=dict(num_tokens=9), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)
    assert again.forward_features(images()).shape[1] == 9


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("feature_cls", ["getter", "list", "dict", "hook", "fx"])
def test_feature_maps_by_every_extractor_of_timm(feature_cls, output_stride):
    """All give what `forward_intermediates` gives, at the strides of a ResNet."""
    images_ = images(64, batch=2)
    reference = fill(build(features_only=True, output_stride=output_stride)).eval()
    model = build(features_only=True, output_stride=output_stride, feature_cls=feature_cls).eval()
    inner = next((getattr(model, n) for n in ("model", "body", "graph_module") if hasattr(model, n)), model)
    inner.load_state_dict(reference.model.state_dict(), strict=feature_cls in ("getter", "hook"))
    with torch.no_grad():
        maps = model(images_)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        for one, expected in zip(maps, reference(images_), strict=True):
            torch.testing.assert_close(one, expected)
    assert model.feature_info.reduction() == [2, 4, 8, min(16, output_stride), output_stride]
    assert [64 // m.shape[-1] for m in maps] == model.feature_info.reduction()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_module_with_weights_computes_with_them(memory_format):
    model = build().eval().to(memory_format=memory_format)
    called, holding = set(), set()
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            holding.add(name)
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(images(64).to(memory_format=memory_format))
    assert called == holding


def test_timms_tools_freeze_the_projectors_batch_norm():
    model = fill(build()).train()
    timm.utils.freeze(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(images(64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_one_token_trains_from_two_images_on():
    """A single value has no spread: torch's batch norm says so, as it does to a ResNet whose map is one pixel."""
    model = build(num_tokens=1).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images(64, batch=1))
    model(images(64, batch=2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("number", [np.int64(3), torch.tensor(3)])
def test_whole_numbers_of_numpy_and_torch(number):
    model = build(num_classes=number, num_tokens=number)
    assert (model.num_classes, model(images(64, batch=2).float()).shape) == (3, (2, 3))


def test_a_new_head_keeps_no_names_of_the_old_one():
    model = timm.create_model("vt_resnet_micro", pretrained=True, num_classes=3)
    assert not model.pretrained_cfg.get("label_names")
    assert timm.create_model("vt_resnet_micro", pretrained=True).pretrained_cfg["label_names"]


def test_every_listed_model_can_be_made():
    for name in timm.list_models(module="vt_resnet"):
        timm.create_model(name, device="meta")
    assert not timm.list_models("*teacher*")


@pytest.mark.parametrize(
    ("options", "reductions"),
    [({}, [2, 4, 8, 16, 32]), (dict(output_stride=16), [2, 4, 8, 16, 16]), (dict(output_stride=8), [2, 4, 8, 8, 8])],
)
@pytest.mark.parametrize("size", [(64, 96), (33, 95)])
def test_feature_maps_have_the_sizes_of_timms_resnet(options, reductions, size):
    model = build(features_only=True, **options).eval()
    resnet = timm.create_model("resnet18", features_only=True, **options).eval()
    assert model.feature_info.reduction() == resnet.feature_info.reduction() == reductions
    for ours, theirs in zip(model(images(size)), resnet(images(size)), strict=True):
        assert ours.shape[-2:] == theirs.shape[-2:]


@pytest.mark.parametrize("layers", [(1, 1, 1, 1), (1, 1, 1, 3)])
def test_pruning_without_projectors_is_refused(layers):
    with pytest.raises(ValueError, match="without projectors the tokens never reach the feature map"):
        build(projector=False, layers=layers).prune_intermediate_layers([4])


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor, np.array])
def test_a_model_made_with_numpys_numbers_can_be_saved(number, tmp_path):
    options = dict(num_classes=number(3), in_chans=number(4), num_tokens=number(8), layers=(1, 1, 1, number(2)))
    model = fill(build(**options)).eval()
    if not model._model_args:
        pytest.skip("this timm keeps no arguments of a model")
    save_for_hf(model, tmp_path, model_args=model._model_args, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(again(images(chans=4)), model(images(chans=4)), rtol=0, atol=0)


def test_statistics_are_averaged_anew_as_for_any_batch_norm():
    """torch's `update_bn` sets the momentum to None, which means the plain mean over the batches."""
    model = build(num_classes=3)
    stages = [images(batch=2), 3 * images(batch=3)]
    tokens, norm = [], model.vt_stage.blocks[0].projector.bn
    norm.register_forward_pre_hook(lambda _module, args: tokens.append(args[0]))
    torch.optim.swa_utils.update_bn(stages, model)
    expected = sum(t.mean(dim=(0, 2, 3)) for t in tokens) / len(tokens)
    torch.testing.assert_close(norm.running_mean, expected)
