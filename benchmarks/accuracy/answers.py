"""Ask whole networks for a teacher's answers over ImageNet's thousand classes, and measure how many they give."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch import nn

from vt_timm.distillation import create_teacher

from ..pretrained import validation_loader
from ..token_trials import divergence, normalised


def write_class_map(folder: Path) -> Path:
    """Write the names of ImageNet's classes in their order, for train.py's `--class-map`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "imagenet_classes.txt"
    file.write_text("\n".join(ImageNetInfo("imagenet-1k").label_names()) + "\n")
    return file


@torch.inference_mode()
def agreement(student: nn.Module, args: Mapping[str, Any], data: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """Measure on the photos of a folder how a student's answers agree with those of the teacher that it learnt from.

    Args:
        student: a network of the teacher's classes.
        args: train.py's arguments: who the teacher is, and at which size it sees photos.
        data: photos, one folder per class.
        config: how photos are seen, but for their mean and standard deviation.

    Returns:
        The share of the photos for which the student names the teacher's class, in percent, and the mean of
        `KL(teacher || student)` in nats.
    """
    teacher = create_teacher(args["kd_model_name"], img_size=args["kd_img_size"])
    agreed = apart = number = 0.0
    for images, _ in validation_loader(str(data), {**config, "mean": (0.0,) * 3, "std": (1.0,) * 3}, batch_size=128):
        answers = teacher(normalised(images, teacher)).softmax(dim=1)
        logits = student.eval()(normalised(images, student))
        agreed += (logits.argmax(dim=1) == answers.argmax(dim=1)).sum().item()
        apart += divergence(logits, answers, "sum").item()
        number += len(images)
    return {
        "names_the_teachers_class": round(100 * agreed / number, 3),
        "divergence": round(apart / number, 4),
    }
