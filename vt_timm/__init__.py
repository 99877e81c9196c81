"""Visual Transformers (Wu et al., 2020) for timm. Importing this package registers the models with timm."""

from .attention_maps import record_attention
from .distillation import create_teacher, distillation_task
from .segmentation.model import Segmenter, create_segmenter
from .vt_resnet import VTResNet, vt_resnet18, vt_resnet34, vt_resnet50, vt_resnet101, vt_resnet_micro

__version__ = "0.1.0"
__all__ = [
    "Segmenter",
    "VTResNet",
    "create_segmenter",
    "create_teacher",
    "distillation_task",
    "record_attention",
    "vt_resnet18",
    "vt_resnet34",
    "vt_resnet50",
    "vt_resnet101",
    "vt_resnet_micro",
]
