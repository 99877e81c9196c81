"""`vt-timm run`: timm's scripts in this process, and what goes around its train.py."""

import argparse
import ast
import csv
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import types
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset
from timm.models import load_state_dict, resume_checkpoint, save_for_hf

from vt_timm import cli
from vt_timm.errors import UserError
from vt_timm.files import alone_in
from vt_timm.images import ImageError
from vt_timm.runs.run import RunError
from vt_timm.timm_scripts.around_train import TrainingRun
from vt_timm.timm_scripts.checks import ScriptError, create_or_say, resume_or_say
from vt_timm.timm_scripts.fitting import fitted_batch
from vt_timm.timm_scripts.run import _number_as_the_model, _of_one_split, _use_training_run, run_script

STAND_IN = Path(__file__).parent / "support" / "stand_in_train.py"
CHECKOUT = os.environ.get("VT_TIMM_SCRIPTS")
needs_checkout = pytest.mark.skipif(
    not CHECKOUT, reason="needs timm's own scripts: set VT_TIMM_SCRIPTS to a clone of its repository"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, bright and dark, as train/ and val/ folders."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 4)):
        for label, low in (("bright", 128), ("dark", 0)):
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(low, low + 127, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


def run_process(*arguments, script="train", given=CHECKOUT):
    """The command in a process of its own: exit status, stdout, stderr."""
    command = [sys.executable, "-m", "vt_timm", "run", "--from", given, script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def run(capsys, monkeypatch):
    """The same in this process, with the stand-in: many times faster."""

    def run_here(*arguments, given=STAND_IN):
        monkeypatch.setattr(sys, "argv", sys.argv)
        status = cli.main(["run", "--from", str(given), "train", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run_here


def test_another_version_is_warned_of(run, tmp_path, photos):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "version.py").write_text("__version__ = '0.0.1'\n")
    (tmp_path / "train.py").write_text(STAND_IN.read_text())
    status, _, err = run("--data-dir", photos, "--num-classes", 2, "--start-epoch", 3, given=tmp_path)
    assert status == 0 and f"train.py is of timm 0.0.1, installed is {timm.__version__}" in err


def test_a_script_that_wants_another_timm_is_one_line(run, tmp_path):
    (tmp_path / "train.py").write_text("from timm import not_there_yet\n")
    status, _, err = run(given=tmp_path)
    assert status == 2 and "does not run with the installed timm" in err and "Traceback" not in err


def test_as_a_module(photos):
    """Run the command as torchrun starts it."""
    arguments = ("--data-dir", photos, "--num-classes", 2, "--epochs", 1)
    status, out, err = run_process(*arguments, given=STAND_IN)
    assert status == 0 and "epoch 0 " in out, err


@pytest.mark.parametrize(("variable", "value"), [("RANK", "abc"), ("RANK", "-1"), ("WORLD_SIZE", "two"), ("RANK", "")])
def test_a_number_of_torchruns_that_is_none(variable, value, photos, monkeypatch):
    monkeypatch.setenv(variable, value)
    status, _, err = run_process("--data-dir", photos, "--num-classes", 2, "--epochs", 1, given=STAND_IN)
    said = f"vt-timm: {variable}={value}: torchrun sets this variable to a number; unset it to run without torchrun\n"
    assert (status, err) == (2, said) if value else status == 0, err


# --- what goes around train.py


def epochs(out):
    return dict(re.findall(r"^epoch (\d+) (.*)$", out, re.MULTILINE))


def test_our_models_are_registered_and_recipes_found_by_name(run, photos, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 0.3\nnum_classes: 2\n")
    status, out, err = run("--config", recipe, "--data-dir", photos, "--epochs", 1)
    assert (status, "lr 0.3" in out) == (0, True), err
    status, _, err = run("--config", "finetune", "--data-dir", photos)  # found, and more than the stand-in knows
    assert status == 2 and "recipes/finetune.yaml: this train.py has no setting" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "finetune"],
        ["--config=finetune"],
        ["--conf", "finetune"],
        ["-cfinetune"],
        ["-c", "basic_in1k", "--config=finetune"],
    ],
)
def test_a_recipe_is_found_however_it_is_spelt(arguments, run, photos):
    status, _, err = run(*arguments, "--data-dir", photos)
    assert status == 2 and "recipes/finetune.yaml: this train.py has no setting" in err


def test_an_epochs_randomness_depends_on_seed_and_epoch_alone(run, photos):
    common = ("--data-dir", photos, "--num-classes", 2)
    whole, resumed, other = (
        epochs(run(*common, *more)[1]) for more in ((), ("--start-epoch", 1), ("--seed", 7, "--epochs", 1))
    )
    assert len(set(whole.values())) == 3
    assert resumed == {k: whole[k] for k in ("1", "2")}  # data order and augmentation too
    assert other["0"] != whole["0"]


def test_resume_auto(run, photos, tmp_path):
    common = ("--data-dir", photos, "--num-classes", 2, "--start-epoch", 3, "--output", tmp_path, "--resume", "auto")
    assert "resume ''" in run(*common, "--experiment", "run")[1]
    (tmp_path / "run").mkdir(exist_ok=True)
    torch.save({"state_dict": {}}, tmp_path / "run" / "last.pth.tar")
    assert f"resume '{tmp_path}/run/last.pth.tar'" in run(*common, "--experiment", "run")[1]
    status, _, err = run(*common)
    assert status == 2 and "--resume auto needs --experiment" in err
    (tmp_path / "run" / "args.yaml").write_text("model: vt_resnet_micro\nlr: 0.1\n")
    assert run(*common, "--experiment", "run", "--lr", 0.1)[0] == 0
    status, _, err = run(*common, "--experiment", "run", "--lr", 0.3)  # train.py would go on at 0.1, and note 0.3
    assert status == 2 and "--lr 0.3: the run goes on at the rate of its checkpoint, 0.1; leave the option out" in err


@pytest.mark.parametrize(
    ("num_classes", "options", "answers"),
    [
        (2, [], "None"),
        (5, ["--kd-classes", "FILE"], "[3, 1]"),
        (5, ["--kd-distill-type", "feature"], "None"),  # features have no classes that would have to be the same
    ],
)
def test_any_teacher_is_wrapped(run, photos, tmp_path, num_classes, options, answers):
    save_for_hf(timm.create_model("resnet10t", num_classes=num_classes), tmp_path, safe_serialization=True)
    (tmp_path / "classes.txt").write_text("3\n1\n")
    options = [str(tmp_path / "classes.txt") if o == "FILE" else o for o in options]
    common = ("--data-dir", photos, "--num-classes", 2, "--start-epoch", 3)
    status, out, err = run(*common, "--kd-model-name", f"local-dir:{tmp_path}", *options)
    assert status == 0 and "teacher Teacher" in out and f"answers {answers}\n" in out, err


TWO = ["--data-dir", "PHOTOS", "--num-classes", "2"]
HAS_TWO = "the data has 2 classes (bright, dark) and vt_resnet_micro"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "basic_in1"], "no recipe and no file is called basic_in1; did you mean basic_in1k"),
        (["--config=advanced"], "did you mean advanced_in1k"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere: there is no such folder"),
        ([], "no data: name the folder"),
        (["--data-dir", str(Path(__file__).parent)], "cannot read the data of split train: Found 0 images"),
        (["--dataset", "hfds/"], "--dataset hfds/: name the data set behind the slash, as in hfds/NAME"),
        (["--data-dir", "PHOTOS", "--device", "cuda:3"], "--device cuda:3: there is no CUDA device here"),
        (["--data-dir", "PHOTOS", "--num-classes", "10"], f"{HAS_TWO} 10: pass --num-classes 2"),
        ([*TWO, "--model", "vt_resnet_mini"], "Unknown model (vt_resnet_mini); did you mean vt_resnet_micro"),
        ([*TWO, "--kd-model-name", "vt_resnet_micro"], "has 10 classes and the student 2"),
        ([*TWO, "--kd-model-name", "vt_resnet_micro", "--kd-classes", "/nowhere"], "--kd-classes /nowhere: "),
        ([*TWO, "--batchsize", "4"], "train: unrecognized arguments: --batchsize; did you mean --batch-size?"),
        ([*TWO, "--zzz"], "unrecognized arguments: --zzz; `vt-timm run train --help` lists the options"),
        ([*TWO, "--epochs", "two"], "argument --epochs: invalid int value: 'two'"),
        ([*TWO, "--batch-size", "0"], "--batch-size 0: a batch has at least one photo"),
        ([*TWO, "--epochs", "0"], "--epochs 0: a training has at least one epoch"),
        ([*TWO, "--epochs", "-1"], "--epochs -1: a training has at least one epoch"),
        ([*TWO, "--lr", "nan"], "--lr nan: give a finite number"),
        ([*TWO, "--cutmix-minmax", "0.2", "inf"], "--cutmix-minmax inf: give a finite number"),
        ([*TWO, "--opt-kwargs", "nesterov"], "argument --opt-kwargs: nesterov is no KEY=VALUE"),
        ([*TWO, "--lr-scale", "blocks=0"], "--lr-scale blocks=0: the factor is a number above 0"),
        ([*TWO, "--lr-scale", "blocks=fast"], "--lr-scale blocks=fast: the factor is a number above 0"),
        ([*TWO, "--lr-scale", "blocks"], "argument --lr-scale: blocks is no PART=FACTOR"),
        (
            [*TWO, "--lr-scale", "block=1"],
            "--lr-scale block: the model has no trained part of this name; did you mean ",
        ),
        ([*TWO, "--lr-scale", "fc=1", "--sched", "none"], "--lr-scale needs a schedule of the rate"),
        ([*TWO, "--mixup", "0.2", "--batch-size", "3"], "--batch-size 3: --mixup and --cutmix mix"),
        ([*TWO, "--cutmix-minmax", "0.2", "0.8", "--batch-size", "3"], "--batch-size 3: --mixup and --cutmix mix"),
        ([*TWO, "--kd-model-name", "fbnetv3_g.ra2_in1k"], "the teacher fbnetv3_g.ra2_in1k cannot be loaded"),
    ],
)
def test_bad_input_is_one_clear_line_before_training(run, arguments, message, photos):
    status, out, err = run(*[a.replace("PHOTOS", str(photos)) for a in arguments])
    assert status == 2 and message in err.splitlines()[-1] and "epoch" not in out


@pytest.mark.parametrize(
    ("photos", "batch", "is_typed", "fitted"),
    [
        (9469, 64, False, 64), (256, 64, False, 64), (255, 64, False, 62), (60, 64, False, 14), (24, 64, False, 8),
        (9, 64, False, 8), (6, 64, False, 6), (3, 64, False, 2), (60, 16, True, 16), (24, 64, True, 24),
        (7, 64, True, 6), (2, 2, True, 2),
    ],
)  # fmt: skip
def test_the_batch_fits_the_photos(photos, batch, is_typed, fitted):
    assert fitted_batch(photos, batch, is_typed) == fitted


def test_what_is_to_follow_a_training_does_not_follow_one_that_diverged(run, photos, tmp_path):
    settings = ("--epochs", 1, "--lr", 1e30, "--output", tmp_path, "--experiment", "run", "--img-size", 32)
    status, out, err = run("--data-dir", photos, *settings)
    assert status == 2 and "the training diverged" in err.splitlines()[-1] and "next:" not in out


def test_an_odd_batch_that_becomes_even_is_mixed(run, photos):
    status, out, _ = run("--data-dir", photos, "--batch-size", 65, "--mixup", 0.2, "--start-epoch", 3)
    assert status == 0 and "batch 24 " in out


def test_a_benchmark_of_too_few_steps_is_refused(tmp_path, monkeypatch):
    """timm divides by a fifth of them, rounded down."""
    script = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--model', default='')\n"
    option = "parser.add_argument('--num-bench-iter', default=40, type=int)\n"
    (tmp_path / "benchmark.py").write_text(f"{script}{option}def main():\n    print(parser.parse_args())\n")
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(ScriptError, match="--num-bench-iter 4: at least 5"):
        run_script("benchmark", ["--num-bench-iter", "4"], str(tmp_path))
    run_script("benchmark", ["--num-bench-iter", "5"], str(tmp_path))


@pytest.mark.parametrize(
    ("option", "name"),
    [("--model", "run"), ("--model", "local-dir:run"), ("--checkpoint", "run/last.pth.tar"), ("--model", "own/best")],
)
def test_a_run_is_exported_by_our_own_command(option, name, tmp_path, monkeypatch):
    """onnx_export.py builds 1000 classes, or looks for the folder on the Hub."""
    options = "".join(f"parser.add_argument('--{option}', default='')\n" for option in ("model", "checkpoint"))
    script = f"import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('output')\n{options}"
    (tmp_path / "onnx_export.py").write_text(f"{script}def main():\n    pass\n")
    for file in ("run/args.yaml", "run/last.pth.tar", "own/settings.yaml", "own/best/config.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(ScriptError, match=f"^{name} is a training run, .*: say `vt-timm export {name} -o a.onnx`$"):
        run_script("onnx_export", [option, name, "a.onnx"], str(tmp_path))
    run_script("onnx_export", ["--model", "vt_resnet_micro", "a.onnx"], str(tmp_path))


def test_one_photo_is_too_few():
    with pytest.raises(ScriptError, match="1 photos per process are too few"):
        fitted_batch(1, 64, False)


def test_what_the_command_leaves_open_comes_from_the_machine_and_the_data(run, photos):
    status, out, err = run("--data-dir", photos, "--batch-size", 64, "--start-epoch", 3)
    assert status == 0 and "batch 24 updates 1 device cpu" in out
    assert err.splitlines() == [
        "vt-timm: no CUDA device here: running on cpu",
        "vt-timm: 2 classes: bright, dark",
        "vt-timm: 24 photos: batches of 24 instead of 64, so that an epoch has 1 update",
    ]


def _empty_photos(root, **classes):
    for split, names in classes.items():
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(3):
                Image.new("RGB", (32, 32)).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (("bee", "cat", "dog"), "only train has photos of ant; only validation has photos of dog"),
        (("Ant", "bee", "cat"), "only train has photos of ant; only validation has photos of Ant"),
        (("x", "y", "z"), "only train has photos of ant, bee, cat; only validation has photos of x, y, z"),
    ],
)
def test_other_classes_in_val_are_refused_before_training(run, tmp_path, val, message):
    data = _empty_photos(tmp_path / "data", train=("ant", "bee", "cat"), val=val)
    status, out, err = run("--data-dir", data, "--output", tmp_path, "--experiment", "e")
    assert status == 2 and err.splitlines()[-1].endswith(message) and "\nepoch" not in out
    assert not (tmp_path / "e").exists()


def test_a_second_run_does_not_take_the_place_of_the_first(run, photos, tmp_path):
    common = ("--data-dir", photos, "--output", tmp_path, "--experiment", "e", "--img-size", 32, "--epochs", 1)
    assert run(*common)[0] == 0
    best = (tmp_path / "e" / "model_best.pth.tar").read_bytes()
    status, _, err = run(*common, "--seed", 7)
    assert status == 2 and "holds a run already: go on with --resume auto, or name another --experiment" in err
    assert (tmp_path / "e" / "model_best.pth.tar").read_bytes() == best
    assert run(*common, "--resume", "auto")[0] == 0


@pytest.mark.parametrize("resume", ["", "auto"])
def test_a_second_run_does_not_write_beside_one_that_runs(resume, run, photos, tmp_path):
    common = ("--data-dir", photos, "--output", tmp_path, "--experiment", "e", "--img-size", 32, "--epochs", 1)
    with alone_in(tmp_path / "e"):
        status, _, err = run(*common, "--resume", resume)
        assert status == 2 and err.splitlines()[-1].endswith("e: name another folder, or wait for its end")
    assert not list(tmp_path.iterdir())
    assert run(*common, "--resume", resume)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_two_runs_that_train_py_calls_the_same_do_not_share_a_folder(tmp_path):
    """Without --experiment it names them by model, size and second."""
    script = types.SimpleNamespace(train_one_epoch=lambda *_, **__: pytest.fail("it trained"))
    args = argparse.Namespace(experiment="", resume="", seed=0)
    with alone_in(tmp_path), ExitStack() as held, pytest.raises(UserError, match="another training writes to"):
        TrainingRun(script, args, held).train_one_epoch(0, output_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kept", "resume", "named"),
    [
        (["model_best", "checkpoint-9", "checkpoint-10"], "auto", "FOLDER/checkpoint-10.pth.tar"),
        (["model_best"], "auto", "FOLDER/model_best.pth.tar"),
        (["model_best"], "", "FOLDER/model_best.pth.tar"),
        (["checkpoint-9"], "", "FOLDER/checkpoint-9.pth.tar"),
        (["last", "model_best", "checkpoint-9"], "", "auto"),
    ],
)
def test_a_run_without_its_last_checkpoint_is_told_another(kept, resume, named, run, photos, tmp_path):
    (tmp_path / "e").mkdir()
    for name in ("args.yaml", *(f"{name}.pth.tar" for name in kept)):
        (tmp_path / "e" / name).touch()
    status, _, err = run("--data-dir", photos, "--output", tmp_path, "--experiment", "e", "--resume", resume)
    again = named.replace("FOLDER", f"{tmp_path}/e")
    assert status == 2 and f"holds a run already: go on with --resume {again}, or name another --experiment" in err


@pytest.mark.parametrize(
    ("damage", "others", "advice"),
    [
        (lambda data: data[:2000], ["checkpoint-1"], "FOLDER/checkpoint-1.pth.tar"),
        (lambda data: b"", ["model_best"], "FOLDER/model_best.pth.tar"),
        (lambda data: b"no weights", [], "train again under another --experiment"),
    ],
)
def test_a_damaged_checkpoint_to_resume_is_one_line(damage, others, advice, run, photos, tmp_path):
    folder = tmp_path / "e"
    folder.mkdir()
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, folder / "last.pth.tar")
    for name in others:
        (folder / f"{name}.pth.tar").write_bytes((folder / "last.pth.tar").read_bytes())
    (folder / "last.pth.tar").write_bytes(damage((folder / "last.pth.tar").read_bytes()))
    os.link(folder / "last.pth.tar", folder / "checkpoint-7.pth.tar")  # as timm keeps an epoch under two names
    status, _, err = run("--data-dir", photos, "--output", tmp_path, "--experiment", "e", "--resume", "auto")
    said = err.splitlines()[-1]
    assert status == 2 and f"{folder}/last.pth.tar cannot be read as a checkpoint of train.py: it is damaged, " in said
    assert said.endswith(advice.replace("FOLDER", f"go on with --resume {folder}"))


@pytest.mark.parametrize("model", ["vt_resnet18", "resnet18"])
def test_a_run_goes_on_with_its_own_model(model, run, photos, tmp_path):
    (tmp_path / "e").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "e" / "last.pth.tar")
    (tmp_path / "e" / "args.yaml").write_text("model: vt_resnet_micro.muon_imagenette\n")
    common = ("--data-dir", photos, "--output", tmp_path, "--experiment", "e", "--resume", "auto", "--start-epoch", 3)
    status, _, err = run(*common, "--model", model)
    assert status == 2 and f"the run is of vt_resnet_micro.muon_imagenette, not of {model}; say --model vt_" in err
    assert run(*common, "--model", "vt_resnet_micro")[0] == 0


def test_a_checkpoint_that_does_not_fit_the_options_is_one_line(tmp_path):
    torch.save({"state_dict": timm.create_model("vt_resnet_micro").state_dict()}, tmp_path / "last.pth.tar")
    resume = resume_or_say(resume_checkpoint)
    with pytest.raises(ScriptError, match=r"last\.pth\.tar does not fit .*: go on with those of .*args\.yaml$"):
        resume(timm.create_model("vt_resnet_micro", num_classes=3), str(tmp_path / "last.pth.tar"), log_info=False)


def test_a_full_disk_at_a_checkpoint_is_one_line(run, photos, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr("timm.utils.CheckpointSaver._save", fail)
    settings = ("--output", tmp_path, "--experiment", "e", "--img-size", 32)
    status, _, err = run("--data-dir", photos, *settings)
    assert status == 2 and err.splitlines()[-1] == f"vt-timm: cannot write {tmp_path}/e/last.pth.tar: no space is left"


def test_a_full_disk_at_a_recovery_checkpoint_is_one_line(run, photos, tmp_path, monkeypatch):
    """With --recovery-interval timm writes between the epochs too."""

    def fail(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    script = STAND_IN.read_text().replace("saver.save_checkpoint(epoch, metric=top1)", "saver.save_recovery(epoch, 3)")
    (tmp_path / "train.py").write_text(script.replace("checkpoint_dir=", f"recovery_dir='{tmp_path}', checkpoint_dir="))
    monkeypatch.setattr("timm.utils.CheckpointSaver._save", fail)
    settings = ("--output", tmp_path, "--experiment", "e", "--img-size", 32)
    status, _, err = run("--data-dir", photos, *settings, given=tmp_path)
    said = f"vt-timm: cannot write a recovery checkpoint to {tmp_path}: no space is left"
    assert status == 2 and err.splitlines()[-1] == said


@pytest.mark.parametrize(("experiment", "again"), [("e", ""), ("", " --experiment e")])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interrupted_run_says_how_to_go_on(epoch, experiment, again, run, photos, tmp_path, monkeypatch):
    """train.py takes Ctrl-C for the end of a training."""

    def seed(*_):
        seeds.append(None)
        if len(seeds) > epoch:
            raise KeyboardInterrupt

    seeds = []
    monkeypatch.setattr("vt_timm.timm_scripts.around_train.random_seed", seed)
    if not experiment:  # then train.py makes up a name
        script = STAND_IN.read_text().replace("if not args.experiment", "if False").replace("args.experiment)", "'e')")
        (tmp_path / "train.py").write_text(script)
    settings = ("--data-dir", photos, "--output", tmp_path, "--experiment", experiment, "--img-size", 32)
    status, out, err = run(*settings, given=STAND_IN if experiment else tmp_path)
    said = f"vt-timm: interrupted after epoch 0 (the first is 0): go on with --resume auto{again}"
    assert status == 130 and "best:" not in out and [said] * epoch == re.findall("vt-timm: interrupted.*", err)


def test_photos_to_validate_on_of_which_none_can_be_read_are_one_line(run, photos, tmp_path):
    data = _empty_photos(tmp_path / "data", train=("ant", "bee"), val=("ant", "bee"))
    for photo in (data / "val").rglob("*.png"):
        photo.write_bytes(b"no photo")
    status, _, err = run("--data-dir", data, "--output", tmp_path, "--experiment", "e", "--img-size", 32)
    said = r"vt-timm: \d+ photos in a row, from ant/0\.png on, cannot be read: take them out of the data, or .*"
    assert status == 2 and re.fullmatch(said, err.splitlines()[-1])


def test_parts_have_rates_of_their_own(run, photos, tmp_path):
    common = ("--data-dir", photos, "--num-classes", 2, "--output", tmp_path, "--experiment", "e", "--img-size", 32)
    model = timm.create_model("vt_resnet_micro", num_classes=2)
    names = [name for name, _ in model.named_parameters()]
    within = {part: sum(part in name for name in names) for part in ("vt_stage.blocks", "projector")}
    scales = ("--lr-scale", "vt_stage.blocks=0.25", "vt_stage.blocks.0.projector=0.5")
    inner, outer = within["projector"], within["vt_stage.blocks"]  # of two parts the smaller counts
    status, out, _ = run(*common, *scales, "--epochs", 1)
    rates = next(line for line in out.splitlines() if line.startswith("rates"))
    expected = {(None, len(names) - outer), (0.25, outer - inner), (0.5, inner)}
    assert status == 0 and set(ast.literal_eval(rates[6:])) == expected
    assert "(0.25, " in run(*common, "--epochs", 2, "--resume", "auto")[1]  # its own, when none are given
    status, _, err = run(*common, "--epochs", 2, "--resume", "auto", "--lr-scale", "fc=2")
    assert status == 2 and "--lr-scale {'fc': 2}: the run goes on at the rate of its checkpoint, {'vt_s" in err


def test_a_run_is_resumed_with_its_own_classes(run, photos, tmp_path):
    common = ("--output", tmp_path, "--experiment", "e", "--img-size", 32, "--epochs", 1)
    assert run(*common, "--data-dir", photos)[0] == 0
    other = _empty_photos(tmp_path / "data", train=("bright", "night"), val=("bright", "night"))
    status, _, err = run(*common, "--data-dir", other, "--resume", "auto")
    assert status == 2 and "only the run to resume has photos of dark; only train has photos of night" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out/min", "there is no model at out/min; did you mean out/mine?"),
        ("some/model", "there is no model at some/model; a repository of the Hub is called hf-hub:some/model"),
        ("out/mine", "out/mine is a folder: say local-dir:out/mine"),
        ("out", "out is a folder: say local-dir:out"),
        ("my out", "my out is a folder: say 'local-dir:my out'"),  # to be copied into a shell
        ("run", "run is a training run: to go on from its weights name its architecture as --model, and say "
                "--initial-checkpoint run/model_best.pth.tar"),
        ("run/last.pth.tar", "run/last.pth.tar is a training run: to go on from its weights name its architecture as "
                             "--model, and say --initial-checkpoint run/last.pth.tar"),
        ("my run", "my run is a training run: to go on from its weights name its architecture as --model, and say "
                   "--initial-checkpoint 'my run/model_best.pth.tar'"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_said_as_the_other_commands_do(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("out/mine", "my out", "run", "my run"):
        Path(folder).mkdir(parents=True)
    for file in itertools.product(("run", "my run"), ("args.yaml", "model_best.pth.tar", "last.pth.tar")):
        Path(*file).touch()
    with pytest.raises(ScriptError) as caught:
        create_or_say(timm.create_model)(name, pretrained=True)
    assert str(caught.value) == message


def test_a_damaged_checkpoint_to_begin_with_is_said_to_be(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "a.pth.tar")
    (tmp_path / "a.pth.tar").write_bytes((tmp_path / "a.pth.tar").read_bytes()[:2000])
    with pytest.raises(RunError, match=r"a\.pth\.tar cannot be read as a checkpoint of train\.py: it is damaged, or"):
        create_or_say(timm.create_model)("vt_resnet_micro", checkpoint_path=str(tmp_path / "a.pth.tar"))


def test_weights_of_other_classes_are_begun_with_by_another_option(tmp_path):
    """As the message says it: the head is new, and the rest is that of the checkpoint."""
    checkpoint = str(tmp_path / "model_best.pth.tar")
    before = timm.create_model("vt_resnet_micro", num_classes=4)
    torch.save({"state_dict": before.state_dict(), "arch": "vt_resnet_micro"}, checkpoint)
    create = functools.partial(create_or_say(timm.create_model), "vt_resnet_micro", num_classes=3)
    with pytest.raises(ScriptError) as error:
        create(checkpoint_path=checkpoint)
    assert "does not fit vt_resnet_micro with 3 classes: to begin with weights of other classes" in str(error.value)
    assert f"say --pretrained --pretrained-path {checkpoint} instead" in str(error.value)
    model = create(pretrained=True, pretrained_cfg_overlay=dict(file=checkpoint, num_classes=-1))  # as train.py does
    ours, theirs = model.state_dict(), before.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("model", "folders", "labels"),
    [
        ("vt_resnet_micro.muon_imagenette", ["n02979186", "n03000684"], [2, 3]),
        ("vt_resnet_micro.muon_imagenette", ["chain saw", "tench", "church"], [3, 4, 0]),  # in the order of their names
        ("resnet18", ["n01440764", "n03000684"], [0, 491]),  # ImageNet's numbers
        ("vt_resnet_micro.muon_imagenette", ["cat", "dog"], None),
        ("vt_resnet_micro.muon_imagenette", [f"own{i}" for i in range(10)], None),
        ("resnet18", ["cat", "dog"], None),
    ],
)
def test_class_folders_have_the_numbers_of_the_models_classes(model, folders, labels, tmp_path):
    _empty_photos(tmp_path, val=folders)
    script = types.SimpleNamespace(create_model=timm.create_model, create_dataset=create_dataset)
    _number_as_the_model(script)
    script.create_model(model)
    (tmp_path / "map.txt").write_text("\n".join(folders))
    told = script.create_dataset("", root=str(tmp_path), split="val", class_map=str(tmp_path / "map.txt"))
    assert dict.fromkeys(label for _, label in told.reader.samples).keys() == set(range(len(folders)))
    if labels is None:
        with pytest.raises(ScriptError, match=rf"its folders \({folders[0]}, .*\) are not the model's"):
            script.create_dataset("", root=str(tmp_path), split="val")
        return
    dataset = script.create_dataset("", root=str(tmp_path), split="val")
    assert list(dict.fromkeys(label for _, label in dataset.reader.samples)) == labels


def test_a_photo_beside_the_folders_to_validate_on_is_named(tmp_path):
    _empty_photos(tmp_path, val=["tench", ""])
    script = types.SimpleNamespace(create_model=timm.create_model, create_dataset=create_dataset)
    _number_as_the_model(script)
    script.create_model("vt_resnet_micro.muon_imagenette")
    with pytest.raises(ScriptError, match=r"val/0\.png lies in no class folder"):
        script.create_dataset("", root=str(tmp_path), split="val")


VALIDATE = """
import argparse
from timm import create_model
from timm.data import create_dataset
parser = argparse.ArgumentParser()
for option in ("--model", "--data-dir", "--data", "--valid-labels", "--checkpoint"):
    parser.add_argument(option, default="")
def main():
    args = parser.parse_args()
    create_model(args.model)
    labels = [label for _, label in create_dataset("", root=args.data_dir, split="val").reader.samples]
    print(*dict.fromkeys(labels))
"""


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [(["--model", "RUN"], "1 0"), (["--model", "vt_resnet_micro"], None),
     (["--model", "vt_resnet_micro", "--valid-labels", "some.txt"], "0 1")],
)  # fmt: skip
def test_validate_numbers_the_folders_as_the_model_that_it_takes(arguments, labels, tmp_path, monkeypatch, capsys):
    """A run's classes are its own; with --valid-labels the folders' numbers are meant."""
    (tmp_path / "validate.py").write_text(VALIDATE)
    _empty_photos(tmp_path / "data", val=["cat", "dog"])
    model = timm.create_model("vt_resnet_micro", num_classes=2)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["dog", "cat"], "label_descriptions": {}}
    monkeypatch.setattr("vt_timm.timm_scripts.run.is_run", lambda path: path.name == "RUN")
    monkeypatch.setattr("vt_timm.timm_scripts.run.load_run", lambda path: model)
    monkeypatch.setattr(sys, "argv", sys.argv)
    command = [*arguments, "--data-dir", str(tmp_path / "data")]
    if labels is None:
        with pytest.raises(ScriptError, match=r"its folders \(cat, dog\) are not the model's 1000 classes"):
            run_script("validate", command, str(tmp_path))
        return
    run_script("validate", command, str(tmp_path))
    assert capsys.readouterr().out.split() == labels.split()


def test_a_split_that_is_not_there_is_not_all_of_the_photos(photos):
    create = _of_one_split(create_dataset)
    assert len(create("", root=str(photos), split="validation")) == 8
    assert len(create("", root=str(photos / "val"), split="validation")) == 8
    with pytest.raises(ScriptError, match="has no folder holiday: choose another --split, it has train, val"):
        create("", root=str(photos), split="holiday")
    with pytest.raises(ScriptError, match="split train: it lies in a folder, which --data-dir has to name"):
        create("", split="train")


def test_inference_calls_the_classes_as_the_run_does(monkeypatch):
    """inference.py knows ImageNet's names alone, and prints probabilities without any for all other models."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    script = types.SimpleNamespace(
        __name__="timm_inference",
        create_dataset=create_dataset,
        parser=parser,
        infer_imagenet_subset=lambda model: None,
        ImageNetInfo=None,
    )
    model = timm.create_model("vt_resnet_micro", num_classes=2)
    names = {"label_names": ["n01440764", "dog"], "label_descriptions": {"n01440764": "tench", "dog": "dog"}}
    model.pretrained_cfg = {**model.pretrained_cfg, **names}
    monkeypatch.setattr("vt_timm.timm_scripts.run.is_run", lambda path: True)
    monkeypatch.setattr("vt_timm.timm_scripts.run.load_run", lambda path: model)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--model", "output/mine"])
    _use_training_run(script)
    assert script.create_dataset is create_dataset  # photos that are not sorted are welcome
    info = script.ImageNetInfo(script.infer_imagenet_subset(model))
    assert [info.index_to_label_name(i) for i in (0, 1)] == ["n01440764", "dog"]
    assert [info.index_to_description(i) for i in (0, 1)] == ["tench", "dog"]


@needs_checkout
def test_real_inference_tells_photos_of_one_name_apart(photos, tmp_path):
    arguments = ("--data-dir", photos, "--split", "val", "--pretrained", "--model", "vt_resnet_micro.muon_imagenette")
    status, out, err = run_process(*arguments, "--workers", 1, "--results-dir", tmp_path, script="inference")
    names = [f"{label}/{i}.png" for label in ("bright", "dark") for i in range(4)]
    assert status == 0 and sorted(json.loads(out.partition("--result")[2])) == names, err


WORKERS = "Caught KeyError in worker 0.\nTraceback (most recent call last):\n  File x\nKeyError: 'nope'"
TORCHS = WORKERS.replace("Traceback", "Original Traceback")
OURS = TORCHS.replace("KeyError: 'nope'", "vt_timm.images.ImageError: no: photo")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("nope"), "timm's validate.py stopped, KeyError: 'nope'; VT_TIMM_DEBUG=1 shows where"),
        (AssertionError(), "timm's validate.py stopped, AssertionError: AssertionError; "),
        (RuntimeError("out of memory\nmore"), "timm's validate.py stopped, RuntimeError: out of memory; "),
        (RuntimeError(WORKERS), "timm's validate.py stopped, KeyError: 'nope'; "),
        (RuntimeError(TORCHS), "timm's validate.py stopped, KeyError: 'nope'; "),
        (OSError(TORCHS), "timm's validate.py stopped, KeyError: 'nope'; "),
        (ImageError(OURS), "no: photo"),
    ],
)
def test_whatever_a_script_raises_is_one_line(error, message, tmp_path, monkeypatch):
    script = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--model', default='')\n"
    (tmp_path / "validate.py").write_text(f"{script}def main():\n    raise main.error\n")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(
        "vt_timm.timm_scripts.run._use_training_run", lambda script: setattr(script.main, "error", error)
    )
    with pytest.raises(ScriptError) as caught:
        run_script("validate", [], str(tmp_path))
    assert message in str(caught.value) and "\n" not in str(caught.value) and caught.value.__cause__ is error


def test_a_metric_that_is_not_measured_is_refused_before_training(run, tmp_path, photos):
    """train.py looks for it when the first epoch has ended."""
    (tmp_path / "train.py").write_text(
        f"{STAND_IN.read_text()}\nparser.add_argument('--eval-metric', default='top1')\n"
    )
    status, out, err = run("--data-dir", photos, "--eval-metric", "top-1", given=tmp_path)
    assert status == 2 and "--eval-metric top-1: train.py measures no such thing; did you mean top1?" in err
    assert "epoch" not in out


def test_a_mistyped_setting_is_named(run, tmp_path, photos):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("num_clases: 2\n")
    status, _, err = run("--config", recipe, "--data-dir", photos)
    assert status == 2 and "this train.py has no setting num_clases; did you mean num_classes?" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1\n", "not YAML"), ("lr 0.1\n", "no settings in this file"), ("1: 2\n", "this train.py has no setting 1")],
)
def test_a_recipe_that_is_none_is_one_line(text, message, run, tmp_path, photos):
    (tmp_path / "mine.yaml").write_text(text)
    status, _, err = run("--config", tmp_path / "mine.yaml", "--data-dir", photos)
    assert status == 2 and f"mine.yaml: {message}" in err and "Traceback" not in err


# --- the real scripts, where they are at hand

REAL = ("--model", "vt_resnet_micro", "--num-classes", 2, "--img-size", 32, "--device", "cpu", "--workers", 1)


@needs_checkout
def test_real_train_resumes_as_if_it_had_not_stopped(photos, tmp_path):
    settings = (*REAL, "--config", "advanced_nokd_in1k", "--batch-size", 8, "--lr", 0.01, "--warmup-epochs", 0)
    settings += ("--model-ema-decay", 0.9, "--data-dir", photos, "--output", tmp_path)
    for experiment, *more in (("whole", "--epochs", 3), ("parts", "--epochs", 1),
                              ("parts", "--epochs", 3, "--resume", "auto")):  # fmt: skip
        status, _, err = run_process(*settings, "--experiment", experiment, *more)
        assert status == 0, err
    for use_ema in (False, True):
        whole, parts = (load_state_dict(str(tmp_path / n / "last.pth.tar"), use_ema) for n in ("whole", "parts"))
        assert all(torch.equal(whole[k], parts[k]) for k in whole)
    with (tmp_path / "whole" / "summary.csv").open() as one, (tmp_path / "parts" / "summary.csv").open() as other:
        whole_rows, rows = (list(csv.DictReader(file)) for file in (one, other))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and rows[-1] == whole_rows[-1]


@needs_checkout
def test_real_train_distils(photos, tmp_path):
    save_for_hf(timm.create_model("resnet10t", num_classes=2), tmp_path / "teacher", safe_serialization=True)
    settings = (*REAL, "--config", "advanced_in1k", "--batch-size", 8, "--epochs", 1, "--data-dir", photos)
    teacher = ("--kd-model-name", f"local-dir:{tmp_path}/teacher")
    status, _, err = run_process(*settings, *teacher, "--output", tmp_path)
    assert status == 0 and "task_weight=0.2, distill_weight=0.8" in err and "temperature=1.0" in err


@needs_checkout
def test_real_validate_knows_our_models(photos):
    arguments = ("--data-dir", photos, "--split", "val", *REAL)
    status, out, err = run_process(*arguments, script="validate")
    assert status == 0 and '"top1"' in out, err


@needs_checkout
def test_real_finetune_on_three_photos_per_class_and_validate_as_the_run_did(tmp_path):
    data = _empty_photos(tmp_path / "data", train=("ant", "bee", "cat"), val=("ant", "bee", "cat"))
    settings = ("--config", "finetune", "--data-dir", data, "--model", "vt_resnet_micro", "--img-size", 48)
    settings += (
        "--interpolation",
        "bilinear",
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--crop-pct",
        0.9,
        "--output",
        tmp_path,
        "--experiment",
        "e",
    )
    status, _, err = run_process(*settings)
    assert status == 0 and "batches of 8 instead of 64" in err, err
    run = tmp_path / "e"
    for named in (("--model", run), ("--checkpoint", run / "model_best.pth.tar")):
        status, out, err = run_process("--data-dir", data, "--split", "val", *named, script="validate")
        assert status == 0, err
        result = json.loads(out.partition("--result")[2])
        assert (result["img_size"], result["crop_pct"], result["interpolation"]) == (48, 0.9, "bilinear")
        assert result["top1"] == pytest.approx(100 / 3, abs=0.01)
