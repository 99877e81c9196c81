"""The weights that we publish: Hub model folders (config.json, model.safetensors, README.md), and their names there;
and a warm start of a VT-ResNet, whose stem and stages 1-3 come from a pretrained ResNet and whose VT stage is new.

What `timm.create_model(..., pretrained=True)` needs around timm's own loading: which tag, a checked download, a refusal
of weights that do not fit, one line for what went wrong, and no class names that another head had.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import DefaultCfg, PretrainedCfg, clean_state_dict, load_state_dict
from timm.models._builder import resolve_pretrained_cfg
from torch import Tensor, nn

from ..errors import first_line
from .download import WEIGHTS, check_reachable, fetch

__all__ = [
    "ORGANISATION",
    "BackboneSource",
    "forget_other_names",
    "hub_name",
    "load_backbone",
    "matching_weights",
    "published_cfgs",
    "published_segmenters",
    "published_weights",
    "untrained_cfg",
    "without_names",
]

PACKAGE = Path(__file__).parents[1]
HUB = PACKAGE / "hub" if (PACKAGE / "hub").is_dir() else PACKAGE.parent / "hub"  # installed wheel, or a checkout
ORGANISATION = os.environ.get("VT_TIMM_HUB_ORGANISATION", "vt-timm")  # the owner of the repositories on the Hub
BackboneSource = str | Path | Mapping[str, Tensor]
TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")

_logger = logging.getLogger(__name__)


def hub_name(name: str) -> str:
    """`vt_resnet18.mixup_imagenette` -> `vt-timm/vt_resnet18.mixup_imagenette`, the repository on the Hub."""
    return f"{ORGANISATION}/{name}"


def published_cfgs() -> dict[str, dict[str, Any]]:
    """timm pretrained cfgs by `architecture.tag`, the name of the folder.

    Each names its repository on the Hub and, where the folder holds one, the file of weights, which timm prefers.
    """
    cfgs = {}
    for config in sorted(HUB.glob("*/config.json")):
        contents = json.loads(config.read_text())
        weights = config.with_name("model.safetensors")
        if contents.get("architecture", "").startswith("vt_resnet"):  # a folder may also hold a segmenter
            cfgs[config.parent.name] = {
                **contents["pretrained_cfg"],
                "num_classes": contents["num_classes"],
                "label_names": contents.get("label_names"),
                "label_descriptions": contents.get("label_descriptions"),
                "hf_hub_id": hub_name(config.parent.name),
                **({"file": str(weights)} if weights.is_file() else {}),
            }
    return cfgs


def untrained_cfg(**kwargs: Any) -> dict[str, Any]:
    """Return the cfg of a VT-ResNet without weights: the paper's classes and size, timm's crop and interpolation."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2006.03677",
        "paper_name": "Visual Transformers: Token-based Image Representation and Processing for Computer Vision",
        **kwargs,
    }


def published_segmenters() -> dict[str, Path]:
    """Return the folders of the segmenters that ship, by name."""
    folders = {}
    for config in sorted(HUB.glob("*/config.json")):
        is_segmenter = "neck" in json.loads(config.read_text(encoding="utf-8"))
        if is_segmenter and config.with_name("model.safetensors").is_file():
            folders[config.parent.name] = config.parent
    return folders


@contextmanager
def published_weights(
    variant: str, pretrained: bool, tags: DefaultCfg, kwargs: dict[str, Any], pretrained_backbone: Any = None
) -> Iterator[None]:
    """Choose the tag and fetch its weights; a file that cannot be read inside the block becomes an error of one line.

    Args:
        variant: name of the architecture.
        pretrained: whether weights are wanted; nothing is chosen or fetched without.
        tags: the architecture's cfgs.
        kwargs: arguments of `build_model_with_cfg`; the first tag with weights is put in where the caller named none.
        pretrained_backbone: as the model's entry point takes it.

    Raises:
        ValueError: for both kinds of weights at once.
        RuntimeError: for weights that are missing or damaged.
    """
    if pretrained and pretrained_backbone is not None:
        raise ValueError(
            "pretrained=True and pretrained_backbone: the first fills the whole model; choose one of the two"
        )
    if pretrained:
        if not any(_names_weights(kwargs.get(key)) for key in ("pretrained_cfg", "pretrained_cfg_overlay")):
            kwargs["pretrained_cfg"] = next((tag for tag in tags.tags if tags.cfgs[tag].has_weights), None)
        _fetch_from_hub(variant, kwargs)
    try:
        yield
    except (SafetensorError, FileNotFoundError) as error:
        raise RuntimeError(
            f"the weights of {variant} are missing or damaged ({str(error) or 'no such file'}): "
            "reinstall vt_timm, or fetch the model folder again"
        ) from error


def _fetch_from_hub(variant: str, kwargs: dict[str, Any]) -> None:
    """Weights that timm would take from the Hub are fetched first and checked; timm itself would also take a pickle."""
    cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    elsewhere = cfg.source == "local-dir" or (cfg.source != "hf-hub" and (cfg.state_dict or cfg.file))
    if cfg.hf_hub_id and not elsewhere:
        fetch(cfg.hf_hub_id, cfg.hf_hub_filename or WEIGHTS, kwargs.get("cache_dir"))


def _names_weights(cfg: str | dict[str, Any] | PretrainedCfg | None) -> bool:
    """True if the caller said which weights: by a tag, or by a cfg with a source, not the default tag's cfg."""
    if isinstance(cfg, dict):
        return any(cfg.get(source) for source in ("file", "url", "hf_hub_id", "state_dict"))
    return bool(cfg.has_weights if isinstance(cfg, PretrainedCfg) else cfg)


def matching_weights(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Refuse weights that do not fit, since timm loads non-strictly when the head changes and would say nothing.

    These may differ: the classifier and the first convolution, which timm adapts, and the last projector, which a
    backbone has and a classifier has not; a new one starts as the identity.

    Raises:
        RuntimeError: naming what is missing, has another shape or is left over.
    """
    # The prefixes of DistributedDataParallel and torch.compile; timm 1.0.26 takes off both in one order only.
    state_dict = clean_state_dict(clean_state_dict(state_dict))
    last_projector = f"vt_stage.blocks.{len(model.vt_stage.blocks) - 1}.projector."
    expected = model.state_dict()
    state_dict = {k: v for k, v in state_dict.items() if k in expected or not k.startswith(last_projector)}
    missing = [k for k in expected if k not in state_dict and not k.startswith(("fc.", last_projector))]
    left_over = [k for k in state_dict if k not in expected and not k.startswith("fc.")]
    misshapen = [
        k
        for k, v in expected.items()
        if k in state_dict and state_dict[k].shape != v.shape and not k.startswith(("fc.", "conv1."))
    ]
    if missing or misshapen or left_over:
        raise RuntimeError(
            f"these weights are not of this model: {len(missing)} tensors are missing, {len(misshapen)} have another "
            f"shape and {len(left_over)} are left over, the first is {(missing + misshapen + left_over)[0]}; check the "
            "model name and its options against the config.json beside the weights"
        )
    return state_dict


def without_names(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pretrained cfg that does not say what the classes are called."""
    return {**cfg, "label_names": None, "label_descriptions": None}


def forget_other_names(model: nn.Module) -> None:
    """Drop the class names of a head that has other classes than the weights had."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    names = cfg.get("label_names")
    if names and len(names) != getattr(model, "num_classes", len(names)):
        model.pretrained_cfg = without_names(cfg)  # type: ignore[assignment]


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
    weights, name = _read_backbone(source, in_chans=_in_chans(model))
    net = _inside(model)
    target = {k: v for k, v in net.state_dict().items() if k.startswith(TRUNK)}
    for key, tensor in target.items():
        if key not in weights:
            raise ValueError(f"pretrained_backbone: {name} has no {key}; {_advice(net)}")
        if weights[key].shape != tensor.shape:
            theirs, ours = (tuple(shape) for shape in (weights[key].shape, tensor.shape))
            raise ValueError(f"pretrained_backbone: {key} is {theirs} in {name} and {ours} here; {_advice(net)}")
    deeper = [k for k in weights if k.startswith(TRUNK) and k not in target]
    if deeper and not _is_pruned(net):
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


def _inside(model: nn.Module) -> nn.Module:
    """Return the network that `features_only` wraps, under the name that the kind of `feature_cls` gives it."""
    for name in ("model", "body", "graph_module"):
        model = getattr(model, name, model)
    return model


def _in_chans(model: nn.Module) -> int:
    conv1: torch.nn.Conv2d = _inside(model).conv1  # type: ignore[assignment]
    return conv1.in_channels


def _is_pruned(net: nn.Module) -> bool:
    return getattr(net, "vt_stage", None) is None


def _advice(net: nn.Module) -> str:
    depth = getattr(net, "pretrained_cfg", {}).get("architecture", "").removeprefix("vt_")
    return f"{depth} of timm fits" if timm.is_model(depth) else "a ResNet of the same stem, blocks and widths fits"
