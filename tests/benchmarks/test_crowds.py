"""How many people of a crowd are found: what is counted, and of what the crowds are made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.segmentation import crowds, nobody
from tests.support.samples import settings, write_small
from vt_timm.segmentation.labels import IGNORE


def test_pixels_are_counted_by_what_they_are(monkeypatch):
    """Of six people's pixels four are found and three of the right class; of two others one is left alone."""
    mask = torch.tensor([[1, 1, 1, 2, 2, 2, 0, 0, IGNORE]])
    labels = torch.tensor([[1, 1, 0, 2, 1, 0, 0, 1, 1]])
    seen = []

    def segment(model, photo, short_side, scales):
        seen.append((np.array(photo).max(), short_side, scales))
        return labels

    monkeypatch.setattr(crowds, "segment", segment)
    model = SimpleNamespace(class_names=["background", "skin", "hair"], short_side=40)
    image = torch.full((3, 1, 9), 7, dtype=torch.uint8)
    found = crowds.measure(model, [None, (image, mask)], number=3)
    assert found == {"photos": 3, "found": 66.67, "right": 50.0, "background": 50.0}
    assert seen == [(7, 40, crowds.SCALES)] * 3


def test_crowds_are_of_validation_people_on_photos_of_nobody(tmp_path, monkeypatch):
    write_small(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "grey.png")
    monkeypatch.setattr(crowds, "photos", lambda data, split: [data / {"val": "grey.png"}[split]])
    monkeypatch.setattr(crowds, "recipe", lambda changes=None: settings(tmp_path, **(changes or {})))
    made = crowds.make_crowds(str(tmp_path), tmp_path)
    assert {path.parent.parent.name for path, _ in made.dataset.pairs} == {"val"}
    torch.manual_seed(0)
    image, mask = made[len(made) - 1]
    assert image.dtype == torch.uint8 and (mask == 1).any() and (image[:, mask == 0] == 9).float().mean() > 0.8


def test_the_table_has_a_row_per_segmenter(tmp_path, monkeypatch, capsys):
    rows = {"a": {"segmenter": "a", "found": 50.06, "right": 40.0, "background": 99.96}}
    monkeypatch.setattr(crowds, "read_records", lambda file: rows)
    assert crowds.crowds_table().splitlines()[2:] == ["| a | 50.1 | 40.0 | 100.0 |"]
    kept = []
    monkeypatch.setattr(nobody, "keep_record", lambda *record: kept.append(record))
    monkeypatch.setattr(crowds, "load_segmenter", lambda name: torch.nn.Identity())
    monkeypatch.setattr(crowds, "make_crowds", lambda *_: [])
    monkeypatch.setattr(crowds, "measure", lambda *_: {"found": 1.0})
    monkeypatch.setattr("sys.argv", ["crowds", str(tmp_path / "mine"), "ccp", "--nobody", "nette", "--write"])
    assert crowds.main() == 0
    assert kept == [(crowds.FILE, "mine", {"segmenter": "mine", "found": 1.0})]


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["crowds", "a", "b"])
    with pytest.raises(SystemExit):
        crowds.main()
    assert "--nobody" in capsys.readouterr().err
