"""The command line as a user meets it: what it prints, what it writes, how it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vt_timm
from vt_timm import cli
from vt_timm.cli.shared import check_drawing, names_in
from vt_timm.errors import CommandError
from vt_timm.images import find_images, read_image
from vt_timm.pipelines import sources
from vt_timm.pipelines.classification import ClassificationPipeline, class_names

MICRO = ["--model", "vt_resnet_micro"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_models_lists_every_model_with_its_cost_and_weights(capsys):
    status, out, _ = run(capsys, "models", "--json")
    rows = {row["model"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["vt_resnet18.robust_imagenette"]["weights"] == "shipped"
    assert rows["vt_resnet18.robust_imagenette"]["classes"] == 10
    assert rows["vt_resnet50.untrained"]["weights"] == "none"
    assert rows["vt_resnet18.untrained"]["macs"] == pytest.approx(1569e6, rel=0.03)
    _, table, _ = run(capsys, "models")
    assert all(name in table for name in rows)
    listed = {line.split()[0].removesuffix(".untrained"): line.split() for line in table.splitlines()}
    readme = re.findall(
        r"^\| `(vt_\w+)` \| ([\d.]+) \| (\d+) \|", (Path(__file__).parents[1] / "README.md").read_text(), re.MULTILINE
    )
    assert len(readme) == 5
    for name, parameters, macs in readme:  # to the last digit
        assert listed[name][2] == parameters
        assert listed[name][3] == macs or name == "vt_resnet_micro"  # which is made for smaller photos


def test_classify_prints_class_names(capsys, photo):
    status, out, err = run(capsys, "classify", photo, *MICRO, "--topk", 3)
    assert (status, err) == (0, "")
    name, *rows = out.splitlines()
    assert name == str(photo) and len(rows) == 3
    assert all(" %  " in row for row in rows)


def test_classify_agrees_with_timm(capsys, photo):
    _, out, _ = run(capsys, "classify", photo, *MICRO, "--topk", 10, "--json")
    ((result,)) = json.loads(out)
    model = timm.create_model("vt_resnet_micro", pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=model, use_test_size=True)
    image = timm.data.create_transform(**config)(Image.open(photo)).unsqueeze(0)
    with torch.no_grad():
        probabilities = model(image).softmax(-1)[0]
    for top in result["top"]:
        assert top["probability"] == pytest.approx(probabilities[top["index"]].item(), abs=1e-5)
        assert top["class"] == list(model.pretrained_cfg["label_descriptions"].values())[top["index"]]


def test_a_folder_and_batches_give_what_single_files_give(capsys, photo):
    photo.with_name("b.png").write_bytes(b"")
    Image.open(photo).rotate(90).save(photo.with_name("b.png"))
    _, together, _ = run(capsys, "classify", photo.parent, *MICRO, "--json")
    _, one_by_one, _ = run(capsys, "classify", photo.parent, *MICRO, "--json", "--batch-size", 1)
    together, one_by_one = json.loads(together), json.loads(one_by_one)
    assert [r["image"] for r in together] == sorted(str(p) for p in photo.parent.iterdir())
    for a, b in zip(together, one_by_one, strict=True):
        assert [t["index"] for t in a["top"]] == [t["index"] for t in b["top"]]


def test_a_bad_file_among_good_ones_is_skipped_with_a_line(capsys, photo):
    text = photo.with_name("notes.jpg")
    text.write_text("not a photo")
    truncated = photo.with_name("cut.jpg")
    truncated.write_bytes(photo.read_bytes()[:1500])
    status, out, err = run(capsys, "classify", photo, text, truncated, *MICRO)
    assert status == 1
    assert out.startswith(str(photo)) and "notes" not in out
    lines = err.splitlines()
    assert len(lines) == 2
    assert f"skipped {text}: cannot read this image (not an image)" in lines[0]
    assert f"skipped {truncated}: cannot read this image" in lines[1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "LA", "1"])
def test_every_colour_mode_is_read(capsys, tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (50, 40)).save(path)
    assert run(capsys, "classify", path, *MICRO)[0] == 0


def test_a_sideways_photo_is_turned_upright(tmp_path):
    from vt_timm.images import read_image

    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_photos_of_any_shape_are_segmented(size, tmp_path, capsys):
    Image.new("RGB", size).save(tmp_path / "a.png")
    model = vt_timm.create_segmenter("laterals", "vt_resnet_micro", 2, channels=8)
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "out.png"
    status, *_ = run(
        capsys, "segment", tmp_path / "a.png", "-o", out, "--model", tmp_path / "model", "--max-long-side", 64
    )
    assert status == 0 and Image.open(out).size > (1, 1)


def test_no_photo_is_written_over(tmp_path, photo):
    """Pictures and labels are called like the photos: in the photos' own folder they would take their place."""
    other = tmp_path / "b" / "Photo.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    with pytest.raises(CommandError, match=r"Photo\.png: this is one of the photos"):
        names_in(str(other.parent), [other])
    with pytest.raises(CommandError, match="one of the photos"):
        check_drawing(str(tmp_path / "photo.jpg"), [tmp_path / "photo-2.jpg"], pages=2)
    names = names_in("out", [photo, other, photo])
    assert [path.name for path in names.values()] == ["photo.png", "Photo-2.png"]  # two also where case says nothing


def test_a_picture_that_nobody_named_takes_no_other_pictures_place(tmp_path, photo, capsys):
    """Masks that lie in the folder for labels are the user's; what a command of ours has drawn there is not."""
    vt_timm.create_segmenter("laterals", "vt_resnet_micro", 2, channels=8).save_pretrained(tmp_path / "model")
    command = ["segment", photo, "--model", tmp_path / "model", "--scales", 0.5]
    for option in ("--save-labels", "-o"):
        (tmp_path / option).mkdir()
        for _again in range(2):
            assert run(capsys, *command, option, tmp_path / option)[0] == 0
        mask = Image.new("L", (9, 9), 3)
        mask.save(tmp_path / option / "photo.png")
        status, _, err = run(capsys, *command, option, tmp_path / option)
        assert status == 2 and "photo.png is there and no picture of vt-timm's" in err
        assert Image.open(tmp_path / option / "photo.png").tobytes() == mask.tobytes()
    for name in ("a.jpg", "a.png", "a.svg", "a.SVGZ", "a.eps", "a.ps"):  # of several pages, one of whose is taken
        for _again in range(2):
            assert run(capsys, "attention", photo, photo, "--photos", 1, "-o", tmp_path / name)[0] == 0
        photo_2 = tmp_path / Path(name).with_stem("a-2")
        Image.new("RGB", (8, 8)).save(photo_2, "png")
        kept = photo_2.read_bytes()
        status, _, err = run(capsys, "attention", photo, photo, "--photos", 1, "-o", tmp_path / name)
        assert status == 2 and "is there and no picture of vt-timm's" in err and photo_2.read_bytes() == kept


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tiff", "webp"])
def test_what_the_commands_drew_among_the_photos_is_no_photo_of_the_next_run(ending, tmp_path, photo, capsys):
    """Twice the same command does twice the same; who names a drawing, or has nothing else, is understood."""
    (tmp_path / "more").mkdir()
    Image.open(photo).save(tmp_path / "more" / "photo.jpg")
    drawing = tmp_path / f"attention.{ending}"
    command = ["attention", tmp_path, "-o", drawing, "--photos", 1, "--tokens", 1, *MICRO]
    numbered = [drawing] if ending == "gif" else [drawing.with_stem(f"attention-{number}") for number in (1, 2)]
    for remarks in ("", f"vt-timm: left out {len(numbered)} of the pictures in {tmp_path}, which vt-timm drew\n"):
        assert run(capsys, *command) == (0, "".join(f"{path}\n" for path in numbered), remarks)
    assert run(capsys, "classify", *numbered, *MICRO)[0] == 0
    photo.unlink()
    (tmp_path / "more" / "photo.jpg").unlink()
    status, _, err = run(capsys, *command)
    assert (status, err) == (
        2, f"vt-timm: {tmp_path}: no images in this folder but those that vt-timm drew; name them one by one\n"
    )  # fmt: skip


def test_pictures_and_labels_of_a_segmenter_may_lie_among_the_photos(tmp_path, photo, capsys):
    vt_timm.create_segmenter("laterals", "vt_resnet_micro", 2, channels=8).save_pretrained(tmp_path / "model")
    for option in ("-o", "--save-labels"):
        for _again in range(2):
            command = ["segment", tmp_path, option, tmp_path, "--model", tmp_path / "model", "--scales", 0.5, "--json"]
            status, out, err = run(capsys, *command)
            assert status == 0, err
            assert [one["image"] for one in json.loads(out)] == [str(photo)]
        assert [path.name for path in (photo, *tmp_path.glob("*.png"))] == ["photo.jpg", "photo.png"]


def test_pictures_of_other_programs_are_photos(tmp_path):
    """A word of ours in a file makes it no drawing of ours, and neither does a mark of another."""
    for name, comment in (("a.jpg", "of vt_timm and others"), ("b.jpg", "GIMP")):
        Image.new("RGB", (8, 8)).save(tmp_path / name, comment=comment)
    (tmp_path / "c.webp").write_bytes(b"vt_timm")
    assert [path.name for path in find_images([str(tmp_path)])] == ["a.jpg", "b.jpg", "c.webp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (["classify", "https://example.org/a.jpg"], "https://example.org/a.jpg: photos are not fetched"),
        (["classify", "PHOTO", "--model", "https://huggingface.co/a/b"], "name what is on the Hub as ORG/NAME"),
        (["attention", "PHOTO", "-o", "EMPTY/a.png", *MICRO, "--save-maps", ""], "name a file, such as maps.npy"),
        (["segment", "PHOTO", "--save-labels", "EMPTY/labels.png"], "labels.png: name a folder, for one PNG"),
        (["classify", "EMPTY"], "no images in this folder"),
        (["classify", ""], "an empty name"),
        (["classify", "x" * 300], "x: no such file or folder"),
        (["attention", "PHOTO", "-o", "PHOTO", *MICRO], "photo.jpg: this is one of the photos"),
        (["attention", "PHOTO", "-o", "EMPTY", *MICRO], "/picture.png"),
        (["attention", "PHOTO", "-o", "", *MICRO], "name a file, such as picture.png"),
        (["segment", "PHOTO", "-o", "PHOTO"], "photo.jpg: this is one of the photos"),
        (["segment", "PHOTO", "-o", "EMPTY/a.png", "--scales", "1", "0"], "scales=[1.0, 0.0] must be numbers above 0"),
        (
            ["segment", "PHOTO", "-o", "EMPTY/a.png", "--scales", "1", "--window", "64"],
            "leave --window or --scales out",
        ),
        (
            ["segment", "PHOTO", "-o", "EMPTY/a.png", "--short-side", "32", "--window", "64"],
            "leave --window or --short-side out",
        ),
        (["classify", "PHOTO", "--model", "vt_resnet19"], "Unknown model (vt_resnet19); did you mean vt_resnet18"),
        (["classify", "PHOTO", "--model", "vt_resnet50"], "it has no trained weights: name a training run"),
        (["classify", "PHOTO", "--model", "local-dir:nowhere"], "cannot load local-dir:nowhere"),
        (["classify", "PHOTO", *MICRO, "--device", "toaster"], "the device 'toaster' is not to be had here"),
        (["attention", "PHOTO", "-o", "nowhere/a.png", *MICRO], "the folder nowhere does not exist"),
        (["attention", "PHOTO", "-o", "EMPTY/a.xyz", *MICRO], "a.xyz: pictures are "),
        (["segment", "PHOTO", "-o", "EMPTY/a.npy"], "a.npy: pictures are "),
        (
            ["attention", "PHOTO", "-o", "EMPTY/a.png", *MICRO, "--module", "3"],
            "vt_resnet_micro has VT modules 1 to 2",
        ),
        (
            ["attention", "PHOTO", "-o", "EMPTY/a.png", *MICRO, "--module", "2", "--of", "projector"],
            "VT module 2 of 2 has no projector",
        ),
        (["attention", "PHOTO", "-o", "EMPTY/a.png", *MICRO, "--tokens", "17"], "the module has tokens 1 to 16"),
        (["attention", "PHOTO", "-o", "EMPTY/a.png", *MICRO, "--colours", "jett"], "no such colour map"),
        (
            ["attention", "PHOTO", "-o", "EMPTY/a.png", "--model", "nowhere/best"],
            "nowhere/best is not in",
        ),
        (["attention", "nowhere.jpg", "-o", "EMPTY/a.png", *MICRO], "nowhere.jpg: no such file or folder"),
        (["recipes", "PHOTO"], "not UTF-8 text"),
        (["download", ""], "a model has no name"),
    ],
)
def test_failures_are_one_clear_line(capsys, tmp_path, photo, arguments, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, out, err = run(capsys, *(a.replace("PHOTO", str(photo)).replace("EMPTY", str(empty)) for a in arguments))
    assert (status, out) == (2, "")
    assert re.search("|".join(map(re.escape, message.split("|"))), err), err
    assert len(err.splitlines()) == 1 and err.startswith("vt-timm: ")
    assert not list(empty.iterdir())


@pytest.mark.parametrize("arguments", [["classify"], ["classify", "x", "--topk", "0"], ["nothing"], ["models", "--no"]])
def test_wrong_usage_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "vt-timm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name", "values"),
    [
        ("train-segmenter --config ccp -o RUN --set a=1 b=2 --set c=3", "set", ["a=1", "b=2", "c=3"]),
        ("segment sample --scales 0.5 1 --scales 2", "scales", [0.5, 1, 2]),
        ("attention sample -o a.png --tokens 1 --tokens 4 7", "tokens", [1, 4, 7]),
        ("explore --models a --models b", "models", ["a", "b"]),
    ],
)
def test_an_option_of_several_values_that_stands_twice_adds_to_the_first(arguments, name, values):
    for _ in range(2):  # what was said of one command is not kept for the next
        assert getattr(cli.parser().parse_args(arguments.split()), name) == values


def test_attention_writes_a_picture(capsys, tmp_path, photo):
    for module in (1, 2):
        output = tmp_path / f"attention{module}.png"
        status, out, _ = run(capsys, "attention", photo, "-o", output, *MICRO, "--module", module)
        assert (status, out.strip()) == (0, str(output))
        assert Image.open(output).width > 1000
    assert (tmp_path / "attention1.png").read_bytes() != (tmp_path / "attention2.png").read_bytes()


def test_attention_of_a_folder_is_a_grid_and_its_maps_are_the_models(capsys, tmp_path, photo):
    """The saved values are those that record_attention gives, before anything is coloured."""
    Image.open(photo).rotate(180).save(photo.with_name("b.png"))
    photo.with_name("c.jpg").write_text("no photo")
    output, maps = tmp_path / "out" / "grid.png", tmp_path / "out" / "maps.npy"
    output.parent.mkdir()
    options = ["--tokens", 2, 5, "--colours", "cividis", "--opacity", "even", "--save-maps", maps]
    status, out, err = run(capsys, "attention", photo.parent, "-o", output, *MICRO, *options)
    assert (status, out.split()) == (1, [str(maps), str(output)]) and "skipped" in err
    model = timm.create_model("vt_resnet_micro", pretrained=True).eval()
    saved = np.load(maps)
    assert saved.shape[:2] == (2, 16)
    for one, path in zip(saved, (photo.with_name("b.png"), photo), strict=True):
        with vt_timm.record_attention(model) as recorded, torch.no_grad():
            view = ClassificationPipeline(model).view(read_image(path))
            model(ClassificationPipeline(model).input(view))
        np.testing.assert_allclose(one, recorded[0][0].numpy(), atol=1e-6)
    paged = tmp_path / "out" / "pages.png"
    status, out, _ = run(capsys, "attention", photo, photo.with_name("b.png"), "-o", paged, *MICRO, "--photos", 1)
    assert out.split() == [str(paged.with_name(f"pages-{n}.png")) for n in (1, 2)]


def test_maps_are_not_saved_over_a_photo(capsys, tmp_path, monkeypatch):
    """A photo may be a .npy file itself; NumPy adds that ending, and a link leads to the photo too."""
    monkeypatch.chdir(tmp_path)
    np.save("photo.npy", np.zeros((40, 40, 3), np.uint8))
    Path("link.npy").symlink_to("photo.npy")
    before = Path("photo.npy").read_bytes()
    for name in ("photo.npy", "photo", "link"):
        status, _, err = run(capsys, "attention", "photo.npy", "-o", "a.png", *MICRO, "--save-maps", name)
        assert status == 2 and "this is one of the photos, and would be overwritten" in err and err.count("\n") == 1
    assert Path("photo.npy").read_bytes() == before and not Path("a.png").exists()
    np.save("other.npy", np.zeros((40, 40, 3), np.uint8))  # not read, and nobody named it
    before = Path("other.npy").read_bytes()
    command = ["attention", "photo.npy", "-o", "a.png", *MICRO, "--save-maps"]
    status, _, err = run(capsys, *command, "other")
    assert status == 2 and err.startswith("vt-timm: other.npy is there, and would be overwritten")
    assert Path("other.npy").read_bytes() == before and not Path("a.png").exists()
    assert run(capsys, *command, "other.npy")[0] == 0 and np.load("other.npy").ndim == 4
    status, _, err = run(capsys, "attention", "photo.npy", "-o", "a.png", *MICRO, "--save-maps", "no/maps")
    assert status == 2 and err == "vt-timm: cannot write no/maps.npy: No such file or directory\n"


@pytest.mark.parametrize("of", ["tokenizer", "projector"])
def test_attention_of_a_segmenter(of, capsys, tmp_path, photo):
    model = vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", 2, short_side=64, token_dim=64, num_heads=4)
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "a.png"
    arguments = ["attention", photo, "-o", output, "--model", tmp_path / "model", "--of", of, "--module", 4]
    status, _, err = run(capsys, *arguments)
    assert status == 0, err
    assert Image.open(output).width > 1000


def test_attention_needs_a_model_with_tokens(capsys, tmp_path, photo, monkeypatch):
    monkeypatch.setattr(sources, "load", lambda *_: ClassificationPipeline(timm.create_model("test_resnet").eval()))
    status, _, err = run(capsys, "attention", photo, "-o", tmp_path / "a.png")
    assert status == 2 and "has no VT module" in err and not (tmp_path / "a.png").exists()


def test_sample_photo(capsys):
    status, out, _ = run(capsys, "classify", "sample", *MICRO)
    assert status == 0 and "china.jpg" in out


def test_readme_shows_what_its_command_prints(capsys):
    """Percentages to what processors differ by."""
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    shown = re.search(r"china\.jpg\n(.*?)\nattention\.png\n", readme, re.DOTALL)[1]
    printed = run(capsys, "classify", "sample")[1].partition("china.jpg\n")[2]
    ours, theirs = (
        {name: float(share) for share, name in re.findall(r"([\d.]+) %  (.+)", text)} for text in (printed, shown)
    )
    assert len(theirs) == 5 and ours == pytest.approx(theirs, abs=0.2)


def test_both_names_of_the_command():
    for command in ([sys.executable, "-m", "vt_timm"], ["vt-timm"]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert result.stdout.startswith("vt_timm ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--version", "vt_timm 0"),
        ("--help", "COMMAND"),
        ("attention --help", "example: vt-timm attention"),
        ("classify nowhere.jpg", "nowhere.jpg: no such file or folder"),
        ("clasify x.jpg", "there is no command clasify; did you mean classify?"),
        ("recipes --no", "unrecognized arguments: --no"),
        ("recipes finetune", "Fine-tuning on your own photos"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(arguments, said):
    """Importing torch takes seconds; Python lists on stderr what it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "vt_timm", *arguments.split()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert said in result.stdout + result.stderr
    assert "vt_timm.cli" in result.stderr and not re.search(r"\| +(torch|timm)\n", result.stderr)


def test_ctrl_c_while_a_command_is_still_loaded_is_no_traceback():
    """What takes time is imported where Ctrl-C is answered: numpy stands for it, and interrupts."""
    code = """
import sys, sysconfig
sys.modules["__main__"].__file__ = sysconfig.get_path("scripts") + "/vt-timm"
class Interrupt:
    def find_spec(self, name, *_):
        if name == "numpy": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from vt_timm.cli import main
sys.exit(main(["classify", "sample"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_command_has_the_whole_package():
    """Started by the console script, the names come when asked for: all of them, and no others."""
    code = """
import sys, sysconfig
sys.modules["__main__"].__file__ = sysconfig.get_path("scripts") + "/vt-timm"
import vt_timm
assert "torch" not in sys.modules
for name in vt_timm.__all__: assert callable(getattr(vt_timm, name)), name
assert not hasattr(vt_timm, "vt_resnet19")
import timm
assert timm.is_model("vt_resnet18")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m vt_timm models | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Error" not in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(("classes", "first"), [(1000, "tench"), (7, "class 0")])
def test_class_names_of_models_without_labels(classes, first):
    """ImageNet's names where the number of classes says so, numbers otherwise."""
    names = class_names(timm.create_model("vt_resnet_micro", num_classes=classes))
    assert len(names) == classes and names[0].startswith(first)
