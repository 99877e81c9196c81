"""`pretrained_backbone`: stem and stages 1-3 from a ResNet."""

import json
import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from tests.support.fill import fill

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
