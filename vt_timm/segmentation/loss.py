"""The loss of a segmenter's training: cross entropy, and Dice beside it where asked for.

Shape suffixes: B batch, K classes, H W height and width of the masks, N pixels that have a label.
"""

import torch.nn.functional as F
from torch import Tensor

from .labels import IGNORE


def segmentation_loss(
    logits_BKHW: Tensor, masks_BHW: Tensor, class_weights_K: Tensor | None = None, dice_weight: float = 0.0
) -> Tensor:
    """Return `cross_entropy + dice_weight * (1 - mean_k 2 |P_k M_k| / (|P_k| + |M_k|))` over the pixels with a label.

    P_k is the predicted probability of class k and M_k its mask; the mean is over the classes that occur in the batch.

    Args:
        logits_BKHW: logits of K classes.
        masks_BHW: labels, `IGNORE` where there is none. The loss of a batch without any label is 0.
        class_weights_K: weights of the classes in the cross entropy, which is divided by their sum over the pixels.
        dice_weight: weight of the second term.

    Returns:
        The loss, a scalar in float32.
    """
    logits_BKHW = logits_BKHW.float()
    labelled_BHW = masks_BHW != IGNORE
    summed = F.cross_entropy(logits_BKHW, masks_BHW, class_weights_K, ignore_index=IGNORE, reduction="sum")
    weights_N = 1 if class_weights_K is None else class_weights_K[masks_BHW[labelled_BHW]]
    loss = summed / (weights_N * labelled_BHW[labelled_BHW]).sum().clamp(min=1e-6)
    if dice_weight:
        loss = loss + dice_weight * _dice(logits_BKHW, masks_BHW, labelled_BHW)
    return loss


def _dice(logits_BKHW: Tensor, masks_BHW: Tensor, labelled_BHW: Tensor) -> Tensor:
    classes = logits_BKHW.shape[1]
    predicted_NK = logits_BKHW.softmax(dim=1).movedim(1, -1)[labelled_BHW]
    labels_N = masks_BHW[labelled_BHW]
    size_K = labels_N.bincount(minlength=classes)
    both_K = predicted_NK.new_zeros(classes).index_add(0, labels_N, predicted_NK.gather(1, labels_N[:, None])[:, 0])
    dice_K = 2 * both_K / (predicted_NK.sum(dim=0) + size_K).clamp(min=1)
    present_K = size_K > 0
    return 1 - dice_K[present_K].mean() if present_K.any() else logits_BKHW.sum() * 0
