"""Every option of Tables 3 to 7, and every combination of them."""

import argparse
import itertools

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.utils import ParseKwargs

import vt_timm
from tests.support.samples import fill
from vt_timm.transformer import GraphConvolution, TokenTransformer
from vt_timm.visual_transformer import RELATIONS, TOKENIZERS, VTStage

KINDS = {"filter": "FilterTokenizer", "cluster": "ClusteringTokenizer", "pool": "PoolingTokenizer"}
COMBINATIONS = [
    dict(zip(("tokenizer", "recurrent", "relation", "projector"), values, strict=True))
    for values in itertools.product(TOKENIZERS, (True, False), RELATIONS, (True, False))
]
POSSIBLE = [c for c in COMBINATIONS if c["recurrent"] or c["projector"]]


def name(options):
    return "-".join(str(v) for v in options.values())


def build(**options):
    return fill(timm.create_model("vt_resnet_micro", num_classes=5, **options))


def images(size=80, batch=2):
    height, width = size if isinstance(size, tuple) else (size, size)
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_the_combinations_are_all_there():
    assert list(TOKENIZERS) == ["filter", "cluster", "pool"] and RELATIONS == ("transformer", "graph", "none")
    assert len(COMBINATIONS) == 36 and len(POSSIBLE) == 27


@pytest.mark.parametrize("size", [dict(), dict(num_tokens=7, token_dim=128)], ids=["16x192", "7x128"])
@pytest.mark.parametrize("options", POSSIBLE, ids=name)
def test_a_combination_has_its_parts_and_learns(options, size):
    model = build(**options, **size).train()
    first, last = model.vt_stage.blocks
    kind = KINDS[options["tokenizer"]]
    later = "RecurrentTokenizer" if options["recurrent"] else kind
    assert [type(block.tokenizer).__name__ for block in (first, last)] == [kind, later]
    relation = {"transformer": TokenTransformer, "graph": GraphConvolution, "none": torch.nn.Identity}
    assert all(type(block.transformer) is relation[options["relation"]] for block in (first, last))
    assert (first.projector is not None) == options["projector"] and last.projector is None

    tokens = model.forward_features(images())
    assert tokens.shape == (2, size.get("num_tokens", 16), size.get("token_dim", 192))
    model(images()).square().sum().backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), parameter


@pytest.mark.parametrize("options", [c for c in COMBINATIONS if c not in POSSIBLE], ids=name)
def test_tokens_that_nothing_would_read_are_refused(options):
    with pytest.raises(ValueError, match="projector=False and recurrent=False"):
        build(**options)


def test_one_module_alone_needs_neither_recurrence_nor_projector():
    model = build(layers=(1, 1, 1, 1), recurrent=False, projector=False)
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize("options", [c for c in POSSIBLE if c["projector"]], ids=name)
def test_a_backbone_uses_every_part(options):
    model = fill(timm.create_model("vt_resnet_micro", features_only=True, **options)).train()
    maps = model(images((80, 96)))
    assert [m.shape[-2:] for m in maps] == [(40, 48), (20, 24), (10, 12), (5, 6), (3, 3)]
    sum(m.square().sum() for m in maps).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


@pytest.mark.parametrize("options", POSSIBLE, ids=name)
def test_script_trace_and_export_agree(options):
    stage = fill(VTStage(48, 64, 96, 7, 4, depth=3, **options)).eval()
    x = torch.randn(2, 48, 5, 7)
    with torch.no_grad():
        expected = stage(x)
        for other in (
            torch.jit.script(stage),
            torch.jit.trace(stage, x),
            torch.export.export(stage, (x,)).module(),
        ):
            for actual, value in zip(other(x), expected, strict=True):
                torch.testing.assert_close(actual, value)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_script_and_trace_of_a_whole_model(tokenizer, relation):
    model = build(tokenizer=tokenizer, relation=relation).eval()
    with torch.no_grad():
        for other in (torch.jit.script(model), torch.jit.trace(model, images())):
            torch.testing.assert_close(other(images()), model(images()))


@pytest.mark.parametrize("options", [
    dict(tokenizer="cluster", recurrent=False, relation="graph", num_tokens=9, token_dim=64),
    dict(tokenizer="pool", relation="none", projector=False, num_tokens=12),
], ids=name)  # fmt: skip
def test_config_keeps_the_options(options, tmp_path):
    model = build(**options).eval()
    save_for_hf(model, tmp_path, model_args=options, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images()), model(images()))


def test_options_as_train_py_takes_them():
    """`--model-kwargs` of timm's scripts, by timm's own parser."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    line = "--model-kwargs tokenizer=cluster recurrent=False relation=graph projector=True num_tokens=9 token_dim=64"
    kwargs = parser.parse_args(line.split()).model_kwargs
    model = build(**kwargs)
    assert [type(b.tokenizer).__name__ for b in model.vt_stage.blocks] == ["ClusteringTokenizer"] * 2
    assert model.forward_features(images()).shape == (2, 9, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tokenizer="filtre"), "tokenizer='filtre': choose one of 'filter', 'cluster', 'pool'"),
        (dict(tokenizer="recurrent"), "tokenizer='recurrent': choose one of 'filter', 'cluster', 'pool'"),
        (dict(relation="gcn"), "relation='gcn': choose one of 'transformer', 'graph', 'none'"),
        (dict(recurrent="no"), "recurrent='no' must be True or False"),
        (dict(projector=2), "projector=2 must be True or False"),
        (dict(competition=1), "competition=1 must be True or False"),
        (dict(projector_gain=-0.5), "projector_gain=-0.5 must be a number from 0"),
        *((dict(projector_gain=float(g)), f"projector_gain={g} must be a number from 0") for g in ("inf", "nan")),
        (dict(projector_gain=True), "projector_gain=True must be a number from 0"),
        (dict(projector_gain="half"), "projector_gain='half' must be a number from 0"),
        (dict(projector_gain=0.5, projector=False), "projector=False and projector_gain=0.5"),
        (dict(competition=True, tokenizer="pool"), 'competition=True and tokenizer="pool"'),
        (dict(num_tokens=0), "num_tokens=0 must be a whole number of at least 1"),
        (dict(num_tokens=2.5), "num_tokens=2.5 must be a whole number of at least 1"),
        (dict(token_dim=-8), "token_dim=-8 must be a whole number of at least 1"),
        (dict(layers=(1, 1, 1, 0)), "depth=0 must be a whole number of at least 1"),
        (dict(num_heads=0), "num_heads=0 must be a whole number of at least 1"),
        (dict(token_dim=100), "token_dim=100 must be a multiple of 2 \\* num_heads = 16, such as 96 or 112"),
        (dict(projector=False, last_projector=True), "projector=False and last_projector=True"),
        (dict(projector=False, features_only=True), "features_only=True and projector=False"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("vt_resnet_micro", device="meta", **options)


@pytest.mark.parametrize("relation", ["graph", "none"])
def test_token_dim_is_free_of_the_heads_without_a_transformer(relation):
    assert build(relation=relation, token_dim=100).forward_features(images()).shape == (2, 16, 100)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize(
    "options", [dict(relation="none"), dict(relation="graph"), dict(tokenizer="cluster"), dict(num_tokens=9)], ids=name
)
def test_weights_of_other_options_are_refused(options, num_classes):
    """Also with another class count, where timm loads non-strictly and would leave parts out without a word."""
    with pytest.raises(
        RuntimeError,
        match=r"these weights are not of this model.* without pretrained .*check the model name and its options",
    ):
        timm.create_model("vt_resnet_micro", pretrained=True, num_classes=num_classes, **options)


@pytest.mark.parametrize("tokenizer", ["cluster", "pool"])
def test_attention_is_recorded_of_every_tokenizer(tokenizer):
    model = build(tokenizer=tokenizer, num_tokens=6).eval()
    with vt_timm.record_attention(model) as maps, torch.no_grad():
        model(images((80, 112)))
    assert [m.shape for m in maps] == [(2, 6, 5, 7)] * 2
    for m in maps:
        torch.testing.assert_close(m.sum(dim=(2, 3)), torch.ones(2, 6))


def test_recorded_pooling_grid_is_what_pools():
    stage = fill(VTStage(48, 48, 48, 6, 4, depth=1, tokenizer="pool", relation="none")).eval()
    x = torch.randn(2, 48, 5, 7)
    with vt_timm.record_attention(stage) as maps, torch.no_grad():
        _, tokens = stage(x)
    torch.testing.assert_close(torch.einsum("blhw,bchw->blc", maps[0], x), tokens)


@pytest.mark.parametrize("options", POSSIBLE, ids=name)
def test_checkpointing_leaves_gradients_unchanged(options):
    gradients = []
    for enable in (False, True):
        model = build(**options).train()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)
