"""Files of `vt-timm export`: every kind is written, run and compared; what goes wrong leaves nothing behind."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import ExifTags, Image
from torch import nn

import vt_timm
from tests.support.samples import fill
from vt_timm.cli import main
from vt_timm.errors import CommandError
from vt_timm.export.formats import has_bfloat16, open_file, write_graph
from vt_timm.export.int8_onnx import read_before_rounding
from vt_timm.export.write_file import Options, write_file
from vt_timm.folding.fold import folded
from vt_timm.pipelines.sources import load, pipeline_of
from vt_timm.tokenizers import FilterTokenizer
from vt_timm.visual_transformer import VTStage

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install '.[onnx]'")

MICRO = "vt_resnet_micro"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    names = load(MICRO).module.pretrained_cfg["label_names"]
    for i, name in enumerate(names):
        (folder / name).mkdir()
        pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write_file(load(MICRO), path, Options())
    return path


def test_a_file_can_be_copied_pickled_and_called_by_any_ending(exported, tmp_path):
    loud, own = tmp_path / "MODEL.ONNX", tmp_path / "own.Onnx"
    shutil.copy(exported, loud)
    write_file(load(MICRO), own, Options())
    photo = vt_timm.sample_photo()
    model = load(str(exported))
    expected = model(photo).scores
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), load(str(loud)), load(str(own))):
        assert other(photo).scores == expected
    images = model.example()
    for kind in (
        images.clone().requires_grad_(),
        images.double(),
        images.contiguous(memory_format=torch.channels_last),
    ):
        torch.testing.assert_close(model.module(kind), model.module(images))


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 70},  # more than a token has channels: F2 stays where it is
        {"num_classes": 0},
        {"global_pool": "max"},
        {"last_projector": True},
        {"competition": True},
        {"competition": True, "recurrent": False},
        {"tokenizer": "cluster", "relation": "graph"},
        {"relation": "none"},
        {"projector": False, "num_tokens": 9},
    ],
)
@pytest.mark.parametrize("tokens", [64, 32], ids=["", "narrow"])
def test_folding_leaves_the_function(options, tokens):
    model = fill(timm.create_model(MICRO, **{"num_classes": 3, "token_dim": tokens, **options})).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for rows in (False, True):
            torch.testing.assert_close(folded(model, rows=rows)(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_classifier_takes_the_last_f2_in():
    """Nothing is left of the 192 x 192 numbers of F2 but one more row of 192 for each of the 3 classes."""
    model = fill(timm.create_model(MICRO, num_classes=3)).eval()
    kept = folded(model)
    assert kept.fc.weight.shape == (3, 2 * model.num_features)
    model.vt_stage.blocks[-1].transformer.f2.weight.data.zero_()
    assert not folded(model).fc.weight[:, model.num_features :].any()


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("options", [{}, {"norm_logits": True}])
def test_folding_a_stage_leaves_map_and_tokens(options, rows):
    """A stage whose last module has a projector, on the way that a backbone goes."""
    stage = VTStage(6, 16, 24, num_tokens=5, num_heads=4, depth=3, last_projector=True)
    if options:
        stage.blocks[0].tokenizer = FilterTokenizer(16, 24, 5, **options)
    stage = fill(stage).eval()
    x = torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        kept = folded(nn.Sequential(stage), rows=rows)
        for actual, expected in zip(kept(x), stage(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert any(isinstance(module, nn.Conv2d) for module in kept.modules()) != rows


def test_reshapes_need_no_sizes_of_the_image(exported):
    graph = onnx.load(exported).graph
    constants = {tensor.name for tensor in graph.initializer}
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    assert len(reshapes) > 3 and all(node.input[1] in constants for node in reshapes)
    assert not any(node.op_type == "Shape" for node in graph.node)


def test_float32_reads_what_float32_wrote():
    """y = convolution(rounded x) and z = rounded x + 1, where x is a sum in float32: z is x + 1 afterwards."""
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    sizes = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in "wyz"}
    nodes = [
        node("Add", ["w", "one"], ["x"], name="sum"),
        node("QuantizeLinear", ["x", "step", "zero"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "step", "zero"], ["d"], name="d"),
        node("Conv", ["d", "kernel"], ["y"], name="conv"),
        node("Add", ["d", "one"], ["z"], name="after"),
    ]
    values = {
        "one": np.float32(1),
        "step": np.float32(2),
        "zero": np.uint8(0),
        "kernel": np.ones((1, 1, 1, 1), np.float32),
    }
    constants = [tensor(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "graph", [sizes["w"]], [sizes["y"], sizes["z"]], constants)
    opset = [onnx.helper.make_opsetid("", 17)]
    file = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    w = np.array([[[[0.0, 0.3], [1.2, 5.0]]]], np.float32)
    for change, after in ((False, [[1, 3], [3, 7]]), (True, [[2, 2.3], [3.2, 7]])):
        if change:
            file = read_before_rounding(file, in_8_bits={"conv"}, products=set())
        session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
        y, z = session.run(["y", "z"], {"w": w})
        np.testing.assert_allclose(y[0, 0], [[0, 2], [2, 6]])  # 1, 1.3, 2.2, 6 in steps of 2, halves to even
        np.testing.assert_allclose(z[0, 0], after, rtol=1e-6)


def test_a_file_says_what_it_is_and_takes_any_size(exported):
    model, file = load(MICRO), load(str(exported))
    assert file.class_names == model.class_names and file.config == model.config
    facts = {p.key: json.loads(p.value) for p in onnx.load(exported).metadata_props if p.key.startswith("vt_timm.")}
    assert facts["vt_timm.source"] == MICRO and facts["vt_timm.license"] == "apache-2.0"
    assert re.fullmatch("[0-9a-f]{64}", facts["vt_timm.weights_sha256"]) and facts["vt_timm.precision"] == "float32"
    for shape in ((1, 3, 64, 64), (3, 3, 97, 130), (0, 3, 64, 96)):
        x = torch.randn(shape)
        torch.testing.assert_close(file.run(x), model.run(x), rtol=1e-4, atol=1e-4)


def test_pt2_and_its_facts(tmp_path):
    path, model = tmp_path / "model.pt2", load(MICRO)
    write_file(model, path, Options())
    facts = {"vt_timm.json": ""}
    torch.export.load(path, extra_files=facts)
    assert json.loads(facts["vt_timm.json"])["vt_timm.kind"] == '"classifier"'
    for batch in (3, 0):
        x = torch.randn(batch, 3, 64, 96)
        with torch.no_grad():
            torch.testing.assert_close(open_file(path)(x), model.run(x), rtol=1e-4, atol=1e-4)


def test_tensorflows_padding_is_exported_at_one_size(tmp_path):
    """At any size torch.export would not finish; a segmenter, which needs any size, is refused at once."""
    model = timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=3).eval()
    path = tmp_path / "model.pt2"
    write_graph(model, torch.randn(2, 3, 64, 64), path, ".pt2", {})
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(open_file(path)(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(CommandError, match="padding of its Conv2dSame depends on the size"):
        write_graph(model, x, path, ".pt2", {}, any_size=True)


def test_half_is_half_as_large(tmp_path, exported):
    result = write_file(load(MICRO), tmp_path / "half.onnx", Options(half=True))
    assert result.size < 0.6 * exported.stat().st_size and 0 < result.difference.logits < 0.03


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_model_of_one_class_is_exported(ending, tmp_path):
    """Its logits have no spread about their mean over the classes, to which the difference is compared."""
    model = pipeline_of(fill(timm.create_model(MICRO, num_classes=1)).eval())
    assert model.export(tmp_path / f"yes{ending}").difference.logits < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_not_exported(dtype, tmp_path):
    model = load(MICRO)
    model.module.to(dtype)
    with pytest.raises(CommandError, match=re.escape(f"the network is in {dtype}: call its .module.float() first")):
        model.export(tmp_path / "m.onnx")
    model.module.float()
    assert model.export(tmp_path / "m.onnx").size and not list(tmp_path.glob(".*"))


def test_int8_by_the_command(tmp_path, photos, capsys, exported):
    path = tmp_path / "small.onnx"
    options = ["--int8", "--calibrate", photos, "--validate", photos, "--calibrate-images", 8]
    status, out, err = run(capsys, "export", MICRO, "-o", path, *options)
    assert status == 0, err
    assert re.search(
        r"on 10 photos: top-1 [\d.]+ % -> [\d.]+ %, top-5 [\d.]+ % -> [\d.]+ %, images per second [\d.]+ -> [\d.]+", out
    )
    assert path.stat().st_size < 0.5 * exported.stat().st_size
    file = load(str(path))
    assert file.config == load(MICRO).config and file.module.pretrained_cfg["precision"] == "int8"
    types = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_int8_of_aotinductor_by_the_command(tmp_path, photos, capsys, monkeypatch):
    pytest.importorskip("torchao", reason="needs torchao: pip install '.[int8]'")
    path, model = tmp_path / "model.aoti.pt2", load(MICRO)
    status, out, _ = run(capsys, "export", MICRO, "-o", path, "--int8", "--calibrate", photos)
    assert status == 0 and "logits within 0.0" in out
    program = open_file(path)
    facts = program.runner.get_metadata()
    assert facts["vt_timm.precision"] == '"int8"' and facts["vt_timm.kind"] == '"classifier"'
    with zipfile.ZipFile(path) as package:
        (source,) = (package.read(name).decode() for name in package.namelist() if name.endswith(".wrapper.cpp"))
    # The compiler found what to compute in 8 bits: the convolutions, and of the tokens two embeddings, F1 twice, F2,
    # what the first projector and the second tokenizer read, and the classifier.
    calls = Counter(re.findall(r"aoti_torch_cpu__(\w*(?:conv|linear))\w*\(", source))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in folded(model.module).modules())
    assert calls == {"qconv": convolutions, "qlinear": 7}, calls
    for shape in ((1, 3, 128, 128), (5, 3, 96, 160)):  # it is of any size and batch
        x = torch.nn.functional.interpolate(torch.randn(shape[0], 3, 8, 8), shape[2:], mode="bicubic")
        with torch.inference_mode():
            expected, actual = model.run(x), program(x)
        assert actual.dtype == torch.float32 and actual.shape == expected.shape
        error = (actual - expected).square().mean().sqrt() / expected.std()
        assert 0 < error < 0.2
    page = Path(vt_timm.__file__).with_name("export") / "deploy.md"
    *_, code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"images": x}
    exec(code, names)
    assert torch.equal(names["logits"], actual)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_aotinductor_in_16_bits_where_the_processor_multiplies_them(tmp_path):
    path, model, half = tmp_path / "model.aoti.pt2", load(MICRO), has_bfloat16()
    result = write_file(model, path, Options(half=half))
    program = open_file(path)
    precision, least, most = ("bfloat16", 1e-4, 0.05) if half else ("float32", 0, 1e-4)
    assert program.runner.get_metadata()["vt_timm.precision"] == f'"{precision}"'
    assert least <= result.difference.logits < most
    for shape in ((1, 3, 128, 128), (5, 3, 96, 160)):
        x = torch.randn(shape)
        with torch.inference_mode():
            expected, actual = model.run(x), program(x)
        assert actual.dtype == torch.float32
        assert least <= (actual - expected).norm() / expected.norm() < most


def test_bfloat16_is_refused_where_the_processor_does_not_multiply_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vt_timm.export.write_file.has_bfloat16", lambda: False)
    status, _, err = run(capsys, "export", MICRO, "-o", tmp_path / "model.aoti.pt2", "--half")
    assert status == 2 and err.count("\n") == 1 and "bfloat16, which this processor does not multiply" in err
    assert not list(tmp_path.iterdir())


class Untraceable(nn.Module):
    num_classes = 3

    def forward(self, images):
        return images.mean((2, 3)) if images.sum().item() > 0 else images.amax((2, 3))


@pytest.mark.parametrize(
    ("kind", "options"), [(".pt2", []), (".aoti.pt2", []), (".aoti.pt2", ["--int8", "--calibrate"])]
)
def test_a_model_that_cannot_be_traced_is_one_line(kind, options, tmp_path, photos, monkeypatch, capsys):
    if options:
        pytest.importorskip("torchao", reason="needs torchao: pip install '.[int8]'")
    model = load(MICRO)
    monkeypatch.setattr(model, "module", Untraceable())
    monkeypatch.setattr("vt_timm.pipelines.sources.load", lambda name: model)
    status, _, err = run(capsys, "export", MICRO, "-o", tmp_path / f"m{kind}", *options, *[photos] * bool(options))
    assert status == 2 and len(err.splitlines()) == 1 and f"this model cannot be exported to {kind}: " in err
    assert not list(tmp_path.glob("m*"))


def test_without_torchao_the_line_says_what_to_install(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchao", None)
    status, _, err = run(capsys, "export", MICRO, "-o", tmp_path / "model.aoti.pt2", "--int8", "--calibrate", photos)
    assert status == 2 and "8 bits in .aoti.pt2 files need torchao: pip install 'vt_timm[int8]'" in err


def test_commands_take_a_file(exported, photos, tmp_path, capsys):
    (photo,) = next(photos.iterdir()).iterdir()
    answers = [run(capsys, "classify", photo, "--model", model, "--json") for model in (MICRO, exported)]
    tops = [json.loads(out)[0]["top"] for _, out, _ in answers]
    assert [one["class"] for one in tops[0]] == [one["class"] for one in tops[1]]
    status, _, err = run(capsys, "attention", photo, "--model", exported, "-o", tmp_path / "a.png")
    assert status == 2 and "keeps no attention" in err and err.count("\n") == 1
    assert run(capsys, "segment", photo, "--model", exported, "--json")[0] == 2
    status, _, err = run(capsys, "classify", photo, "--model", exported, "--device", "cuda")
    assert status == 2 and "an ONNX file runs on the processor; leave --device out" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "model.tflite"], "name a file that ends in .onnx"),
        (["-o", "a.onnx", "--int8"], "--calibrate FOLDER"),
        (["-o", "a.pt2", "--int8", "--calibrate", "."], "--int8 writes .onnx and .aoti.pt2 files"),
        (["-o", "a.onnx", "--int8", "--calibrate", "empty"], "no images in this folder"),
        (["-o", "a.onnx", "--half", "--int8", "--calibrate", "."], "choose one"),
        (["-o", "missing/a.onnx"], "cannot write missing/a.onnx: No such file or directory\n"),
        (["-o", "a.onnx", "--validate", "empty"], "empty"),
        (["-o", "a.onnx", "--tolerance", "0"], "a.onnx is not written: its logits differ"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_and_leaves_nothing(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    status, out, err = run(capsys, "export", MICRO, *arguments)
    assert status == 2 and said in err and err.count("\n") == 1 and not out
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x"])
def test_a_tolerance_that_cannot_be_is_refused_before_the_export(value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(capsys, "export", MICRO, "-o", tmp_path / "a.onnx", "--tolerance", value)
    assert f"argument --tolerance: invalid number of at least 0 value: '{value}'" in capsys.readouterr().err


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(CommandError, match="No space left"):
        write_file(load(MICRO), tmp_path / "a.onnx", Options())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_model(content, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(CommandError, match="cannot load"):
        load(str(path))


def half_of(size):
    """A mask that is white on the left and black on the right."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def test_the_page_on_deployment_runs_without_torch(exported, photos, tmp_path):
    """Its code, as it stands, where nothing of torch, timm or ours can be imported."""
    page = Path(vt_timm.__file__).with_name("export") / "deploy.md"
    code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    banned = "import sys\nfor name in ('torch', 'torchvision', 'timm', 'vt_timm'): sys.modules[name] = None\n"
    script = tmp_path / "classify.py"
    script.write_text(banned + code)
    shown = [next(folder.iterdir()) for folder in sorted(photos.iterdir())[:3]]
    for kind in ("turned", "transparent"):
        shown.append(tmp_path / f"{kind}.png")
        picture = Image.open(shown[0]).convert("RGB")
        if kind == "transparent":  # and black below
            picture = Image.composite(picture, Image.new("RGB", picture.size), mask := half_of(picture.size))
            picture.putalpha(mask)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if kind == "turned" else 1
        picture.save(shown[-1], exif=exif)
    for photo in shown:
        command = [sys.executable, script, exported, photo]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        model = load(MICRO)
        top = model(photo).shares
        for line, (name, share) in zip(printed.splitlines(), top.items(), strict=True):
            assert line.endswith(name) and float(line.split()[0]) == pytest.approx(100 * share, abs=0.1)
