"""The overlap of tokens as a loss."""

import itertools
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.task import ClassificationTask

import vt_timm
from vt_timm import cli
from vt_timm.token_overlap import add_token_overlap, token_overlap

SMALL = dict(num_classes=3, layers=(1, 1, 1, 2))


@pytest.fixture
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("vt_resnet_micro", **SMALL)


@pytest.fixture
def task(model):
    return ClassificationTask(model=model, criterion=torch.nn.CrossEntropyLoss(), verbose=False)


def test_it_is_the_mean_cosine_of_two_maps():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, 4, 5, generator=generator), torch.rand(2, 6, 2, 2, generator=generator)]
    means = []
    for map_BLHW in maps:
        cosines = [
            F.cosine_similarity(one.flatten(), other.flatten(), dim=0)
            for tokens in map_BLHW
            for one, other in itertools.combinations(tokens, 2)
        ]
        means.append(torch.stack(cosines).mean())
    torch.testing.assert_close(token_overlap(maps), torch.stack(means).mean())


def test_it_is_0_for_maps_apart_and_1_for_equal_ones():
    apart = torch.eye(4).view(1, 4, 2, 2)
    assert token_overlap([apart]).item() == 0
    assert token_overlap([apart[:, :1].expand(1, 4, 2, 2)]).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="num_tokens must be at least 2"):
        token_overlap([apart[:, :1]])


def test_the_loss_of_the_task_grows_by_the_overlap_of_the_maps(task, model, images):
    labels = torch.tensor([0, 1, 2, 0])
    task.train()
    plain = task(images, labels)["loss"]
    add_token_overlap(task, model, 3.0)
    with vt_timm.record_attention(model) as maps:
        loss = task(images, labels)["loss"]
    torch.testing.assert_close(loss, plain + 3 * token_overlap(maps))
    task.eval()
    plain = F.cross_entropy(model(images), labels)
    torch.testing.assert_close(task(images, labels)["loss"], plain)


def test_training_on_it_draws_the_maps_of_filters_apart(task, model, images):
    """Those of the recurrent tokenizer behind them differ only as far as the tokens that it is given."""
    add_token_overlap(task, model, 100.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def overlap():
        with torch.no_grad(), vt_timm.record_attention(model) as maps:
            model(images)
        return token_overlap(maps[:1]).item()

    before = overlap()
    for _ in range(20):
        optimizer.zero_grad()
        task(images, torch.tensor([0, 1, 2, 0]))["loss"].backward()
        optimizer.step()
    assert overlap() < before / 2


@pytest.mark.parametrize(("weight", "hooks"), [("0.5", 1), ("0", 0)])
def test_vt_timm_run_puts_it_on_the_task(weight, hooks, tmp_path, capsys, monkeypatch):
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (48, 48), (60 * i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    monkeypatch.setattr(sys, "argv", sys.argv)
    stand_in = Path(__file__).parent / "support" / "stand_in_train.py"
    command = ["run", "--from", str(stand_in), "train", "--data-dir", str(tmp_path), "--start-epoch", "3"]
    assert cli.main([*command, "--token-overlap", weight]) == 0
    assert f"hooks on the task {hooks}\n" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"tokenizer": "pool", "recurrent": False}])
def test_a_model_without_learned_maps_is_refused(task, options):
    name = "vt_resnet_micro" if options else "resnet18"
    with pytest.raises(ValueError, match="has no tokens whose maps are learned"):
        add_token_overlap(task, timm.create_model(name, **options), 1.0)
