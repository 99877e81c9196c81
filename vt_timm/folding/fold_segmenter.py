"""Segmenters for inference: VT-FPN with its norms multiplied out, and paddings that do not depend on the size.

Shape suffixes: B batch, C channels of the pyramid, H W height and width of a level, L tokens of a level, S tokens of
all levels, D channels of a token.
"""

import copy
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ..projector import Projector
from ..segmentation.model import Segmenter, SemanticHead
from ..tokenizers import FilterTokenizer
from ..vt_fpn import VTFPN
from .fold import FoldedProjector, affine, folded, linear_and_norm


def folded_segmenter(model: Segmenter) -> nn.Module:
    """Return a copy of a segmenter for inference, folded as `fold.folded` does it, and its neck and paddings too."""
    model = copy.deepcopy(model).eval()
    if isinstance(model.neck, VTFPN):
        _fold_neck(model.neck)
    if model.num_classes < model.head.classifier.in_channels:
        _classify_before_upsampling(model.head)
    for module in list(model.backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):  # the segmenter pads images to whole strides
                setattr(module, name, FixedPadding(child))
    return folded(model)


def _fold_neck(neck: VTFPN) -> None:
    """Put the norms of logits and tokens inside the products beside them."""
    neck.tokenizers = nn.ModuleList(
        _folded_tokenizer(tokenizer, norm)  # type: ignore[arg-type]
        for tokenizer, norm in zip(neck.tokenizers, neck.token_norms, strict=True)  # type: ignore[arg-type]
    )
    neck.projectors = nn.ModuleList(
        _folded_projector(projector, norm)  # type: ignore[arg-type]
        for projector, norm in zip(neck.projectors, neck.related_norms, strict=True)  # type: ignore[arg-type]
    )
    neck.token_norms = neck.related_norms = None


def _folded_tokenizer(tokenizer: FilterTokenizer, norm: nn.Module) -> FilterTokenizer:
    """Put the norm of the logits inside W_A, whose shift cancels in the softmax, and that of the tokens inside W_E."""
    tokenizer = copy.deepcopy(tokenizer)
    with torch.no_grad():
        if not isinstance(tokenizer.norm, nn.Identity):
            tokenizer.filters.weight.mul_(affine(tokenizer.norm)[0][:, None, None, None])
            tokenizer.norm = nn.Identity()
        tokenizer.embed = linear_and_norm(tokenizer.embed, norm)
    return tokenizer


def _folded_projector(source: Projector, norm: nn.Module) -> FoldedProjector:
    """Put the norm of the tokens inside W_K, where its shift cancels in the softmax, and W_V."""
    projector = FoldedProjector(source)
    with torch.no_grad():
        scale_D, shift_D = affine(norm)
        projector.value.bias.add_(projector.value.weight @ shift_D)
        projector.value.weight.mul_(scale_D)
        projector.key.weight.mul_(scale_D)
    return projector


def _classify_before_upsampling(head: SemanticHead) -> None:
    """Put the classifier before the last upsampling of each level, with its bias once for the sum.

    Both are linear, so that their order is free, and few classes are less to upsample and to sum than many channels.
    """
    scales: Any = head.scales
    classifier: Any = head.classifier
    for convolutions in scales:
        convolutions[-1] = nn.Sequential(convolutions[-1], copy.deepcopy(classifier))
        classifier.bias = None
    head.classifier = nn.Identity()  # type: ignore[assignment]


class FixedPadding(nn.Module):
    """A convolution with TensorFlow's padding over maps that its stride divides, where the padding is always the same.

    In general the padding depends on the size, in a form on which torch.export does not finish.
    """

    def __init__(self, source: Conv2dSame) -> None:
        super().__init__()
        height, width = (
            max(0, dilation * (kernel - 1) + 1 - stride)
            for kernel, stride, dilation in zip(source.kernel_size, source.stride, source.dilation, strict=True)
        )
        self.padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        self.convolution = nn.Conv2d(
            source.in_channels, source.out_channels, source.kernel_size, source.stride,  # type: ignore[arg-type]
            dilation=source.dilation, groups=source.groups, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        self.convolution.weight, self.convolution.bias = source.weight, source.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(nn.functional.pad(x, self.padding))
