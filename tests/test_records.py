"""The pages quote the records, and every record says where it comes from."""

import json
from pathlib import Path

import pytest

from benchmarks import readme_tables

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


def test_readme_quotes_the_clustering_record():
    record = json.loads((ROOT / "benchmarks" / "results" / "clustering.json").read_text())
    faster, less = round(record["times_faster_median"]), round(record["times_less_memory"])
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"it is {faster} times faster than the paper's Listing 1 in 1/{less} of its memory" in readme
