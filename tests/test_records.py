"""The pages quote the records, and every record says where it comes from."""

import json
from pathlib import Path

import pytest

from benchmarks import readme_tables
from benchmarks.complexity import count

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_readme_and_card_hold_the_recorded_tables():
    readme = (ROOT / "README.md").read_text()
    assert readme_tables.models_table() in readme
    assert readme_tables.speed_table() in readme
    assert readme_tables.weights_table() in (ROOT / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_record_names_command_versions_machine_and_date(path):
    record = json.loads(path.read_text())
    assert record["command"].startswith("python -m benchmarks.")
    assert " /" not in record["command"], "a path of somebody's machine"
    assert {"torch", "timm", "python", "vt_timm"} <= record["versions"].keys()
    assert record["machine"] and record["date"]


def test_recorded_cost_is_the_cost():
    for row in json.loads((ROOT / "benchmarks" / "results" / "complexity.json").read_text())["rows"]:
        macs, params = count(row["model"])
        assert (row["macs_millions"], row["params_millions"]) == pytest.approx((macs, params), rel=0.005)
