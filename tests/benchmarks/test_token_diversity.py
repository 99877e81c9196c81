"""Which pairs of tokens look at the same pixels, against a count in plain loops."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import token_diversity
from benchmarks.common import facts


def test_alike_pairs_are_those_that_correlate():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 5, 6, 7, generator=generator)
    maps[0, 3] = 2 * maps[0, 1] + 0.1  # the same place, another range
    maps[0, 4] = maps[0, 1] + 0.02 * torch.rand(6, 7, generator=generator)
    maps[1, 2] = 1 - maps[1, 0]  # the opposite place
    counted = []
    for image in maps.numpy():
        pairs = [np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9 for one, other in itertools.combinations(image, 2)]
        counted.append(sum(pairs) / len(pairs))
    assert counted == [0.3, 0.0]
    assert token_diversity.alike(maps).tolist() == pytest.approx(counted)


def test_the_command_measures_every_module(tmp_path, monkeypatch):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (80, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.jpg")
    monkeypatch.setattr(facts, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), "--models", "vt_resnet_micro", "--photos", "4", "--write"])
    assert token_diversity.main() == 0
    (row,) = facts.record_of("records.json", "token_diversity")["rows"]
    assert row["photos"] == 4 and len(row["share_of_alike_pairs"]) == 2
    assert all(0 <= share <= 1 for share in row["share_of_alike_pairs"])
