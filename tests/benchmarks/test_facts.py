"""Every record says where it comes from."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.common import facts
from benchmarks.common.facts import RESULTS
from benchmarks.common.runs import read_rows

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
    assert re.match(r"(THP_MEM_ALLOC_ENABLE=1 )?python -m benchmarks\.", row["command"])
    assert " /" not in row["command"], "a path of somebody's machine"
    assert all(row[key] for key in ("machine", "date", "commit", "torch", "timm", "python", "vt_timm"))


def test_every_row_of_speed_has_its_record_and_every_record_its_rows():
    records = {row["record"] for row in read_rows(RESULTS / "speed" / "records.csv")}
    files = [path for path in (RESULTS / "speed").glob("*.csv") if path.stem != "records"]
    assert {row["record"] for path in files for row in read_rows(path)} == records


def test_facts_name_the_command_with_huge_pages_and_without_folders(monkeypatch):
    monkeypatch.setattr(facts.sys, "argv", ["x", "--data", "/disk/data/photos", "--pairs", "3"])
    monkeypatch.setitem(facts.sys.modules, "__main__", type("module", (), {"__spec__": None}))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert facts.facts()["command"] == "python -m x --data DATA/data/photos --pairs 3"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert facts.facts()["command"].startswith("THP_MEM_ALLOC_ENABLE=1 python -m x ")
    if (Path(facts.__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", facts.facts()["commit"])


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
    assert facts._portable(argument) == recorded
