"""The paper's own numbers. What we measure never goes here."""

from typing import NamedTuple

__all__ = ["TABLE_8", "Row"]


class Row(NamedTuple):
    """ImageNet-1k top-1 in percent, MACs in millions (the paper's "FLOPs"), parameters in millions."""

    top1: float
    macs: float
    params: float


# Table 8, by timm's model name: the paper's own ResNet-18 and -34, the published ResNet-50 and -101, the VT-ResNets.
TABLE_8 = {
    "resnet18": Row(73.8, 1814, 11.7),
    "vt_resnet18": Row(76.8, 1569, 11.7),
    "resnet34": Row(77.7, 3664, 21.8),
    "vt_resnet34": Row(79.9, 3236, 19.2),
    "resnet50": Row(76.0, 4089, 25.5),
    "vt_resnet50": Row(80.6, 3412, 21.4),
    "resnet101": Row(77.4, 7802, 44.4),
    "vt_resnet101": Row(82.3, 7129, 41.5),
}
