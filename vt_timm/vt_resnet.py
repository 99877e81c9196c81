"""VT-ResNets: a ResNet whose last stage is visual transformers (paper, section 4 and Table 11).

Stem and stages 1-3 are timm's ResNet under timm's parameter names; `vt_stage` replaces `layer4`.
"""

import operator
from typing import Any, ClassVar

import torch
from timm.layers import _assert, global_pool_nlc
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, make_blocks
from torch import Tensor, nn

from .errors import check_choice, check_positive, plain
from .visual_transformer import VTStage
from .weights.published import (
    forget_other_names,
    matching_weights,
    published_cfgs,
    published_weights,
    untrained_cfg,
    without_names,
)
from .weights.warm_start import BackboneSource, load_backbone

__all__ = ["VTResNet"]

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
POOLS = ("avg", "max", "avgmax", "")
STRIDES = (8, 16, 32)
FEATURE_CLASSES = ("getter", "list", "dict", "hook", "fx")
MIN_SIZE = 32  # pixels: twice the stride of the VT stage's map, which then has 2 x 2 pixels


class VTResNet(nn.Module):
    """ResNet stem and three stages, then VT modules on the map at stride 16; classifies the mean token (section 4).

    >>> import torch, vt_timm
    >>> model = vt_timm.VTResNet(layers=(1, 1, 1, 2), token_dim=256, num_tokens=8, num_classes=10)
    >>> tuple(model(torch.randn(2, 3, 64, 64)).shape)
    (2, 10)

    Args:
        block: residual block of stages 1-3, "basic" or "bottleneck".
        layers: blocks of stages 1-3, then the number of VT modules.
        channels: width of the residual blocks of stages 1-3.
        stem_width: channels of the 7x7 stem.
        vt_channels: C, channels of the VT stage's feature map: Table 11's (section 4 says 256 for R18 and R34).
        token_dim: channels of a token (the paper's C_T).
        num_tokens: L, visual tokens (Table 6).
        num_heads: heads of the VT modules' transformers and projectors.
        tokenizer: tokenizer of the first VT module, "filter", "cluster" or "pool" (Table 3).
        recurrent: whether the later modules' tokenizers are recurrent, or all are of the first's kind (Table 4).
        relation: what relates the tokens, "transformer", "graph" or "none" (Table 5).
        projector: whether the VT modules project their tokens onto the map (Table 7).
        competition: whether tokens compete for pixels, as in slot attention; the paper has no such thing.
        projector_gain: gain of the projectors' batch norms at the start, which the paper does not name. With 0 a fresh
            projector leaves the map as it is; with 0.5 the stage learned more in short trials.
        last_projector: whether the last VT module does. A classifier does not need it; `features_only=True` turns
            it on.
        output_stride: stride of the VT stage's map. 16 is the paper's. At 32 the map is averaged to the stride of a
            ResNet's last map, as `features_only=True` hands it out. At 8 stage 3 is dilated.
        num_classes: number of classes; 0 for no classifier.
        in_chans: channels of the image.
        global_pool: pooling over the tokens, "avg", "max", "avgmax" or "" (none).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last VT module; it grows linearly from 0 over all blocks and modules.

    Shapes: image (B, in_chans, H, W), H and W from 32 -> logits (B, num_classes).

    Raises:
        ValueError: for a value that is none of those named, channels that the heads do not divide, or two options
            that cannot go together.
        TypeError: for an unknown keyword.
        AssertionError: in forward, for an image under 32 x 32 pixels, or one whose VT stage's map has fewer pixels
            than there are clusters.
    """

    __constants__: ClassVar = ["min_size"]  # so that TorchScript knows it
    __jit_unused_properties__: ClassVar = ["_model_args"]

    def __init__(
        self,
        block: str = "basic",
        layers: tuple[int, ...] = (2, 2, 2, 2),
        channels: tuple[int, ...] = (64, 128, 256),
        stem_width: int = 64,
        vt_channels: int = 512,
        token_dim: int = 1024,
        num_tokens: int = 16,
        num_heads: int = 16,
        tokenizer: str = "filter",
        recurrent: bool = True,
        relation: str = "transformer",
        projector: bool = True,
        competition: bool = False,
        projector_gain: float = 0.0,
        last_projector: bool = False,
        output_stride: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        check_choice("block", block, BLOCKS)
        check_choice("output_stride", output_stride, STRIDES)
        self.in_chans = check_positive("in_chans", in_chans)
        self.grad_checkpointing = False
        self.min_size = MIN_SIZE

        *repeats, num_modules = layers
        drop_path = [drop_path_rate * i / max(sum(layers) - 1, 1) for i in range(sum(layers))]
        feature_info: list[dict[str, Any]] = []
        self.feature_info = feature_info  # TorchScript warns of a type on the attribute itself
        self._add_stem(stem_width, dd)
        self._add_residual_stages(
            BLOCKS[block], channels, tuple(repeats), output_stride, drop_path[sum(repeats) - 1], dd
        )
        self.vt_stage: VTStage | None = VTStage(  # None after pruning
            self.feature_info[-1]["num_chs"],
            vt_channels,
            token_dim,
            num_tokens,
            num_heads,
            depth=num_modules,
            drop_path=drop_path[sum(repeats) :],
            tokenizer=tokenizer,
            recurrent=recurrent,
            relation=relation,
            projector=projector,
            competition=competition,
            projector_gain=projector_gain,
            last_projector=last_projector,
            pool_map=output_stride == 32,
            **dd,
        )
        self.feature_info.append(dict(num_chs=vt_channels, reduction=output_stride, module="vt_stage"))
        self.num_features = self.head_hidden_size = token_dim
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

    def _add_stem(self, width: int, dd: dict[str, Any]) -> None:
        self.conv1 = nn.Conv2d(self.in_chans, width, kernel_size=7, stride=2, padding=3, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(width, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.feature_info.append(dict(num_chs=width, reduction=2, module="act1"))

    def _add_residual_stages(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        channels: tuple[int, ...],
        repeats: tuple[int, ...],
        output_stride: int,
        drop_path_rate: float,
        dd: dict[str, Any],
    ) -> None:
        stages, stage_info = make_blocks(
            (block,) * len(repeats),
            channels,
            repeats,
            self.conv1.out_channels,
            output_stride=min(output_stride, 16),
            drop_path_rate=drop_path_rate,
            act_layer=nn.ReLU,
            norm_layer=nn.BatchNorm2d,
            **dd,
        )
        self.layer1, self.layer2, self.layer3 = (stage for _, stage in stages)
        self.feature_info.extend(stage_info)

    @property
    def _model_args(self) -> dict[str, Any]:
        """Return what timm keeps to rebuild a saved model: plain data, and not where its first weights came from.

        A property, since timm's `create_model` sets it once more after the entry point has returned.
        """
        return self.__dict__.get("_kept_args", {})

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        self.__dict__["_kept_args"] = {k: plain(v) for k, v in args.items() if k != "pretrained_backbone"}

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initialise the convolutions as timm's ResNet does; VT modules and classifier initialise themselves."""
        for name, m in self.named_modules():
            if isinstance(m, nn.Conv2d) and not name.startswith("vt_stage.blocks"):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (BasicBlock, Bottleneck)):
                m.zero_init_last()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return groups for layer-wise rate decay: stem, residual blocks (stages if coarse), lift, VT modules."""
        return dict(
            stem=r"^conv1|bn1",
            blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)",
            lift=r"^vt_stage\.lift",
            vt=r"^vt_stage\.blocks" if coarse else r"^vt_stage\.blocks\.(\d+)",
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        if self.vt_stage is not None:
            self.vt_stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and forget what its classes were called; `global_pool=None` keeps the pooling."""
        if global_pool is not None:
            check_choice("global_pool", global_pool, POOLS)
            self.global_pool = global_pool
        self.num_classes = num_classes = operator.index(num_classes)
        if hasattr(self, "pretrained_cfg"):  # not yet in the constructor
            self.pretrained_cfg: dict[str, Any] = without_names(self.pretrained_cfg)
        if num_classes > 0:
            like = self.conv1.weight
            self.fc: nn.Module = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)
        else:
            self.fc = nn.Identity()
        self.fc.train(self.training)

    def _stem(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing():  # a trace keeps no assertion, and warns of each
            _assert(x.shape[-2] >= self.min_size, "the image is too small: VT-ResNets need at least 32 x 32 pixels")
            _assert(x.shape[-1] >= self.min_size, "the image is too small: VT-ResNets need at least 32 x 32 pixels")
        return self.act1(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) -> visual tokens (B, L, D); a pruned model gives its last map (B, C, H, W)."""
        x = self.maxpool(self._stem(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        if self.vt_stage is not None:
            _, x = self.vt_stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map tokens (B, L, D) -> pooled tokens (B, D) if `pre_logits`, else logits (B, num_classes)."""
        if self.vt_stage is None and self.global_pool:  # pruned: pool the pixels of the last map instead
            x = x.flatten(2).transpose(1, 2)
        x = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=0)
        x = self.head_drop(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps beside the tokens: stem, stages 1-3 and the VT stage's map, at strides 2, 4, 8, 16 (8 if
        `output_stride` is 8) and `output_stride`.

        Args:
            x: image (B, in_chans, H, W).
            indices: the last n maps if an int, all if None, else these.
            norm: accepted for timm's interface; there is no final norm to apply.
            stop_early: stop after the last map asked for.
            output_fmt: "NCHW", nothing else.
            intermediates_only: return the maps alone.

        Returns:
            (tokens (B, L, D), maps), or the maps. Stopped early or pruned before the VT stage, the last computed
            tensor stands in for the tokens: the last map, or after the stem alone its max pooling.
        """
        _assert(output_fmt == "NCHW", "output_fmt must be NCHW")
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        intermediates = []

        x = self._stem(x)
        if 0 in take_indices:
            intermediates.append(x)
        x = self.maxpool(x)
        for i, layer in enumerate((self.layer1, self.layer2, self.layer3), start=1):
            if stop_early and i > max_index:
                break
            x = checkpoint_seq(layer, x) if self.grad_checkpointing else layer(x)
            if i in take_indices:
                intermediates.append(x)
        if self.vt_stage is not None and not (stop_early and max_index < 4):
            feature_map, x = self.vt_stage(x)
            if 4 in take_indices:
                intermediates.append(feature_map)

        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the feature maps `indices` do not need; the model then ends in the last of them."""
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        prune_end = max_index < 4
        if max_index == 0:
            self.maxpool = nn.Identity()
        for i, name in enumerate(("layer1", "layer2", "layer3"), start=1):
            if i > max_index:
                setattr(self, name, nn.Sequential())
        if prune_end:
            self.vt_stage = None
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        elif prune_head and self.vt_stage is not None:
            self.vt_stage.keep_map_only()
        if prune_head or prune_end:
            self.reset_classifier(0, "")
        return take_indices


# The tag that ends in "*" is the default, so that a model without weights has ImageNet's 1000 classes at its own size,
# whatever the shipped weights were trained on. `pretrained=True` without a tag takes the first tag with weights.
default_cfgs = generate_default_cfgs(
    {
        **published_cfgs(),
        "vt_resnet18.untrained*": untrained_cfg(),
        "vt_resnet34.untrained*": untrained_cfg(),
        "vt_resnet50.untrained*": untrained_cfg(),
        "vt_resnet101.untrained*": untrained_cfg(),
        "vt_resnet_micro.untrained*": untrained_cfg(input_size=(3, 160, 160)),
    }
)


def _create_vt_resnet(
    variant: str, pretrained: bool, pretrained_backbone: BackboneSource | None = None, **kwargs: Any
) -> VTResNet:
    kwargs = {key: plain(value) for key, value in kwargs.items()}
    if kwargs.get("features_only"):
        prepare_features(kwargs)
    with published_weights(variant, pretrained, default_cfgs[variant], kwargs, pretrained_backbone):
        model = build_model_with_cfg(VTResNet, variant, pretrained, pretrained_filter_fn=matching_weights, **kwargs)
    if pretrained_backbone is not None:
        load_backbone(model, pretrained_backbone)
    forget_other_names(model)
    return model


def prepare_features(kwargs: dict[str, Any]) -> None:
    """Fill in the defaults of `features_only=True`: a last map at stride 32, which the tokens have reached."""
    if not kwargs.get("projector", True):
        raise ValueError(
            "features_only=True and projector=False: without projectors the tokens never reach the feature maps"
        )
    kwargs.setdefault("last_projector", True)
    kwargs.setdefault("output_stride", 32)
    if isinstance(kwargs.setdefault("feature_cls", "getter"), str):
        check_choice("feature_cls", kwargs["feature_cls"], FEATURE_CLASSES)


@register_model
def vt_resnet18(pretrained: bool = False, **kwargs: Any) -> VTResNet:
    """Create VT-R18 of Table 11. `pretrained_backbone` starts stem and stages 1-3 from a ResNet (`load_backbone`).

    >>> import vt_timm
    >>> model = vt_timm.vt_resnet18(device="meta")  # has shapes, and no weights
    >>> print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M")
    10.9 M
    """
    args = dict(block="basic", layers=(2, 2, 2, 2), vt_channels=512)
    return _create_vt_resnet("vt_resnet18", pretrained, **dict(args, **kwargs))


@register_model
def vt_resnet34(pretrained: bool = False, **kwargs: Any) -> VTResNet:
    """Create VT-R34 of Table 11; options as `vt_resnet18`'s."""
    args = dict(block="basic", layers=(3, 4, 6, 3), vt_channels=512)
    return _create_vt_resnet("vt_resnet34", pretrained, **dict(args, **kwargs))


@register_model
def vt_resnet50(pretrained: bool = False, **kwargs: Any) -> VTResNet:
    """Create VT-R50 of Table 11; options as `vt_resnet18`'s."""
    args = dict(block="bottleneck", layers=(3, 4, 6, 3), vt_channels=1024)
    return _create_vt_resnet("vt_resnet50", pretrained, **dict(args, **kwargs))


@register_model
def vt_resnet101(pretrained: bool = False, **kwargs: Any) -> VTResNet:
    """Create VT-R101 of Table 11; options as `vt_resnet18`'s."""
    args = dict(block="bottleneck", layers=(3, 4, 23, 3), vt_channels=1024)
    return _create_vt_resnet("vt_resnet101", pretrained, **dict(args, **kwargs))


@register_model
def vt_resnet_micro(pretrained: bool = False, **kwargs: Any) -> VTResNet:
    """Create a model for tests, with under a million parameters; it is not in the paper."""
    args = dict(
        block="basic", layers=(1, 1, 1, 2), channels=(32, 64, 128), stem_width=32,
        vt_channels=128, token_dim=192, num_heads=8,
    )  # fmt: skip
    return _create_vt_resnet("vt_resnet_micro", pretrained, **dict(args, **kwargs))
