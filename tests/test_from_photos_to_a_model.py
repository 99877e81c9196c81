"""The whole way of a user: photos, fine-tuning, a look at a photo, publishing, and the model back from the Hub."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.hub_server import TOKEN, HubServer

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
def test_the_way(script, photos, tmp_path):
    def vt_timm(*arguments, hub=None):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env = {**kept, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN} if hub else {"HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "vt_timm", *map(str, arguments)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answers(model, hub=None):
        return json.loads(vt_timm("classify", photo, "--model", model, "--json", hub=hub))

    settings = ("--model", "vt_resnet_micro", "--img-size", 48, "--crop-pct", 0.9, "--epochs", 2)
    where = ("--data-dir", photos, "--output", tmp_path, "--experiment", "run")
    vt_timm("run", "--from", script, "train", *settings, *where)
    run, photo = tmp_path / "run", photos / "val" / "10" / "0.png"

    said = answers(run)
    assert {one["class"]: one["index"] for one in _classes(said)} == {"1": 0, "2": 1, "10": 2}
    assert answers(run / "model_best.pth.tar") == said
    vt_timm("attention", photo, "--model", run, "-o", tmp_path / "attention.png")
    assert Image.open(tmp_path / "attention.png").size[0] > 48

    with HubServer() as hub:
        name = ("publish", run, "vt_resnet_micro.mine", "-o", tmp_path / "mine", "--push", "somebody/mine")
        assert "loaded back, same predictions" in vt_timm(*name, hub=hub)
        assert answers("hf-hub:somebody/mine", hub=hub) == said
    assert answers(f"local-dir:{tmp_path / 'mine'}") == said
    card = (tmp_path / "mine" / "README.md").read_text()
    assert re.search(r"train.py itself measured after epoch \d at 48 x 48 pixels", card)
    assert "3 classes: 1, 2, 10" in card


def _classes(answer):
    """The classes named for the one photo, wherever the JSON has them."""
    if isinstance(answer, dict) and "probability" in answer:
        return [answer]
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else []
    return [one for part in parts for one in _classes(part)]
