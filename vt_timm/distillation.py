"""Distillation (section 5.2): a frozen teacher that sees images at its own size, for timm's `LogitDistillationTask`.

`loss = 0.8 T^2 KL(softmax(teacher / T) || softmax(student / T)) + 0.2 cross_entropy(student, label)`, with the paper's
weights. The paper gives no temperature T. Ours is 1, which leaves the two terms on one scale; the default of
timm's train.py, 4, multiplies the first by 16.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import did_you_mean, first_line, some
from .weights.download import NotReachedError, check_reachable
from .weights.published import names_of_outputs

FBNETV3_G = "fbnetv3_g.ra2_in1k"  # the paper's teacher
DISTILL_WEIGHT, TASK_WEIGHT, TEMPERATURE = 0.8, 0.2, 1.0


class Teacher(nn.Module):
    """A frozen classifier, always in eval mode, that resizes what it is given to its own input size.

    timm's distillation hands its teacher the student's images in the teacher's normalisation, which it reads from
    `pretrained_cfg`, but at the student's size.

    Args:
        model: a classifier. Images are resized to the input size of its `pretrained_cfg`, with its interpolation;
            without an input size they stay as they are.
        classes: the outputs that answer, in the student's order, as `teacher_classes` gives them; None for all. The
            softmax is then over these alone, the teacher's answer given that one of them is right.
        img_size: side in pixels at which the teacher sees images, instead of its own; a smaller one costs less.

    Shapes: images (B, C, H, W), normalised as `pretrained_cfg` says -> logits (B, num_classes).
    """

    def __init__(self, model: nn.Module, classes: Sequence[int] | None = None, img_size: int | None = None) -> None:
        super().__init__()
        config: dict[str, Any] = getattr(model, "pretrained_cfg", {})  # type: ignore[assignment]
        self.model = model.eval().requires_grad_(False)
        self.pretrained_cfg = config
        self.classes = None if classes is None else list(classes)
        self.num_classes = getattr(model, "num_classes", None) if classes is None else len(classes)
        self.in_chans = getattr(model, "in_chans", 3)
        self.size = tuple(config["input_size"][-2:]) if "input_size" in config else None
        if img_size is not None:
            self.size = (img_size, img_size)
        self.interpolation = "bicubic" if config.get("interpolation") == "bicubic" else "bilinear"

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever mode the task that holds the teacher is set to."""
        return super().train(False)

    @property
    def num_features(self) -> int:
        """Return the number of values per image that `forward_head(..., pre_logits=True)` gives."""
        name = "head_hidden_size" if hasattr(self.model, "head_hidden_size") else "num_features"
        return int(getattr(self.model, name))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(self._resize(images))
        return logits if self.classes is None else logits[:, self.classes]

    @torch.no_grad()
    def forward_features(self, images: Tensor) -> Tensor:
        """Return the feature map of the images at the teacher's size, for timm's `FeatureDistillationTask`."""
        return self.model.forward_features(self._resize(images))  # type: ignore[operator]

    @torch.no_grad()
    def forward_head(self, feature_map: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the pooled features (B, num_features) of a feature map, or the logits of all the teacher's classes."""
        return self.model.forward_head(feature_map, pre_logits=pre_logits)  # type: ignore[operator]

    def _resize(self, images: Tensor) -> Tensor:
        if self.size is None or images.shape[-2:] == self.size:
            return images
        return F.interpolate(images, self.size, mode=self.interpolation, align_corners=False, antialias=True)


def teacher_classes(model: nn.Module, names: Sequence[str]) -> list[int]:
    """Find which outputs of a teacher answer for a student's classes.

    Args:
        model: the teacher; its outputs are called as `label_names` of its `pretrained_cfg` says, else as timm knows
            ImageNet's subsets by their number of classes (WordNet names such as n01440764).
        names: the student's classes in its order, as the class folders of the data are called; a number stands for
            the output of that number.

    Raises:
        ValueError: for a teacher whose outputs have no names, a name that none of them has, and one named twice.
    """
    num_classes: int = model.num_classes  # type: ignore[assignment]
    known = names_of_outputs(model)
    index_of = {name: index for index, name in enumerate(known)} | {str(i): i for i in range(num_classes)}
    if not known and not all(name in index_of for name in names):
        raise ValueError(f"the teacher's {num_classes} classes have no names: give their numbers, one per line")
    for name in names:
        if name not in index_of:
            hint = did_you_mean(name, known) or f", which are called {some(known)}"
            raise ValueError(f"{name} is none of the teacher's {num_classes} classes{hint}")
    classes = [index_of[name] for name in names]
    twice = [name for i, name in enumerate(names) if classes[i] in classes[:i]]
    if twice:
        raise ValueError(f"two of the student's classes are the teacher's class {twice[0]}")
    return classes


def create_teacher(
    source: str = FBNETV3_G,
    num_classes: int | None = None,
    in_chans: int = 3,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    classes: Sequence[str] | None = None,
    img_size: int | None = None,
    **kwargs: Any,
) -> Teacher:
    """Create a pretrained teacher by any name that timm takes: a model and tag, `local-dir:FOLDER`, `hf-hub:ORG/NAME`.

    >>> import torch, vt_timm
    >>> teacher = vt_timm.create_teacher("vt_resnet_micro", img_size=64)
    >>> tuple(teacher(torch.randn(2, 3, 96, 96)).shape) == (2, teacher.num_classes)
    True

    Args:
        source: the name.
        num_classes: the student's classes; the teacher must have as many of its own, since timm would give it a new,
            random head otherwise.
        in_chans: channels of the image; timm adapts the teacher's first convolution.
        device, dtype: device and dtype of the teacher.
        classes: the student's class names, where the teacher knows more: those of its outputs answer
            (`teacher_classes`).
        img_size: side in pixels at which the teacher sees images, instead of its own.
        kwargs: more arguments for `timm.create_model`.

    Raises:
        ValueError: if the teacher's classes are not the student's.
        RuntimeError: if the teacher cannot be loaded.
    """
    try:
        check_reachable(source)
        model = timm.create_model(source, pretrained=True, in_chans=in_chans, device=device, dtype=dtype, **kwargs)
    except Exception as error:
        reason = error.reason if isinstance(error, NotReachedError) else first_line(error)
        raise RuntimeError(
            f"the teacher {source} cannot be loaded: {reason}; name another, for instance "
            "local-dir:FOLDER with the config.json and model.safetensors of a model on this machine"
        ) from error
    try:
        teacher = Teacher(model, None if classes is None else teacher_classes(model, classes), img_size)
    except ValueError as error:
        raise ValueError(f"the teacher {source}: {error}") from error
    if num_classes is not None and teacher.num_classes != num_classes:
        raise ValueError(
            f"the teacher {source} has {teacher.num_classes} classes and the student {num_classes}; distillation needs "
            "the same classes in the same order: choose a teacher that was trained on them, or say which of its "
            "classes they are (--kd-classes auto, or classes=NAMES)"
        )
    return teacher


def distillation_task(
    student: nn.Module,
    teacher: str | nn.Module = FBNETV3_G,
    criterion: nn.Module | None = None,
    distill_loss_weight: float = DISTILL_WEIGHT,
    task_loss_weight: float = TASK_WEIGHT,
    temperature: float = TEMPERATURE,
    device: torch.device | None = None,
    classes: Sequence[str] | None = None,
    img_size: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Create timm's `LogitDistillationTask` with the paper's weights and a teacher at its own size.

    >>> import torch, vt_timm
    >>> student, teacher = (vt_timm.vt_resnet_micro(num_classes=10) for _ in range(2))
    >>> task = vt_timm.distillation_task(student, teacher, img_size=64)
    >>> sorted(task(torch.randn(2, 3, 64, 64), torch.tensor([3, 7])))
    ['kd_loss', 'loss', 'output', 'task_loss']

    Args:
        student: the model to train.
        teacher: a name for `create_teacher`, or a module.
        criterion: the other loss, cross entropy if not given.
        distill_loss_weight, task_loss_weight: weights of the two terms.
        temperature: T, which divides the logits of both.
        device: device of teacher and task.
        classes: the student's class names, where the teacher knows more (`teacher_classes`).
        img_size: side in pixels at which the teacher sees images, instead of its own.
        kwargs: more arguments for timm's task.

    Returns:
        A module that takes images and labels and returns a dict of "loss", "output", "task_loss" and "kd_loss".

    Raises:
        ValueError: for a teacher of other classes or channels than the student's, and for the student itself.
        TypeError: for a teacher that is neither a name nor a network.
    """
    if not isinstance(teacher, (str, nn.Module)):
        raise TypeError(f"teacher: a {type(teacher).__name__} is no network; give a name, or a pipeline's .module")
    if teacher is student:
        raise ValueError("the student cannot be its own teacher, which is frozen: give copy.deepcopy(student)")
    from timm.task import LogitDistillationTask  # slow to import, and few need it

    if isinstance(teacher, str):
        num_classes, in_chans = int(student.num_classes), int(student.in_chans)  # type: ignore[arg-type]
        teacher = create_teacher(teacher, num_classes, in_chans, device, classes=classes, img_size=img_size)
    elif not isinstance(teacher, Teacher):
        teacher = Teacher(teacher, None if classes is None else teacher_classes(teacher, classes), img_size)
    elif classes is not None or img_size is not None:
        raise ValueError("this Teacher has its classes and size already: give them to create_teacher")
    for what in ("num_classes", "in_chans"):
        ours, its = (getattr(model, what, None) for model in (student, teacher))
        if None not in (ours, its) and ours != its:
            raise ValueError(
                f"{what}: the student has {ours} and the teacher {its}; say which of its classes count, by "
                "classes=NAMES, or choose another teacher"
            )
    return LogitDistillationTask(
        student,
        teacher,
        criterion=criterion or nn.CrossEntropyLoss(),
        distill_loss_weight=distill_loss_weight,
        task_loss_weight=task_loss_weight,
        temperature=temperature,
        device=device,
        **kwargs,
    )
