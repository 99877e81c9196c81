"""One graph for torch.compile, and ONNX files that take any batch and image size."""

import shutil

import pytest
import timm
import torch
from torch.export import Dim

import vt_timm
from tests.support.samples import fill
from vt_timm.visual_transformer import VTStage

MODELS = {
    "vt_resnet18": {},
    "vt_resnet_micro": {},
    "vt_resnet_micro-cluster": {"tokenizer": "cluster", "relation": "graph"},
    "vt_resnet_micro-pool": {"tokenizer": "pool", "relation": "none", "recurrent": False},
    "vt_resnet_micro-tokens_only": {"projector": False, "num_tokens": 9},
}


@pytest.fixture(autouse=True)
def _forget_graphs():
    """torch.compile gives up on a function that it has compiled for eight models."""
    torch.compiler.reset()


def build(name):
    return fill(timm.create_model(name.partition("-")[0], num_classes=10, **MODELS[name])).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_torch_compile_finds_no_graph_break(name, train, layout):
    """Traced whole, forward and backward; the backend that runs the traced graph as it is takes no compiler."""
    model = build(name).train(train).to(memory_format=layout)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 96, 64).to(memory_format=layout)
    with torch.set_grad_enabled(train):
        actual = compiled(x)
        torch.testing.assert_close(actual, build(name).train(train)(x), rtol=1e-4, atol=1e-5)
    if train:
        actual.sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_a_compiled_stage_trains_on_batches_of_any_size():
    """The last batch of an epoch is often smaller, and from the second size on sizes are symbols."""
    stage = VTStage(16, 32, token_dim=32, num_tokens=4, num_heads=2, depth=2).train()
    compiled = torch.compile(stage, fullgraph=True, backend="eager")
    for shape in ((2, 16, 4, 4), (3, 16, 4, 4), (1, 16, 6, 4)):
        x = torch.randn(shape)
        compiled(x)[1].square().sum().backward()
        torch.testing.assert_close(compiled(x)[1], stage(x)[1], rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in stage.parameters())


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_torch_compile_trains_a_channels_last_stage_at_two_sizes():
    """Compile as `train.py --torchcompile --train-img-sizes` does; the sizes are symbols from the second one on."""
    stage = VTStage(16, 32, token_dim=32, num_tokens=4, num_heads=2, depth=1).train()
    compiled = torch.compile(stage, fullgraph=True, dynamic=True)
    for shape in ((2, 16, 8, 8), (3, 16, 12, 10)):
        x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
        gradients = []
        for run in (stage, compiled):
            run(x)[1].square().sum().backward()
            gradients.append(x.grad)
            x.grad = None
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_export_and_script_in_channels_last_take_any_size():
    model = build("vt_resnet_micro").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 96, 128).to(memory_format=torch.channels_last)
    sizes = {0: Dim("batch", min=1, max=64), 2: 32 * Dim("height", min=2, max=32), 3: 32 * Dim("width", min=2, max=32)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(sizes,))
    scripted = torch.jit.script(model)
    for shape in ((2, 3, 96, 128), (3, 3, 128, 64)):
        x = torch.randn(shape).to(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fpn", "vt_fpn"])
def test_torch_compile_of_segmenters(kind):
    model = fill(vt_timm.create_segmenter(kind, "vt_resnet_micro", 3)).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_with_any_batch_and_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[onnx]'")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install '.[onnx]'")
    model = build(name)
    # Multiples of 32, since the strided convolutions before the map at stride 16 would otherwise round.
    sizes = {0: Dim("batch", min=1, max=64), 2: 32 * Dim("height", min=2, max=32), 3: 32 * Dim("width", min=2, max=32)}
    path = tmp_path / "model.onnx"
    x = torch.randn(2, 3, 96, 128)
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=({**sizes},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    for shape in ((1, 3, 64, 64), (3, 3, 128, 96), (2, 3, 224, 224)):
        x = torch.randn(shape)
        (actual,) = session.run(None, {given.name: x.numpy()})
        with torch.no_grad():
            expected = model(x)
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-4)
