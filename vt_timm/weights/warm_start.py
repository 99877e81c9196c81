"""A warm start of a VT-ResNet: stem and stages 1-3 from a pretrained ResNet, and a new VT stage."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from ..errors import first_line
from .download import check_reachable

BackboneSource = str | Path | Mapping[str, Tensor]
TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")

_logger = logging.getLogger(__name__)


def load_backbone(model: nn.Module, source: BackboneSource) -> list[str]:
    """Copy stem and stages 1-3 from a ResNet's weights, all of them or none.

    Args:
        model: a VT-ResNet, also one that `features_only` wrapped or pruned.
        source: a timm model with weights ("resnet50.a1_in1k"), "local-dir:FOLDER", "hf-hub:ORG/NAME", a file of weights
            (.safetensors, or a PyTorch file, which is read with `weights_only=True`), or a state dict.

    Returns:
        The names of the tensors that were taken.

    Raises:
        ValueError: if a tensor is missing or has another shape, or the source has blocks that the model does not.
        RuntimeError: if the source cannot be loaded.
    """
    net = _inside(model)
    weights, name = _read_backbone(source, net.conv1.in_channels)
    target = {k: v for k, v in net.state_dict().items() if k.startswith(TRUNK)}
    for key, tensor in target.items():
        if key not in weights:
            raise ValueError(f"pretrained_backbone: {name} has no {key}; {_advice(net)}")
        if weights[key].shape != tensor.shape:
            theirs, ours = (tuple(shape) for shape in (weights[key].shape, tensor.shape))
            raise ValueError(f"pretrained_backbone: {key} is {theirs} in {name} and {ours} here; {_advice(net)}")
    deeper = [k for k in weights if k.startswith(TRUNK) and k not in target]
    if deeper and getattr(net, "vt_stage", None) is not None:  # a pruned model has none
        raise ValueError(f"pretrained_backbone: {name} also has {deeper[0]}, which is not here; {_advice(net)}")
    net.load_state_dict({key: weights[key] for key in target}, strict=False)
    new = sum(p.numel() for k, p in net.named_parameters() if not k.startswith(TRUNK))
    _logger.info(
        "pretrained_backbone: stem and stages 1-3 from %s (%d tensors); the rest is new (%.1f M parameters)",
        name,
        len(target),
        new / 1e6,
    )
    return list(target)


def _read_backbone(source: BackboneSource, in_chans: int) -> tuple[Mapping[str, Tensor], str]:
    if isinstance(source, Mapping):
        return clean_state_dict(clean_state_dict(dict(source))), "the state dict"  # twice: see matching_weights
    name = str(source)
    try:
        if Path(name).is_file():
            return load_state_dict(name, use_ema=True, device="cpu", weights_only=True), name
        check_reachable(name)
        return timm.create_model(name, pretrained=True, in_chans=in_chans).state_dict(), name
    except Exception as error:
        raise RuntimeError(
            f"pretrained_backbone: {name} cannot be loaded: {first_line(error)}; give a timm ResNet with weights, "
            "local-dir:FOLDER, or a file"
        ) from error


def _inside(model: nn.Module) -> Any:
    """Return the network that `features_only` wraps, under the name that the kind of `feature_cls` gives it."""
    for name in ("model", "body", "graph_module"):
        model = getattr(model, name, model)
    return model


def _advice(net: nn.Module) -> str:
    depth = getattr(net, "pretrained_cfg", {}).get("architecture", "").removeprefix("vt_")
    return f"{depth} of timm fits" if timm.is_model(depth) else "a ResNet of the same stem, blocks and widths fits"
