"""A VT-ResNet's feature maps, which timm's `features_only=True` and `forward_intermediates` hand out."""

from typing import TYPE_CHECKING, Any

from timm.layers import _assert
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .visual_transformer import VTStage


class FeatureMaps(nn.Module):
    """The part of `VTResNet` that takes maps out on the way and drops what a map does not need."""

    feature_info: list[dict[str, Any]]
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    vt_stage: VTStage | None
    grad_checkpointing: bool
    num_features: int
    head_hidden_size: int

    if TYPE_CHECKING:

        def _stem(self, x: Tensor) -> Tensor: ...

        def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None: ...

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
