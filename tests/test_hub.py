"""From a run folder of train.py to a Hub folder that timm loads."""

import json

import pytest
import timm
import torch
import yaml

from benchmarks import records
from hub import export
from tests.conftest import fill


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What train.py leaves behind, for a model with an option and two classes."""
    monkeypatch.setattr(export, "HUB", tmp_path / "hub")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    run = tmp_path / "run"
    run.mkdir()
    for wordnet_id in ("n02102040", "n01440764"):
        (tmp_path / "train" / wordnet_id).mkdir(parents=True)
    model = fill(timm.create_model("vt_resnet_micro", num_classes=2, num_tokens=9))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, run / "last.pth.tar")
    args = {
        "img_size": 128,
        "crop_pct": 1.0,
        "train_interpolation": "bilinear",
        "model_kwargs": {"num_tokens": 9},
        "data_dir": "/somebody/imagenette2-224",
        "output": "/somebody/output",
    }
    (run / "args.yaml").write_text(yaml.safe_dump(args))
    (run / "summary.csv").write_text("epoch,eval_top1\n3,50.0\n")
    (run / "log").write_text("noise\nTrain: 3 Loss 1\n/somebody/secret\nTest: 3\n")
    return run, model


def test_a_run_becomes_a_folder_that_gives_the_same_logits(run, tmp_path):
    folder, model = run
    export.export(folder, "vt_resnet_micro.trial_two", tmp_path / "train", test_size=160)
    again = timm.create_model(f"local-dir:{tmp_path / 'hub' / 'vt_resnet_micro.trial_two'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # the folder holds 16-bit floats
        torch.testing.assert_close(again(x), model.half().float().eval()(x), rtol=0, atol=0)
    assert list(again.pretrained_cfg["label_descriptions"].items()) == [
        ("n01440764", "tench"),
        ("n02102040", "English springer"),
    ]
    config = json.loads((tmp_path / "hub" / "vt_resnet_micro.trial_two" / "config.json").read_text())
    assert config["model_args"]["num_tokens"] == 9 and "num_classes" not in config["model_args"]


def test_the_record_keeps_the_run_without_this_machines_paths(run, tmp_path):
    folder, _ = run
    records.keep_run(folder, "vt_resnet_micro.trial_two", folder / "log")
    record = tmp_path / "results" / "runs" / "vt_resnet_micro.trial_two"
    assert "somebody" not in "".join(p.read_text() for p in record.iterdir())
    assert yaml.safe_load((record / "args.yaml").read_text())["data_dir"] == "imagenette2-224"
    assert (record / "train.log").read_text() == "Train: 3 Loss 1\nTest: 3\n"
