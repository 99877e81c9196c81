"""From a run folder to a Hub folder and its card."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.accuracy import runs
from benchmarks.common import records
from hub import card, publish
from tests.support.samples import NAME, REPOSITORY, logits
from vt_timm.cards import card as model_card
from vt_timm.cli import main
from vt_timm.files import folder_beside
from vt_timm.pipelines.sources import load as load_pipeline
from vt_timm.publishing import publish as publishing
from vt_timm.publishing.publish import open_run
from vt_timm.runs.train_run import TrainRun

ROOT = Path(__file__).parents[1]


def load(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_a_run_becomes_a_folder_that_gives_the_same_logits(run, tmp_path, capsys):
    folder, (last, best) = run
    out = tmp_path / "out"
    for number in range(3):
        (photo := tmp_path / "photos" / "val" / "n01440764" / f"{number}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photo)
    assert publish.main([str(folder), NAME, "-o", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert torch.equal(logits(load(out)), logits(last))
    assert "not uploaded" in capsys.readouterr().out
    names = load(out).pretrained_cfg["label_descriptions"]
    assert list(names.items()) == [("n01440764", "tench"), ("n02102040", "English springer")]
    config = json.loads((out / "config.json").read_text())
    assert config["model_args"]["num_tokens"] == 9 and "num_classes" not in config["model_args"]
    text = (out / "README.md").read_text()
    assert "top-5" not in text  # of two classes
    assert (
        "on the run's 3 validation images: top-1 50.00 %" in text
        and "train.py itself measured after epoch 3 (the first is 0) at 128 x 128 pixels" in text
    )
    assert "num_tokens=9" in text and "No checkpoint was picked" in text and "somebody/output" not in text

    shutil.rmtree(tmp_path / "photos" / "val")
    assert publish.main([str(folder), NAME, "-o", str(out), "--checkpoint", "best", "--half"]) == 0
    assert torch.equal(logits(load(out)), logits(best.half().float()))
    text = (out / "README.md").read_text()
    assert (
        "on the run's validation images: top-1 75.50 %" in text
        and "picked by its score on these images, which flatters it" in text
    )
    assert "16-bit floats" in text


def test_averaged_weights_come_before_the_others(run, tmp_path):
    folder, (_, best) = run
    state = torch.load(folder / "last.pth.tar", weights_only=False)
    torch.save({**state, "state_dict_ema": best.state_dict()}, folder / "last.pth.tar")
    assert publish.main([str(folder), NAME, "-o", str(tmp_path / "out")]) == 0
    assert torch.equal(logits(load(tmp_path / "out")), logits(best))


def test_the_tag_comes_from_the_recipe(run, tmp_path, capsys):
    folder, _ = run
    assert publish.main([str(folder), "-o", str(tmp_path / "out")]) == 2
    assert "names no recipe to take the tag from: give NAME" in capsys.readouterr().err
    args = yaml.safe_load((folder / "args.yaml").read_text())
    (folder / "args.yaml").write_text(yaml.safe_dump({**args, "recipe": "finetune"}))
    assert publish.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    assert load(tmp_path / "out").pretrained_cfg["tag"] == "finetune"
    assert "`vt_timm/recipes/finetune.yaml`" in (tmp_path / "out" / "README.md").read_text()
    (folder / "args.yaml").write_text(yaml.safe_dump({**args, "recipe": "mine"}))
    assert publish.main([str(folder), "-o", str(tmp_path / "own")]) == 0
    assert "| recipe | the run's own arguments |" in (tmp_path / "own" / "README.md").read_text()


def test_metrics_can_be_measured_anew(run, tmp_path, capsys):
    folder, (last, _) = run
    hits = 0
    for label, name in enumerate(("n01440764", "n02102040")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            generator = torch.Generator().manual_seed(10 * label + number)
            pixels = (torch.rand(128, 128, 3, generator=generator) * 255).byte()
            Image.fromarray(pixels.numpy()).save(tmp_path / "val" / name / f"{number}.png")
            mean, std = (torch.tensor(last.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
            with torch.inference_mode():
                image = (pixels.permute(2, 0, 1) / 255 - mean) / std
                hits += last(image[None]).argmax().item() == label
    arguments = [str(folder), NAME, "-o", str(tmp_path / "out"), "--measure", str(tmp_path / "val")]
    assert publish.main(arguments) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"6 validation images: top-1 {100 * hits / 6:.2f} %" in text and "measured on 20" in text


def test_a_card_shows_class_names_as_they_are(run, tmp_path):
    """As a page they read as the folders are called: no name is a link, and none loses a sign."""
    folder, _ = run
    names = ["[cat](mailto:x)", "*big* | __dog__ <b> `c` a_b"]
    for name in names:
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "classes" / name / "1.png")
    out = tmp_path / "out"
    assert publish.main([str(folder), NAME, "-o", str(out), "--class-folders", str(tmp_path / "classes")]) == 0
    page = MarkdownIt("gfm-like", {"linkify": False}).render((out / "README.md").read_text())
    assert "2 classes: *big* | __dog__ <b> `c` a_b, [cat](mailto:x)." in unescape(re.sub("<[^>]+>", "", page))


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda run: (run / "summary.csv").unlink(), [NAME], "it has no summary.csv"),
        (lambda run: (run / "last.pth.tar").unlink(), [NAME], "has no last.pth.tar: choose another --checkpoint"),
        (lambda run: (run / "last.pth.tar").write_bytes(b"PK"), [NAME], "last.pth.tar cannot be read"),
        (lambda run: None, ["vt_resnet18.trial"], "trained vt_resnet_micro, which vt_resnet18.trial does not say"),
        (lambda run: None, ["trial"], "which trial does not say: the name is MODEL.TAG, such as vt_resnet_micro.trial"),
        (lambda run: None, [NAME, "--measure", "nowhere"], "nowhere: no such file or folder"),
        (lambda run: None, [NAME, "--record", ".", "--dry-run"], "leave it or --dry-run out"),
        (lambda run: None, [NAME, "--class-folders", str(ROOT)], "the model has 2 classes and the class folders are"),
    ],
)
def test_a_run_that_cannot_be_published_is_one_line(spoil, arguments, message, run, tmp_path, capsys):
    folder, _ = run
    spoil(folder)
    assert publish.main([str(folder), *arguments, "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hub.publish: ") and message in line
    assert not (tmp_path / "out").exists()


def spoiled(file, content):
    def spoil(run):
        (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def cut_off(file, key):
    def spoil(run):
        settings = yaml.safe_load((run / file).read_text())
        (run / file).write_text(yaml.safe_dump({name: value for name, value in settings.items() if name != key}))

    return spoil


def overflow(run):
    """Weights that are numbers, whose sums are none."""
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    for tensor in state["state_dict"].values():
        if tensor.ndim > 1:
            tensor.fill_(1e38)
    torch.save(state, run / "model_best.pth.tar")


def diverge_as_a_segmenter(run):
    file = run / "best" / "model.safetensors"
    save_file({name: tensor / torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)


def diverge(run):
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    state["state_dict"]["fc.bias"].fill_(float("nan"))
    torch.save(state, run / "model_best.pth.tar")


def publish_line(arguments, capsys):
    """The one line with which `vt-timm publish` refuses."""
    assert main(["publish", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled("args.yaml", ""), "args.yaml does not say model"),
        (spoiled("args.yaml", "- 1\n"), "args.yaml does not say model"),
        (spoiled("args.yaml", "a: [1\n"), "args.yaml is not YAML"),
        (cut_off("args.yaml", "opt"), "args.yaml does not say 'opt': bring it back, or train again"),
        (spoiled("summary.csv", "epoch,eval_top1\n2,abc\n"), "summary.csv is not the table of numbers"),
        (spoiled("summary.csv", b"\xff\xfe\x00"), "summary.csv is not the table of numbers"),
        (spoiled("summary.csv", "epoch,eval_top1\n2,1,7\n"), "summary.csv is not the table of numbers"),
        (spoiled("summary.csv", ""), "summary.csv has no top-1 and top-5 for epoch 2"),
        (spoiled("summary.csv", "train_loss\n1\n"), "summary.csv has no top-1 and top-5 for epoch 2"),
        (spoiled("summary.csv", "epoch,eval_top1\n2,1\n"), "summary.csv has no top-1 and top-5 for epoch 2"),
        (spoiled("model.json", "[]"), "model.json describes no model"),
        (spoiled("model_best.pth.tar", b"x" * 100), "it is damaged, or holds more than weights"),
        (diverge, "model_best.pth.tar diverged, its weights are no numbers"),
        (overflow, "answers with no numbers (NaN): its training diverged"),
    ],
)
def test_a_damaged_run_is_one_line(spoil, message, run, tmp_path, capsys):
    spoil(run[0])
    assert message in publish_line([run[0], NAME, "-o", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled("settings.yaml", "neck: vt_fpn\n"), "settings.yaml does not say backbone"),
        (cut_off("settings.yaml", "updates"), "settings.yaml does not say 'updates': bring it back, or train again"),
        (spoiled("best/metrics.json", "{}"), "metrics.json is not what a training writes"),
        (spoiled("best/metrics.json", "nope"), "metrics.json is not what a training writes"),
        (spoiled("best/config.json", "{}"), "cannot load the segmenter"),
        (spoiled("best/model.safetensors", "zz"), "cannot load the segmenter"),
        (lambda run: shutil.rmtree(run / "best"), "it has no best/metrics.json"),
        (diverge_as_a_segmenter, "answers with no numbers (NaN): its training diverged"),
    ],
)
def test_a_damaged_run_of_a_segmenter_is_one_line(spoil, message, segmenter_run, tmp_path, capsys):
    spoil(segmenter_run[0])
    assert message in publish_line([segmenter_run[0], "-o", tmp_path / "out"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "vt_resnet_micro.", "-o", "out"], "ORG/vt_resnet_micro.: the Hub takes ORG/NAME"),
        (["{run}", "vt_resnet_micro.a/b", "-o", "out"], "the Hub takes ORG/NAME"),
        (["{run}", "vt_resnet_micro.é", "-o", "out"], "the Hub takes ORG/NAME"),
        (["{run}", NAME, "-o", "out", "--push", "nobody"], "nobody: the Hub takes ORG/NAME"),
        (["{run}", NAME, "-o", "out", "--push", "../x", "--dry-run"], "../x: the Hub takes ORG/NAME"),
        (["{run}", NAME, "-o", "out", "--push", "a/b/c", "--dry-run"], "a/b/c: the Hub takes ORG/NAME"),
        (["{run}", NAME, "-o", "out", "--private"], "--private belongs to --push"),
        (["{run}", NAME, "-o", "dangling"], "this is a link that leads nowhere"),
        (["{run}/model_best.pth.tar", NAME, "-o", "out"], "is a part of a run: name the run, {run}"),
        (["{segmenter}/best", "-o", "out"], "is a part of a run: name the run, {segmenter}"),
        (["{run}n", NAME, "-o", "out"], "there is no folder {run}n; did you mean {run}?"),
        (["vt_resnet_micro", "-o", "out"], "there is no folder vt_resnet_micro"),
        (["{segmenter}", "-o", "out", "--checkpoint", "last"], "leave --checkpoint and --class-folders out"),
        (["{segmenter}", "-o", "out", "--class-folders", "."], "leave --checkpoint and --class-folders out"),
    ],
)
def test_what_would_have_no_effect_or_no_place_is_said_first(
    arguments, message, run, segmenter_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("dangling").symlink_to("nowhere")
    places = dict(run=run[0], segmenter=segmenter_run[0])
    assert message.format(**places) in publish_line([a.format(**places) for a in arguments], capsys)
    assert not Path("out").exists()


@pytest.mark.parametrize("option", ["-o", "--class-folders"])
def test_an_empty_name_is_not_the_folder_that_one_is_in(option, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main(["publish", str(run[0]), NAME, "-o", "out", option, ""])
    assert "an empty name" in capsys.readouterr().err and set(tmp_path.iterdir()) == before


def test_folders_that_are_called_otherwise_since_do_not_rename_the_classes(run, tmp_path, capsys):
    """They sort otherwise, and each name would stand for another class."""
    (run[0] / "model.json").write_text('{"architecture": "vt_resnet_micro", "classes": ["cat", "dog"]}')
    for name in ("hound", "kitten"):
        (tmp_path / "renamed" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "renamed" / name / "1.png")
    arguments = [run[0], NAME, "-o", tmp_path / "out", "--class-folders", tmp_path / "renamed"]
    assert "names the classes that were trained, and they are others" in publish_line(arguments, capsys)


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "below"):
        assert publish.main([str(run[0]), NAME, "-o", str(place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line
    assert file.read_text() == "mine"


def test_what_does_not_give_the_same_outputs_is_not_put_in_place(run, tmp_path, monkeypatch, capsys):
    folder, (last, _) = run
    out = tmp_path / "out"
    assert publish.main([str(folder), NAME, "-o", str(out)]) == 0

    save = TrainRun.save

    def save_and_spoil(*arguments):
        model = save(*arguments)
        with torch.no_grad():
            model.fc.bias += 1
        return model

    monkeypatch.setattr(TrainRun, "save", save_and_spoil)
    assert publish.main([str(folder), NAME, "-o", str(out), "--checkpoint", "best", "--push", REPOSITORY]) == 2
    assert "gives other predictions than the run: nothing was written" in capsys.readouterr().err
    assert torch.equal(logits(load(out)), logits(last))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "mine",
    [
        {"README.md": "# My thesis\n"},
        {"config.json": '{"mine": true}'},
        {"model.safetensors": "mine"},
        {"README.md": "---\nlibrary_name: timm\ntags: [image-classification]\n---\n# Another's\n", "config.json": "{}"},
        {"README.md": "---\n[\n---\n# No front matter\n"},
        {"README.md": "---\ntags: visual-transformers\n---\n"},  # without a config beside it no folder of ours
        {"settings.yaml": "neck: vt_fpn\n"},
        {"metrics.json": "{}", "README.md": "---\ntags: [visual-transformers]\n---\n", "config.json": "{}"},
    ],
)
def test_files_of_the_users_own_are_not_replaced(mine, run, tmp_path, capsys):
    (out := tmp_path / "out").mkdir()
    for name, text in mine.items():
        (out / name).write_text(text)
    (tmp_path / "link").symlink_to(out)
    before = contents(out)
    for place in (out, tmp_path / "link"):
        assert publish.main([str(run[0]), NAME, "-o", str(place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"-o {place}: " in line and "name another folder" in line
    assert contents(out) == before


def test_a_folder_that_was_published_is_replaced_and_its_card_kept(run, tmp_path, capsys):
    (out := tmp_path / "out").mkdir()
    (out / "notes.txt").write_text("mine")
    assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
    assert sorted(contents(out)) == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    with (out / "README.md").open("a") as file:
        file.write("A word of mine.\n")
    there = contents(out)
    for place in (out, tmp_path / "no" / "folder"):
        for push, goes_to in (([], str(place)), (["--push", REPOSITORY], REPOSITORY)):
            assert main(["publish", str(run[0]), NAME, "-o", str(place), *push, "--dry-run"]) == 0
            said = capsys.readouterr().out
            assert "nothing was written; these would go to" in said and ".old" not in said
            assert said.rstrip().endswith(goes_to)
    assert contents(out) == there and not (tmp_path / "no").exists()
    assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
    assert f"the card that was there stays here, as {out / 'README.old.md'}" in capsys.readouterr().out
    assert (out / "README.old.md").read_text() == (out / "README.md").read_text() + "A word of mine.\n"
    kept = (out / "README.old.md").read_text()
    for number in (2, 3):
        with (out / "README.md").open("a") as file:
            file.write(f"Word {number}.\n")
        assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
        assert f"README.old.{number}.md" in capsys.readouterr().out
        assert f"Word {number}." in (out / f"README.old.{number}.md").read_text()
    assert (out / "README.old.md").read_text() == kept


def test_a_folder_that_is_there_is_written_on_its_own_disk(run, tmp_path, monkeypatch):
    """A link or a mount point leads to another disk than that of the folder that it lies in."""
    beside = []
    monkeypatch.setattr(publishing, "folder_beside", lambda path: beside.append(path.parent) or folder_beside(path))
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for place, disk in ((tmp_path / "out", tmp_path / "out"), (tmp_path / "new", tmp_path)):
        assert publish.main([str(run[0]), NAME, "-o", str(place)]) == 0
        assert beside.pop() == disk and sorted(contents(place)) == ["README.md", "config.json", "model.safetensors"]


def test_a_run_that_started_from_a_folder_is_published_under_its_architecture(run, tmp_path, capsys):
    folder, _ = run
    args = yaml.safe_load((folder / "args.yaml").read_text())
    (folder / "args.yaml").write_text(yaml.safe_dump({**args, "model": "local-dir:pub", "recipe": "finetune"}))
    classes = ["n01440764", "n02102040"]
    described = {"architecture": "vt_resnet_micro", "classes": classes, "data_config": {}}
    (folder / "model.json").write_text(json.dumps(described))
    for name in ([], [NAME]):
        assert main(["publish", str(folder), *name, "-o", str(tmp_path / "out"), "--license", "mit"]) == 0
    assert main(["publish", str(folder), "vt_resnet18.mine", "-o", str(tmp_path / "out")]) == 2
    assert "such as vt_resnet_micro.mine" in capsys.readouterr().err


def test_a_config_that_was_changed_by_hand_is_kept(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
    changed = (out / "config.json").read_text().replace('"tench"', '"my fish"')
    (out / "config.json").write_text(changed)
    assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
    assert f"the config that was there stays here, as {out / 'config.old.json'}" in capsys.readouterr().out
    assert "my fish" in changed and (out / "config.old.json").read_text() == changed
    assert publish.main([str(run[0]), NAME, "-o", str(out)]) == 0
    assert "stays here" not in capsys.readouterr().out


def test_the_snippets_of_a_card_that_went_nowhere_load_its_folder(run, segmenter_run, tmp_path, capsys, monkeypatch):
    """They named a repository ORG/..., which nobody has."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.jpg")
    for source, options in ((run[0], [NAME]), (segmenter_run[0], [])):
        assert main(["publish", str(source), *options, "-o", "my models"]) == 0
        assert "its name: --model 'my models', in Python vt_timm.load('my models')" in capsys.readouterr().out
        card = Path("my models", "README.md").read_text()
        assert "ORG/" not in card.replace("`hf-hub:ORG/NAME`", "")
        blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert blocks
        for block in blocks:
            exec(block, {})
        shutil.rmtree("my models")


PUBLISHED = ROOT / "tests" / "support" / "published"  # by vt_timm 0.1.0 at aed68b4, with the weights' shapes alone


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_folder_published_by_an_earlier_version_loads_and_is_published_over(kind, run, segmenter_run, tmp_path):
    """The weights are those in the file, by the names of then; the config says what it said."""
    out = tmp_path / "old"
    shutil.copytree(PUBLISHED / kind, out)
    shapes = json.loads((out / "shapes.json").read_text())
    weights = {name: torch.rand(shape) if shape else torch.tensor(1) for name, shape in shapes.items()}
    save_file(weights, out / "model.safetensors")
    model = load_pipeline(str(out))
    assert model.module.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())
    assert model.class_names == {"classifier": ["tench", "English springer"], "segmenter": ["ground", "square"]}[kind]
    facts = model.facts()
    assert tuple(facts["mean"]) == (0.485, 0.456, 0.406) and tuple(facts["std"]) == (0.229, 0.224, 0.225)
    if kind == "classifier":
        assert (
            tuple(facts["input_size"]) == (3, 128, 128) and facts["crop_pct"] == 1.0 and model.licence == "apache-2.0"
        )
        assert load(out).vt_stage.blocks[0].tokenizer.filters.out_channels == 9
    else:
        assert facts["short_side"] == 64 and model.licence == "apache-2.0"
    arguments = {"classifier": [str(run[0]), NAME], "segmenter": [str(segmenter_run[0])]}[kind]
    assert publish.main([*arguments, "-o", str(out)]) == 0


def test_a_checkpoint_with_code_in_it_is_not_run(run, tmp_path, capsys):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    folder, (last, _) = run
    torch.save({"state_dict": last.state_dict(), "epoch": 3, "args": Touch()}, folder / "last.pth.tar")
    assert publish.main([str(folder), NAME, "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "owned").exists()


def test_a_segmenter_is_published_the_same_way(segmenter_run, tmp_path):
    folder, model = segmenter_run
    out = tmp_path / "out"
    assert publish.main([str(folder), "-o", str(out)]) == 0
    from vt_timm.segmentation.model import load_segmenter

    assert torch.equal(logits(load_segmenter(out), 96), logits(model, 96))
    text = (out / "README.md").read_text()
    for part in ("7 validation images: mIoU 61.50 %, pixel accuracy 80.25 %", "after update 40", "short side 64 px"):
        assert part in text
    assert open_run(folder).name == "vt_fpn_vt_resnet_micro.squares"


def test_a_segmenter_in_16_bits(segmenter_run, tmp_path):
    from vt_timm.segmentation.model import load_segmenter

    folder, model = segmenter_run
    assert publish.main([str(folder), "-o", str(tmp_path / "out"), "--half"]) == 0
    assert torch.equal(logits(load_segmenter(tmp_path / "out"), 96), logits(model.half().float(), 96))
    size, whole = ((f / "model.safetensors").stat().st_size for f in (tmp_path / "out", folder / "best"))
    assert size < 0.51 * whole
    assert "16-bit floats, safetensors" in (tmp_path / "out" / "README.md").read_text()


def test_a_segmenter_beyond_16_bits_is_refused(segmenter_run, tmp_path, capsys):
    folder, model = segmenter_run
    model.neck.projectors[0].bn.running_var.fill_(1e6)
    model.save_pretrained(folder / "best")
    assert publish.main([str(folder), "-o", str(tmp_path / "out"), "--half"]) == 2
    assert "neck.projectors.0.bn.running_var is beyond what 16-bit floats can hold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("local-dir:/somebody/tf_efficientnet_lite0", "EfficientNet-Lite0 by Google (Apache-2.0), trained on ImageNet"),
        ("tf_efficientnet_lite0.in1k", "EfficientNet-Lite0 by Google (Apache-2.0), trained on ImageNet"),
        ("vt_resnet_micro", "weights that ship with vt_timm"),
        ("resnet18.a1_in1k", "timm's weights of resnet18.a1_in1k"),
    ],
)
def test_a_segmenters_name_and_card_say_where_its_backbone_is_from(segmenter_run, tmp_path, backbone, expected):
    folder, _ = segmenter_run
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings |= {"backbone": backbone, "pretrained_backbone": True, "opt": "adamw", "backbone_lr": 0.002}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert publish.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"which started from {expected}" in text and "adamw, lr 0.05 (backbone 0.002)" in text
    name = backbone.rpartition(":")[2].rpartition("/")[2].partition(".")[0]
    assert open_run(folder).name == f"vt_fpn_{name}.squares"


@pytest.mark.parametrize(
    ("checkpoint", "start"),
    [
        ("hub/vt_resnet18.first/model.safetensors", "Trained further, from the weights `vt_resnet18.first`,"),
        ("/somebody/run/last.pth.tar", "Trained further, from an earlier run,"),
        ("", "Trained from scratch"),
    ],
)
def test_a_card_says_what_its_training_began_with(checkpoint, start):
    assert model_card._start({"initial_checkpoint": checkpoint}) == start


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("vt_resnet18", "vt_resnet18.robust_imagenette"),
        ("vt_resnet18.robust_imagenette", "vt_resnet18.robust_imagenette"),
        ("resnet18", "resnet18.a1_in1k"),
        ("local-dir:/somebody/mine", "local-dir:mine"),
    ],
)
def test_a_card_names_the_tag_of_the_weights_that_a_training_began_with(model, named):
    """What the short name means changes."""
    start = f"Trained further, from the weights `{named}`,"
    assert model_card._start({"initial_checkpoint": "", "pretrained": True, "model": model}) == start


@pytest.mark.parametrize(
    ("mious", "kept", "said"),
    [
        ((50, 54, 53), 400, "is the best of the run's evaluations on these images, which flatters it"),
        ((50, 54, 53), 401, "Another evaluation of the run had a higher mIoU"),
        ((), 401, "is the best of the run's"),
    ],
)
def test_a_card_says_if_another_evaluation_was_better(mious, kept, said):
    evaluations = [{"update": 200 * (i + 1) - 199 * (i == 2), "miou": miou} for i, miou in enumerate(mious)]
    assert said in model_card._choice_of_segmenter({"miou": 53.3, "update": kept, "evaluations": evaluations})


def test_the_card_of_a_segmenter_names_the_one_it_went_on_from(segmenter_run, tmp_path):
    folder, _ = segmenter_run
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings["initial_checkpoint"] = "local-dir:/somebody/vt_fpn_first/best"
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert publish.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "(going on from the segmenter vt_fpn_first)" in " ".join(text.split()) and "somebody" not in text


def test_the_record_of_a_segmenter_renders_its_card_without_this_machines_paths(segmenter_run, tmp_path, monkeypatch):
    folder, _ = segmenter_run
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    for module in (publish, card):
        monkeypatch.setattr(module, "HUB", tmp_path / "hub")
    assert publish.main([str(folder), "--record"]) == 0
    name = "vt_fpn_vt_resnet_micro.squares"
    assert (tmp_path / "hub" / name / "README.md").read_text() == card.shipped_card(name)
    text = (tmp_path / "results" / "segmentation" / "shipped.json").read_text()
    record = json.loads(text)[name]
    assert record["miou"] == 61.5 and [row["miou"] for row in record["evaluations"]] == [61.5, 60.0]
    assert record["settings"]["data_dir"] == "squares" and "somebody" not in text


# The cards


def front_matter_is_sound(path):
    """What huggingface_hub checks of a card without asking the Hub, and what the Hub wants to find in it."""
    metadata = metadata_load(path)
    name, results = model_index_to_eval_results(metadata["model-index"])
    loaded = ModelCard.load(path, ignore_metadata_errors=False)
    assert [r.metric_value for r in loaded.data.eval_results] == [r.metric_value for r in results] and name
    assert metadata["license"] and metadata["tags"]
    return metadata


def test_front_matter_passes_the_clients_own_checks(run, segmenter_run, tmp_path):
    assert publish.main([str(run[0]), NAME, "-o", str(tmp_path / "one")]) == 0
    metadata = front_matter_is_sound(tmp_path / "one" / "README.md")
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("timm", "image-classification")
    assert publish.main([str(segmenter_run[0]), "-o", str(tmp_path / "two")]) == 0
    metadata = front_matter_is_sound(tmp_path / "two" / "README.md")
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("vt_timm", "image-segmentation")
    for path in sorted(card.HUB.glob("*/config.json")):
        datasets = None if "neck" in json.loads(path.read_text()) else ["frgfm/imagenette"]
        assert front_matter_is_sound(path.with_name("README.md")).get("datasets") == datasets


@pytest.mark.parametrize("data", ["imagenette2-224", "data/imagenette2-224", "../imagenette2"])
def test_a_data_set_is_known_wherever_it_lies(data):
    config = json.loads((card.HUB / "vt_resnet_micro.muon_imagenette" / "config.json").read_text())
    metrics = {"top1": 1.0, "top5": 2.0, "images": "some", "origin": "one run"}
    text = model_card.classifier_card(
        config, runs.arguments_of("vt_resnet_micro.muon_imagenette"), metrics, "a/b", "c", data
    )
    assert "- frgfm/imagenette" in text and "Imagenette v2, 10 classes" in text


@pytest.mark.parametrize(("teacher", "data", "said"), [
    ("resnet50.a1_in1k", "imagenette2-224", True), (None, "imagenette2-224", False), ("resnet50", "birds", False),
])  # fmt: skip
def test_a_teacher_that_has_seen_the_validation_images_is_said(teacher, data, said):
    config = json.loads((card.HUB / "vt_resnet_micro.muon_imagenette" / "config.json").read_text())
    settings = {**runs.arguments_of("vt_resnet_micro.muon_imagenette"), "kd_model_name": teacher}
    metrics = {"top1": 1.0, "top5": 2.0, "images": "some", "origin": "one run"}
    text = model_card.classifier_card(config, settings, metrics, "a/b", "c", data)
    assert ("a teacher trained on ImageNet has seen them" in text) == said


def test_committed_cards_are_what_the_records_give():
    for path in sorted(card.HUB.glob("*/config.json")):
        assert path.with_name("README.md").read_text() == card.shipped_card(path.parent.name)


def test_the_record_keeps_the_run_without_this_machines_paths(run, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ACCURACY", tmp_path / "accuracy")
    folder, _ = run
    runs.keep_run(folder, NAME, "shipped", folder / "log")
    assert "somebody" not in "".join(p.read_text() for p in (tmp_path / "accuracy").rglob("*.*"))
    kept, args = runs.arguments_of(NAME), yaml.safe_load((folder / "args.yaml").read_text())
    assert kept.pop("data_dir") == "photos" == Path(args.pop("data_dir")).name
    assert kept.pop("output") == Path(args.pop("output")).name
    assert kept == args
