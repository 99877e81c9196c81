"""Each trial changes what it says, and nothing that is learned is left out of its training."""

import math

import numpy as np
import pytest
import torch

from benchmarks.token_trials import (
    ANSWERS,
    CHANNELS,
    TOKEN_DIM,
    TRIALS,
    Maps,
    TwoHeads,
    look_inside,
    optimizer_of,
    train,
    validate,
)
from benchmarks.tokens import share_found
from tests.support.samples import fill

# The other trials are of other parts (controls), other weights (filters) or another start or loss (below).
CHANGED = (
    "normalised",
    "unit",
    "own",
    "uneven",
    "centred",
    "dropped",
    "compete",
    "largest",
    "linear",
    "few",
    "read_first",
)


def stage_of(name):
    return TRIALS[name].build().vt_stage


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_changes_what_the_same_weights_give(name):
    """A lift that was to lose its ReLU once kept it, since an attribute that nothing reads was set."""
    plain, changed = fill(TRIALS["vt"].build()).train(), TRIALS[name].build().train()
    changed.load_state_dict(plain.state_dict(), strict=False)
    maps = torch.randn(4, CHANNELS, 6, 6, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(plain(maps), changed(maps), rtol=1e-3)


def test_the_changes_of_the_combined_trials_are_those_of_the_single_ones():
    two, filters, linear, centred = (stage_of(name) for name in ("two", "two_filters", "two_linear", "two_centred"))
    for stage in (two, filters, linear, centred):
        assert [block.tokenizer.attention.competition for block in stage.blocks] == [True, True]
        assert stage.blocks[0].projector.bn.weight.unique().tolist() == [0.5]
    kinds = [type(stage.blocks[1].tokenizer).__name__ for stage in (two, filters, linear, centred)]
    assert kinds == ["RecurrentTokenizer"] + ["FilterTokenizer"] * 3
    assert [isinstance(s.lift.act, torch.nn.ReLU) for s in (two, filters, linear, centred)] == [True, True, False, True]
    assert [bool(s.blocks[0].projector.bn._forward_pre_hooks) for s in (two, filters, linear, centred)] == [
        False
    ] * 3 + [True]


def test_an_awake_projector_updates_a_fresh_map_and_the_default_start_leaves_it():
    maps = torch.randn(2, CHANNELS, 6, 6)
    for name, moves in (("vt", False), ("queries", False), ("gain", True), ("awake", True)):
        stage = stage_of(name)
        assert torch.allclose(stage(maps)[0], stage.lift(maps)) is not moves
    torch.manual_seed(1)
    plain = stage_of("vt").blocks[0].projector.query
    for name, times in (("gain", 1), ("queries", 4), ("awake", 4)):
        torch.manual_seed(1)
        torch.testing.assert_close(stage_of(name).blocks[0].projector.query, times * plain)


def test_a_pixel_asks_with_its_direction_and_gives_what_it_is():
    """Weights as if pixels were of one length, by hand for one token of the first module; what is pooled is as long."""
    tokenizer = stage_of("unit").blocks[0].tokenizer
    seen = []
    tokenizer.attention.register_forward_hook(lambda _m, _args, out: seen.append(out))
    x = torch.randn(1, TOKEN_DIM, 3, 4)
    x[..., 0, 0] *= 50
    tokens = tokenizer(x)
    pixels = x[0].flatten(1).T.tolist()
    lengths = [math.hypot(*pixel) for pixel in pixels]
    filters = tokenizer.filters.weight[5].flatten().tolist()
    mean = sum(lengths) / 12
    logits = [
        mean / n * sum(map(math.prod, zip(p, filters, strict=True))) for p, n in zip(pixels, lengths, strict=True)
    ]
    weights = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
    torch.testing.assert_close(seen[0][0, 5].flatten(), torch.tensor(weights), rtol=1e-3, atol=1e-5)
    pooled = torch.tensor(weights) @ torch.tensor(pixels)
    torch.testing.assert_close(tokens[0, 5], pooled, rtol=1e-3, atol=1e-3)


def test_maps_are_cut_on_sides_that_differ_in_training_alone(monkeypatch):
    maps = np.arange(16 * 16).reshape(16, 1, 4, 4).repeat(CHANNELS, axis=1).astype(np.float16)
    data = Maps(maps, np.zeros((16, ANSWERS), np.float16), np.arange(16) % 10)
    seen = []
    forward = TwoHeads.forward
    monkeypatch.setattr(TwoHeads, "forward", lambda self, x: seen.append(x) or forward(self, x))
    network, _ = train(TRIALS["shifted"], data, epochs=24, seed=0)
    assert {x.shape for x in seen} == {(16, CHANNELS, 3, 3)}
    corners = {int(x[0, 0, 0, 0]) % 16 for x in seen[::2]}  # every other epoch is mirrored
    assert corners == {0, 1, 4, 5}
    validate(network, data)
    assert seen[-1].shape == (16, CHANNELS, 4, 4)


def test_a_head_reads_each_channel_of_each_token_with_its_own_weight():
    stage = stage_of("awake_read")
    weights = stage.blocks[1].transformer.reading
    maps = torch.randn(2, CHANNELS, 6, 6)
    tokens = stage(maps)[1]
    with torch.no_grad():
        weights[3, 5] *= 2
    again = stage(maps)[1]
    difference = again - tokens
    assert torch.equal(difference[:, 3, 5], tokens[:, 3, 5]) and difference.count_nonzero() == 2


def test_the_second_module_has_four_tokens_or_also_those_of_the_first():
    maps = torch.randn(2, CHANNELS, 6, 6)
    assert stage_of("few")(maps)[1].shape == (2, 4, TOKEN_DIM)
    stage, seen = stage_of("read_first"), []
    for block in stage.blocks:
        block.tokenizer.register_forward_hook(lambda _m, _args, out: seen.append(out))
        block.transformer.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    tokens = stage(maps)[1]
    _, (_, first), own, (read, out) = seen
    assert tokens is out and torch.equal(read, torch.cat([own, first], dim=1)) and read.shape[1] == 32


def test_muon_takes_the_weights_of_heads_or_leaves_them():
    network = TwoHeads(TRIALS["muon"].build())
    heads = {name for name, p in network.named_parameters() if p.ndim == 3}
    assert {name.rpartition(".")[2] for name in heads} == {"key_query", "query"}
    for muon, left in (("all", False), ("no heads", True)):
        optimizer = optimizer_of(network, muon, 3e-3)
        of_heads = [g for g in optimizer.param_groups if any(p.ndim == 3 for p in g["params"])]
        assert sum(len(g["params"]) for g in of_heads) == len(heads)
        assert type(optimizer).__name__ == "Muon" and all(g["nesterov"] for g in optimizer.param_groups)
        assert [bool(g.get("use_fallback")) for g in of_heads] == [left] * len(of_heads)
        assert all(bool(g.get("use_fallback")) is False for g in optimizer.param_groups if g not in of_heads)
    assert type(optimizer_of(network, TRIALS["vt"].muon, 3e-3)) is torch.optim.AdamW
    assert sum(len(g["params"]) for g in optimizer_of(TwoHeads(TRIALS["resnet"].build()), "all", 1.0).param_groups) > 9


@pytest.mark.parametrize("name", ["awake", "resnet", "one_filter"])
def test_a_trial_takes_the_maps_of_another_trunk(name):
    assert TwoHeads(TRIALS[name].build(112)).eval()(torch.randn(2, 112, 7, 7))[1].shape == (2, ANSWERS)


@pytest.mark.parametrize("name", ["mixed", "overlap", "resnet", "pooled", "awake_read", "few", "read_first", "muon"])
def test_training_moves_every_parameter(name):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, CHANNELS, 4, 4, generator=generator).half().numpy()
    answers = torch.randn(8, ANSWERS, generator=generator).half().numpy()
    torch.manual_seed(3)
    before = {key: value.clone() for key, value in TwoHeads(TRIALS[name].build()).named_parameters()}
    network, loss = train(TRIALS[name], Maps(maps, answers, torch.arange(8).numpy()), epochs=4, seed=3)
    assert 0 < loss < 20
    assert [key for key, value in network.named_parameters() if torch.equal(value, before[key])] == []


def test_photos_side_by_side_are_one_map_and_all_their_classes():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((12, 3, 2, 5)).astype(np.float16)
    answers = rng.standard_normal((12, ANSWERS)).astype(np.float16)
    labels = np.arange(12) % 10
    order = rng.permutation(12)[:11]  # three are left over
    ((seen, shares, of_photos, named),) = Maps(maps, answers, labels, grid=2).batches(order)
    assert seen.shape == (2, 3, 4, 10)
    for i in range(2):
        four = order[4 * i : 4 * i + 4]
        rows = [np.concatenate([maps[four[a]], maps[four[a + 1]]], axis=2) for a in (0, 2)]
        np.testing.assert_array_equal(seen[i].numpy(), np.concatenate(rows, axis=1))
        exponentials = np.exp(answers[four].astype(np.float64))
        expected = (exponentials / exponentials.sum(axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(shares[i].numpy(), expected, rtol=1e-3)
        assert of_photos[i].tolist() == labels[four].tolist()
        assert named[i].tolist() == answers[four].argmax(axis=1).tolist()


def test_found_is_the_share_of_the_classes_among_as_many_answers():
    logits = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 0, 5, 4]])
    assert share_found(logits, torch.tensor([[0, 2], [1, 1], [3, 2]])).tolist() == [0.5, 0, 1]
    assert share_found(logits, torch.tensor([0, 1, 2])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", ["few", "read_first"])
def test_a_stage_whose_modules_have_other_tokens_is_looked_into(name):
    maps = torch.randn(32, CHANNELS, 6, 6).half().numpy()
    data = Maps(maps, np.zeros((32, ANSWERS), np.float16), np.arange(32) % 10)
    found = look_inside(TwoHeads(TRIALS[name].build()).eval().stage, data)
    assert len(found["seen"]) == 2 and {row["module"] for row in found["ablations"] if row["part"]} >= {1, 2}
