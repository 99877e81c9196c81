"""Segmenters for inference: VT-FPN with its norms multiplied out, and paddings that do not depend on the size.

Shape suffix: D channels of a token.
"""

import copy
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import nn

from ..segmentation.model import Segmenter
from ..vt_fpn import VTFPN
from .fold import affine, folded, linear_and_norm


def folded_segmenter(model: Segmenter) -> nn.Module:
    """Return a copy of a segmenter for inference, folded as `fold.folded` does it, and its neck and paddings too."""
    segmenter: Any = folded(model)
    if isinstance(segmenter.neck, VTFPN):
        _fold_neck(segmenter.neck)
    if segmenter.num_classes < segmenter.head.classifier.in_channels:
        _classify_before_upsampling(segmenter.head)
    for module in list(segmenter.backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):  # the segmenter pads images to whole strides
                setattr(module, name, _with_fixed_padding(child))
    return segmenter


def _fold_neck(neck: Any) -> None:
    """Put the norms of logits and tokens inside the products beside them.

    That of the logits goes into W_A, those of the tokens into W_E and those of the related tokens into W_K and W_V. The
    shifts in W_A and W_K cancel in the softmax.
    """
    levels = zip(neck.tokenizers, neck.token_norms, neck.projectors, neck.related_norms, strict=True)
    with torch.no_grad():
        for tokenizer, norm, projector, related_norm in levels:
            tokenizer.filters.weight.mul_(affine(tokenizer.norm)[0][:, None, None, None])
            tokenizer.norm, tokenizer.embed = nn.Identity(), linear_and_norm(tokenizer.embed, norm)
            scale_D, shift_D = affine(related_norm)
            projector.value.bias.add_(projector.value.weight @ shift_D)
            projector.value.weight.mul_(scale_D)
            projector.key.weight.mul_(scale_D)
    neck.token_norms = neck.related_norms = None


def _classify_before_upsampling(head: Any) -> None:
    """Put the classifier before the last upsampling of each level, with its bias once for the sum.

    Both are linear, so that their order is free, and few classes are less to upsample and to sum than many channels.
    """
    for convolutions in head.scales:
        convolutions[-1] = nn.Sequential(convolutions[-1], copy.deepcopy(head.classifier))
        head.classifier.bias = None
    head.classifier = nn.Identity()


def _with_fixed_padding(source: Conv2dSame) -> nn.Sequential:
    """Return a convolution with TensorFlow's padding for maps that its stride divides, where it is always the same.

    In general the padding depends on the size, in a form on which torch.export does not finish.
    """
    height, width = (
        max(0, dilation * (kernel - 1) + 1 - stride)
        for kernel, stride, dilation in zip(source.kernel_size, source.stride, source.dilation, strict=True)
    )
    convolution = nn.Conv2d(
        source.in_channels, source.out_channels, source.kernel_size, source.stride,  # type: ignore[arg-type]
        dilation=source.dilation, groups=source.groups, device="meta",  # type: ignore[arg-type]
    )  # fmt: skip
    convolution.weight, convolution.bias = source.weight, source.bias
    return nn.Sequential(nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2)), convolution)
