"""Corruptions are what they are called, and their costs are paired over the photos."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import corruptions
from benchmarks.corruptions import blur, corruptions_table, grey, main
from benchmarks.tokens import paired


def test_a_blur_spreads_a_point_as_a_gaussian_and_keeps_its_light():
    point = np.zeros((33, 33), np.uint8)
    point[16, 16] = 255
    pixels = np.asarray(blur(Image.fromarray(np.stack([point] * 3, axis=2)), 2))[..., 0].astype(float)
    y, x = np.mgrid[-16:17, -16:17]
    expected = 255 * np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)
    assert np.abs(pixels - expected).max() < 2.5  # of 10.1 in the middle; PIL takes boxes for the Gaussian
    assert pixels.std() == pytest.approx(expected.std(), rel=0.25)


def test_grey_has_one_value_in_all_channels():
    pixels = np.asarray(grey(Image.new("RGB", (2, 2), (255, 0, 0))))
    assert pixels.shape == (2, 2, 3) and np.all(pixels == round(0.299 * 255))


def test_costs_are_paired():
    """By hand: of four photos one is lost and none is won, -25 points; deviations 25, 25, 25, -75 over sqrt(4)."""
    whole, right = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 1, 0, 0]).bool()
    assert paired(right, whole) == {"difference": -25.0, "standard_error": 25.0}


def test_a_folder_is_measured_and_tabled(tmp_path, monkeypatch, capsys):
    """Two flat colours, told apart by their colour alone: what is left of them in grey is the same."""

    class Red(torch.nn.Module):
        def forward(self, images):
            return torch.stack([images[:, 1] - images[:, 0], images[:, 0] - images[:, 1]], dim=1).mean(dim=(2, 3))

    for label, colour in enumerate(((0, 76, 20), (128, 51, 66))):
        (tmp_path / str(label)).mkdir()
        for i in range(3):
            Image.new("RGB", (64, 64), colour).save(tmp_path / str(label) / f"{i}.png")
    monkeypatch.setattr("timm.create_model", lambda *_args, **_options: Red())
    kept = {}
    monkeypatch.setattr(corruptions, "keep_record", lambda file, name, found: kept.update({name: found}))
    monkeypatch.setattr(corruptions, "read_records", lambda file: kept)
    monkeypatch.setattr("sys.argv", ["corruptions", "red", "--data", str(tmp_path), "--photos", "6", "--write"])
    assert main() == 0
    plain, one, two, no_colour = kept["red"]["rows"]
    assert plain["top1"] == one["top1"] == two["top1"] == 100 and no_colour["top1"] == 50
    assert (no_colour["difference"], kept["red"]["photos"]) == (-50, 6)
    assert "| `red` | 6 | 100.0 % | +0.0 +- 0.0 | +0.0 +- 0.0 | -50.0 +- 22.4 |" in corruptions_table()
