"""Every record says where it comes from, and a page that quotes a log quotes it right."""

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.common import records

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RECORDS = [*sorted(RESULTS.glob("*.json")), *sorted((RESULTS / "throughput").glob("*.json"))]


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_record_names_command_versions_machine_and_date(path):
    record = json.loads(path.read_text())
    assert re.match(r"(THP_MEM_ALLOC_ENABLE=1 )?python -m benchmarks\.", record["command"])
    assert " /" not in record["command"], "a path of somebody's machine"
    assert {"torch", "timm", "python", "vt_timm"} <= record["versions"].keys()
    assert record["machine"] and record["date"]


def test_facts_name_the_command_with_huge_pages_and_without_folders(monkeypatch):
    monkeypatch.setattr(records.sys, "argv", ["x", "--data", "/disk/data/photos", "--pairs", "3"])
    monkeypatch.setitem(records.sys.modules, "__main__", type("module", (), {"__spec__": None}))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert records.facts()["command"] == "python -m x --data DATA/data/photos --pairs 3"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert records.facts()["command"].startswith("THP_MEM_ALLOC_ENABLE=1 python -m x ")


def test_the_page_of_trials_quotes_the_logs_of_a_high_rate():
    """A row ends in mean loss of epochs 1 and 2 and the updates of the latter; timm prints running means in ()."""
    page = (RESULTS / "design_trials.md").read_text()
    changed = {"rate0.4": {}, "rate0.4_clip1": {"clip_grad": 1.0}, "rate0.4_no_relation": {"relation": "none"}}
    for name, wanted in changed.items():
        run = RESULTS / "design_trials" / name
        args = yaml.safe_load((run / "args.yaml").read_text())
        settings = {"lr": 0.4, "seed": 42, "amp": False, "recipe": "matched_imagenette", "clip_grad": 5.0, **wanted}
        assert {**args, **args["model_kwargs"]}.items() >= settings.items()
        row = next(line for line in page.splitlines() if line.startswith(f"| [{name}]"))
        first, second, update = (cell.strip() for cell in row.strip("|").split("|")[2:])
        lines = (run / "train.log").read_text().splitlines()
        printed = [re.match(r"Train: (\d) \[ *(\d+)/147.*Loss: \S+ \(([^)]+)\)", line) for line in lines]
        epochs = {int(match[1]): (match[2], float(match[3])) for match in printed if match}
        assert epochs == {0: ("146", float(first)), 1: (update.removesuffix(" of 147"), float(second))}
