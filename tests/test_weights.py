"""Weights: those that ship, every way in which some can be wrong, and stem and stages 1-3 from a ResNet."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from timm.models import save_for_hf

from benchmarks.accuracy.runs import accuracy_of, arguments_of
from benchmarks.common.records import read_records
from tests.support.samples import STORED, fill, sample_probabilities
from vt_timm.images import read_image, sample_photo
from vt_timm.pipelines.classification import ClassificationPipeline
from vt_timm.pipelines.segmentation import SCALES, segment
from vt_timm.pipelines.sources import load as load_pipeline
from vt_timm.segmentation.model import load_segmenter
from vt_timm.weights.published import HUB, published_segmenters

ROOT = Path(__file__).parents[1]
SHIPPED = ["vt_resnet18.robust_imagenette", "vt_resnet_micro.muon_imagenette"]
SEGMENTER = "vt_fpn_tf_efficientnet_lite0.ccp"
MICRO = "vt_resnet_micro"


@pytest.fixture
def folder(tmp_path):
    """A private copy of the shipped micro model, to spoil."""
    return Path(shutil.copytree(HUB / "vt_resnet_micro.muon_imagenette", tmp_path / "model"))


def load(folder, **kwargs):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs)


def test_the_list_of_shipped_models_is_complete():
    assert sorted(p.parent.name for p in HUB.glob("*/config.json")) == sorted([SEGMENTER, *SHIPPED])
    assert sorted(timm.list_pretrained("vt_resnet*")) == SHIPPED
    packaged = re.findall(r'^"hub/(.*)" = "vt_timm/hub/\1"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert sorted(packaged) == sorted([SEGMENTER, *SHIPPED])


def test_the_shipped_segmenter_loads_without_a_network_and_labels_a_photo():
    assert list(published_segmenters()) == [SEGMENTER]
    folder = published_segmenters()[SEGMENTER]
    assert (folder / "model.safetensors").stat().st_size < 22e6
    model = load_segmenter(folder)
    assert (model.neck_name, model.num_classes, len(set(model.class_names))) == ("vt_fpn", 12, 12)
    photo = read_image(sample_photo("person"))
    labels = segment(model, photo, model.short_side, scales=SCALES)
    share = {name: (labels == i).float().mean().item() for i, name in enumerate(model.class_names)}
    assert labels.shape == (photo.height, photo.width) and share["skin"] > 0.1 and 0.5 < share["background"] < 0.75


@pytest.mark.parametrize("name", SHIPPED)
def test_pretrained_by_name_by_tag_and_by_folder_are_the_same(name):
    x = torch.randn(1, 3, 128, 128)
    sources = (name, name.split(".")[0], f"local-dir:{HUB / name}")
    models = [timm.create_model(source, pretrained=True).eval() for source in sources]
    with torch.no_grad():
        first, *others = [model(x) for model in models]
    assert first.shape == (1, 10)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    stored = safetensors.torch.load_file(HUB / name / "model.safetensors")
    state = models[0].state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(state[k], v.to(state[k].dtype)) for k, v in stored.items())


@pytest.mark.parametrize("name", SHIPPED)
def test_config_says_what_the_model_needs(name):
    config = timm.get_pretrained_cfg(name)
    assert config.num_classes == len(config.label_names) == len(config.label_descriptions) == 10
    assert config.label_descriptions["n03028079"] == "church"
    saved = json.loads((HUB / name / "config.json").read_text())
    assert "num_classes" not in saved.get("model_args", {}), "transformers' AutoModel rejects it there"
    assert config.input_size[1] >= 128


@pytest.mark.parametrize("name", SHIPPED)
def test_config_is_that_of_the_training_and_of_the_measurement(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    record, trained = accuracy_of(name), arguments_of(name)
    assert list(config["test_input_size"]) == record["input_size"]
    assert (config["crop_pct"], config["interpolation"]) == (record["crop_pct"], record["interpolation"])
    seen = timm.data.resolve_data_config({**trained, "img_size": None}, pretrained_cfg={}, verbose=False)
    assert (tuple(config["mean"]), tuple(config["std"])) == (seen["mean"], seen["std"])
    # timm's ordinary two lines read this one: they give the accuracy that the card claims.
    model = timm.create_model(name, pretrained=True)
    assert list(timm.data.resolve_model_data_config(model)["input_size"]) == record["input_size"]


@pytest.mark.parametrize("name", SHIPPED)
def test_classes_are_called_what_wordnet_calls_them(name):
    """ImageFolder counts classes by the sorted names of their folders; timm knows what these WordNet ids mean."""
    config = timm.get_pretrained_cfg(name)
    assert list(config.label_names) == sorted(config.label_descriptions)
    synsets = timm.data.ImageNetInfo()
    for wordnet_id, called in config.label_descriptions.items():
        known = synsets.label_name_to_description(wordnet_id).lower()
        assert called.lower() in known.split(", "), (called, known)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_sample_is_seen_as_before(name):
    """Run `python -m tests.support.store_outputs` with new weights."""
    stored = json.loads(STORED.read_text())["sample"][name]
    assert sample_probabilities(name) == pytest.approx(stored, abs=0.005)
    assert max(stored, key=stored.get) == "church"  # a Chinese temple: of the ten classes, the nearest


def test_the_segmenters_config_is_that_of_its_record_and_its_backbone():
    config = json.loads((HUB / SEGMENTER / "config.json").read_text())
    record = read_records("segmentation/shipped.json")[SEGMENTER]
    assert config["class_names"] == list(record["settings"]["classes"])
    assert config["short_side"] == record["settings"]["eval_size"]
    backbone = timm.get_pretrained_cfg(config["backbone"])
    assert config["colours"] == {"mean": list(backbone.mean), "std": list(backbone.std)}
    model = load_segmenter(published_segmenters()[SEGMENTER])
    assert model.normalization == {"mean": backbone.mean, "std": backbone.std}


@pytest.mark.parametrize("name", SHIPPED)
def test_card_says_what_was_measured(name):
    record = accuracy_of(name)
    card = ModelCard.load(HUB / name / "README.md", ignore_metadata_errors=False)
    metrics = {r.metric_name: r.metric_value for r in card.data.eval_results}
    assert metrics == {"top-1": record["top1"], "top-5": record["top5"]}
    assert f"top-1 {record['top1']:.2f} %" in card.text
    assert record["images"] == 3925


def test_snippet_of_the_card_runs(tmp_path):
    text = (HUB / "vt_resnet18.robust_imagenette" / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    shutil.copy(sample_photo("person"), tmp_path / "photo.jpg")
    subprocess.run([sys.executable, "-c", snippet], check=True, cwd=tmp_path)


def test_another_number_of_classes_or_channels_keeps_the_trunk():
    model = timm.create_model(MICRO, pretrained=True, num_classes=3, in_chans=1)
    original = timm.create_model(MICRO, pretrained=True)
    assert model.fc.weight.shape == (3, 192) and model.conv1.weight.shape[1] == 1
    torch.testing.assert_close(model.layer3[0].conv1.weight, original.layer3[0].conv1.weight)
    f1, original_f1 = (m.vt_stage.blocks[1].transformer.f1.weight for m in (model, original))
    torch.testing.assert_close(f1, original_f1)


def test_settings_of_the_evaluation_do_not_hide_the_weights():
    model = timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay=dict(crop_pct=0.9))
    assert (model.pretrained_cfg["crop_pct"], model.num_classes) == (0.9, 10)


def test_a_missing_file_is_named_as_such():
    with pytest.raises(RuntimeError, match=r"weights of vt_resnet_micro are missing or damaged \(no such file\)"):
        timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay=dict(file="nowhere.safetensors"))


def test_no_weights_for_an_untrained_model():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for vt_resnet50"):
        timm.create_model("vt_resnet50", pretrained=True)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("vt_resnet18.untrained", pretrained=True)


@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, -1])
def test_truncated_weights_are_refused(folder, kept):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data))] if isinstance(kept, float) else data[:kept])
    with pytest.raises(RuntimeError, match="missing or damaged"):
        load(folder)


def test_a_page_in_place_of_weights_is_refused(folder):
    (folder / "model.safetensors").write_text("<html>503 Service Unavailable</html>")
    with pytest.raises(RuntimeError, match="missing or damaged"):
        load(folder)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"missing or damaged|No suitable checkpoints found in"):
        load(folder)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 3}, {"features_only": True}])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("vt_stage.blocks.0.transformer.f1.weight"), "1 tensors are missing.*transformer.f1.weight"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(2, 2)}), "1 have another shape.*layer1.0.conv1"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("vt_stage")], "tensors are missing.*vt_stage"),
    ],
)
def test_weights_of_another_model_are_refused_even_where_timm_is_lenient(folder, kwargs, spoil, message):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    spoil(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    with pytest.raises(RuntimeError, match=message):
        load(folder, **kwargs)


def test_options_that_differ_from_the_weights_are_refused():
    with pytest.raises(RuntimeError, match="have another shape"):
        timm.create_model(MICRO, pretrained=True, num_tokens=8)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix, folder):
    """What DistributedDataParallel and torch.compile put before the names of a state dict."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    wrapped = {prefix + key: value for key, value in state.items()}
    overlay = dict(state_dict=wrapped, file=None, num_classes=10)
    model = timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.fc.weight, state["fc.weight"].float())
    backbone = timm.create_model(MICRO, num_classes=3, pretrained_backbone=wrapped)
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"].float())


def test_names_go_with_the_head():
    model = timm.create_model(MICRO, pretrained=True)
    assert len(model.pretrained_cfg["label_names"]) == 10
    model.reset_classifier(10)
    assert not model.pretrained_cfg["label_names"] and not model.pretrained_cfg["label_descriptions"]
    assert len(timm.create_model(MICRO, pretrained=True).pretrained_cfg["label_names"]) == 10
    assert not timm.create_model(MICRO, pretrained=True, num_classes=3).pretrained_cfg["label_names"]


def test_the_threshold_of_a_sure_answer_goes_with_the_head():
    noted = dict(pretrained_cfg_overlay={"notes": ("made here", "unsure_below=0.8")}, pretrained=True)
    pipeline = ClassificationPipeline(timm.create_model(MICRO, **noted).eval())
    assert pipeline.unsure_below == 0.8
    pipeline.module.reset_classifier(3)
    assert pipeline.unsure_below == 0 and pipeline.module.pretrained_cfg["notes"] == ("made here",)
    assert ClassificationPipeline(timm.create_model(MICRO, num_classes=3, **noted).eval()).unsure_below == 0


@pytest.mark.parametrize(
    ("saved", "called"),
    [
        ([f"own{i}" for i in range(10)], [f"own{i}" for i in range(10)]),
        (list(range(10)), [str(i) for i in range(10)]),
        ({str(i): f"own{i}" for i in range(9)}, [f"own{i}" for i in range(9)] + ["class 9"]),  # as timm takes them too
    ],
)
def test_a_head_saved_with_names_of_its_own_is_called_so(saved, called, tmp_path):
    """As many classes as the weights had: timm leaves their descriptions beside the new names."""
    model = timm.create_model(MICRO, pretrained=True)
    save_for_hf(model, tmp_path / "mine", safe_serialization=True, model_config={"label_names": saved})
    loaded = ClassificationPipeline(load(tmp_path / "mine").eval())
    assert loaded.class_names == called
    assert loaded(sample_photo()).label in called


def test_names_of_another_number_of_classes_are_told(tmp_path, capsys):
    save_for_hf(timm.create_model(MICRO, num_classes=4), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for names in (["a", "b", "c"], ["a", "b", "c", "d"]):
        (tmp_path / "config.json").write_text(json.dumps({**config, "label_names": names}))
        called = load_pipeline(str(tmp_path)).class_names
        warned = "its config.json has 3 label_names for 4 classes" in capsys.readouterr().err
        assert (warned, called) == ((True, [f"class {i}" for i in range(4)]) if len(names) == 3 else (False, names))


def test_a_backbone_and_a_classifier_load_each_other():
    backbone = fill(timm.create_model(MICRO, features_only=True)).model
    classifier = timm.create_model(
        MICRO, pretrained=True, pretrained_cfg_overlay=dict(state_dict=backbone.state_dict()), num_classes=0
    )
    torch.testing.assert_close(classifier.layer2[0].conv1.weight, backbone.layer2[0].conv1.weight)


def test_pickles_are_loaded_as_weights_only(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "weights.pth")))
    assert not (tmp_path / "owned").exists()


def test_import_is_light():
    """No plotting, no network, nothing of ours but what the models need."""
    code = "import sys, vt_timm; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "vt_timm.vt_resnet" in loaded
    assert not loaded & {"matplotlib", "sklearn", "vt_timm.cli", "vt_timm.photos.draw"}


# --- pretrained_backbone

PAIRS = [("vt_resnet18", "resnet18"), ("vt_resnet50", "resnet50")]


def trunk(model):
    return {k: v for k, v in model.state_dict().items() if not k.startswith(("vt_stage", "fc", "layer4"))}


@pytest.mark.parametrize(("name", "resnet"), PAIRS)
def test_stem_and_stages_are_the_resnets(name, resnet, caplog):
    source = fill(timm.create_model(resnet))
    with caplog.at_level(logging.INFO):
        model = timm.create_model(name, pretrained_backbone=source.state_dict(), num_classes=7)
    ours, theirs = trunk(model), trunk(source)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert f"({len(theirs)} tensors)" in caplog.text and "the rest is new" in caplog.text
    images = torch.randn(1, 3, 64, 64)
    maps = [m.eval().forward_intermediates(images, indices=[3], intermediates_only=True)[0] for m in (model, source)]
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "checkpoint", "folder"])
def test_sources(kind, tmp_path):
    source = fill(timm.create_model("resnet18"))
    path = {"folder": tmp_path, "safetensors": tmp_path / "w.safetensors"}.get(kind, tmp_path / "w.pth")
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    elif kind == "pth":
        torch.save(source.state_dict(), path)
    elif kind == "checkpoint":
        torch.save({"state_dict": source.state_dict(), "epoch": 3}, path)
    else:
        save_for_hf(source, path, safe_serialization=True)
    model = timm.create_model("vt_resnet18", pretrained_backbone=f"local-dir:{path}" if kind == "folder" else path)
    assert torch.equal(model.layer3[1].conv2.weight, source.layer3[1].conv2.weight)


def test_a_backbone_and_a_pruned_one(tmp_path):
    source = fill(timm.create_model("resnet18"))
    for out_indices in ((1, 2), (0, 1, 2, 3, 4)):
        model = timm.create_model(
            "vt_resnet18", features_only=True, out_indices=out_indices, pretrained_backbone=source.state_dict()
        )
        assert torch.equal(model.model.layer2[1].conv2.weight, source.layer2[1].conv2.weight)


def test_other_input_channels_are_adapted(tmp_path):
    source = fill(timm.create_model("resnet18"))
    save_for_hf(source, tmp_path, safe_serialization=True)
    model = timm.create_model("vt_resnet18", pretrained_backbone=f"local-dir:{tmp_path}", in_chans=1)
    torch.testing.assert_close(model.conv1.weight, source.conv1.weight.sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("vt_resnet34", "resnet18", r"has no layer1\.2\.conv1\.weight; resnet34 of timm fits"),
        ("vt_resnet18", "resnet34", r"also has layer1\.2\.conv1\.weight, which is not here; resnet18 of timm fits"),
        ("vt_resnet34", "resnet50", r"is \(64, 64, 1, 1\) in the state dict and \(64, 64, 3, 3\) here"),
        ("vt_resnet18", "resnet18d", "has no conv1.weight"),
    ],
)
def test_a_mismatch_is_named_and_takes_nothing(name, source, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, pretrained_backbone=timm.create_model(source).state_dict())


@pytest.mark.parametrize("source", ["resnet18.a1_in1k", "local-dir:/nowhere", "no_such_model"])
def test_a_source_out_of_reach_is_one_clear_line(source):
    with pytest.raises(RuntimeError, match=f"pretrained_backbone: {source} cannot be loaded: .*or a file") as error:
        timm.create_model("vt_resnet18", pretrained_backbone=source)
    assert "\n" not in str(error.value)


def test_code_in_a_weight_file_does_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": Code()}, tmp_path / "w.pth")
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        timm.create_model("vt_resnet18", pretrained_backbone=tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_it_does_not_go_with_pretrained():
    with pytest.raises(ValueError, match="pretrained=True and pretrained_backbone"):
        timm.create_model("vt_resnet18", pretrained=True, pretrained_backbone="resnet18")


def test_a_saved_model_does_not_name_where_it_started(tmp_path):
    source = fill(timm.create_model("resnet18"))
    model = timm.create_model("vt_resnet18", num_classes=3, pretrained_backbone=source.state_dict())
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert "pretrained_backbone" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["num_classes"] == 3
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(again.fc.weight, model.fc.weight)
