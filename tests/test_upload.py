"""To the Hub and back, in processes of their own, against a Hub on this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.hub_server import TOKEN, HubServer
from tests.support.runs import NAME, REPOSITORY, logits

ROOT = Path(__file__).parents[1]


def process(arguments, hub, home, cwd=ROOT, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("disable_xet", ["0", "1"])
def test_published_then_downloaded_elsewhere(disable_xet, run, tmp_path):
    """Weights go up by the Xet protocol, which the client prefers, and by LFS; the card's snippet runs as printed."""
    folder, (last, _) = run
    out = tmp_path / "out"
    with HubServer() as hub:
        command = ["-m", "hub.publish", str(folder), NAME, "-o", str(out), "--push", REPOSITORY]
        done = process(command, hub, tmp_path / "one", HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET=disable_xet)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/{REPOSITORY}/commit/" in done.stdout
        assert sorted(hub.repositories[REPOSITORY].files) == ["README.md", "config.json", "model.safetensors"]
        assert any("/cas/" in path for path in hub.paths("POST")) == (disable_xet == "0")

        code = f"""
import timm, torch, vt_timm
model = timm.create_model("hf-hub:{REPOSITORY}", pretrained=True).eval()
with torch.inference_mode():
    print(model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).tolist())
"""
        done = process(["-c", code], hub, tmp_path / "two", cwd=tmp_path, HF_HUB_DISABLE_XET=disable_xet)
        assert done.returncode == 0, done.stderr
        with_one_thread = process(
            ["-c", code.replace(f"hf-hub:{REPOSITORY}", f"local-dir:{out}")], hub, tmp_path, cwd=tmp_path
        )
        assert done.stdout == with_one_thread.stdout
        torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), logits(last))
        (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
        done = process(["-c", snippet], hub, tmp_path / "two", cwd=tmp_path, HF_HUB_DISABLE_XET=disable_xet)
        assert done.returncode == 0 and "values=tensor" in done.stdout, done.stderr


def test_a_segmenters_snippet_runs_as_printed(segmenter_run, tmp_path):
    with HubServer() as hub:
        out = tmp_path / "out"
        command = ["-m", "hub.publish", str(segmenter_run[0]), "-o", str(out), "--push", "somebody/squares"]
        done = process(command, hub, tmp_path / "one", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
        done = process(["-c", snippet + "print(labels.shape)"], hub, tmp_path / "two", cwd=tmp_path)
        assert done.stdout == "torch.Size([240, 320])\n", done.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "log in with `hf auth login`"),
        ("hf_wrong", "(HTTP 401): log in with `hf auth login` as one who may write there"),
    ],
)
def test_without_permission_nothing_goes_up(token, message, run, tmp_path):
    with HubServer() as hub:
        command = ["-m", "hub.publish", str(run[0]), NAME, "-o", str(tmp_path / "out"), "--push", REPOSITORY]
        done = process(command, hub, tmp_path / "home", **({"HF_TOKEN": token} if token else {}))
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("hub.publish: ")
        assert not hub.repositories and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_dry_run_asks_the_hub_for_nothing(run, tmp_path):
    with HubServer() as hub:
        command = [
            "-m",
            "hub.publish",
            str(run[0]),
            NAME,
            "-o",
            str(tmp_path / "out"),
            "--push",
            REPOSITORY,
            "--dry-run",
        ]
        done = process(command, hub, tmp_path / "home")
        assert done.returncode == 0 and not hub.requests
        assert f"these would go to {hub.url}/{REPOSITORY}" in done.stdout
        assert re.search(r"model.safetensors +[\d,]+ bytes", done.stdout)
