"""The small accuracy tables: what is run, what is skipped, and what the page says of the records."""

import json
import subprocess
import sys

import pytest
import timm
import yaml

from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import plan, records, report
from vt_timm.recipes import find_recipe

VALUES = {0.4: 70.0, 0.1: 72.0, 0.2: 71.0}
LOG = """\
Train: 0 [   0/147 (  1%)]  Loss: 2.43 (2.43)  Time: 1.267s,   50.50/s  (1.267s,   50.50/s)  LR: 1.000e-02
Train: 0 [ 146/147 (100%)]  Loss: 1.90 (2.13)  Time: 0.351s,  182.11/s  (0.538s,  119.04/s)  LR: 2.361e-02
Train: 1 [   0/147 (  1%)]  Loss: 0.845 (0.845)  Time: 1.200s,   53.32/s  (1.200s,   53.32/s)  LR: 3.349e-03
Test: [  61/61]  Time: 0.400 (0.644)  Loss:   0.884 ( 0.783)  Acc@1:  66.667 ( 74.854)  Acc@5: 100.000 ( 96.739)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for module in (records, report):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def record(folder, e, **changes):
    """As a finished run leaves it."""
    run = folder / "runs" / e.name
    run.mkdir(parents=True)
    result = dict(model=e.model, options=dict(e.options), seed=e.seed, lr=e.lr, epochs=6, seconds=60)
    result |= dict(val_top1=VALUES.get(e.lr, 70.0), train_top1=80.0)
    (run / "result.json").write_text(json.dumps({**result, **changes}))
    (run / "train.log").write_text(LOG)


def test_the_other_seeds_run_at_the_best_rate_of_the_search(folder):
    assert command.best_learning_rates() == {}
    for e in plan.table_2({}):
        record(folder, e)
    best = command.best_learning_rates()
    assert best == dict.fromkeys(plan.SEEDS, 0.1)
    missing = [e for e in plan.table_2(best) if records.load(e.name) is None]
    assert {(e.model, e.seed, e.lr) for e in missing} == {
        (model, seed, 0.1) for model in ("resnet18", "vt_resnet18") for seed in (43, 44)
    }


def test_a_search_with_a_run_missing_chooses_nothing(folder):
    first, *rest = plan.search("resnet18")
    for e in rest:
        record(folder, e)
    assert "resnet18" not in command.best_learning_rates()
    record(folder, first)
    assert command.best_learning_rates()["resnet18"] == 0.1


def test_the_plan_covers_tables_3_to_7_and_section_5_2():
    best = dict.fromkeys(plan.SEEDS, 0.1)
    changed = [(key, value) for e in plan.ablations(best) for key, value in e.options.items()]
    assert sorted(changed, key=str) == sorted(
        [("tokenizer", "cluster"), ("tokenizer", "pool"), ("recurrent", False), ("relation", "graph")]
        + [("relation", "none"), ("num_tokens", 32), ("num_tokens", 64), ("projector", False)],
        key=str,
    )
    for e in plan.ablations(best):
        timm.create_model(e.model, device="meta", **e.options)
    advanced = yaml.safe_load(find_recipe("advanced_in1k").read_text())
    for e in plan.ingredients(best):
        for key, value in e.settings.items():
            if key not in ("model_ema_decay", "decay_rate", "decay_epochs"):
                assert advanced[key] == value, (e.name, key)
    names = [e.name for table in (plan.table_2, plan.ablations, plan.ingredients) for e in table(best)]
    assert len(names) == len(set(names))


def test_arguments_are_those_of_train_py():
    e = plan.Experiment("x", "vt_resnet18", 0.1, 7, {"recurrent": False, "tokenizer": "pool"}, {"model_ema": True})
    assert e.arguments("t") == (
        "--model vt_resnet18 --lr 0.1 --seed 7 --model-ema --model-kwargs recurrent=False tokenizer='pool'".split()
    )
    assert plan.Experiment("x", "m", 0.1, teacher=True).arguments("local-dir:t")[-2:] == [
        "--kd-model-name",
        "local-dir:t",
    ]


def test_curves_show_the_training_loss_of_every_epoch():
    assert report._training_losses(LOG) == [2.13, 0.845]


def test_the_page_gives_mean_and_spread_of_the_seeds(folder):
    for e in plan.table_2({}):
        record(folder, e)
    best = command.best_learning_rates()
    for e, value in zip(plan.table_2(best)[-4:], (73.0, 74.0, 75.0, 79.0), strict=True):
        record(folder, e, val_top1=value)
    (graph,) = [e for e in plan.ablations(best) if e.name.endswith("_graph")]
    record(folder, graph, val_top1=70.5)
    report.write(best)
    text = (folder / "README.md").read_text()
    # resnet18: 72, 73, 74; vt_resnet18: 72, 75, 79
    assert "| resnet18 | 0.1 | 73.00 +- 1.00 (3 seeds) | 80.00 +- 0.00 (3 seeds) |" in text
    assert "| vt_resnet18 | 0.1 | 75.33 +- 3.51 (3 seeds) |" in text
    assert "| resnet34 | 0.1 | 72.00 (one run) |" in text
    assert "| vt_resnet18 | graph | 70.50 | -1.50 | 80.00 |" in text
    assert "| resnet18 | 72.00 | 71.00 | 70.00 |" in text
    assert (folder / "curves.png").stat().st_size > 5000
    assert len((folder / "runs.csv").read_text().splitlines()) == 1 + 12 + 4 + 1


def test_the_committed_page_is_what_the_records_give():
    if records.FOLDER.is_dir():
        assert (records.FOLDER / "README.md").read_text() == report.page(command.best_learning_rates())


def test_missing_data_is_said(tmp_path):
    arguments = ["table2", "--data", str(tmp_path), "--runs", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.accuracy", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no train/ in this folder" in done.stderr
