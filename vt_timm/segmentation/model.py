"""Segmenters: a timm backbone, FPN or VT-FPN, and the semantic head of panoptic FPN (section 5.3, Tables 9 and 10)."""

import inspect
import itertools
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from timm.layers import Conv2dSame, Format
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ..errors import UserError, check_choice, check_positive, first_line
from ..images import per_channel
from ..run_files import BEST, CONFIG, WEIGHTS
from ..vt_fpn import NECKS
from ..weights.download import DownloadError, NotReachedError, check_reachable, fetch
from ..weights.published import published_segmenters

LEVELS = 4
HEAD_STRIDE = 4  # the levels are summed on a map of this stride
TRIED = 97, 257  # sides that leave odd maps, and exceed the 224 px for which some networks keep a table of positions


class SemanticHead(nn.Module):
    """Head of panoptic FPN, in Detectron2's shape: every level to 128 channels at stride 4, summed, classified.

    A level at stride s passes max(1, log2(s / 4)) times through a 3x3 convolution, group norm and ReLU, each followed
    by bilinear upsampling by 2 unless it is at stride 4 already.

    Args:
        channels: C, channels of the levels.
        strides: strides of the levels, finest first, powers of two from 4.
        num_classes: number of classes.
        hidden: channels of the sum.

    Shapes: one (B, C, H_i, W_i) per level -> logits (B, num_classes, H_1, W_1).
    """

    def __init__(self, channels: int, strides: Sequence[int], num_classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.strides = list(strides)
        self.scales = nn.ModuleList(
            nn.ModuleList(
                Conv2dNormActivation(channels if i == 0 else hidden, hidden, norm_layer=_group_norm)
                for i in range(max(1, int(math.log2(stride // HEAD_STRIDE))))
            )
            for stride in strides
        )
        self.classifier = nn.Conv2d(hidden, num_classes, kernel_size=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        # Upsampled to a size and not by a factor of 2: an image of 473 px has maps of 119, 60, 30 and 15.
        size_at = {stride: level.shape[-2:] for stride, level in zip(self.strides, levels, strict=True)}
        maps = []
        for stride, x, convolutions in zip(self.strides, levels, self.scales, strict=True):
            for convolution in convolutions:  # type: ignore[attr-defined]
                x = convolution(x)
                if stride > HEAD_STRIDE:
                    stride //= 2
                    x = F.interpolate(x, size_at[stride], mode="bilinear", align_corners=False)
            maps.append(x)
        return self.classifier(sum(maps[1:], maps[0]))


def _as_json(value: Any) -> Any:
    """Return the value with arrays, tensors and their numbers as lists and numbers of Python's."""
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)


class Segmenter(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="vt_timm",
    pipeline_tag="image-segmentation",
    license="apache-2.0",
    tags=["semantic-segmentation", "visual-transformer"],
):
    """Backbone, neck and head: `logits = head(neck(backbone(image)))`, upsampled to the image.

    `save_pretrained(FOLDER)` writes config.json and model.safetensors, `from_pretrained(FOLDER or ORG/NAME)` reads
    them, `push_to_hub(ORG/NAME)` publishes them. `create_segmenter` also fills the backbone with pretrained weights.

    >>> import torch, vt_timm
    >>> model = vt_timm.Segmenter("vt_fpn", "vt_resnet_micro", num_classes=3, neck_options={"channels": 32})
    >>> tuple(model(torch.randn(2, 3, 64, 96)).shape)
    (2, 3, 64, 96)

    Args:
        neck: "fpn", "vt_fpn" or "laterals".
        backbone: any timm model with `features_only` whose maps reach four levels from stride 4 on. One that takes some
            sizes alone, as MaxViT does, needs one of them as `short_side`.
        num_classes: number of classes.
        class_names: what the classes are called, kept in config.json.
        short_side: short side of the images that it was evaluated on, in pixels, or their [height, width]; None if they
            kept their own size. Kept in config.json too.
        neck_options: more arguments for the neck: `channels`; for "vt_fpn" also `tokens`, `token_dim`, `depth`,
            `num_heads`, `projector_heads`, `gain`.
        backbone_options: more arguments for `timm.create_model`, such as `in_chans`.
        colours: mean and standard deviation of the images, {"mean": ..., "std": ...}; the backbone's own if None.

    Shapes: image (B, in_chans, H, W), normalised -> logits (B, num_classes, H, W).

    Raises:
        ValueError: for an argument of another kind, an unknown neck, a number of class names that is not
            `num_classes`, or a backbone without four levels, or for some sizes alone.
        TypeError: for an option that the neck or the backbone does not have.
    """

    def __new__(cls, *args: Any, **options: Any) -> "Segmenter":
        """Let the mixin keep for config.json what JSON can say: it would leave NumPy's numbers out without a word."""
        return super().__new__(cls, *_as_json(args), **_as_json(options))

    def __init__(
        self,
        neck: str = "vt_fpn",
        backbone: str = "resnet50",
        num_classes: int = 21,
        class_names: list[str] | None = None,
        short_side: int | list[int] | None = None,
        neck_options: dict[str, Any] | None = None,
        backbone_options: dict[str, Any] | None = None,
        colours: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__()
        check_choice("neck", neck, list(NECKS))
        num_classes = check_positive("num_classes", num_classes)
        short_side, colours, class_names = _as_json(short_side), _as_json(colours), _as_json(class_names)
        neck_options, backbone_options = _as_json(neck_options), _as_json(backbone_options)
        for option, value, kind, form in (
            ("backbone", backbone, str, "the name of a model"),
            ("class_names", class_names, list | None, "a list of names"),
            ("neck_options", neck_options, dict | None, "a dictionary"),
            ("backbone_options", backbone_options, dict | None, "a dictionary"),
            ("colours", colours, dict | None, "a dictionary"),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"{option}={value!r} must be {form}")
        if colours and (set(colours) != {"mean", "std"} or not all(isinstance(v, list) for v in colours.values())):
            raise ValueError(f"colours={colours} must have mean and std, a list of numbers each")
        if short_side is not None:
            both = isinstance(short_side, list) and len(short_side) == 2
            for side in short_side if both else [short_side]:  # type: ignore[union-attr]
                check_positive("short_side", side)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"num_classes={num_classes} and {len(class_names)} class_names: give one name per class")
        self._backbone_options = backbone_options or {}
        self.backbone, strides = _four_levels(backbone, self._backbone_options)
        self.multiple = _multiple(self.backbone, backbone, strides, self.in_chans, short_side)
        self.neck_name, self.backbone_name, self.colours = neck, backbone, colours
        self.num_classes = num_classes
        self.short_side = short_side
        names = [f"class {i}" for i in range(num_classes)] if class_names is None else class_names
        self.class_names = [str(name) for name in names]
        self.channels_are_last = getattr(self.backbone, "output_fmt", None) == Format.NHWC  # Swin and its kin
        options: dict[str, Any] = {"channels": 256, **(neck_options or {})}
        known = list(inspect.signature(NECKS[neck]).parameters)[1:]
        for name in options:
            if name not in known:
                raise TypeError(f"the neck {neck!r} has no option {name!r}; its options are {', '.join(known)}")
        options["channels"] = check_positive("channels", options["channels"])
        self.neck = NECKS[neck](self.backbone.feature_info.channels(), **options)  # type: ignore[operator,union-attr]
        self.head = SemanticHead(options["channels"], strides, num_classes)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "Segmenter":  # type: ignore[override]
        """Load a saved segmenter from a folder or the Hub; takes the options of huggingface_hub's method.

        Raises:
            DownloadError: in one line, if it cannot be had from the Hub, and for a folder that holds none.
        """
        source = str(pretrained_model_name_or_path)
        if Path(source).is_dir() and not Path(source, CONFIG).is_file():
            run = Path(source, BEST, CONFIG).is_file()
            hint = f": it is a training run, name its model, {Path(source, BEST)}" if run else ""
            raise DownloadError(f"{source} holds no segmenter ({CONFIG}){hint}")
        if not (Path(source).is_dir() or options.get("local_files_only")):
            revision = f"@{options['revision']}" if options.get("revision") else ""
            check_reachable(f"hf-hub:{source}{revision}", cache_dir=options.get("cache_dir"))
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, map_location: str = "cpu", strict: bool = True, **options: Any
    ) -> "Segmenter":
        """Load as `from_pretrained` asks: unlike huggingface_hub's own, strictly and never from a pickle."""
        for dropped_in_1_0 in ("proxies", "resume_download"):  # what huggingface_hub 0.x still passes
            options.pop(dropped_in_1_0, None)
        how = {key: options.pop(key) for key in ("cache_dir", "force_download", "local_files_only", "token")}
        if Path(model_id).is_dir():
            weights = Path(model_id) / WEIGHTS
        else:
            weights = fetch(f"{model_id}@{revision}" if revision else model_id, **how)
        model = cls(**options)
        safetensors.torch.load_model(model, weights, strict=strict, device=map_location)
        return model.eval()

    @property
    def normalization(self) -> dict[str, tuple[float, ...]]:
        """Mean and standard deviation of the colours that the backbone expects."""
        config: dict[str, Any] = self.colours or self.backbone.pretrained_cfg  # type: ignore[assignment]
        return {key: per_channel(config[key], self.in_chans) for key in ("mean", "std")}

    @property
    def in_chans(self) -> int:
        """The number of channels of the image."""
        return int(self._backbone_options.get("in_chans", 3))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.multiple > 1:
            images = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        features = self.backbone(images)
        if self.channels_are_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        logits = self.head(self.neck(features))
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width] if self.multiple > 1 else logits


def _four_levels(name: str, options: dict[str, Any]) -> tuple[nn.Module, list[int]]:
    """Return the backbone with its first four maps from stride 4 on, and their strides."""
    options = {**_any_size(name), **_stride_option(name), **options}
    try:
        info: Any = timm.create_model(name, features_only=True, device="meta", **_stride_option(name)).feature_info
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"backbone={name!r} cannot hand out feature maps: {first_line(error)}") from error
    reductions = info.reduction()
    indices = [i for i, stride in enumerate(reductions) if stride >= HEAD_STRIDE][:LEVELS]
    strides = [reductions[i] for i in indices]
    doubling = all(b in (a, 2 * a) for a, b in itertools.pairwise(strides))
    if len(strides) < LEVELS or strides[0] != HEAD_STRIDE or not doubling:
        raise ValueError(
            f"backbone={name!r} has feature maps at strides {reductions}; a pyramid needs four, from stride 4 on, each "
            "at the stride of the one before or twice it, as resnet50, convnext_tiny or vt_resnet18 have"
        )
    return timm.create_model(name, features_only=True, out_indices=indices, **options), strides


def _any_size(name: str) -> dict[str, Any]:
    """Return the option that lets a network take any size where it wants one by default, as Swin does; else none."""
    wants_one = timm.is_model(name) and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    if not wants_one:
        return {}
    option: dict[str, Any] = {"strict_img_size": False}
    try:
        timm.create_model(name, device="meta", **option)
    except TypeError:  # it knows no such option
        return {}
    return option


def _multiple(backbone: nn.Module, name: str, strides: list[int], channels: int, short_side: Any) -> int:
    """Return what the sides of a photo are padded to a multiple of, 1 where the backbone takes any.

    Raises:
        ValueError: for a backbone that takes some sizes alone, unless `short_side` is one of them.
    """
    least = HEAD_STRIDE if _any_size(name) else 1  # Swin's patches have to cover the image
    if any(isinstance(m, Conv2dSame) for m in backbone.modules()):
        # TensorFlow's padding depends on the size: where a stride does not divide it, the maps are shifted against
        # those of training crops.
        least = strides[-1]
    own = [(short_side, least)] if isinstance(short_side, list) else []
    backbone.eval()
    for size, multiple in ((TRIED, least), (TRIED, strides[-1]), *own):
        sides = (side + -side % multiple for side in size)
        with suppress(AssertionError, IndexError, RuntimeError), torch.no_grad():
            backbone(next(backbone.parameters()).new_zeros(1, channels, *sides))
            backbone.train()
            return multiple
    height, width = backbone.pretrained_cfg["input_size"][-2:]  # type: ignore[index]
    size = f"[{height}, {width}]"
    raise ValueError(
        f"backbone={name!r} was made for images of {height} x {width} (crop_size={height} 'eval_size={size}' of a "
        f"training, short_side={size} of create_segmenter), and does not take every size"
    )


def _stride_option(name: str) -> dict[str, Any]:
    """Ask for a VT-ResNet's deepest map as it is, not averaged to the stride of a ResNet's."""
    return {"output_stride": 16} if name.startswith("vt_resnet") else {}


def create_segmenter(
    neck: str,
    backbone: str = "resnet50",
    num_classes: int = 21,
    pretrained_backbone: bool = False,
    class_names: list[str] | None = None,
    short_side: int | list[int] | None = None,
    backbone_options: dict[str, Any] | None = None,
    **neck_options: Any,
) -> Segmenter:
    """Build the panoptic-FPN baseline or VT-FPN on a timm backbone.

    >>> import torch, vt_timm
    >>> model = vt_timm.create_segmenter("vt_fpn", backbone="vt_resnet_micro", num_classes=59)
    >>> tuple(model(torch.randn(2, 3, 64, 64)).shape)
    (2, 59, 64, 64)

    Args:
        neck: "fpn", "vt_fpn" or "laterals".
        backbone: any timm model with `features_only` and four levels, also `local-dir:FOLDER` or `hf-hub:ORG/NAME`.
            Of these two the saved segmenter keeps the architecture's name and options, so that it loads without them.
        num_classes: number of classes.
        pretrained_backbone: whether the backbone starts from its pretrained weights; those are not looked for again
            when the saved segmenter is loaded.
        class_names: what the classes are called.
        short_side: short side of the images that it will be evaluated on, in pixels, or their [height, width];
            `vt-timm segment` then uses it too.
        backbone_options: more arguments for `timm.create_model`.
        neck_options: `channels`; for "vt_fpn" also `tokens`, `token_dim`, `depth`, `num_heads`, `projector_heads`,
            `gain`.

    Raises:
        ValueError: for an unknown neck, a number of class names that is not `num_classes`, a backbone without four
            levels, or weights that cannot be loaded.
        TypeError: for an option that the neck or the backbone does not have.
    """
    num_classes = check_positive("num_classes", num_classes)
    check_choice("pretrained_backbone", pretrained_backbone, (True, False))
    options, colours, name = backbone_options, None, backbone
    for prefix, load_config in (("local-dir:", load_model_config_from_path), ("hf-hub:", load_model_config_from_hf)):
        if str(backbone).startswith(prefix):
            check_reachable(backbone, weights=pretrained_backbone)
            cfg, name, args = load_config(backbone.removeprefix(prefix))
            options = {**(args or {}), **(options or {})}
            colours = {key: list(cfg[key]) for key in ("mean", "std")}
    model = Segmenter(neck, name, num_classes, class_names, short_side, neck_options, options, colours)
    if pretrained_backbone:
        out_indices: Any = model.backbone.feature_info.out_indices  # type: ignore[union-attr]
        options = {**_stride_option(name), **(backbone_options or {})}
        try:
            check_reachable(backbone)
            trained = timm.create_model(
                backbone, pretrained=True, features_only=True, out_indices=out_indices, **options
            )
        except (OSError, RuntimeError) as error:  # no network, no such weights, a damaged file
            reason = error.reason if isinstance(error, NotReachedError) else first_line(error)
            raise ValueError(
                f"backbone={backbone!r}: its weights cannot be loaded ({reason}); {_what_ships(neck, name)}name "
                "weights on this machine with backbone=local-dir:FOLDER, or start without by pretrained_backbone=false"
            ) from error
        model.backbone.load_state_dict(trained.state_dict())
    return model


def _what_ships(neck: str, backbone: str) -> str:
    """Offer a shipped segmenter as the start of a training, with the settings that it needs; nothing if none ships."""
    for name, folder in published_segmenters().items():
        own = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        asked = {"neck": neck, "backbone": backbone.partition(".")[0]}
        others = [f"{key}={own[key]}" for key, value in asked.items() if own[key] != value]
        return f"start from what ships with {' '.join([f'initial_checkpoint={name}', *others])}, "
    return ""


class SegmenterError(UserError, RuntimeError):
    """A segmenter that is not there or damaged, in one line."""


def load_segmenter(source: str | Path, device: str = "cpu") -> Segmenter:
    """Load a trained segmenter in eval mode from a folder (`best/` of a training run) or a Hub repository.

    Raises:
        SegmenterError: in one line, if it is not there, or damaged.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = fetch(str(source), CONFIG).parent
        fetch(str(source), WEIGHTS)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise SegmenterError(
                f"{source} is not a segmenter: there is no {name} in it; name the best/ folder of a run"
            )
    try:
        return Segmenter.from_pretrained(str(folder)).eval().to(device)
    except UserError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise SegmenterError(f"cannot load the segmenter {source}: {first_line(error)}") from error
