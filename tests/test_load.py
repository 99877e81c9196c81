"""`vt_timm.load`: from a name to an answer."""

import copy
import doctest
import io
import json
import math
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.utils import accuracy

import vt_timm
from vt_timm import attention_maps, distillation, images, vt_resnet
from vt_timm.cli.shared import ahead
from vt_timm.errors import UserError
from vt_timm.export.write_file import describe
from vt_timm.folding.fold import fold_norms
from vt_timm.pipelines import answers, classification, pipeline, segmentation, sources
from vt_timm.pipelines.classification import ClassificationPipeline
from vt_timm.run_files import SETTINGS
from vt_timm.segmentation import model as segmenters
from vt_timm.weights.published import HUB, name_of_folder


@pytest.fixture(scope="module")
def model():
    return vt_timm.load("vt_resnet_micro")


@pytest.fixture
def pixels():
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((320, 240), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "module",
    [
        answers,
        attention_maps,
        classification,
        distillation,
        images,
        pipeline,
        segmentation,
        segmenters,
        sources,
        vt_resnet,
    ],
    ids=lambda module: module.__name__,
)
def test_examples_of_the_docstrings(module, tmp_path, monkeypatch):
    photos = tmp_path / "PHOTOS" / "church"
    photos.mkdir(parents=True)
    shutil.copy(vt_timm.sample_photo(), photos)
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_what_kind_a_model_is_is_asked_in_one_folder():
    """Whatever has a kind answers by itself: nobody else looks at its class, its network or its config."""
    question = re.compile(
        r"[\"']neck[\"'] (not )?in|isinstance\([^)]*(Pipeline|Segmenter|OnnxFile|SegmenterRun|TrainRun)\b"
        r"|model\.kind|\)\.module\b"
    )
    root = Path(vt_timm.__file__).parents[1]
    files = [path for folder in ("vt_timm", "benchmarks", "hub") for path in (root / folder).rglob("*.py")]
    found = {path.parent.name for path in files if question.search(path.read_text(encoding="utf-8"))}
    assert len(files) > 100 and found == {"pipelines"}


def test_a_score_tells_top_5_of_more_than_five_classes_as_timm_counts_it(model, pixels, tmp_path):
    for i, name in enumerate(model.class_names):
        (tmp_path / name).mkdir()
        Image.fromarray(np.roll(pixels, 40 * i, axis=1)).save(tmp_path / name / "photo.png")
    network = timm.create_model("vt_resnet_micro", pretrained=True).eval()
    dataset = create_dataset("", root=str(tmp_path), transform=create_transform(**model.config))
    folders = sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get)
    label = torch.tensor([model.class_names.index(folders[target]) for _, target in dataset])
    with torch.inference_mode():
        expected = accuracy(network(torch.stack([image for image, _ in dataset])), label, topk=(1, 5))
    assert list(model.score(tmp_path).values()) == pytest.approx([value.item() for value in expected])
    three = ClassificationPipeline(timm.create_model("vt_resnet_micro", num_classes=3).eval())
    for name in folders[3:]:
        shutil.rmtree(tmp_path / name)
    assert list(three.score(tmp_path)) == ["top-1"]


def write_folders(root, names, number=1):
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (8, 8)).save(root / name / f"{i}.png")


def labels_of(model, root):
    return {path.parent.name: label for path, label in model.validation(str(root)).labels.items()}


def named(*names, architecture="vt_resnet_micro"):
    network = timm.create_model(architecture, num_classes=len(names)).eval()
    network.pretrained_cfg = {**network.pretrained_cfg, "label_names": list(names)}
    return ClassificationPipeline(network)


@pytest.mark.parametrize("architecture", ["vt_resnet_micro", "resnet10t"])  # timm's own keeps the names of the old one
def test_after_a_new_head_the_names_are_its_own_wherever_they_are_read(architecture, tmp_path):
    model = named("cat", "dog", "fox", architecture=architecture)
    model.module.reset_classifier(2)
    assert model.class_names == ["class 0", "class 1"] == json.loads(describe(model, "float32")["vt_timm.class_names"])
    write_folders(tmp_path, ["cat", "dog"])
    assert labels_of(model, tmp_path) == {"cat": 0, "dog": 1}  # in timm's order
    write_folders(tmp_path, ["fox"])
    with pytest.raises(UserError, match=r"are not the model's 2 classes \(class 0, class 1\)"):
        model.score(tmp_path)
    with pytest.raises(ValueError, match="the teacher's 2 classes have no names"):
        distillation.teacher_classes(model.module, ["dog", "cat"])

    segmenter = segmentation.SegmentationPipeline(segmenters.create_segmenter("fpn", "resnet18", num_classes=2))
    segmenter.module = segmenters.create_segmenter("fpn", "resnet18", num_classes=3, class_names=["sky", "a", "b"])
    assert segmenter.class_names == ["sky", "a", "b"]


def test_folders_get_the_classes_that_they_are_called(tmp_path):
    numbers = [str(i) for i in range(12)]
    write_folders(tmp_path / "numbers", numbers)
    without_names = ClassificationPipeline(timm.create_model("vt_resnet_micro", num_classes=12).eval())
    assert labels_of(without_names, tmp_path / "numbers") == {name: int(name) for name in numbers}  # 2 before 10
    write_folders(tmp_path / "some", ["dog", "__MACOSX", ".cache"])
    (tmp_path / "some" / "cat").mkdir()  # without a photo
    assert labels_of(named("cat", "dog", "fox"), tmp_path / "some") == {"dog": 1}
    write_folders(tmp_path / "wordnet", ["n01440764", "n02102040"])
    described = labels_of(named("English springer", "tench"), tmp_path / "wordnet")  # as an ONNX file calls them
    assert described == {"n01440764": 1, "n02102040": 0}
    thousand = ClassificationPipeline(timm.create_model("vt_resnet_micro").eval())  # ImageNet's, which no config names
    assert labels_of(thousand, tmp_path / "wordnet") == {"n01440764": 0, "n02102040": 217}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "val"], r"its folders \(train, val\) are not the model's 2 classes \(cat, dog\)"),
        (["Hund", "Katze"], r"its folders \(Hund, Katze\) are not the model's 2 classes"),
        (["cat", "dog", "fox"], r"its folders \(cat, dog, fox\) are not"),
        ([], r"its folders \(none\) are not"),
    ],
)
def test_folders_of_other_classes_are_not_scored(folders, message, tmp_path):
    """As many folders as classes are no reason to number them."""
    write_folders(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        named("cat", "dog").score(tmp_path)


def test_a_score_leaves_out_what_cannot_be_read(tmp_path, capsys):
    model = named("cat", "dog")
    write_folders(tmp_path, ["cat", "dog"], 2)
    whole = model.score(tmp_path)
    (tmp_path / "cat" / "2.jpg").write_bytes(b"no photo")
    assert model.score(tmp_path) == whole and "2.jpg: cannot read this image" in capsys.readouterr().err
    for photo in tmp_path.rglob("*.png"):
        photo.write_bytes(b"no photo")
    with pytest.raises(UserError, match="none of the images could be read"):
        model.score(tmp_path)


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


def test_answers_and_looks_are_equal_if_they_say_the_same(model, pixels):
    labels, photo = torch.tensor([[0, 1], [1, 1]]), Image.new("RGB", (2, 2))
    answer, same, other = (
        segmentation.Segmentation(photo, ["sky", "a"], {"a": 0.75, "sky": 0.25}, labels=one)
        for one in (labels, labels.clone(), 1 - labels)
    )
    assert answer == same and answer != other and same in [other, answer] and answer != "a"
    assert model(pixels) == model(pixels) != model(255 - pixels)
    assert model.attention(pixels) == model.attention(pixels) != model.attention(255 - pixels)


def test_maps_and_outputs_are_plain_tensors(model, pixels):
    weight = torch.ones(1, requires_grad=True)
    view = model.input(model.view(Image.fromarray(pixels)))
    for plain in (model.attention(pixels).maps[0], model.run(view), model.run(view, model.fold())):
        (weight * plain).sum().backward()


@pytest.mark.parametrize(("least", "unsure"), [(0.99, True), (0.01, False), (None, None)])
def test_an_answer_below_the_threshold_of_the_config_says_that_it_is_unsure(least, unsure, pixels):
    notes = () if least is None else (f"unsure_below={least}",)
    module = timm.create_model("vt_resnet_micro", num_classes=3, pretrained_cfg_overlay={"notes": notes}).eval()
    answer = ClassificationPipeline(module)(pixels)
    assert answer.to_dict().get("unsure") is unsure and answer.unsure is bool(unsure)
    assert (str(answer).splitlines()[-1] == "  unsure: below 99 %") is bool(unsure)


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


@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_a_name_with_the_slash_of_a_folder_is_that_of_the_folder_or_of_what_ships(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sources.resolve(f"{name}/") == sources.resolve(name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="holds neither a model"):
        sources.resolve(f"{name}/")


@pytest.mark.parametrize("network", [None, torch.nn.Identity()])
def test_what_is_no_name_is_not_loaded(network):
    with pytest.raises(TypeError, match="save a network, and name its folder"):
        vt_timm.load(network)


@pytest.mark.parametrize("name", ["output/min", "./output/min", "output/min/", "output/mine/deeper"])
def test_a_mistyped_folder_is_named_and_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    (tmp_path / "output" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match="no such file or folder" + ("; did you mean output/mine" * (len(name) < 13))):
        vt_timm.load(name)


def _batch_norms(network):
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    # resnetv2_50's 16 blocks begin with a norm of a sum, and so does its head: no convolution alone comes before those.
    [("vt_resnet34", 0), ("resnet18", 0), ("resnetv2_50", 17), ("efficientnet_lite0", 0), ("tf_efficientnet_lite0", 0)],
)
def test_a_folded_classifier_answers_as_its_module(name, left):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # new norms do nothing, which would hide what is wrong
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, 64, 64), "test_input_size": None}
    model, images = ClassificationPipeline(network), torch.randn(2, 3, 64, 64)
    exact = ClassificationPipeline(copy.deepcopy(network).double())
    with torch.inference_mode():
        expected = exact.module(images.double())
        torch.testing.assert_close(
            exact.fold()(images.double()), expected, rtol=0, atol=1e-8 * expected.abs().max().item()
        )
    # In float32 rounding alone moves the outputs of a random network of 34 layers by a thousandth and more.
    within = (0.02 if name == "vt_resnet34" else 1e-4) * expected.abs().max().item()
    quicker = model.fold()
    torch.testing.assert_close(model.run(images, quicker).double(), expected, rtol=0, atol=within)
    assert quicker is not network and _batch_norms(quicker) == left
    assert not any(tensor.data_ptr() in {t.data_ptr() for t in network.buffers()} for tensor in quicker.buffers())


@pytest.mark.parametrize("folded", [True, False])
def test_the_network_sees_photos_in_the_order_in_which_convolutions_are_fast(folded):
    model = vt_timm.load("vt_resnet_micro")
    seen = []
    network = model.fold() if folded else model.module
    network.register_forward_pre_hook(lambda module, args: seen.extend(args))
    batch = model.example()
    assert not batch.is_contiguous(memory_format=torch.channels_last)
    output = model.run(batch, network)
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and torch.equal(seen[0], batch)
    with torch.inference_mode():
        assert torch.allclose(output, network(batch), atol=1e-5)


def _zero(weight):
    weight.detach().numpy()[:] = 0


CHANGES = {
    "state dict": lambda m: m.load_state_dict(timm.create_model("vt_resnet_micro", num_classes=10).state_dict()),
    "in place": lambda m: torch.no_grad()(m.fc.weight.zero_)(),
    "data": lambda m: m.layer1[0].conv1.weight.data.mul_(3),
    "as an array": lambda m: _zero(m.layer2[0].bn1.weight),
    "hook": lambda m: m.layer3.register_forward_hook(lambda module, args, output: output * 2),
    "activation": lambda m: setattr(m, "act1", torch.nn.Sigmoid()),
    "constant": lambda m: setattr(m.bn1, "eps", 0.5),
    "forward": lambda m: setattr(m, "forward", lambda x: timm.models.ResNet.forward(m, x) * 2),
    "head": lambda m: m.reset_classifier(3),
}


@pytest.mark.parametrize("change", [*CHANGES, "fused step", "module"])
def test_an_answer_is_of_the_network_as_it_is_now(change, pixels, monkeypatch):
    """One photo or many, whatever was folded before; neither versions nor addresses of tensors tell of every change."""
    monkeypatch.setattr(pipeline, "FOLDED_AFTER", 1)
    model, photo = vt_timm.load("vt_resnet_micro"), Image.fromarray(pixels)
    before = [answer.scores for answer in model([photo, photo], batch_size=1)][1]
    assert model(photo).scores == pytest.approx(before, abs=1e-5)
    if change == "module":
        model.module = timm.create_model("vt_resnet_micro", num_classes=10).eval()
    elif change == "fused step":
        optimizer = torch.optim.SGD(model.module.parameters(), lr=1e-3, fused=True)
        model.module(model.example()).square().sum().backward()
        optimizer.step()
    else:
        CHANGES[change](model.module)
    with torch.no_grad():
        expected = model.module(model.input(model.view(photo))).softmax(dim=1)[0].tolist()
    expected = {name: pytest.approx(p, abs=1e-5) for name, p in zip(model.class_names, expected, strict=True)}
    after = [model(photo), *model([photo, photo], batch_size=1), model.attention(photo).answer]
    assert [answer.scores for answer in after] == 4 * [expected] and before != expected
    if change == "head":
        assert sorted(expected) == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("name", ["vt_resnet_micro", "resnet18", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_many_photos_of_one_call_are_folded_and_few_are_not(name, pixels, monkeypatch):
    monkeypatch.setattr(pipeline, "FOLDED_AFTER", 2)
    module = timm.create_model(name, num_classes=3).eval() if name == "resnet18" else vt_timm.load(name).module
    model, options = sources.pipeline_of(module), {}
    options = {"batch_size": 1} if model.kind == "classifier" else {"scales": [0.25]}
    folded, fold = [], model.fold
    monkeypatch.setattr(model, "fold", lambda: folded.append(fold()) or folded[-1])
    few = model([pixels, pixels], **options)
    assert not folded
    many = model([pixels] * 4, **options)
    assert len(folded) == 1 and folded[0] is not model.module
    for answer in many:
        assert answer.shares == pytest.approx(few[0].shares, abs=1e-4)


@pytest.mark.parametrize("number", [1, 3])
def test_who_records_attention_around_a_call_gets_that_of_the_photo(number, pixels, monkeypatch):
    monkeypatch.setattr(pipeline, "FOLDED_AFTER", 0)
    model = vt_timm.load("vt_resnet_micro")
    expected = model.attention(pixels).maps
    with vt_timm.record_attention(model.module) as maps:
        model([pixels] * number, batch_size=1)
    model([Image.new("RGB", (64, 64))] * 2)
    for found, map_ in zip(maps, expected, strict=True):
        torch.testing.assert_close(found[0], map_, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_a_network_that_is_being_trained_answers_in_eval_mode_and_trains_on(name, pixels, monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "FOLDED_AFTER", 1)
    model = vt_timm.load(name)
    expected, state = model(pixels), copy.deepcopy(model.module.state_dict())
    model.module.train()
    next(m for m in model.module.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()  # frozen, as some do
    modes = [module.training for module in model.module.modules()]
    for answer in (model(pixels), *model([pixels] * 2), model.attention(pixels).answer):
        assert answer.shares == pytest.approx(expected.shares, abs=1e-4)
    if name == "vt_resnet_micro":
        model.export(tmp_path / "m.pt2")
    assert [module.training for module in model.module.modules()] == modes
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, state[key])


def test_parts_that_are_in_train_mode_on_purpose_stay_so(pixels):
    """Dropout at inference, as for an estimate of doubt."""
    model = vt_timm.load("vt_resnet_micro")
    model.module.act1 = torch.nn.Sequential(model.module.act1, torch.nn.Dropout().train())
    assert model(pixels).scores != model(pixels).scores


@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_resnet18", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_autocast_around_a_call_changes_nothing_after_it(name, pixels, monkeypatch):
    monkeypatch.setattr(pipeline, "FOLDED_AFTER", 1)
    model = vt_timm.load(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model([pixels] * 3, **({"batch_size": 1} if model.kind == "classifier" else {"scales": [0.25]}))
        folded = model.fold()
    assert model(pixels).shares == vt_timm.load(name)(pixels).shares
    images = model.example()
    torch.testing.assert_close(model.run(images, folded), model.run(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("value", "classes"), [(math.inf, [3]), (-math.inf, range(10))])
def test_an_infinite_answer_is_none(value, classes, pixels):
    model = vt_timm.load("vt_resnet_micro")
    with torch.no_grad():
        model.module.fc.bias[list(classes)] = value
    with pytest.raises(UserError, match="answers with infinity"):
        model(pixels)


def test_a_class_may_be_kept_out(pixels):
    model = vt_timm.load("vt_resnet_micro")
    best = model(pixels).label
    with torch.no_grad():
        model.module.fc.bias[model.class_names.index(best)] = -math.inf
    answer = model(pixels)
    assert (
        answer.scores[best] == 0 and answer.label != best and sum(answer.scores.values()) == pytest.approx(1, abs=1e-4)
    )


class WithoutMemory(torch.Tensor):
    """As a tensor of torchao's, which is made of others."""

    def data_ptr(self):
        raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")


def test_weights_without_memory_of_their_own_answer_too(pixels):
    model, photo = vt_timm.load("vt_resnet_micro"), Image.fromarray(pixels)
    expected = model(photo).scores
    model.module.fc.weight = torch.nn.Parameter(model.module.fc.weight.detach().as_subclass(WithoutMemory))
    assert model(photo).scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_a_model_answers_in_any_precision(name, dtype, pixels):
    model = vt_timm.load(name)
    photo = Image.fromarray(pixels)
    options = {} if model.kind == "classifier" else {"scales": [0.25]}
    expected, checksum = model(photo, **options), model.checksum
    model.module.to(dtype)
    answer = model(photo, **options)
    if model.kind == "classifier":
        assert answer.scores == pytest.approx(expected.scores, abs=0.03)
        assert model.attention(photo).answer.label == answer.label
    else:
        assert (answer.labels == expected.labels).double().mean() > 0.98
    assert model.checksum != checksum and len(model.checksum) == len(checksum)


def test_photos_on_several_threads_keep_their_own_attention(model):
    photos = [Image.effect_noise((64, 64), 20 + 30 * i).convert("RGB") for i in range(4)] * 4
    alone = [model.attention(photo).maps for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        together = [look.maps for look in pool.map(model.attention, photos)]
    assert all(
        torch.equal(a, b) for maps, again in zip(alone, together, strict=True) for a, b in zip(maps, again, strict=True)
    )
    assert not torch.equal(alone[0][0], alone[1][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": 0}, "module 0: there are modules 1 to 2"),
        ({"module": 3}, "module 3: there are modules 1 to 2"),
        ({"tokens": [0]}, "token 0: there are tokens 1 to 16"),
        ({"tokens": [1, 17]}, "token 17: there are tokens 1 to 16"),
        ({"tokens": []}, "name one at least"),
    ],
)
def test_tokens_and_modules_that_there_are_not_are_not_drawn(options, message, model, pixels):
    with pytest.raises(ValueError, match=message):
        model.attention(Image.fromarray(pixels)).draw(**options)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"topk": 0}, {"topk": 2.5}])
def test_numbers_below_one_lose_no_photo(options, model, pixels):
    with pytest.raises(ValueError, match=r"must be a whole number of at least 1"):
        model([pixels, pixels], **options)


def test_a_model_without_classes_has_tokens_and_no_answer(pixels):
    model = ClassificationPipeline(timm.create_model("vt_resnet_micro", num_classes=0).eval(), "headless")
    with pytest.raises(UserError, match="headless has no classes"):
        model(pixels)
    assert model.attention(pixels).draw().axes


@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_fpn_tf_efficientnet_lite0.ccp"])
def test_an_answer_that_is_no_number_is_said(name, pixels, tmp_path):
    model = vt_timm.load(name)
    with torch.no_grad():
        list(model.module.parameters())[-1].fill_(float("nan"))  # the bias of the last layer
    with pytest.raises(UserError, match=r"no numbers \(NaN\)"):
        model(pixels, **({"scales": [0.25]} if model.kind == "segmenter" else {}))
    if model.kind == "classifier":
        write_folders(tmp_path, model.class_names)
        with pytest.raises(UserError, match=r"no numbers \(NaN\)"):
            model.score(tmp_path)


def test_classes_of_one_name_share_the_larger_probability(pixels):
    model = named("crane", "crane", *(f"class {i}" for i in range(8)))
    answer = model.describe(Image.fromarray(pixels), torch.tensor([[5.0, 3.0, *[0.0] * 8]]))
    assert answer.shares["crane"] == answer.scores["crane"] == answer.top[0]["probability"]
    assert answer.caption == f"crane {100 * answer.top[0]['probability']:.0f} %"


def test_parts_of_one_name_are_counted_together():
    module = segmenters.create_segmenter("fpn", "resnet18", num_classes=3, class_names=np.array(["sky", "a", "a"]))
    model = segmentation.SegmentationPipeline(module)
    labels = torch.tensor([[0, 1, 2, 2]])
    answer = model._described(Image.new("RGB", (4, 1)), labels)
    assert answer.shares == {"a": 0.75, "sky": 0.25} and answer.to_dict()["shares"] == {"sky": 0.25, "a": 0.75}


def test_a_default_device_of_the_users_changes_nothing(model, pixels, tmp_path):
    (tmp_path / model.class_names[0]).mkdir()
    Image.fromarray(pixels).save(tmp_path / model.class_names[0] / "a.png")
    expected = model.score(tmp_path), model.example()
    with torch.device("meta"):  # as torch.set_default_device("cuda") would
        found = model.score(tmp_path), model.example()
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])


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
    folded = model.fold()
    torch.testing.assert_close(model.run(model.input(model.view(photo)), folded), expected, rtol=1e-3, atol=1e-3)
    assert folded is not model.module and _batch_norms(folded) < _batch_norms(model.module)


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


@pytest.mark.parametrize("file", ["config.json", "segmentation.yaml"])
def test_a_folder_called_as_a_segmenter_that_ships_is_said_not_to_be_meant(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "vt_fpn_tf_efficientnet_lite0.ccp"
    Path(name).mkdir()
    assert sources.resolve(name).kind == "segmenter" and not capsys.readouterr().err
    Path(name, SETTINGS if file != "config.json" else file).write_text('{"neck": "vt_fpn"}')
    assert sources.resolve(name).place == str(HUB / name)
    assert f"the folder here is called ./{name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "name"),
    [("vt_resnet18", "./vt_resnet18"), ("vt_resnet18.mine", "vt_resnet18.mine"), ("resnet18", "./resnet18"),
     ("vt_fpn_tf_efficientnet_lite0.ccp", "./vt_fpn_tf_efficientnet_lite0.ccp"),
     ("output/vt_resnet18", "output/vt_resnet18"), (Path("mine"), "mine")],
)  # fmt: skip
def test_the_name_that_is_printed_for_a_folder_loads_the_folder(folder, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    Path(folder, "config.json").write_text('{"architecture": "vt_resnet_micro"}')
    assert name_of_folder(folder) == name and Path(sources.resolve(name).place.removeprefix("local-dir:")).is_dir()


@pytest.mark.parametrize("holds", ["", "photos", "config.json", "args.yaml"])
def test_a_folder_of_its_name_does_not_take_a_models_place(holds, tmp_path, monkeypatch, capsys):
    """An empty folder called vt_resnet18 broke every command's default, and a run in it answered in its place."""
    monkeypatch.chdir(tmp_path)
    for name in ("vt_resnet_micro", "vt_resnet_micro.mine"):
        Path(name).mkdir()
        if holds:
            Path(name, holds).write_text('{"architecture": "vt_resnet_micro"}')
    found = sources.resolve("vt_resnet_micro")
    assert (found.kind, found.place) == ("classifier", "vt_resnet_micro")
    assert ("the folder here is called ./vt_resnet_micro" in capsys.readouterr().err) == ("." in holds)
    if "." in holds:
        kind = {"config.json": "classifier", "args.yaml": "run"}[holds]
        for name in ("./vt_resnet_micro", "local-dir:vt_resnet_micro", "vt_resnet_micro.mine"):  # no tag of ours
            assert sources.resolve(name).kind == kind


@pytest.mark.parametrize("size", [(2, 400), (400, 2), (100, 300), (40, 700)])
def test_a_picture_to_draw_on_shows_what_is_seen_and_takes_no_more_work_the_thinner_a_photo_is(size, monkeypatch):
    """Of a thin photo, three times as large, a part in a hundred was kept."""
    model, resize, areas = vt_timm.load("vt_resnet_micro"), Image.Image.resize, []

    def noted(self, to, *args, **options):
        areas.append(math.prod(to))
        return resize(self, to, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    photo = resize(Image.effect_noise((4, 4), 90).convert("RGB"), size, Image.Resampling.BICUBIC)
    view, seen = model.view(photo), max(areas)
    areas.clear()
    drawn = model.display(photo)
    assert max(areas) <= (seen if max(size) > 16 * min(size) else 9.1 * seen)
    assert drawn.size == (3 * view.width, 3 * view.height)
    small = np.asarray(resize(drawn, view.size, Image.Resampling.BOX)).astype(int)
    assert abs(small - np.asarray(view)).mean() < 2
