"""`vt_timm.load`: from a name to an answer."""

import doctest
import io
import json
import shutil
import threading

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import vt_timm
from vt_timm.cli.shared import ahead
from vt_timm.errors import UserError
from vt_timm.export.fold_norms import fold_norms
from vt_timm.pipelines import answers, pipeline, sources
from vt_timm.pipelines.classification import ClassificationPipeline


@pytest.fixture(scope="module")
def model():
    return vt_timm.load("vt_resnet_micro")


@pytest.fixture
def pixels():
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((320, 240), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("module", [answers, pipeline, sources], ids=lambda module: module.__name__)
def test_examples_of_the_docstrings(module, tmp_path, monkeypatch):
    photos = tmp_path / "PHOTOS" / "church"
    photos.mkdir(parents=True)
    shutil.copy(vt_timm.sample_photo(), photos)
    monkeypatch.chdir(tmp_path)
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


def _batch_norms(network):
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name", ["vt_resnet18", "resnet18", "resnetv2_50", "efficientnet_lite0", "tf_efficientnet_lite0"]
)
def test_a_folded_classifier_answers_as_its_module(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # new norms do nothing, which would hide what is wrong
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    model = ClassificationPipeline(network)
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected = network(images)
    torch.testing.assert_close(model.run(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert model.network is not network and _batch_norms(model.network) < 0.6 * _batch_norms(network)
    assert not any(tensor.data_ptr() in {t.data_ptr() for t in network.buffers()} for tensor in model.network.buffers())


def test_a_convolution_that_something_else_reads_keeps_its_norm():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.other = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.bn(x) + self.other(x)

    assert _batch_norms(fold_norms(Shared().eval(), torch.zeros(1, 3, 4, 4))) == 2


def test_a_folded_segmenter_labels_as_its_module():
    model = vt_timm.load("vt_fpn_tf_efficientnet_lite0.ccp")
    photo = model.read(vt_timm.sample_photo("person"))
    with torch.inference_mode():
        expected = model.module(model.input(model.view(photo)))
    torch.testing.assert_close(model.run(model.input(model.view(photo))), expected, rtol=1e-3, atol=1e-3)
    assert model.network is not model.module and _batch_norms(model.network) < _batch_norms(model.module)


def test_photos_are_read_beside_and_none_of_those_read_is_waited_for_when_one_stops():
    begun, go_on = [], threading.Event()

    def read(number):
        begun.append(number)
        if number:
            go_on.wait(10)
        return number

    numbers = ahead(read, range(100), 16)
    assert next(numbers) == 0
    numbers.close()  # as Ctrl-C does
    go_on.set()
    assert len(begun) <= 2
