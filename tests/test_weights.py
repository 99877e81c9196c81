"""Shipped weights, and every way in which weights can be wrong."""

import json
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

from benchmarks.common.runs import accuracy_of
from tests.support.fill import fill
from vt_timm.images import read_image, sample_photo
from vt_timm.segmentation.inference import SCALES, load_segmenter, segment
from vt_timm.weights.published import HUB, published_segmenters

ROOT = Path(__file__).parents[1]
SHIPPED = ["vt_resnet18.mixup_imagenette", "vt_resnet_micro.muon_imagenette"]
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
def test_card_says_what_was_measured(name):
    record = accuracy_of(name)
    card = ModelCard.load(HUB / name / "README.md", ignore_metadata_errors=False)
    metrics = {r.metric_name: r.metric_value for r in card.data.eval_results}
    assert metrics == {"top-1": record["top1"], "top-5": record["top5"]}
    assert f"top-1 {record['top1']:.2f} %" in card.text
    assert record["images"] == 3925


def test_snippet_of_the_card_runs():
    text = (HUB / "vt_resnet18.mixup_imagenette" / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    subprocess.run([sys.executable, "-c", snippet], check=True)


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
