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


def test_starting_is_taken_out_of_the_rates(photos, monkeypatch):
    """By hand: starting takes 5 s, a photo 0.02 s with classify and 0.04 s with inference.py; the network 0.018 s."""
    clock = {"now": 0.0}

    def call(command):
        number = len(list(Path(command[4]).iterdir())) if "classify" in command else 0
        if not number:
            number = len(list(Path(command[command.index("--data-dir") + 1]).iterdir()))
        clock["now"] += 5 + number * (0.02 if "classify" in command else 0.04)

    class Network:
        def example(self):
            return torch.zeros(2, 3, 8, 8)

        def run(self, images):
            clock["now"] += 0.018 * len(images)

    monkeypatch.setattr(folder, "call", call)
    monkeypatch.setattr(folder, "load", lambda name: Network())
    monkeypatch.setattr("benchmarks.common.measure.time.perf_counter", lambda: clock["now"])
    rows = folder.measure(photos, Path(), few=16, many=32, rounds=2)
    assert [(row["what"], row["images_per_second"], row["share"]) for row in rows] == [
        ("the network alone", 55.6, 1),
        ("vt-timm classify", 50.0, 0.9),
        ("timm's inference.py", 25.0, 0.45),
    ]


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
