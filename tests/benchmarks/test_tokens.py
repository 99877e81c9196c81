"""What `benchmarks.tokens` says of a classifier's parts, against the same done by hand."""

import itertools
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from benchmarks import tokens
from benchmarks.common import records
from tests.support.samples import fill, spots, tell_apart
from vt_timm.errors import UserError

N, K, SIZE = 6, 4, 96
LABELS = torch.arange(N) % K


def photos():
    return spots(SIZE, batch=N)


def build(**options):
    return tell_apart(fill(timm.create_model("vt_resnet_micro", num_classes=K, **options)), photos())


def look(model):
    return tokens.look(model, [(photos()[:4], LABELS[:4]), (photos()[4:], LABELS[4:])])


def logits_without(stage, module, part, what):
    (hook,) = (hook for p, w, hook in tokens.ablations(stage, module) if (p, w) == (part, what))
    with torch.inference_mode():
        handle = hook()
        logits = stage.logits(module)
        handle.remove()
    return logits


def zero(*names):
    def edit(block):
        for name in names:
            nn.init.zeros_(block.get_parameter(name))

    return edit


def no_transformer(block):
    block.transformer = nn.Identity()


class MeanToken(nn.Module):
    """A tokenizer in front of which stands the mean of the tokens before it, or behind which stands that of its own."""

    def __init__(self, tokenizer, before):
        super().__init__()
        self.tokenizer, self.before = tokenizer, before

    def forward(self, feature, previous):
        same = lambda x: torch.stack([x.mean(dim=1)] * x.shape[1], dim=1)  # noqa: E731
        return self.tokenizer(feature, same(previous)) if self.before else same(self.tokenizer(feature, previous))


def mean_token(before):
    def edit(block):
        block.tokenizer = MeanToken(block.tokenizer, before)

    return edit


# What an ablation does by a hook is done here to the weights or modules of a second network.
SAME = [
    (0, "tokenizer", "maps flat", zero("tokenizer.filters.weight")),
    (1, "tokenizer", "maps flat", zero("tokenizer.to_filters.weight")),
    (0, "tokenizer", "tokens := their mean", mean_token(before=False)),
    (1, "tokenizer", "tokens := their mean", mean_token(before=False)),
    (1, "tokenizer", "fed the mean token", mean_token(before=True)),
    (0, "transformer", "removed", no_transformer),
    (1, "transformer", "removed", no_transformer),
    (0, "transformer", "eq. 4 removed (F2 = 0)", zero("transformer.f2.weight")),
    (0, "transformer", "even attention", zero("transformer.key_query")),
    (1, "transformer", "even attention", zero("transformer.key_query")),
    (0, "projector", "attention flat", zero("projector.query")),
    (0, "projector", "no update", zero("projector.bn.weight", "projector.bn.bias")),
]


@pytest.mark.parametrize(("module", "part", "what", "edit"), SAME)
def test_an_ablation_is_what_other_weights_would_be(module, part, what, edit):
    model = build()
    stage = look(model)
    without = logits_without(stage, module, part, what)
    whole = stage.logits(module)
    assert torch.allclose(whole, model(photos()), atol=1e-5)  # and the hook is gone
    assert not torch.allclose(without, whole, atol=1e-3)
    edit(model.vt_stage.blocks[module])
    with torch.inference_mode():
        assert torch.allclose(without, model(photos()), atol=1e-4)


def test_maps_replaced_by_their_mean_pool_the_mean_token():
    stage = look(build())
    for module in (0, 1):
        mean = logits_without(stage, module, "tokenizer", "tokens := their mean")
        assert torch.allclose(logits_without(stage, module, "tokenizer", "maps := their mean"), mean, atol=1e-4)


def test_without_eq_3_only_eq_4_is_left():
    model = build()
    block = model.vt_stage.blocks[1]
    stage = look(model)
    with torch.inference_mode():
        pooled = block.tokenizer(*stage.inputs[1])
        by_hand = pooled + torch.relu(pooled @ block.transformer.f1.weight.T) @ block.transformer.f2.weight.T
        expected = model.fc(by_hand.mean(dim=1))
    assert torch.allclose(logits_without(stage, 1, "transformer", "eq. 3 removed"), expected, atol=1e-4)


def test_tokens_of_other_photos_are_those_of_the_photo_before_or_of_all():
    model = build()
    stage = look(model)
    feature, previous = stage.inputs[1]
    for what, fed in (
        ("fed another photo's tokens", torch.stack([previous[i - 1] for i in range(N)])),
        ("fed the data set's mean tokens", torch.stack([previous.sum(dim=0) / N] * N)),
    ):
        with torch.inference_mode():
            expected = model.forward_head(model.vt_stage.blocks[1](feature, fed)[1])
        assert torch.allclose(logits_without(stage, 1, "tokenizer", what), expected, atol=1e-4)


def test_the_mean_over_the_pixels_is_what_is_left_of_an_update():
    model = build()
    stage = look(model)
    feature = stage.inputs[0][0]
    first, second = model.vt_stage.blocks
    with torch.inference_mode():
        given = first.transformer(first.tokenizer(feature))
        update = first.projector(feature, given) - feature
        everywhere = feature + update.flatten(2).mean(dim=2)[:, :, None, None]
        expected = model.forward_head(second(everywhere, given)[1])
    found = logits_without(stage, 0, "projector", "update := its mean over the pixels")
    assert torch.allclose(found, expected, atol=1e-4)


def test_shuffled_maps_keep_their_values():
    maps = torch.rand(2, 3, 4, 5)
    shuffled = tokens._shuffled(torch.Generator().manual_seed(0))((), maps)
    assert not torch.equal(shuffled, maps)
    assert torch.equal(shuffled.flatten(2).sort().values, maps.flatten(2).sort().values)


def test_differences_are_paired(monkeypatch):
    stage = look(build())
    of_all, of_one = torch.eye(K)[LABELS], torch.eye(K)[(LABELS + torch.tensor([0, 0, 0, 1, 1, 0])) % K]
    monkeypatch.setattr(stage, "logits", lambda module: of_all)
    monkeypatch.setattr(stage, "logits_of_one_token", lambda: [of_one] * 4 + [of_all])
    monkeypatch.setattr(tokens, "ablations", lambda stage, module: [])
    whole, best, median, worst = tokens.ablate(stage)
    assert (whole["top1"], best["difference"], best["standard_error"]) == (100, 0, 0)
    error = 100 * np.std([0, 0, 0, 1, 1, 0], ddof=1) / math.sqrt(N)
    for row in (median, worst):
        assert (row["top1"], row["difference"]) == (66.67, -33.33)
        assert row["standard_error"] == pytest.approx(error, abs=0.01)


def test_alike_pairs_are_those_that_correlate():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 5, 6, 7, generator=generator)
    maps[0, 3] = 2 * maps[0, 1] + 0.1  # the same place, another range
    maps[0, 4] = maps[0, 1] + 0.02 * torch.rand(6, 7, generator=generator)
    maps[1, 2] = 1 - maps[1, 0]  # the opposite place
    counted = []
    for image in maps.numpy():
        pairs = [np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9 for one, other in itertools.combinations(image, 2)]
        counted.append(sum(pairs) / len(pairs))
    assert counted == [0.3, 0.0]
    assert tokens.alike(maps).tolist() == pytest.approx(counted)


def test_figures_of_tokens_are_those_of_plain_loops():
    some = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for image, cosine, spread in zip(some.numpy(), tokens.cosine(some), tokens.spread(some), strict=True):
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(image, 2)]
        assert cosine.item() == pytest.approx(np.mean(cosines), abs=1e-5)
        assert spread.item() == pytest.approx(((image - image.mean(0)) ** 2).sum() / (image**2).sum(), abs=1e-5)
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert tokens.entropy(weights, dim=1).tolist() == pytest.approx([0.5, 1.0])


def test_a_peak_is_at_the_border_or_inside():
    maps = torch.zeros(1, 3, 4, 5)
    maps[0, 0, 0, 2] = maps[0, 1, 2, 4] = maps[0, 2, 1, 3] = 1
    assert tokens.on_border(maps).tolist() == [[True, True, False]]


def test_flat_softmaxes_look_flat():
    model = build()
    for block in model.vt_stage.blocks:
        zero("transformer.key_query")(block)
    zero("tokenizer.filters.weight", "projector.query")(model.vt_stage.blocks[0])
    first, second = look(model).seen
    for key in ("map_entropy", "cosine_tokenizer", "cosine_eq3", "cosine_transformer", "update_equal"):
        assert first[key] == pytest.approx(1, abs=1e-3)
    assert first["spread_tokenizer"] == pytest.approx(0, abs=1e-3)
    assert first["token_entropy"] == first["reading_entropy"] == second["token_entropy"] == 1
    assert first["token_on_itself"] == pytest.approx(1 / 16, abs=1e-4)
    assert first["border_chance"] == pytest.approx(20 / 36, abs=1e-4)
    assert first["update_norm"] > 0.01


OPTIONS = [
    dict(tokenizer="cluster", layers=(1, 1, 1, 3)),
    dict(tokenizer="pool", recurrent=False),
    dict(relation="graph", last_projector=True),
    dict(relation="none", projector=False),
    dict(tokenizer="pool", num_tokens=1, relation="none", projector=False, layers=(1, 1, 1, 1)),
    dict(global_pool="max"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_kind_of_classifier_is_described(options):
    stage = look(build(**options))
    rows = tokens.ablate(stage)
    assert [row["module"] for row in stage.seen] == list(range(1, len(stage.blocks) + 1))
    for module in range(1, len(stage.blocks) + 1):
        parts = {row["part"] for row in rows if row["module"] == module}
        block = stage.blocks[module - 1]
        assert ("projector" in parts) == (block.projector is not None)
        assert ("transformer" in parts) == (options.get("relation") != "none")
        fed = [row for row in rows if row["module"] == module and row["what"].startswith("fed")]
        assert len(fed) == (3 if module > 1 and options.get("recurrent", True) else 0)
    record = {"model": "m", "image_size": SIZE, "seen": stage.seen, "ablations": rows}
    assert len(tokens.ablation_table([record]).splitlines()) == 2 + len(
        {(r["part"], r["module"], r["what"]) for r in rows}
    )
    assert "nan" not in tokens.seen_table([record])


def write_photos(folder, labels):
    for label in labels:
        (folder / label).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (80, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.jpg")
    return folder


def test_the_command_records_both_tables_of_a_shipped_model(tmp_path, monkeypatch, capsys):
    folder = write_photos(tmp_path / "data" / "val", "abcdefghij")
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    command = ["x", "vt_resnet_micro", "--data", str(folder), "--photos", "7", "--size", "64", "--write"]
    monkeypatch.setattr("sys.argv", command)
    tokens.main()
    record = records.read_records(tokens.FILE)["vt_resnet_micro"]
    assert (record["photos"], record["image_size"], record["data"]) == (7, 64, "data")
    assert len(record["seen"]) == 2 and record["ablations"][0]["what"] == "nothing"
    assert tokens.ablation_table([record]) in capsys.readouterr().out


def test_of_a_thousand_classes_those_with_a_folder_are_asked_for(tmp_path):
    """n01440764 is ImageNet's first class, n03888257 its 702nd."""
    photos = {name: write_photos(tmp_path / "val", [name]) for name in ("n01440764", "n03888257")}
    model = timm.create_model("vt_resnet_micro", num_classes=1000).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)[:, [0, 701]]
    tokens.keep_classes(model, sorted(photos), "m")
    torch.testing.assert_close(model(images), expected)
    with pytest.raises(UserError, match="m has 2 classes, and not those of the 1 folders"):
        tokens.keep_classes(model, ["church"], "m")


def test_records_of_runs_stand_apart_from_those_of_what_ships(monkeypatch):
    monkeypatch.setattr(tokens, "read_records", lambda file: {"vt_resnet18": {"of": 1}, "awake_seed42": {"of": 2}})
    assert tokens.recorded(ships=True) == [{"of": 1}] and tokens.recorded(ships=False) == [{"of": 2}]


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    folder = write_photos(tmp_path / "val", "ab")
    for model, data, said in (
        ("vt_resnet_micro", folder, "10 classes"),
        ("vt_resnet_micro", tmp_path / "none", "no such folder"),
        ("vt_resnet_mikro", folder, "did you mean vt_resnet_micro"),
    ):
        monkeypatch.setattr("sys.argv", ["x", model, "--data", str(data)])
        with pytest.raises(SystemExit):
            tokens.main()
        assert said in capsys.readouterr().err
