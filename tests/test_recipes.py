"""The recipes: every key is one of timm's, and the numbers are the paper's."""

import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import vt_timm  # noqa: F401  registers the models
from vt_timm import cli
from vt_timm.cli.segmentation import _changes
from vt_timm.errors import UserError
from vt_timm.recipes import FOLDER, SEGMENTATION, find_recipe, list_recipes
from vt_timm.segmentation.settings import FORMS, Settings
from vt_timm.weights.published import published_segmenters

RECIPES = sorted(FOLDER.glob("*.yaml"))
# Names of the arguments of timm's train.py (August 2026), so that a mistyped key fails without a checkout at hand.
ARGUMENTS = (Path(__file__).parent / "support" / "train_arguments.txt").read_text().split()
CHECKOUT = os.environ.get("VT_TIMM_SCRIPTS")


def settings(name):
    return yaml.safe_load(find_recipe(name).read_text())


def test_they_are_all_there():
    assert set(list_recipes()) == {
        "basic_in1k", "advanced_in1k", "advanced_nokd_in1k", "finetune", "muon_imagenette", "distillation_imagenette",
        "matched_imagenette", "distilled_imagenette", "mixup_imagenette", "robust_imagenette",
        "robust2_imagenette",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_key_is_an_argument_of_train_py(path):
    recipe = yaml.safe_load(path.read_text())
    assert recipe.pop("recipe") == path.stem  # train.py writes it into args.yaml
    assert set(recipe) <= {
        *ARGUMENTS,
        "kd_classes",
        "kd_img_size",
        "lr_scale",
    }  # the last three are options of `vt-timm run train`


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_names_a_model_of_ours(path):
    """train.py would train timm's resnet50 otherwise."""
    model = yaml.safe_load(path.read_text())["model"]
    assert model.partition(".")[0] in timm.list_models("vt_resnet*")


@pytest.mark.skipif(not CHECKOUT, reason="needs timm's train.py: set VT_TIMM_SCRIPTS to a clone of its repository")
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_train_py_parses_it(path, monkeypatch):
    spec = importlib.util.spec_from_file_location("timm_train", Path(CHECKOUT) / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(path), "--data-dir", "x"])
    args, _ = train._parse_args()
    known = {action.dest: action for action in train.parser._actions}
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(args, key) == value
        kind = known[key].type if key in known else None
        if kind in (int, float):  # argparse converts no defaults, so a text in place of a number would get through
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, (int, float)) and kind(one) == one, key


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_opens_with_the_command_and_what_to_expect(path):
    text = path.read_text()
    comment = " ".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    assert f"run train --config {path.stem} --data-dir" in comment
    assert "%" in comment or any(
        words in comment for words in ("what it reaches depends", "no such row", "What the models reach is in")
    )
    assert max(map(len, text.splitlines())) <= 120


def learning_rates(recipe):
    """The learning rates of every epoch, by timm's own optimiser and scheduler."""
    model = torch.nn.Linear(2, 2)
    optimizer = create_optimizer_v2(model, opt=recipe["opt"], lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched=recipe["sched"],
        num_epochs=recipe["epochs"],
        decay_epochs=recipe["decay_epochs"],
        decay_rate=recipe["decay_rate"],
        warmup_epochs=recipe["warmup_epochs"],
        warmup_lr=recipe.get("warmup_lr", 0),
        warmup_prefix=recipe.get("warmup_prefix", False),
    )
    rates = []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    return optimizer, rates


def test_basic_is_section_5_1():
    recipe = settings("basic_in1k")
    optimizer, rates = learning_rates(recipe)
    assert type(optimizer).__name__ == "SGD" and optimizer.defaults["nesterov"]
    assert (recipe["momentum"], recipe["weight_decay"]) == (0.9, 4e-5)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)
    assert 8 * recipe["batch_size"] == 256  # on the paper's 8 GPUs
    assert recipe["smoothing"] == 0 and "aa" not in recipe and "model_ema" not in recipe


def test_advanced_is_section_5_2():
    recipe = settings("advanced_in1k")
    optimizer, rates = learning_rates(recipe)
    assert "RMSprop" in type(optimizer).__name__
    assert len(rates) == 400
    assert rates[:6] == pytest.approx([0.01 + (0.16 - 0.01) * i / 5 for i in range(6)])
    assert rates[5:] == pytest.approx([0.16 * 0.9875**i for i in range(395)])
    assert 16 * recipe["batch_size"] == 2048 and recipe["sync_bn"]
    assert recipe["model_ema"] and recipe["model_ema_decay"] == 0.99985
    assert (recipe["aa"], recipe["smoothing"], recipe["drop"]) == ("original", 0.1, 0.2)
    assert 1 - recipe["drop_path"] == pytest.approx(0.9)  # survival
    assert recipe["kd_model_name"] == "fbnetv3_g.ra2_in1k" and timm.is_model("fbnetv3_g")
    assert (recipe["distill_loss_weight"], recipe["task_loss_weight"], recipe["kd_temperature"]) == (0.8, 0.2, 1.0)


def test_without_distillation_all_else_is_the_same():
    with_teacher, without = settings("advanced_in1k"), settings("advanced_nokd_in1k")
    teacher = {"kd_model_name", "kd_distill_type", "kd_temperature", "distill_loss_weight", "task_loss_weight"}
    assert with_teacher.keys() - without.keys() == teacher
    same = {k: v for k, v in with_teacher.items() if k not in teacher}
    assert {**without, "recipe": ""} == {**same, "recipe": ""}


@pytest.mark.parametrize("name", ["vt_resnet18", "resnet18"])
def test_models_take_the_recipes_regularisation(name):
    recipe = settings("advanced_in1k")
    model = timm.create_model(name, drop_rate=recipe["drop"], drop_path_rate=recipe["drop_path"], device="meta")
    assert any(getattr(m, "drop_prob", 0) == pytest.approx(0.1) for m in model.modules())


def test_the_command_lists_and_prints_them(capsys):
    assert cli.main(["recipes"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [words[0] for words in listed] == [*sorted(list_recipes()), *sorted(list_recipes(SEGMENTATION))]
    assert all(len(words) > 5 for words in listed)
    assert cli.main(["recipes", "basic_in1k"]) == 0
    assert capsys.readouterr().out == (FOLDER / "basic_in1k.yaml").read_text()


def test_an_unknown_recipe_offers_the_closest(capsys):
    assert cli.main(["recipes", "basic_in1"]) == 2
    assert "did you mean basic_in1k" in capsys.readouterr().err
    with pytest.raises(UserError, match="there are advanced_in1k, "):
        find_recipe("zzz")


SEGMENTERS = sorted(SEGMENTATION.glob("*.yaml"))
ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for pattern in ("*.md", "vt_timm/**/*", "benchmarks/**/*", "hub/**/*")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".md", ".yaml", ".ipynb", ".py")
]


@pytest.mark.parametrize("path", SEGMENTERS, ids=lambda p: p.stem)
def test_every_segmentation_recipe_is_understood(path):
    settings = Settings.from_yaml(path, {"data_dir": "x"})
    assert settings.neck == "vt_fpn" and settings.warmup_updates < settings.updates
    comment = " ".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"train-segmenter --config {path.stem} --data-dir" in comment
    assert max(map(len, path.read_text().splitlines())) <= 120


def documented_settings():
    """Lists of settings that are meant to go together: those after every `--set` on every page, in every recipe, help
    text and message, those of a row of the page's tables, and the example of every message.
    """
    texts = [path.read_text() for path in PAGES] + [sub.format_help() for sub in all_parsers()]
    for text in texts:
        text = re.sub(r"\\\n\s*", "", text)  # a line that goes on
        for match in re.finditer(r"--set((?: +(?:'\w+=[^']*'|\w+=[^\s'`;,)\"]+))+)", text):
            yield [one for one in shlex.split(match[1]) if not one.startswith("KEY=") and "{settings." not in one]
    for line in re.findall(r"^\|.*\|$", (ROOT / "vt_timm/segmentation/README.md").read_text(), re.MULTILINE):
        yield [shlex.split(one)[0] for one in re.findall(r"`('?[a-z_]+=[^`]+)`", line)]
    for name, (_, example) in FORMS.items():
        yield [shlex.split(f"{name}={example}")[0].rstrip(","), "color_jitter=0"]


def all_parsers():
    (commands,) = (action for action in cli.parser()._actions if hasattr(action, "choices") and action.choices)
    return commands.choices.values()


def test_every_documented_setting_is_one():
    found = list(documented_settings())
    named = {setting for group in found for setting in group}
    assert {"precision=no", "neck=fpn", "eval_size=[512, 512]", "lr=5.0e-4", "crop_size=176"} <= named
    assert sum(map(bool, found)) > 20
    for group in found:
        changes = {"data_dir": "x", **_changes(group)}
        settings = Settings.from_yaml(find_recipe("ccp", SEGMENTATION), changes)
        assert settings.initial_checkpoint in ("", *published_segmenters()) or "..." in settings.initial_checkpoint
        assert timm.is_model(settings.backbone.partition(".")[0]) or settings.backbone.endswith(":FOLDER")


def documented_commands():
    """Every line of a page or recipe that starts a training of a segmenter, as the shell splits it."""
    for path in PAGES:
        if path.suffix != ".py":
            text = re.sub(r"\\\n\s*", "", path.read_text())
            for arguments in re.findall(r"(?:vt-timm|-m vt_timm) train-segmenter (--config [^\n`]*)", text):
                yield shlex.split(arguments, comments=True)


def test_every_documented_training_of_a_segmenter_is_understood():
    commands = list(documented_commands())
    assert len(commands) >= 8
    for command in commands:
        args = cli.parser().parse_args(["train-segmenter", *command])
        Settings.from_yaml(find_recipe(args.config, SEGMENTATION), {"data_dir": args.data_dir, **_changes(args.set)})


def test_segmentation_follows_section_5_3():
    coco, lip = (Settings.from_yaml(find_recipe(n, SEGMENTATION), {"data_dir": "x"}) for n in ("coco_stuff", "lip"))
    assert 8 * coco.batch_size == 32 and coco.lr == 0.04 and coco.sync_bn
    factors = [coco.schedule_factor(update) for update in (1000, 30000, 40000, 44999)]
    assert factors == pytest.approx([1, 0.1, 0.01, 0.01])
    assert 8 * lip.batch_size == 96 and (lip.lr, lip.weight_decay, lip.sync_bn) == (0.01, 5e-4, True)
