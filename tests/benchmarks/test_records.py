"""Records, which say where they come from, and what two benchmarks say of tokens on maps and networks of which the
answer is known.
"""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.common import records
from benchmarks.common.records import RESULTS, read_rows, replace_rows
from benchmarks.segmentation import runs
from benchmarks.segmentation.analysis import describe_tokens, scores_at, tokens_cut_off, validation_photos
from tests.support.samples import fill, write_small
from vt_timm import create_segmenter
from vt_timm.segmentation.evaluation import evaluate

JSON = [
    pytest.param(record, id=name)
    for path in sorted(RESULTS.glob("*.json"))
    for name, record in json.loads(path.read_text()).items()
]
ROWS = [
    pytest.param(row, id=f"{path.parent.name}-{path.stem}-{i}")
    for path in (RESULTS / "speed" / "records.csv", RESULTS / "accuracy" / "shipped.csv")
    for i, row in enumerate(read_rows(path))
]


@pytest.mark.parametrize("record", JSON)
def test_a_record_names_command_versions_machine_and_date(record):
    assert {"torch", "timm", "python", "vt_timm"} <= record["versions"].keys()
    has_origin({**record, **record["versions"], "commit": "of git log"})


@pytest.mark.parametrize("row", ROWS)
def test_a_line_of_records_names_its_commit_too(row):
    has_origin(row)


def has_origin(row):
    assert re.match(r"(THP_MEM_ALLOC_ENABLE=1 )?python -m (benchmarks\.|hub\.publish )", row["command"])
    assert " /" not in row["command"], "a path of somebody's machine"
    assert all(row[key] for key in ("machine", "date", "commit", "torch", "timm", "python", "vt_timm"))


def test_every_row_of_speed_has_its_record_and_every_record_its_rows():
    origins = {row["record"] for row in read_rows(RESULTS / "speed" / "records.csv")}
    files = [path for path in (RESULTS / "speed").glob("*.csv") if path.stem != "records"]
    assert {row["record"] for path in files for row in read_rows(path)} == origins


def test_rows_come_back_as_they_were_written_and_others_stay_to_the_letter(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("name,commit,seed,top1\na,1234567,,1.50\nb,0e12345,3,\n")
    first = {"name": "c", "commit": "89", "seed": 4, "top1": 2.0, "options": {"projector": False}, "at": [1.0, 2.0]}
    replace_rows(path, [first], name="c")
    replace_rows(path, [{**first, "top1": None}, {**first, "seed": 5}], name="c")
    assert path.read_text().splitlines()[:3] == [
        "name,commit,seed,top1,options,at",
        "a,1234567,,1.50,,",
        "b,0e12345,3,,,",
    ]
    assert read_rows(path, name="c") == [{**first, "top1": None}, {**first, "seed": 5}]
    assert read_rows(path)[0] == {**dict.fromkeys(first), "name": "a", "commit": "1234567", "top1": 1.5}
    assert [type(row["seed"]) for row in read_rows(path)[1:]] == [int, int, int]
    replace_rows(path, [], name="c")
    assert [row["name"] for row in read_rows(path)] == ["a", "b"] and read_rows(tmp_path / "none.csv") == []


def test_facts_name_the_command_with_huge_pages_and_without_folders(monkeypatch):
    monkeypatch.setattr(records.sys, "argv", ["x", "--data", "/disk/data/photos", "--pairs", "3"])
    monkeypatch.setitem(records.sys.modules, "__main__", type("module", (), {"__spec__": None}))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert records.facts()["command"] == "python -m x --data DATA/data/photos --pairs 3"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert records.facts()["command"].startswith("THP_MEM_ALLOC_ENABLE=1 python -m x ")
    if (Path(records.__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", records.facts()["commit"])


@pytest.mark.parametrize(
    ("argument", "recorded"),
    [
        ("/home/me/data/ccp", "DATA/data/ccp"),
        ("vt_fpn.ccp,/home/me/runs/fpn", "vt_fpn.ccp,DATA/runs/fpn"),
        ("backbone=local-dir:/home/me/teachers/lite0", "backbone=local-dir:DATA/teachers/lite0"),
        ("data/ccp", "data/ccp"),
        ("vt_resnet50,resnet50", "vt_resnet50,resnet50"),
    ],
)
def test_a_command_keeps_no_folder_of_this_machine(argument, recorded):
    assert records._portable(argument) == recorded


PHOTOS = [(torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)), None) for i in range(2)]


@pytest.fixture
def model():
    return fill(create_segmenter("vt_fpn", "vt_resnet_micro", 3, channels=32, token_dim=64, num_heads=4)).eval()


def test_flat_softmaxes_have_all_the_entropy_and_change_nothing_within_a_photo(model):
    for tokenizer, projector in zip(model.neck.tokenizers, model.neck.projectors, strict=True):
        nn.init.zeros_(tokenizer.filters.weight)
        nn.init.zeros_(projector.query)
    for row in describe_tokens(model, PHOTOS, photos=2):
        assert row["look"] == pytest.approx(1, abs=1e-4) and row["read"] == pytest.approx(1, abs=1e-4)
        assert row["alike"] == pytest.approx(1, abs=1e-3)
        assert row["update_within"] == pytest.approx(0, abs=1e-4) and row["update"] > 0.001


def test_sharp_softmaxes_have_less_entropy(model):
    before = describe_tokens(model, PHOTOS, photos=2)
    for tokenizer, projector in zip(model.neck.tokenizers, model.neck.projectors, strict=True):
        with torch.no_grad():
            tokenizer.norm.weight *= 50
            projector.query *= 50
    for row, flatter in zip(describe_tokens(model, PHOTOS, photos=2), before, strict=True):
        assert row["look"] < flatter["look"] and row["read"] < flatter["read"]


def test_tokens_are_cut_off_inside_only(model):
    bare = copy.deepcopy(model)
    for projector in bare.neck.projectors:
        nn.init.zeros_(projector.bn.weight)
        nn.init.zeros_(projector.bn.bias)
    image = PHOTOS[0][0][None]
    with torch.no_grad():
        whole = model(image)
        with tokens_cut_off(model, [0, 1, 2, 3]):
            torch.testing.assert_close(model(image), bare(image))
        with tokens_cut_off(model, [2]):
            assert not torch.allclose(model(image), bare(image))
        assert torch.equal(model(image), whole) and not torch.allclose(whole, bare(image))


def test_scores_of_one_view_are_those_of_the_evaluation(tmp_path):
    write_small(tmp_path)
    segmenter = create_segmenter("laterals", "vt_resnet_micro", 2, pretrained_backbone=True, channels=16).eval()
    data = validation_photos(segmenter, str(tmp_path), {})
    with torch.no_grad():  # so that each class is seen about as often
        segmenter.head.classifier.bias[1] -= (
            segmenter(data[0][0][None])[0, 1] - segmenter(data[0][0][None])[0, 0]
        ).median()
    expected = evaluate(segmenter, data)
    for scales, same in (((1.0,), True), ((0.7, 1.0, 1.4), False)):
        scores = scores_at(segmenter, str(tmp_path), {}, scales)
        assert (all(scores[key] == round(expected[key], 2) for key in ("miou", "pixel_accuracy"))) == same


def test_a_curve_has_every_evaluation(tmp_path):
    lines = ["update,train_loss,lr,miou,pixel_accuracy", "2,0.70001,0.1,10.004,50", "4,0.5,0.01,20.25,60"]
    (tmp_path / "summary.csv").write_text("\n".join(lines))
    assert runs.curve(tmp_path) == [(2, 0.7, 10.0), (4, 0.5, 20.25)]


def test_no_record_has_a_folder_of_a_machine():
    files = [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".csv")]
    of_a_machine = re.compile(r"(?<![\w.])/(tmp|home|root|work|mnt|Users)/")
    assert len(files) > 10 and [path.name for path in files if of_a_machine.search(path.read_text())] == []
