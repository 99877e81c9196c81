"""`vt_timm.load`: from a name to an answer."""

import doctest
import io
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import vt_timm
from vt_timm.errors import UserError
from vt_timm.pipelines import answers, sources


@pytest.fixture(scope="module")
def model():
    return vt_timm.load("vt_resnet_micro")


@pytest.fixture
def pixels():
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((320, 240), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("module", [answers, sources], ids=lambda module: module.__name__)
def test_examples_of_the_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_a_photo_in_any_form_gets_the_answer_of_timms_own_pipeline(model, pixels, tmp_path):
    photo = Image.fromarray(pixels)
    photo.save(tmp_path / "photo.png")
    network = timm.create_model("vt_resnet_micro", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=network, use_test_size=True))
    with torch.inference_mode():
        expected = network(transform(photo)[None]).softmax(dim=1)[0]
    forms = [tmp_path / "photo.png", str(tmp_path / "photo.png"), (tmp_path / "photo.png").read_bytes(), photo, pixels]
    for answer in [*map(model, forms), *model(forms), *model.answers(iter(forms), batch_size=2)]:
        assert answer.label == model.class_names[expected.argmax()]
        assert list(answer.scores.values()) == pytest.approx(expected.sort(descending=True)[0].tolist(), abs=1e-4)
        assert list(answer.shares) == list(answer.scores)[:5]


def test_an_answer_draws_itself_prints_and_goes_to_json(model, pixels, tmp_path):
    answer = model(pixels, topk=2)
    assert json.loads(answer.to_json())["top"][0]["class"] == answer.label
    assert len(str(answer).splitlines()) == 2 and answer.label in str(answer)
    for drawn in (answer, model.attention(pixels)):
        assert Image.open(io.BytesIO(drawn._repr_png_())).width > 300
        assert Image.open(drawn.save(tmp_path / "a.png")).width > 300


def test_maps_are_those_that_record_attention_gives(model, pixels):
    look = model.attention(pixels)
    with vt_timm.record_attention(model.module) as maps, torch.inference_mode():
        model.module(model.input(model.view(Image.fromarray(pixels))))
    assert look.modules == len(maps) == 2
    for ours, theirs in zip(look.maps, maps, strict=True):
        torch.testing.assert_close(ours, theirs[0])


def test_options_of_another_kind_are_refused(model, pixels):
    with pytest.raises(TypeError, match="window"):
        model(pixels, window=64)


def test_the_scores_of_a_class_whose_name_another_has_are_not_lost():
    network = timm.create_model("vt_resnet_micro", num_classes=3)
    network.pretrained_cfg = {**network.pretrained_cfg, "label_names": ["crane", "crane", "owl"]}
    from vt_timm.pipelines.classification import ClassificationPipeline

    answer = ClassificationPipeline(network.eval()).describe(Image.new("RGB", (8, 8)), torch.tensor([[1.0, 3.0, 2.0]]))
    assert [one["index"] for one in answer.top] == [1, 2, 0] and str(answer).count("crane") == 2
    assert answer.scores["crane"] == pytest.approx(answer.top[0]["probability"])


@pytest.mark.parametrize("name", ["output/min", "./output/min", "output/mine/deeper"])
def test_a_mistyped_folder_is_named_and_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    (tmp_path / "output" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match="no such file or folder" + ("; did you mean output/mine" * (len(name) < 13))):
        vt_timm.load(name)
