"""The weights that we publish: Hub model folders (config.json, model.safetensors, README.md), and their names there.

What `timm.create_model(..., pretrained=True)` needs around timm's own loading: which tag, a checked download, a refusal
of weights that do not fit, one line for what went wrong, and no class names that another head had.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import yaml
from huggingface_hub.repocard import metadata_load
from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo, infer_imagenet_subset
from timm.models import DefaultCfg, PretrainedCfg, clean_state_dict
from timm.models._builder import resolve_pretrained_cfg
from torch import Tensor, nn

from ..errors import did_you_mean, some
from ..run_files import BEST, CARD, WEIGHTS
from .download import DownloadError, fetch

PACKAGE = Path(__file__).parents[1]
HUB = PACKAGE / "hub" if (PACKAGE / "hub").is_dir() else PACKAGE.parent / "hub"  # installed wheel, or a checkout
UNSURE = "unsure_below"  # the note of a classifier's config that with the least probability of a sure answer
ORGANISATION = os.environ.get("VT_TIMM_HUB_ORGANISATION", "vt-timm")  # the owner of the repositories on the Hub


def hub_name(name: str) -> str:
    """Return the repository on the Hub: `vt_resnet18.robust_imagenette` -> `vt-timm/vt_resnet18.robust_imagenette`."""
    return f"{ORGANISATION}/{name}"


def published_cfgs() -> dict[str, dict[str, Any]]:
    """Return timm pretrained cfgs by `architecture.tag`, the name of the folder.

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


def published_segmenters() -> dict[str, Path]:
    """Return the folders of the segmenters that ship, by name."""
    folders = sorted(path.parent for path in HUB.glob(f"*/{WEIGHTS}"))
    classifiers = published_cfgs()
    return {folder.name: folder for folder in folders if folder.name not in classifiers}


def is_known(name: str) -> bool:
    """True if a name is that of a segmenter that ships or of a model of timm's, and so not that of a folder."""
    tagged = "." in name
    return name in published_segmenters() or (timm.is_model(name) and (not tagged or timm.is_model_pretrained(name)))


def name_of_folder(folder: str | os.PathLike[str]) -> str:
    """Return how one names a folder with a model: `./NAME` where NAME alone is a model's name."""
    name = os.fspath(folder)
    return f"./{name}" if is_known(name) else name


def name_that_was_meant(name: str, reason: str) -> str:
    """Return the models that may be meant by a name, given what timm says against it, or nothing."""
    if "Unknown model" in reason:
        return did_you_mean(name, [*timm.list_models(), *published_segmenters()], 3)
    if "Invalid pretrained tag" in reason:
        return f"; its weights are {some(timm.list_pretrained(name.partition('.')[0] + '.*'))}"
    return ""


def licence_on_card(name: str) -> str | None:
    """Return the licence that the card beside the weights names, here or on the Hub: segmenters' config has none."""
    folder = HUB / name if (HUB / name).is_dir() else Path(name.removeprefix("local-dir:"))
    card = next((path for path in (folder / CARD, folder / BEST / CARD) if path.is_file()), None)
    repository = name.removeprefix("hf-hub:")
    try:
        if not folder.exists() and "/" in repository:
            card = fetch(repository, CARD)
        return (metadata_load(card) or {}).get("license") if card else None
    except (DownloadError, ValueError, yaml.YAMLError):  # a model is as good without a card, which a person wrote
        return None


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
    """Fetch and check first what timm would take from the Hub; timm itself would also take a pickle."""
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
            f"shape and {len(left_over)} are left over, the first is {(missing + misshapen + left_over)[0]}; options "
            "that change the network, such as num_tokens, go without pretrained (--pretrained): leave out either, or "
            "check the model name and its options against the config.json beside the weights"
        )
    return state_dict


def without_names(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pretrained cfg that says nothing of the head: what its classes are called, and when it is unsure."""
    notes = tuple(note for note in cfg.get("notes") or () if not str(note).startswith(f"{UNSURE}="))
    return {**cfg, "label_names": None, "label_descriptions": None, "notes": notes}


def names_of_head(model: nn.Module) -> list[str]:
    """Return the `label_names` of a model's config, or none if another head than the one that it has is meant."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})  # type: ignore[assignment]
    names = cfg.get("label_names") or ()
    number: int = getattr(model, "num_classes", len(names))
    if isinstance(names, Mapping):  # by number, which timm takes too; some classes may have no name
        by_number = {str(index): name for index, name in names.items()}
        names = [by_number.pop(str(i), f"class {i}") for i in range(number)]
        names = [] if by_number else names
    return [str(name) for name in names] if len(names) == number else []


def names_of_outputs(model: nn.Module) -> list[str]:
    """Return what a classifier's outputs are called: in its `pretrained_cfg`, else as ImageNet's subset of so many is.

    Returns:
        The names (WordNet's for ImageNet, such as n01440764) in the order of the outputs, none where nobody knows them.
    """
    subset = infer_imagenet_subset({"num_classes": model.num_classes})
    return names_of_head(model) or (ImageNetInfo(subset).label_names() if subset else [])


def forget_other_names(model: nn.Module) -> None:
    """Drop the class names of a head that has other classes than the weights had."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if cfg.get("label_names") and not names_of_head(model):
        model.pretrained_cfg = without_names(cfg)  # type: ignore[assignment]


def unsure_below(config: Mapping[str, Any]) -> float:
    """Return the probability under which a classifier's top class is no answer, 0 if its config does not say.

    It stands among the `notes` of the pretrained cfg, as "unsure_below=0.8": timm refuses fields that it does not know,
    and keeps this one wherever it saves or loads a model.

    Args:
        config: a model's pretrained cfg.
    """
    notes = [str(note).partition("=") for note in config.get("notes") or ()]
    return max((float(value) for name, _, value in notes if name == UNSURE), default=0.0)
