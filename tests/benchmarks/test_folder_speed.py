"""Images per second of a folder: what starting costs is taken out, and both commands answer for the same photos."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.throughput import folder
from benchmarks.throughput.tables import TABLES
from vt_timm.cli import main as vt_timm


@pytest.fixture
def photos(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (40, 32), (6 * i, 0, 0)).save(tmp_path / "photos" / label / f"{i:02}.jpg")
    return tmp_path / "photos"


def test_chosen_photos_are_spaced_over_the_folder(photos, tmp_path):
    chosen = sorted(folder.choose(photos, 4, tmp_path / "four").iterdir())
    reds = [Image.open(path).getpixel((0, 0))[0] for path in chosen]
    assert [round(red / 6) for red in reds] == [0, 10, 0, 10]  # the first and the middle photo of each class


def test_starting_is_taken_out_of_the_rates():
    """By hand: starting takes 5 s, a photo 0.02 s with classify and 0.04 s with inference.py; the network 0.018 s."""
    seconds = {
        "the network alone": [0.288, 0.288],
        "vt-timm classify 16": [5.32, 5.32],
        "vt-timm classify 32": [5.64, 5.64],
        "timm's inference.py 16": [5.64, 5.64],
        "timm's inference.py 32": [6.28, 6.28],
    }
    rows = folder.rates(seconds, few=16, many=32)
    assert [(row["what"], row["images_per_second"], row["share"]) for row in rows] == [
        ("the network alone", 55.6, 1),
        ("vt-timm classify", 50.0, 0.9),
        ("timm's inference.py", 25.0, 0.45),
    ]
    assert {(row["photos"], row["rounds"]) for row in rows} == {(16, 2)}


def test_each_command_is_timed_on_few_photos_and_on_many_and_the_network_on_the_difference(photos, monkeypatch):
    timed = []

    class Network:
        def example(self):
            return torch.zeros(2, 3, 8, 8)

        def fold(self):
            return "folded"

        def run(self, images, network):
            assert network == "folded"
            timed.append(("network", len(images)))

    def call(command):
        folders = [Path(word) for word in command if Path(word).is_dir() and Path(word).name in ("16", "32")]
        timed.append(("classify" if "classify" in command else "inference", len(list(folders[0].iterdir()))))

    monkeypatch.setattr(folder, "call", call)
    monkeypatch.setattr(folder, "load", lambda name: Network())
    rows = folder.measure(photos, Path(), few=16, many=32, rounds=1)
    one_round = [("network", 16), ("classify", 16), ("inference", 16), ("classify", 32), ("inference", 32)]
    assert timed == 2 * one_round  # the first warms up
    assert [row["what"] for row in rows] == ["the network alone", "vt-timm classify", "timm's inference.py"]


def test_the_commands_are_ones_that_there_are(photos, monkeypatch, capsys):
    monkeypatch.setattr(folder, "MODEL", "vt_resnet_micro")
    command = folder.classify(photos / "a")
    assert command[:3] == [sys.executable, "-m", "vt_timm"] and vt_timm(command[3:]) == 0
    assert capsys.readouterr().out.count(".jpg") == 20


def test_a_command_that_fails_is_not_measured(monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "no such folder")
    monkeypatch.setattr(folder.subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(SystemExit, match="no such folder"):
        folder.call(["vt-timm"])


def test_it_is_tabled():
    assert TABLES["speed_folder"]().startswith("| what | images per second |")
