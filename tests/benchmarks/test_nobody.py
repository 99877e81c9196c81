"""What a segmenter sees where nobody is: the list of photos, and what is counted on them."""

import statistics
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from benchmarks.segmentation import nobody


def test_the_list_has_ten_validation_photos_of_each_class_and_none_twice():
    lines = nobody.LIST.read_text().split()
    assert len(set(lines)) == len(lines) == 678
    folders = Counter(line.rpartition("/")[0] for line in lines)
    of_validation = [number for folder, number in folders.items() if folder.startswith("val/")]
    assert of_validation == [10] * 10 and sum(folders.values()) - sum(of_validation) == 578


@pytest.fixture
def data(tmp_path, monkeypatch):
    names = ["train/n01440764/a.png", "val/n01440764/b.png", "val/n01440764/c.png", "val/n03394916/d.png"]
    for grey, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (grey, grey, grey)).save(tmp_path / name)
    monkeypatch.setattr(nobody, "LIST", tmp_path / "list.txt")
    nobody.LIST.write_text("\n".join(names))
    return tmp_path


def test_the_share_of_background_is_counted_by_class(data, monkeypatch):
    def segment(model, photo, short_side, scales):
        """All background but for a tenth of the pixels per step of grey."""
        assert short_side == 40 and scales == nobody.SCALES
        labels = torch.ones(200, dtype=torch.long)
        labels[: 20 * photo.getpixel((0, 0))[0]] = 0
        return labels.view(10, 20)

    monkeypatch.setattr(nobody, "segment", segment)
    model = SimpleNamespace(class_names=["skin", "background"], short_side=40)
    shares = nobody.background(model, data)
    assert shares == {"n01440764": pytest.approx([0.9, 0.8]), "n03394916": pytest.approx([0.7])}
    found = nobody.summarise({"n01440764": [0.95, 0.8], "n03394916": [0.7]})
    assert found["by_class"] == {"tench": 87.5, "French horn": 70.0} and found["under_nine_tenths"] == 2
    assert found["background"] == 81.67 and found["photos"] == 3
    assert found["standard_error"] == pytest.approx(100 * statistics.stdev([0.95, 0.8, 0.7]) / 3**0.5, abs=0.01)


def test_the_photos_to_train_on_are_copied(data, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nobody", "--data", str(data), "--folder", str(data / "things")])
    assert nobody.main() == 0
    assert [path.name for path in (data / "things").iterdir()] == ["a.png"]


def test_nothing_to_do_is_said(data, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nobody", "--data", str(data)])
    with pytest.raises(SystemExit):
        nobody.main()
    assert "name a SEGMENTER to measure" in capsys.readouterr().err
