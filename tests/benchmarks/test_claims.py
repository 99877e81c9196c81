"""What README and MODEL_CARD say in words, held to the records: a claim that becomes false fails here."""

import json

from benchmarks.accuracy import plan
from benchmarks.accuracy.records import best_learning_rates, load
from benchmarks.accuracy.verdict import is_ahead
from benchmarks.common.records import RESULTS


def test_vt_resnet18_and_resnet18_differ_by_no_more_than_their_seeds_explain():
    best = best_learning_rates()
    top1 = {"vt_resnet18": [], "resnet18": []}
    for run in plan.table_2(best):
        if run.model in top1 and run.lr == best[run.model] and (record := load(run.name)):
            top1[run.model].append(record["val_top1"])
    assert [len(values) for values in top1.values()] == [3, 3]
    assert is_ahead(top1["vt_resnet18"], top1["resnet18"]) is None


def test_vt_resnets_are_faster_on_one_thread_and_often_by_less_than_the_macs_promise():
    rows = json.loads((RESULTS / "throughput" / "cpu_1thread_avx2.json").read_text())["rows"]
    assert min(row["ratio"] for row in rows) > 1
    assert sum(row["ratio"] < row["macs_ratio"] for row in rows) >= len(rows) / 2


def test_many_tokens_of_the_second_module_look_at_the_same_pixels():
    rows = json.loads((RESULTS / "token_diversity.json").read_text())["rows"]
    assert rows and all(row["share_of_alike_pairs"][1] > 0.5 > row["share_of_alike_pairs"][0] for row in rows)
