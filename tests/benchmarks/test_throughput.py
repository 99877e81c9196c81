"""The speed benchmark: what it measures and how it reckons, never how fast this machine is."""

import argparse
import sys
from dataclasses import replace

import pytest
import timm
import torch

from benchmarks.common import measure
from benchmarks.throughput import __main__ as command
from benchmarks.throughput import memory, passes, projector, runner, stages, versions
from vt_timm.projector import Projector

SETTING = passes.Setting(size=64, batch_size=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    return tmp_path


def command_line(monkeypatch, main, options):
    monkeypatch.setattr(sys, "argv", ["x", *options.split()])
    main()


def test_ways_take_turns_and_warm_up_is_not_counted():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measure.in_turn(ways, rounds=2, warm_up=1, clock=lambda run: (run(), float(len(calls)))[1])
    assert "".join(calls) == "ababab"
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_ratio_is_the_peer_over_the_model(monkeypatch):
    times = {"resnet18": [3.0, 6.0, 3.0], "vt_resnet18": [2.0, 2.0, 2.0]}
    monkeypatch.setattr(command, "build", lambda name, s: lambda: None)
    monkeypatch.setattr(command, "in_turn", lambda ways, *_, **__: {name: times[name] for name in ways})
    (row,) = command.compare("vt_resnet18", ["resnet18"], replace(SETTING, size=224), pairs=3)
    assert row["ratio"] == 1.5
    assert (row["low"], row["high"]) == (1.5, 2.25)
    assert (row["peer_images_per_second"], row["model_images_per_second"]) == (0.7, 1.0)
    assert row["macs_ratio"] == pytest.approx(1814 / 1551, abs=0.001)


@pytest.mark.parametrize("task", ["inference", "train"])
@pytest.mark.parametrize("memory_format", passes.FORMATS)
@pytest.mark.parametrize("precision", passes.PRECISIONS)
def test_a_pass_sees_the_images_asked_for(task, memory_format, precision, monkeypatch):
    seen = []
    create = passes.timm.create_model

    def spied(name, **options):
        model = create(name, **options)
        model.register_forward_pre_hook(lambda module, given: seen.append((module.training, given[0])))
        return model

    monkeypatch.setattr(passes.timm, "create_model", spied)
    s = replace(SETTING, task=task, memory_format=memory_format, precision=precision)
    one_pass = passes.build("vt_resnet_micro", s)
    for _ in range(passes.INPUTS + 1):
        one_pass()
    training, images = seen[0]
    assert training == (task == "train")
    assert images.shape == (2, 3, 64, 64)
    assert images.dtype == passes.PRECISIONS[precision]
    assert images.is_contiguous(memory_format=passes.FORMATS[memory_format])
    assert seen[passes.INPUTS][1] is images
    assert not torch.equal(seen[1][1], images)


def test_a_training_step_changes_the_weights(monkeypatch):
    made = []
    create = passes.timm.create_model
    monkeypatch.setattr(passes.timm, "create_model", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    step = passes.build("vt_resnet_micro", replace(SETTING, task="train"))
    before = made[0].fc.weight.clone()
    step()
    assert not torch.equal(before, made[0].fc.weight)


def test_other_attention_is_an_option_of_the_blocks():
    assert passes.base_and_options("resnet18+cbam") == ("resnet18", {"block_args": {"attn_layer": "cbam"}})
    assert passes.macs_of("resnet18+cbam", 224) > passes.macs_of("resnet18", 224)


def test_bounds_follow_from_the_parts(monkeypatch):
    """Worked out by hand: common 60 ms of 100; 16 tokens of 1024 x 1024 in 1 ms are 16.8 million MACs per ms."""
    seconds = {"resnet": [0.1], "layer4": [0.04], "vt_stage": [0.02], "product": [0.001]}
    monkeypatch.setattr(stages, "in_turn", lambda *_: seconds)
    s = passes.Setting()
    row = stages.bounds("vt_resnet18", s, pairs=1)
    macs = 256 * 512 * 196 + 2 * 512 * 16 * 196 * 2  # at least: the lift, and both modules' filters and pooling
    assert row["free"] == pytest.approx(100 / 60, abs=0.001)
    assert row["as_it_is"] == pytest.approx(100 / 80, abs=0.001)
    assert row["product_gmacs_per_second"] == pytest.approx(16.8, abs=0.05)
    assert row["vt_stage_gmacs_per_second"] > macs / 20e6
    at_rate = 20 * row["vt_stage_gmacs_per_second"] / row["product_gmacs_per_second"]
    assert row["products"] == pytest.approx(100 / (60 + at_rate), rel=0.01)
    twice_as_wide = stages.bounds("vt_resnet18", replace(s, size=448), pairs=1)
    assert twice_as_wide["layer4_gmacs_per_second"] == pytest.approx(4 * row["layer4_gmacs_per_second"], rel=0.01)


def test_command_prints_and_records(folder, monkeypatch, capsys):
    options = "--models vt_resnet18 --sizes 64 --batch-sizes 1 --pairs 1 --write small"
    command_line(monkeypatch, command.main, options)
    (row,) = runner.rows_of("rows", "small", mode="eager")
    assert row["pairs"] == command.rounds_for(1, 64, 1) >= 5
    assert row["low"] <= row["ratio"] <= row["high"]
    assert (row["model"], row["peer"], row["size"], row["threads"]) == ("vt_resnet18", "resnet18", 64, 1)
    (origin,) = runner.read_rows(folder / "records.csv")
    assert origin["command"].endswith(options) and origin["date"] and origin["machine"] and origin["torch"]
    assert f"ratio {row['ratio']}, low {row['low']}" in capsys.readouterr().out


def test_a_record_takes_the_place_of_the_one_that_had_its_name(folder):
    for name, ratio in (("a", 1.0), ("b", 1.5), ("a", 2.0)):
        runner.keep(name, "rows", [{"model": "vt_resnet18", "ratio": ratio}])
    assert {row["record"]: row["ratio"] for row in runner.rows_of("rows")} == {"a": 2.0, "b": 1.5}
    assert [row["record"] for row in runner.read_rows(folder / "records.csv")] == ["b", "a"]


def test_allocated_memory_counts_what_is_there_at_once():
    megabyte = 2**18  # float32 values

    def run() -> None:
        first = torch.ones(megabyte)
        second = first + 1
        del first
        torch.cat([second, second])  # 1 + 2 megabytes at once, after 1 + 1

    assert measure.allocated_peak_of(run) == 3 * 2**20


def test_what_a_layer_keeps_for_its_backward_pass_is_counted_once():
    """Worked out by hand: sin keeps its input, the convolution's output; both branches of exp keep its one output."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 1)

        def forward(self, x):
            wave = self.conv(x).sin().exp()
            return wave.square() + wave.view(-1).square().view_as(wave)

    one_map = 4 * 2 * 5 * 8 * 8
    assert memory.kept_by(Layer(), torch.ones(2, 3, 8, 8)) == 2 * one_map


def test_memory_of_inference_is_weights_and_the_maps_there_at_once():
    row = memory.compare("vt_resnet18", replace(SETTING, batch_size=1))
    weights = {"vt_resnet18": 10.9, "resnet18": 11.7}  # millions, four bytes each
    # one map of 64 x 32 x 32 after the first convolution, and its copy after the batch norm
    assert row["peer_megabytes"] == pytest.approx(4 * weights["resnet18"] + 2 * 0.262, abs=0.4)
    assert row["model_megabytes"] == pytest.approx(4 * weights["vt_resnet18"] + 2 * 0.262, abs=0.4)
    assert row["share"] == pytest.approx(row["model_megabytes"] / row["peer_megabytes"], abs=0.001)
    assert "vt_stage_keeps_megabytes" not in row


def test_memory_of_a_training_step_has_momentum_and_what_the_stages_keep(folder, monkeypatch):
    options = "--models vt_resnet18 --tasks train --memory-formats channels_last --sizes 64 --batch-sizes 2 --write m"
    command_line(monkeypatch, memory.main, options)
    (row,) = runner.rows_of("memory", "m", task="train")
    # weights, momentum and gradients are there at once at the end of a step
    assert row["model_megabytes"] > 3 * 4 * 10.9
    assert row["peer_megabytes"] > 3 * 4 * 11.7
    a_map = 4 * 2 * 512 * 4 * 4 / 1e6  # of the VT stage: the lift's product, its output, the projector's
    assert row["vt_stage_keeps_megabytes"] > 3 * a_map


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_attention_computes_what_the_projector_does(layout):
    torch.manual_seed(0)
    module = Projector(64, 32, num_heads=4).eval()
    torch.nn.init.normal_(module.bn.weight)  # starts at zero, where any attention gives the map
    feature, tokens = torch.randn(3, 64, 5, 6).to(memory_format=layout), torch.randn(3, 8, 32)
    torch.testing.assert_close(projector.fused(module, feature, tokens), module(feature, tokens), rtol=1e-4, atol=1e-5)


def test_the_projector_benchmark_records_both_ways(folder, monkeypatch):
    options = "--models vt_resnet18 --memory-formats channels_last --batch-sizes 2 --sizes 64 --pairs 5 --write p"
    command_line(monkeypatch, projector.main, options)
    (row,) = runner.rows_of("projector", "p")
    assert row["pairs"] >= 5 and row["low"] <= row["fused_is_faster_by"] <= row["high"]
    assert row["projector_ms"] > 0 < row["fused_ms"]


def test_settings_vary_the_last_choice_fastest():
    args = argparse.Namespace(models=["vt_resnet18"], sizes=[32, 64], batch_sizes=[1, 16], device="cpu", threads=2)
    found = runner.settings(args, ("model", "size", "batch_size"))
    assert [(s.size, s.batch_size) for _, s in found] == [(32, 1), (32, 16), (64, 1), (64, 16)]
    assert all((name, s.device, s.threads) == ("vt_resnet18", "cpu", 2) for name, s in found)


def test_momentum_is_held_between_training_steps():
    momentum = passes.held_by("vt_resnet18", replace(SETTING, task="train")) - passes.held_by("vt_resnet18", SETTING)
    assert momentum == 4 * sum(p.numel() for p in timm.create_model("vt_resnet18").parameters())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--task train --modes onnx", "exported models do not train"),
        ("--models resnet18", "invalid choice"),
        ("--device cuda", "torch finds no GPU"),
        ("--before nonsense", "--before nonsense: fatal: not a valid object name"),
    ],
)
def test_wrong_options_end_in_one_line(arguments, says, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        command_line(monkeypatch, command.main, arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_onnx_runtime_is_left_out_in_bfloat16():
    args = command.parser().parse_args([])
    assert command.measure("vt_resnet18", replace(SETTING, mode="onnx", precision="bfloat16"), args) == []


def test_each_version_runs_in_a_process_of_its_own():
    with versions.passes_in_processes("vt_resnet_micro", "HEAD", SETTING) as ways:
        assert list(ways) == ["vt_resnet_micro@HEAD", "vt_resnet_micro"]
        assert all(run() > 0 for run in ways.values())
        folders = [run.process.args[-1] for run in ways.values()]
    assert folders[0] != folders[1] == str(versions.ROOT)
    assert all(run.process.returncode == 0 for run in ways.values())


def test_a_process_that_ends_early_is_an_error(tmp_path, capfd):
    with versions.Pass("vt_resnet_micro", SETTING, tmp_path) as run, pytest.raises(RuntimeError, match="ended early"):
        run()
    assert "was imported from" in capfd.readouterr().err
