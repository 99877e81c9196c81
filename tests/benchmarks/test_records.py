"""The pages quote the records, and every record says where it comes from."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import readme_tables, segmentation
from benchmarks.common import records
from benchmarks.common.counting import count_segmenter
from benchmarks.common.paper_tables import FPN_TABLES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RECORDS = [*sorted(RESULTS.glob("*.json")), *sorted((RESULTS / "throughput").glob("*.json"))]


def test_readme_holds_the_recorded_tables_and_sentences():
    readme = (ROOT / "README.md").read_text()
    assert readme_tables.models_table() in readme
    assert readme_tables.speed_table() in readme
    readme = " ".join(readme.split())
    assert readme_tables.speed_sentences() in readme
    assert readme_tables.memory_sentence() in readme
    assert readme_tables.weights_sentence() in readme
    assert readme_tables.verdict_sentence() in readme
    assert readme_tables.ablations_sentence() in readme
    assert readme_tables.ingredients_sentence() in readme
    assert readme_tables.transfer_sentence() in readme


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


def test_readme_quotes_the_clustering_record():
    record = json.loads((ROOT / "benchmarks" / "results" / "clustering.json").read_text())
    faster, less = round(record["times_faster_median"]), round(record["times_less_memory"])
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"it is {faster} times faster than the paper's Listing 1 in 1/{less} of its memory" in readme


def test_readme_quotes_the_fpn_record():
    record = json.loads((ROOT / "benchmarks" / "results" / "fpn.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text().split())
    neck, whole = record["neck"], record["whole_network"]
    row = next(r for r in FPN_TABLES[9] if (r.kind, r.backbone) == ("vt_fpn", "resnet50"))
    macs = f"{count_segmenter(row).neck:.1f} G"
    assert f"| `vt_fpn` | {macs} | 1 / {neck['times_faster_median']} | {neck['share_of_fpns_memory']} |" in readme
    faster, share = whole["times_faster_median"], whole["share_of_fpns_memory"]
    assert f"{faster} times faster, {share:.2f} of the memory" in readme


def test_readme_quotes_the_training_records():
    results = ROOT / "benchmarks" / "results"
    readme = " ".join((ROOT / "README.md").read_text().split())
    record = json.loads((results / "distillation.json").read_text())
    pairs = [[record["curves"][f"{kind}_teacher"][-1]["eval_top1"] for kind in ("with", "without")]]
    runs = [results / "runs" / f"distillation_{kind}_teacher_stock_script" for kind in ("with", "without")]
    pairs.append([_last(run)["eval_top1"] for run in runs])
    (first, second), (third, fourth) = [[f"{value:.2f} %" for value in pair] for pair in pairs]
    assert f"reached {first} with vt_resnet18 as its teacher and {second} without" in readme
    assert f"{third} and {fourth}" in readme
    assert f"FBNetV3-G took {record['cost']['teachers_share_median']:.0%}".replace("%", " %") in readme
    assert f"reached {_last(results / 'runs' / 'readme_basic')['eval_top1']:.2f} %" in readme
    resume = json.loads((results / "resume.json").read_text())
    assert resume["same_metrics"] and resume["largest_difference_of_weights"] == 0
    two = json.loads((results / "two_processes.json").read_text())
    assert all(row["largest_difference_of_weights"] == 0 for row in two["rows"])


def test_readme_quotes_the_segmentation_record():
    results = ROOT / "benchmarks" / "results"
    runs = json.loads((results / "segmentation_ccp.json").read_text())["runs"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    for metric, words in (
        ("miou", "mIoU {} for FPN and {} for VT-FPN"),
        ("pixel_accuracy", "pixel accuracy {} and {}"),
    ):
        cells = []
        for neck in segmentation.NECKS:
            one, two = segmentation.last(runs, neck, metric)
            cells.append(f"{(one + two) / 2:.2f} % ({one:.2f} and {two:.2f})")
        assert words.format(*cells) in readme
    assert (results / "segmentation_ccp.md").read_text() == segmentation.page(runs)
    for seed in (42, 43):
        fpn, vt_fpn = (runs[f"{neck}_seed{seed}"]["settings"] for neck in segmentation.NECKS)
        assert {key for key, value in fpn.items() if value != vt_fpn[key]} == {"neck"}
    cut = json.loads((results / "segmentation_analysis.json").read_text())["miou_with_tokens_cut_off"]
    without = [f"{run['none']:.2f} to {run['all']:.2f} %" for run in cut.values()]
    assert f"goes from {without[0]} and from {without[1]}" in readme


def test_readme_quotes_the_trials_of_vt_fpn():
    with (RESULTS / "segmentation_trials.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["neck"] == "vt_fpn" and row["lr"] in ("0.05", "0.001")]
    readme = " ".join((ROOT / "README.md").read_text().split())
    short, one, both, long, sharp, used, adam = (f"{float(row['miou']):.2f} %" for row in rows)
    left = f"{float(rows[5]['miou_without_tokens']):.2f} %"
    assert f"200 updates, against {short} as it is: gains that start at one {one}, the" in readme
    assert f"second layer at random too {both}; - 400 updates, against {long}: attention" in readme
    assert (
        f"at once, {sharp}; that and gains from 0.3, {used}, where the tokens are used, since {left} is left" in readme
    )
    assert f"AdamW instead of SGD, 400 updates: {adam}" in readme


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


def _last(run: Path) -> dict[str, float]:
    with (run / "summary.csv").open() as file:
        return {key: float(value) for key, value in list(csv.DictReader(file))[-1].items()}
