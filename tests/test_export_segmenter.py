"""Segmenters' files of `vt-timm export`: every kind is written, run and compared, and scored by its labels."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vt_timm
from tests.support.samples import fill, write_small
from vt_timm.cli import main
from vt_timm.errors import CommandError
from vt_timm.explore.session import Session
from vt_timm.explore.stage import stage
from vt_timm.export.batches import batches, photos_below
from vt_timm.export.comparison import check_difference, measure_difference
from vt_timm.export.formats import open_file
from vt_timm.export.write_file import Options, write_file
from vt_timm.folding.fold_segmenter import folded_segmenter
from vt_timm.images import read_image
from vt_timm.photos.colours import palette
from vt_timm.pipelines.segmentation import SegmentationPipeline, segment
from vt_timm.pipelines.sources import load
from vt_timm.recipes import SEGMENTATION
from vt_timm.segmentation.model import load_segmenter

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install '.[onnx]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install '.[onnx]'")

MICRO, NAMES = "vt_resnet_micro", ["ground", "square"]
TOKENS = {"token_dim": 32, "num_heads": 4}


def create(neck, backbone=MICRO, **options):
    tokens = TOKENS if neck == "vt_fpn" else {}
    return fill(
        vt_timm.create_segmenter(
            neck, backbone, 2, class_names=NAMES, short_side=40, **{"channels": 16, **tokens, **options}
        )
    ).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_small(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """As a run of train-segmenter leaves it, with a card that names a licence."""
    run = tmp_path_factory.mktemp("run")
    create("vt_fpn").save_pretrained(run / "best")
    (run / "best" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    recipe = (SEGMENTATION / "ccp.yaml").read_text()  # its classes are of another data set, so the data's own count
    (run / "settings.yaml").write_text(recipe)
    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory, source):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write_file(load(str(source)), path, Options())
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("neck", "backbone", "options"),
    [
        ("fpn", MICRO, {}),
        ("laterals", MICRO, {}),
        ("vt_fpn", MICRO, {}),
        ("vt_fpn", MICRO, {"channels": 32, "depth": 2, "tokens": [4, 3, 2, 1]}),  # as many channels as a token has
        ("vt_fpn", "tf_mobilenetv3_small_minimal_100", {}),  # TensorFlow's padding
    ],
)
def test_folding_leaves_the_function(neck, backbone, options):
    model = create(neck, backbone, **options)
    small = folded_segmenter(model)
    norms = [n for n, m in small.neck.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and "laterals" not in n]
    assert neck != "vt_fpn" or not norms
    for size in ((64, 96), (67, 90)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_file_says_what_it_is_and_takes_any_size(exported, source):
    model, file = load_segmenter(source / "best"), load(str(exported))
    facts = {p.key: json.loads(p.value) for p in onnx.load(exported).metadata_props if p.key.startswith("vt_timm.")}
    facts = {key.removeprefix("vt_timm."): value for key, value in facts.items()}
    assert re.fullmatch("[0-9a-f]{64}", facts.pop("weights_sha256"))
    assert facts == {
        "kind": "segmenter", "class_names": NAMES, "palette": palette(NAMES).tolist(), "in_chans": 3,
        "mean": list(model.normalization["mean"]), "std": list(model.normalization["std"]),
        "short_side": 40, "least_side": 32, "multiple": 1, "interpolation": "bilinear",
        "license": "cc-by-4.0", "source": source.name, "precision": "float32", "version": vt_timm.__version__,
    }  # fmt: skip
    assert file.class_names == NAMES and file.module.short_side == 40
    for shape in ((1, 3, 32, 32), (3, 3, 97, 130), (0, 3, 64, 64)):
        x = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(file.run(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def five_channels():
    """On a backbone with TensorFlow's padding, on which torch.export does not finish as timm computes it."""
    return SegmentationPipeline(create("fpn", "tf_mobilenetv3_small_minimal_100", backbone_options={"in_chans": 5}))


@pytest.mark.parametrize("half", [False, True])
def test_pt2_of_five_channels(half, five_channels, tmp_path):
    path = tmp_path / "model.pt2"
    result = write_file(five_channels, path, Options(half=half, tolerance=0.05 if half else None))
    assert result.difference.labels < (0.05 if half else 1e-3)
    program = open_file(path)
    for shape in ((3, 5, 70, 99), (1, 5, 64, 96), (2, 5, 32, 33)):
        x = torch.randn(shape)
        with torch.inference_mode():
            actual, expected = program(x), five_channels.module(x)
        assert (actual - expected).norm() < (0.02 if half else 1e-4) * expected.norm()


def test_photos_of_five_channels_are_refused(five_channels, data, tmp_path):
    with pytest.raises(CommandError, match="takes 5 channels: photos have 1, 3 or 4"):
        write_file(five_channels, tmp_path / "a.onnx", Options(int8=True, calibrate=str(data)))


def test_int8_by_the_command_with_the_settings_of_the_run(tmp_path, source, data, capsys, exported):
    path = tmp_path / "small.onnx"
    options = ["--int8", "--calibrate", data, "--validate", data, "--calibrate-images", 4]
    status, out, err = run(capsys, "export", source, "-o", path, *options)
    assert status == 0, err
    share = r"([\d.]+) % -> [\d.]+ %"
    scored = re.search(rf"on 3 photos: mIoU {share}, pixel accuracy {share}, images per second [\d.]+ -> [\d.]+", out)
    assert re.search(r"[\d.]+ % of the pixels with the same label", out)
    right = []
    for photo in images(data):
        seen = segment(load_segmenter(source / "best"), read_image(photo), 40).numpy()
        right.append((seen == np.array(Image.open(data / "val/labels" / f"{photo.stem}.png"))).ravel())
    assert float(scored[2]) == pytest.approx(100 * np.concatenate(right).mean(), abs=0.5)
    assert path.stat().st_size < 0.6 * exported.stat().st_size
    assert load(str(path)).module.pretrained_cfg["precision"] == "int8"
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    assert convolutions and all(name.endswith("DequantizeLinear_Output") for c in convolutions for name in c.input[:1])


def images(data):
    return sorted((data / "val/images").iterdir())


def test_commands_take_a_file(exported, source, data, tmp_path, capsys):
    photo = images(data)[0]
    answers = [run(capsys, "segment", photo, "--model", m, "--json") for m in (source, exported)]
    shares = [json.loads(out)[0]["shares"] for _, out, _ in answers]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)
    options = ["--window", 64, "-o", tmp_path / "a.png", "--save-labels", tmp_path]
    assert run(capsys, "segment", photo, "--model", exported, *options)[0] == 0
    for command in (["attention", photo, "-o", tmp_path / "b.png"], ["classify", photo]):
        status, _, err = run(capsys, *command, "--model", exported)
        assert status == 2 and err.count("\n") == 1


def test_a_damaged_photo_among_those_to_calibrate_with_is_skipped(exported, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(CommandError, match="none of the images"):
        list(batches(load(str(exported)), [tmp_path / "a.png"], 4))
    Image.new("RGB", (64, 48)).save(tmp_path / "b.png")
    (batch,) = batches(load(str(exported)), [tmp_path / "a.png", tmp_path / "b.png"], 4)
    assert len(batch) == 1 and capsys.readouterr().err.count("skipped") == 2


@pytest.mark.parametrize(("number", "chosen"), [(4, [0, 1, 3, 4]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4, 5])])
def test_fewer_photos_than_there_are_come_from_all_folders(number, chosen, exported, tmp_path):
    """Six photos in the order of their names, each of a grey of its own."""
    for i in range(6):
        Image.new("RGB", (64, 48), (40 * i,) * 3).save(tmp_path / f"{i}.png")
    model = load(str(exported))
    (batch,) = batches(model, sorted(tmp_path.iterdir()), number)
    for image, i in zip(batch, chosen, strict=True):
        expected = model.input(model.view(Image.new("RGB", (64, 48), (40 * i,) * 3)))
        torch.testing.assert_close(image[None], expected)


def test_the_page_takes_a_file(exported, data):
    """Painted with its classes, without tokens."""
    model = load(str(exported))
    session = Session.begin(read_image(images(data)[0]), str(exported), model)
    html = stage(session, model)
    assert not session.maps and 'id="tokens"' not in html
    assert 1 <= html.count('data-name="') <= len(NAMES) and set(session.answer.shares) <= set(NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "model.tflite"], "name a file that ends in .onnx"),
        (["-o", "a.onnx", "--int8"], "--calibrate FOLDER"),
        (["-o", "a.onnx", "--int8", "--calibrate", "empty"], "no images in this folder"),
        (["-o", "a.onnx", "--validate", "missing"], "missing"),
        (["-o", "a.onnx", "--validate", "empty"], "empty"),
        (["-o", "a.onnx", "--validate", "other"], "its 3 classes are not the model's 2"),
        (["-o", "a.onnx", "--validate", "other", "--config", "cpp"], "did you mean ccp?"),
        (["-o", "a.onnx", "--config", "ccp"], "--config belongs to --validate"),
        (["-o", "missing/a.onnx"], "cannot write missing/a.onnx: No such file or directory\n"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_and_leaves_nothing(
    arguments, said, source, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_small(Path("other"))
    Path("other/classes.txt").write_text("ground\nsquare\nsky\n")
    status, out, err = run(capsys, "export", source, *arguments)
    assert status == 2 and said in err and err.count("\n") == 1 and not out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other"]


def test_a_file_that_differs_is_not_put_in_place(source, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vt_timm.export.write_file._write", lambda _model, path, *_: shutil.copy(exported, path))
    path = tmp_path / "a.onnx"
    status, out, err = run(capsys, "export", source, "-o", path, "--tolerance", "0")
    assert status == 2 and f"{path} is not written: its logits differ" in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())
    assert run(capsys, "export", exported, "-o", path)[0] == 2


def test_labels_are_compared_too():
    """A small difference of the logits that turns every label is one."""
    images = [torch.zeros(1, 2, 4, 4)]
    model = lambda x: torch.tensor([10.0, 10.001, -20]).view(1, 3, 1, 1).expand(1, 3, 4, 4)  # noqa: E731
    file = lambda x: torch.tensor([10.001, 10.0, -20]).view(1, 3, 1, 1).expand(1, 3, 4, 4)  # noqa: E731
    found = measure_difference(model, file, images)
    assert found.logits < 1e-3 and found.labels == 1
    with pytest.raises(CommandError, match="1 of the pixels get another label"):
        check_difference(Path("a.onnx"), found, "float32", None)
    check_difference(Path("a.onnx"), found, "float32", 1.0)


def test_masks_are_not_photos(data):
    assert {path.parent.name for path in photos_below(str(data))} == {"images"}
    assert photos_below(str(data / "val")) == images(data)


def test_the_page_on_deployment_runs_without_torch(exported, source, data, tmp_path):
    page = Path(vt_timm.__file__).with_name("export") / "deploy.md"
    _, code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    banned = "import sys\nfor name in ('torch', 'torchvision', 'timm', 'vt_timm'): sys.modules[name] = None\n"
    script = tmp_path / "segment.py"
    script.write_text(banned + code)
    model = load(str(source))
    for photo in images(data)[:2]:
        command = [sys.executable, script, exported, photo, tmp_path / "labels.png"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        answer = model(model.view(read_image(photo)), scales=(1,))
        expected = Image.fromarray(answer.labels.numpy().astype(np.uint8)).resize(Image.open(photo).size, 0)
        written = Image.open(tmp_path / "labels.png")
        assert (np.array(written) == np.array(expected)).mean() > 0.999
        assert written.getpalette()[:6] == palette(NAMES).ravel().tolist()
        for line in printed.splitlines():
            share, name = line.split(" % ")
            assert float(share) == pytest.approx(100 * answer.shares.get(name.strip(), 0), abs=0.2)
