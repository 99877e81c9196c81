"""The way to a Hub on this machine and back in processes of their own, also from photos to publishing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hub import publish
from tests.support.hub_server import TOKEN, HubServer, connect, environment
from tests.support.samples import NAME, REPOSITORY, logits
from vt_timm import cli

ROOT = Path(__file__).parents[1]


def process(arguments, hub, home, cwd=ROOT, token=None):
    env = environment(home, hub.url, token)
    return subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True)


def test_published_then_downloaded_elsewhere(run, tmp_path):
    """The card's snippets run as printed."""
    folder, (last, _) = run
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.old.md").write_text("the card that was there before")
    with HubServer() as hub:
        command = ["-m", "hub.publish", str(folder), NAME, "-o", str(out), "--push", REPOSITORY]
        done = process(command, hub, tmp_path / "one", token=TOKEN)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/{REPOSITORY}/commit/" in done.stdout
        assert sorted(hub.repositories[REPOSITORY].files) == ["README.md", "config.json", "model.safetensors"]
        assert any(path.startswith("/lfs-upload/") for path in hub.paths("PUT"))

        Image.new("RGB", (320, 240), "green").save(tmp_path / "photo.jpg")
        snippets = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
        assert len(snippets) == 2
        asked = f"""
import timm, torch, vt_timm
model = timm.create_model("hf-hub:{REPOSITORY}", pretrained=True).eval()
with torch.inference_mode():
    print(model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).tolist())
"""
        code = asked + "".join(snippets)
        done = process(["-c", code], hub, tmp_path / "two", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answer, _, said = done.stdout.partition("\n")
        torch.testing.assert_close(torch.tensor(json.loads(answer)), logits(last))
        torch.testing.assert_close(logits(timm.create_model(f"local-dir:{out}", pretrained=True).eval()), logits(last))
        assert "tench" in said and "English springer" in said


def test_a_segmenters_snippet_runs_as_printed(segmenter_run, tmp_path):
    with HubServer() as hub:
        out = tmp_path / "out"
        command = ["-m", "hub.publish", str(segmenter_run[0]), "-o", str(out), "--push", "somebody/squares"]
        done = process(command, hub, tmp_path / "one", token=TOKEN)
        assert done.returncode == 0, done.stderr
        Image.new("RGB", (320, 240), "green").save(tmp_path / "photo.jpg")
        (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
        done = process(["-c", snippet + "print(labels.shape)"], hub, tmp_path / "two", cwd=tmp_path)
        assert done.stdout.endswith("(240, 320)\n") or done.stdout.endswith("torch.Size([240, 320])\n"), done.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "log in with `hf auth login`"),
        ("hf_wrong", "(HTTP 401): log in with `hf auth login` as one who may write there"),
    ],
)
def test_without_permission_nothing_goes_up(token, message, run, tmp_path, monkeypatch, capsys):
    with HubServer() as hub:
        connect(hub.url, tmp_path / "home", monkeypatch)
        monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: token)
        assert publish.main([str(run[0]), NAME, "-o", str(tmp_path / "out"), "--push", REPOSITORY]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert message in line and line.startswith("hub.publish: ")
        assert not hub.repositories and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_dry_run_asks_the_hub_for_nothing(run, tmp_path, monkeypatch, capsys):
    with HubServer() as hub:
        connect(hub.url, tmp_path / "home", monkeypatch)
        assert publish.main([str(run[0]), NAME, "-o", str(tmp_path / "out"), "--push", REPOSITORY, "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert not hub.requests and not (tmp_path / "out").exists()
        assert f"these would go to {hub.url}/{REPOSITORY}" in out
        assert re.search(r"model.safetensors +[\d,]+ bytes", out)


STAND_IN = Path(__file__).parent / "support" / "stand_in_train.py"
SCRIPTS = [STAND_IN, os.environ.get("VT_TIMM_SCRIPTS")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes, each of five and two photos; timm sorts their names as numbers, not as text."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, number in (("train", 5), ("val", 2)):
        for low, label in ((0, "1"), (80, "2"), (160, "10")):
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(low, low + 90, (60, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s], ids=lambda s: "stand_in" if s == STAND_IN else "real")
def test_the_way(script, photos, tmp_path, capsys):
    def vt_timm(*arguments, hub=None):
        """Run a command in a process of its own: training, and whatever meets the Hub."""
        env = environment(tmp_path / "home", hub and hub.url, hub and TOKEN)
        command = [sys.executable, "-m", "vt_timm", *map(str, arguments)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answers(model, hub=None):
        command = ("classify", photo, "--model", model, "--json")
        if hub:
            return json.loads(vt_timm(*command, hub=hub))
        assert cli.main([str(argument) for argument in command]) == 0
        return json.loads(capsys.readouterr().out)

    settings = ("--model", "vt_resnet_micro", "--img-size", 48, "--crop-pct", 0.9, "--epochs", 2)
    where = ("--data-dir", photos, "--output", tmp_path, "--experiment", "run")
    vt_timm("run", "--from", script, "train", *settings, *where)
    run, photo = tmp_path / "run", photos / "val" / "10" / "0.png"

    said = answers(run)
    assert {one["class"]: one["index"] for one in _classes(said)} == {"1": 0, "2": 1, "10": 2}
    assert answers(run / "model_best.pth.tar") == said
    assert cli.main(["attention", str(photo), "--model", str(run), "-o", str(tmp_path / "attention.png")]) == 0
    capsys.readouterr()
    assert Image.open(tmp_path / "attention.png").size[0] > 48

    with HubServer() as hub:
        name = ("publish", run, "vt_resnet_micro.mine", "-o", tmp_path / "mine", "--push", "somebody/mine")
        assert "loaded back, same predictions" in vt_timm(*name, hub=hub)
        assert answers("hf-hub:somebody/mine", hub=hub) == said
    assert answers(f"local-dir:{tmp_path / 'mine'}") == said
    card = (tmp_path / "mine" / "README.md").read_text()
    assert re.search(r"train.py itself measured after epoch \d \(the first is 0\) at 48 x 48 pixels", card)
    assert "3 classes: 1, 2, 10" in card


def _classes(answer):
    """The classes named for the one photo, wherever the JSON has them."""
    if isinstance(answer, dict) and "probability" in answer:
        return [answer]
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else []
    return [one for part in parts for one in _classes(part)]
