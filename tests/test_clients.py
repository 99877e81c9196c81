"""Libraries that take timm's models take ours: each trains, adapts, explains, moves or exports one, unmodified."""

import copy

import numpy as np
import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils.model import freeze_batch_norm_2d, unfreeze_batch_norm_2d
from torch import nn

import vt_timm
from tests.support.samples import fill
from vt_timm.folding.fold import folded
from vt_timm.folding.fold_segmenter import folded_segmenter

NEEDS = "needs the package: pip install '.[clients]'"


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("decoder", ["Unet", "FPN", "DeepLabV3Plus", "UPerNet"])
def test_segmentation_models_pytorch_trains_one_step(decoder, depth):
    """As on timm's ResNet: an output of the same size, and every parameter of the encoder learns."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason=NEEDS)
    options = {"encoder_weights": None, "classes": 2, "encoder_depth": depth}
    if decoder == "Unet":
        options["decoder_channels"] = (64, 32, 16, 8, 8)[:depth]
    model = getattr(smp, decoder)("tu-vt_resnet_micro", **options)
    peer = getattr(smp, decoder)("tu-resnet10t", **options)
    images = torch.randn(2, 3, 64, 96)
    logits = model(images)
    assert logits.shape == peer(images).shape
    logits.square().mean().backward()
    before = [p.clone() for p in model.encoder.parameters()]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert any(not torch.equal(p, was) for p, was in zip(model.encoder.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("decoder", "dynamo"),
    [
        ("Unet", False),
        ("FPN", False),
        ("DeepLabV3Plus", False),
        ("UPerNet", True),
    ],  # its pooling needs the new exporter
)
def test_segmentation_models_pytorch_exports_to_onnx(decoder, dynamo, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch", reason=NEEDS)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = fill(getattr(smp, decoder)("tu-vt_resnet_micro", encoder_weights=None, classes=2)).eval()
    x = torch.randn(1, 3, 64, 96)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), model(x), rtol=1e-4, atol=1e-4)


def test_torchvisions_detector_trains_on_our_maps():
    """A RetinaNet whose feature pyramid stands on `features_only`."""
    from torchvision.models.detection import RetinaNet
    from torchvision.ops import FeaturePyramidNetwork

    class Backbone(nn.Module):
        out_channels = 16

        def __init__(self):
            super().__init__()
            self.body = timm.create_model("vt_resnet_micro", features_only=True, out_indices=(2, 3, 4))
            self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

        def forward(self, x):
            return self.fpn({str(i): level for i, level in enumerate(self.body(x))})

    sizes, ratios = ((16,), (32,), (64,)), ((1.0,),) * 3
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone = Backbone()
    model = RetinaNet(backbone, 3, min_size=96, max_size=128, anchor_generator=AnchorGenerator(sizes, ratios))
    boxes = [{"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([1])}]
    losses = model([torch.rand(3, 96, 96)], boxes)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in backbone.body.parameters())
    found = model.eval()([torch.rand(3, 96, 128)])[0]
    assert set(found) == {"boxes", "scores", "labels"}


def test_peft_adapts_every_layer_and_merges_back():
    """LoRA on all linear layers and convolutions: only the adapters learn, and merged weights give the same logits."""
    peft = pytest.importorskip("peft", reason=NEEDS)
    model = fill(timm.create_model("vt_resnet_micro", num_classes=3))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        untouched = model.eval()(x)
    layers = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) or (type(m) is nn.Conv2d and m.groups == 1)
    ]
    config = peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=True)
    adapted = peft.get_peft_model(model, config)
    torch.testing.assert_close(adapted.eval()(x), untouched)  # LoRA starts as no change
    adapted.train()
    adapted(x).square().sum().backward()
    learn = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert learn and all("lora_" in n for n in learn)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f"{name} has no effect"
                parameter.copy_(0.1 * torch.randn_like(parameter))
    adapted.eval()
    with torch.no_grad():
        expected = adapted(x)
        assert (expected - untouched).abs().max() > 1e-3
        torch.testing.assert_close(adapted.merge_and_unload()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["layer3", "vt_stage.blocks.0.projector"])
def test_grad_cam_is_the_mean_gradient_times_the_map(name):
    """pytorch-grad-cam on both kinds of layer that give a map, against Selvaraju et al., equations 1 and 2."""
    cam = pytest.importorskip("pytorch_grad_cam", reason=NEEDS)
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model = fill(timm.create_model("vt_resnet_micro", num_classes=3)).eval()
    x, layer = torch.randn(1, 3, 64, 64), model.get_submodule(name)
    with cam.GradCAM(model, target_layers=[layer]) as explain:
        picture = explain(input_tensor=x, targets=[targets.ClassifierOutputTarget(0)])[0]

    kept = {}
    hook = layer.register_forward_hook(lambda module, args, output: kept.update(map=output))
    score = model(x)[0, 0]
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept["map"])
    expected = (gradient.mean((2, 3), keepdim=True) * kept["map"]).sum(1).relu()[0].detach().numpy()
    assert expected.max() > 0
    assert picture.shape == (64, 64)
    scale = picture.reshape(expected.shape[0], -1, expected.shape[1], 64 // expected.shape[1]).mean((1, 3))
    assert np.corrcoef(scale.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ["vt_resnet_micro", "vt_resnet_micro with VT-FPN"])
def test_accelerate_offloads_to_the_cpu_and_to_disk(name, tmp_path):
    """Each layer's weights come when it is called, so a layer that is never called would compute with nothing."""
    accelerate = pytest.importorskip("accelerate")
    if name.endswith("VT-FPN"):
        model = vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", 3)
    else:
        model = timm.create_model(name, num_classes=3)
    model = fill(model).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        on_disk = accelerate.disk_offload(copy.deepcopy(model), str(tmp_path), execution_device=torch.device("cpu"))
        assert any(p.device.type == "meta" for p in on_disk.parameters())
        torch.testing.assert_close(on_disk(x), expected)
        in_memory = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        torch.testing.assert_close(in_memory(x), expected)


@pytest.mark.parametrize("traced_in_training", [False, True])
def test_fx_graph_is_the_model_and_has_all_its_weights(traced_in_training):
    """What graph-mode quantisation and torchvision's extractor need: torch.fx finds every weight in its graph."""
    from torch.fx import symbolic_trace

    model = fill(timm.create_model("vt_resnet_micro", num_classes=3)).train(traced_in_training)
    graph = symbolic_trace(model)
    x = torch.randn(2, 3, 64, 64)
    for training in (False, True):
        with torch.no_grad():
            torch.testing.assert_close(graph.train(training)(x), model.train(training)(x))
    # A layer of torch.nn is called; one of ours is traced through, and its weights are read.
    used = {node.target for node in graph.graph.nodes if node.op in ("call_module", "get_attr")}
    missing = {
        name
        for name, module in model.named_modules()
        if module._parameters.get("weight") is not None and not used & {name, f"{name}.weight"}
    }
    assert not missing


def test_torchvision_takes_out_what_any_layer_gives():
    """Its extractor traces the model twice, in training and in evaluation."""
    from torchvision.models.feature_extraction import create_feature_extractor

    model = fill(timm.create_model("vt_resnet_micro", num_classes=3))
    nodes = ["layer3", "vt_stage.blocks.0.projector.bn", "fc"]
    extractor = create_feature_extractor(model, nodes)
    x = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        extractor.train(training)
        with torch.no_grad():
            found = extractor(x)
            torch.testing.assert_close(found["fc"], model.train(training)(x))
        assert list(found) == nodes and found["layer3"].shape == (2, 128, 4, 4)


def test_gradients_of_each_image_at_once():
    """vmap over grad, as differential privacy and influence functions use it, against one image after the other."""
    from torch.func import functional_call, grad, vmap

    model = fill(timm.create_model("vt_resnet_micro", num_classes=3)).double().eval()
    parameters, x = dict(model.named_parameters()), torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def loss(parameters, image):
        return functional_call(model, parameters, (image[None],)).square().sum()

    at_once = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(2):
        alone = grad(loss)(parameters, x[i])
        torch.testing.assert_close({name: value[i] for name, value in at_once.items()}, alone)


def _unfrozen(model):
    return unfreeze_batch_norm_2d(freeze_batch_norm_2d(model))


@pytest.mark.parametrize(
    "convert",
    [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm, freeze_batch_norm_2d, _unfrozen],
    ids=["torch", "timm", "frozen", "unfrozen"],
)
@pytest.mark.parametrize("options", [{}, {"features_only": True}], ids=["classifier", "backbone"])
def test_tools_that_build_every_batch_norm_anew_change_no_answer(convert, options):
    """Such a tool keeps what a norm of its kind computes and nothing else, so that ours must not compute more."""
    model = fill(timm.create_model("vt_resnet_micro", **options)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        found = convert(copy.deepcopy(model)).eval()
        torch.testing.assert_close(found(images), expected)
        torch.testing.assert_close(folded(found)(images), expected)


def test_norms_without_running_statistics_use_the_batch():
    model = fill(timm.create_model("vt_resnet_micro", num_classes=3)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), model.train()(images))


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "create",
    [
        lambda: timm.create_model("vt_resnet_micro", num_classes=7),
        lambda: timm.create_model("vt_resnet_micro", num_classes=7, tokenizer="cluster"),
        lambda: timm.create_model("vt_resnet_micro", num_classes=7, tokenizer="pool", relation="graph"),
        lambda: vt_timm.create_segmenter("vt_fpn", "vt_resnet_micro", 7),
    ],
    ids=["filter", "cluster", "pool", "segmenter"],
)
def test_a_batch_of_no_images_has_no_answers(create, layout, fold):
    model = create().eval()
    model = (folded_segmenter if isinstance(model, vt_timm.Segmenter) else folded)(model) if fold else model
    nothing, one = (torch.zeros(n, 3, 64, 64).to(memory_format=layout) for n in (0, 1))
    with torch.no_grad():
        assert model(nothing).shape == (0, *model(one).shape[1:])
    if not fold:
        for of in ("tokenizer", "projector"):
            with vt_timm.record_attention(model, of) as maps:
                model(one)
                expected = [(0, *m.shape[1:]) for m in maps]
                model(nothing)
            assert [m.shape for m in maps] == expected
