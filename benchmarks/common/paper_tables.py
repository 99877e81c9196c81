"""Numbers of others: the paper's own, Tables 1 to 10, each row with the model that reruns it, and a leaderboard's. What
we measure never goes here.

ImageNet-1k top-1 in percent, MACs in millions (the paper's "FLOPs"), parameters in millions, at 224 x 224. For
segmentation, mIoU in percent and MACs in thousand millions.
"""

from typing import Any, NamedTuple


class Reduction(NamedTuple):
    """A column of Table 1: how many times less than the ResNet, in all and in stage 5."""

    macs: float
    stage5_macs: float
    params: float
    stage5_params: float


class Row(NamedTuple):
    """`model` and `options` go to `timm.create_model`; a model of None is one that timm does not have."""

    label: str
    model: str | None
    options: dict[str, Any]
    top1: float
    macs: float | None
    params: float | None
    train_top1: float | None = None


# By the depth of the ResNet.
TABLE_1 = {
    18: Reduction(1.14, 2.4, 0.91, 0.9),
    34: Reduction(1.16, 5.0, 1.21, 1.5),
    50: Reduction(1.20, 6.1, 1.19, 1.26),
    101: Reduction(1.09, 6.9, 1.19, 1.26),
}

CBAM = {"block_args": {"attn_layer": "cbam"}}

TABLES = {
    2: [
        Row("R18", "resnet18", {}, 69.9, 1814, 11.7, train_top1=68.6),
        Row("VT-R18", "vt_resnet18", {}, 72.1, 1570, 11.7, train_top1=76.5),
        Row("R34", "resnet34", {}, 73.3, 3664, 21.8, train_top1=73.9),
        Row("VT-R34", "vt_resnet34", {}, 75.0, 3280, 21.9, train_top1=80.8),
    ],
    3: [
        Row("R18, pooling-based", "vt_resnet18", {"tokenizer": "pool"}, 70.5, 1549, 11.0),
        Row("R18, clustering-based", "vt_resnet18", {"tokenizer": "cluster"}, 71.8, 1579, 11.6),
        Row("R18, filter-based", "vt_resnet18", {"tokenizer": "filter"}, 72.1, 1580, 11.7),
        Row("R34, pooling-based", "vt_resnet34", {"tokenizer": "pool"}, 73.6, 3246, 20.6),
        Row("R34, clustering-based", "vt_resnet34", {"tokenizer": "cluster"}, 75.2, 3299, 21.8),
        Row("R34, filter-based", "vt_resnet34", {"tokenizer": "filter"}, 74.9, 3280, 21.9),
    ],
    4: [
        Row("R18, with RT", "vt_resnet18", {"recurrent": True}, 72.0, 1569, 11.7),
        Row("R18, without RT", "vt_resnet18", {"recurrent": False}, 71.2, 1586, 11.1),
        Row("R34, with RT", "vt_resnet34", {"recurrent": True}, 74.9, 3246, 21.9),
        Row("R34, without RT", "vt_resnet34", {"recurrent": False}, 74.5, 3335, 20.9),
    ],
    5: [
        Row("R18, none", "vt_resnet18", {"relation": "none"}, 68.7, 1528, 8.5),
        Row("R18, graph convolution", "vt_resnet18", {"relation": "graph"}, 69.3, 1528, 8.5),
        Row("R18, transformer", "vt_resnet18", {"relation": "transformer"}, 71.5, 1580, 11.7),
        Row("R34, none", "vt_resnet34", {"relation": "none"}, 73.3, 3222, 17.1),
        Row("R34, graph convolution", "vt_resnet34", {"relation": "graph"}, 73.7, 3223, 17.1),
        Row("R34, transformer", "vt_resnet34", {"relation": "transformer"}, 75.2, 3299, 21.8),
    ],
    6: [
        Row("R18, 16 tokens", "vt_resnet18", {"num_tokens": 16}, 71.8, 1579, 11.6),
        Row("R18, 32 tokens", "vt_resnet18", {"num_tokens": 32}, 71.9, 1711, 11.6),
        Row("R18, 64 tokens", "vt_resnet18", {"num_tokens": 64}, 72.1, 1979, 11.6),
        Row("R34, 16 tokens", "vt_resnet34", {"num_tokens": 16}, 75.1, 3299, 21.8),
        Row("R34, 32 tokens", "vt_resnet34", {"num_tokens": 32}, 75.0, 3514, 21.8),
        Row("R34, 64 tokens", "vt_resnet34", {"num_tokens": 64}, 75.0, 3952, 21.8),
    ],
    7: [
        Row("R18, with projector", "vt_resnet18", {"projector": True}, 72.0, 1569, 11.7),
        Row("R18, without projector", "vt_resnet18", {"projector": False}, 71.0, 1498, 9.4),
        Row("R34, with projector", "vt_resnet34", {"projector": True}, 74.8, 3280, 21.9),
        Row("R34, without projector", "vt_resnet34", {"projector": False}, 73.9, 3159, 17.4),
    ],
    8: [
        Row("R18", "resnet18", {}, 69.8, 1814, 11.7),
        Row("R18+SE", "seresnet18", {}, 70.6, 1814, 11.8),
        Row("R18+CBAM", "resnet18", CBAM, 70.7, 1815, 11.8),
        Row("LR-R18", None, {}, 74.6, 2500, 14.4),
        Row("R18 (ours)", "resnet18", {}, 73.8, 1814, 11.7),
        Row("VT-R18 (ours)", "vt_resnet18", {}, 76.8, 1569, 11.7),
        Row("R34", "resnet34", {}, 73.3, 3664, 21.8),
        Row("R34+SE", "seresnet34", {}, 73.9, 3664, 22.0),
        Row("R34+CBAM", "resnet34", CBAM, 74.0, 3664, 22.9),
        Row("AA-R34", None, {}, 74.7, 3550, 20.7),
        Row("R34 (ours)", "resnet34", {}, 77.7, 3664, 21.8),
        Row("VT-R34 (ours)", "vt_resnet34", {}, 79.9, 3236, 19.2),
        Row("R50", "resnet50", {}, 76.0, 4089, 25.5),
        Row("R50+SE", "seresnet50", {}, 76.9, 3860, 28.1),
        Row("R50+CBAM", "resnet50", CBAM, 77.3, 3864, 28.1),
        Row("LR-R50", None, {}, 77.3, 4300, 23.3),
        Row("Stand-Alone", None, {}, 77.6, 3600, 18.0),
        Row("AA-R50", None, {}, 77.7, 4100, 25.6),
        Row("A2-R50", None, {}, 77.0, None, None),
        Row("SAN19", None, {}, 78.2, 3300, 20.5),
        Row("GloRe-R50", None, {}, 78.4, 5200, 30.5),
        Row("VT-R50 (ours)", "vt_resnet50", {}, 80.6, 3412, 21.4),
        Row("R101", "resnet101", {}, 77.4, 7802, 44.4),
        Row("R101+SE", "legacy_seresnet101", {}, 77.7, 7575, 49.3),
        Row("R101+CBAM", "resnet101", CBAM, 78.5, 7581, 49.3),
        Row("LR-R101", None, {}, 78.5, 7790, 42.0),
        Row("AA-R101", None, {}, 78.7, 8050, 45.4),
        Row("GloRe-R200", None, {}, 79.9, 16900, 70.6),
        Row("VT-R101 (ours)", "vt_resnet101", {}, 82.3, 7129, 41.5),
    ],
}

# Tables 3 to 7 argue by a change: from one row to another of the same table, both by their place in it.
ABLATIONS = {
    3: [(2, 0), (2, 1), (5, 3), (5, 4)],
    4: [(0, 1), (2, 3)],
    5: [(2, 0), (2, 1), (5, 3), (5, 4)],
    6: [(0, 1), (0, 2), (3, 4), (3, 5)],
    7: [(0, 1), (2, 3)],
}


class FPNRow(NamedTuple):
    """`kind` and `backbone` go to `vt_timm.create_segmenter`; MACs in all and of the neck alone."""

    label: str
    kind: str
    backbone: str
    miou: float
    total: float
    neck: float
    size: tuple[int, int]
    num_classes: int


# Table 9: COCO-Stuff at 800 x 1216; Detectron2's recipe, on which it is based, has 54 classes (53 of stuff, one for all
# things). Table 10: Look Into Person at 473 x 473, 20 classes.
COCO: dict[str, Any] = {"size": (800, 1216), "num_classes": 54}
LIP: dict[str, Any] = {"size": (473, 473), "num_classes": 20}
FPN_TABLES = {
    9: [
        FPNRow("R50, FPN", "fpn", "resnet50", 40.78, 159, 55.1, **COCO),
        FPNRow("R50, VT-FPN", "vt_fpn", "resnet50", 41.00, 113, 8.5, **COCO),
        FPNRow("R101, FPN", "fpn", "resnet101", 41.51, 231, 55.1, **COCO),
        FPNRow("R101, VT-FPN", "vt_fpn", "resnet101", 41.50, 185, 8.5, **COCO),
    ],
    10: [
        FPNRow("R50, FPN", "fpn", "resnet50", 47.04, 37.1, 12.8, **LIP),
        FPNRow("R50, VT-FPN", "vt_fpn", "resnet50", 47.39, 26.4, 2.0, **LIP),
        FPNRow("R101, FPN", "fpn", "resnet101", 47.35, 54.4, 12.8, **LIP),
        FPNRow("R101, VT-FPN", "vt_fpn", "resnet101", 47.58, 43.6, 2.0, **LIP),
    ],
}

# The public leaderboard of Imagenette v2 in fast.ai's repository: top-1 by size in pixels and number of epochs, trained
# from scratch, mostly xresnet50.
IMAGENETTE_LEADERBOARD: dict[int, dict[int, float]] = {
    128: {5: 87.43, 20: 91.57, 80: 93.55, 200: 94.24},
    192: {5: 86.76, 20: 92.50, 80: 94.50, 200: 95.03},
    256: {5: 86.85, 20: 93.53, 80: 94.90, 200: 95.11},
}
