"""The teacher, and the loss of section 5.2 by hand."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from timm.task import FeatureDistillationTask, LogitDistillationTask
from torch import nn

import vt_timm
from tests.support.samples import fill
from vt_timm.distillation import Teacher, create_teacher, distillation_task, teacher_classes
from vt_timm.timm_scripts.around_train import _names_for_teacher


class Logits(nn.Module):
    """A classifier whose logits are given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.num_classes, self.in_chans = self.logits.shape[1], 3
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x):
        return self.logits


def softmax(values):
    exponentials = [math.exp(v) for v in values]
    return [e / sum(exponentials) for e in exponentials]


@pytest.fixture
def teacher_folder(tmp_path):
    """A teacher with its own size, normalisation and classes, as a Hub folder."""
    model = fill(timm.create_model("resnet10t", num_classes=5))
    model.pretrained_cfg |= {"input_size": (3, 80, 80), "test_input_size": None, "pool_size": None}
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic"}
    save_for_hf(model, tmp_path, safe_serialization=True)
    return f"local-dir:{tmp_path}"


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_section_5_2_by_hand(temperature):
    student_logits, teacher_logits, labels = (
        [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]],
        [[2.0, 0.0, -1.0], [1.0, 1.0, 0.0]],
        [2, 1],
    )
    student, teacher = Logits(student_logits), Logits(teacher_logits)
    task = distillation_task(student, teacher, temperature=temperature, verbose=False)
    result = task(torch.zeros(2, 3, 4, 4), torch.tensor(labels))

    divergence = cross_entropy = 0.0
    for s, t, label in zip(student_logits, teacher_logits, labels, strict=True):
        p = softmax([v / temperature for v in t])
        q = softmax([v / temperature for v in s])
        divergence += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)) / 2
        cross_entropy -= math.log(softmax(s)[label]) / 2
    expected = 0.8 * temperature**2 * divergence + 0.2 * cross_entropy
    assert result["loss"].item() == pytest.approx(expected)
    result["loss"].backward()
    assert student.logits.grad.any() and teacher.logits.grad is None


def test_without_a_word_the_loss_is_that_of_temperature_1():
    """The paper gives none; at timm's 4 the first term would count sixteen times as much."""
    student, teacher = Logits([[1.0, -2.0, 0.5]]), Logits([[2.0, 0.0, -1.0]])
    losses = [
        distillation_task(student, teacher, verbose=False, **options)(torch.zeros(1, 3, 4, 4), torch.tensor([2]))[
            "loss"
        ]
        for options in ({}, dict(temperature=1.0, distill_loss_weight=0.8, task_loss_weight=0.2))
    ]
    assert losses[0].item() == losses[1].item()


class Seeing(nn.Module):
    """Answers with the pixels that it sees."""

    num_classes = 3 * 8 * 8

    def __init__(self, interpolation):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8), "interpolation": interpolation}

    def forward(self, x):
        return x.flatten(1)


@pytest.mark.parametrize(("interpolation", "mode"), [("bicubic", "bicubic"), ("bilinear", "bilinear")])
def test_the_teacher_resizes_as_it_was_trained(interpolation, mode):
    images = torch.randn(2, 3, 20, 30)
    expected = F.interpolate(images, (8, 8), mode=mode, align_corners=False, antialias=True)
    torch.testing.assert_close(Teacher(Seeing(interpolation))(images), expected.flatten(1))


def test_the_teacher_sees_its_own_size_and_normalisation(teacher_folder):
    """Inside timm's task its logits are those of the teacher run alone on the same photo, prepared for it."""
    student = timm.create_model("vt_resnet_micro", num_classes=5)
    task = distillation_task(student, teacher_folder, verbose=False)
    photo = torch.rand(2, 3, 64, 96)  # values as after decoding
    mean, std = (torch.tensor(student.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    given = (photo - mean) / std
    seen = task.teacher(task.teacher.normalize_input(given, task.student_mean, task.student_std))

    alone = timm.create_model(teacher_folder, pretrained=True).eval()
    resized = F.interpolate(photo, (80, 80), mode="bicubic", align_corners=False, antialias=True)
    prepared = (resized - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(seen, alone(prepared), rtol=1e-4, atol=1e-4)


def test_images_of_the_teachers_size_are_left_alone(teacher_folder):
    teacher = create_teacher(teacher_folder)
    images = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        assert torch.equal(teacher(images), teacher.model(images))


def test_the_teacher_is_frozen_and_stays_in_eval_mode(teacher_folder):
    teacher = create_teacher(teacher_folder)
    nn.Sequential(teacher).train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    before = copy.deepcopy(teacher.state_dict())
    assert not teacher(torch.randn(2, 3, 80, 80)).requires_grad
    for name, value in teacher.state_dict().items():  # also the batch norms' statistics
        assert torch.equal(value, before[name])


def test_the_teacher_runs_under_autocast(teacher_folder):
    task = distillation_task(timm.create_model("vt_resnet_micro", num_classes=5), teacher_folder, verbose=False)
    seen = []
    task.teacher.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"]
    loss.backward()
    assert seen == [torch.bfloat16] and loss.isfinite()


@pytest.mark.skipif(
    not hasattr(LogitDistillationTask, "setup_ema"), reason="this timm's tasks keep no EMA or checkpoint"
)
def test_checkpoint_and_ema_are_the_students_alone(teacher_folder):
    student = timm.create_model("vt_resnet_micro", num_classes=5)
    task = distillation_task(student, teacher_folder, verbose=False)
    task.setup_ema(decay=0.9)
    task(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"].backward()
    task.update_ema(step=1)
    state = {**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True)}
    assert state["state_dict"].keys() == state["state_dict_ema"].keys() == student.state_dict().keys()
    assert not any(isinstance(m, Teacher) for m in task.get_trainable_module(ema=True).modules())


def test_the_default_teacher_is_the_papers(monkeypatch):
    asked = []

    def create_model(name, **kwargs):
        asked.append((name, kwargs["pretrained"]))
        return Logits([[0.0] * 1000])

    monkeypatch.setattr(vt_timm.distillation.timm, "create_model", create_model)
    monkeypatch.setattr(vt_timm.distillation, "check_reachable", lambda name: None)
    create_teacher()
    assert asked == [("fbnetv3_g.ra2_in1k", True)]
    assert timm.get_pretrained_cfg("fbnetv3_g.ra2_in1k").input_size == (3, 240, 240)


def test_a_teacher_of_other_classes_is_refused(teacher_folder):
    with pytest.raises(ValueError, match="has 5 classes and the student 10; distillation needs the same classes"):
        distillation_task(timm.create_model("vt_resnet_micro", num_classes=10), teacher_folder)


@pytest.mark.parametrize(
    ("teacher", "error", "message"),
    [
        (dict(num_classes=5), ValueError, "num_classes: the student has 10 and the teacher 5"),
        (dict(in_chans=1), ValueError, "in_chans: the student has 3 and the teacher 1"),
        ("student", ValueError, "cannot be its own teacher"),
        ("pipeline", TypeError, r"a ClassificationPipeline is no network; give a name, or a pipeline's \.module"),
    ],
    ids=str,
)
def test_a_network_that_cannot_teach_is_refused(teacher, error, message):
    student = timm.create_model("vt_resnet_micro", num_classes=10)
    if isinstance(teacher, dict):
        teacher = timm.create_model("vt_resnet_micro", **{"num_classes": 10, **teacher})
    else:
        teacher = student if teacher == "student" else vt_timm.load("vt_resnet_micro")
    with pytest.raises(error, match=message):
        distillation_task(student, teacher)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_teacher_that_does_not_say_its_classes_teaches():
    """As torchvision's."""
    student = timm.create_model("vt_resnet_micro", num_classes=4)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    assert distillation_task(student, teacher)(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"].isfinite()


@pytest.mark.parametrize("source", ["fbnetv3_g.ra2_in1k", "local-dir:/nowhere", "no_such_model", "resnet10t.untrained"])
def test_a_teacher_out_of_reach_is_one_clear_line(source):
    with pytest.raises(RuntimeError, match=f"the teacher {source} cannot be loaded: .*name another") as error:
        create_teacher(source)
    assert "\n" not in str(error.value)


class Thousand(nn.Module):
    """A teacher with as many outputs as ImageNet has classes, each of which is its own number."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.num_classes, self.in_chans, self.pretrained_cfg = num_classes, 3, {}

    def forward(self, x):
        return torch.arange(self.num_classes, dtype=torch.float32).expand(len(x), -1)


# From the list that ImageNet's 2012 challenge numbers its classes by.
IMAGENETTE = {"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
              "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701}  # fmt: skip


@pytest.mark.parametrize("names", [list(IMAGENETTE), list(IMAGENETTE)[::-1], ["n03888257", "5", "n01440764"]])
def test_a_subset_of_the_teachers_classes_answers_in_the_students_order(names):
    teacher = Teacher(Thousand(), teacher_classes(Thousand(), names))
    expected = [IMAGENETTE.get(name, 5) for name in names]
    assert teacher(torch.zeros(2, 3, 8, 8)).tolist() == [expected, expected]
    assert teacher.num_classes == len(names)


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (1000, ["n01440765"], "n01440765 is none of the teacher's 1000 classes; did you mean n01440764"),
        (1000, ["cat"], "cat is none of the teacher's 1000 classes, which are called n01440764"),
        (1000, ["n01440764", "0"], "two of the student's classes are the teacher's class 0"),
        (7, ["cat"], "the teacher's 7 classes have no names: give their numbers"),
    ],
)
def test_names_that_do_not_match_are_said(classes, names, message):
    with pytest.raises(ValueError, match=message):
        teacher_classes(Thousand(classes), names)


def test_the_teacher_can_see_another_size(teacher_folder):
    teacher = create_teacher(teacher_folder, 2, classes=["4", "1"], img_size=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), teacher.model(images)[:, [4, 1]])


def test_a_task_passes_classes_and_size_on(teacher_folder):
    """The loss over the chosen outputs alone, by hand, from the whole answer."""
    student = fill(timm.create_model("vt_resnet_micro", num_classes=3)).eval()
    task = distillation_task(student, teacher_folder, classes=["4", "0", "2"], img_size=64, verbose=False).eval()
    x = torch.randn(2, 3, 96, 96)
    given = task.teacher.normalize_input(x, task.student_mean, task.student_std)
    answers = task.teacher.model.model(F.interpolate(given, (64, 64), mode="bicubic", antialias=True))
    expected = 0.0
    for answer, own in zip(answers.tolist(), student(x).tolist(), strict=True):
        p, q = softmax([answer[i] for i in (4, 0, 2)]), softmax(own)
        expected += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)) / 2
    assert task(x, torch.tensor([0, 1]))["kd_loss"].item() == pytest.approx(expected, rel=1e-3)


def test_a_finished_teacher_takes_no_other_classes(teacher_folder):
    with pytest.raises(ValueError, match="has its classes and size already"):
        distillation_task(Logits([[0.0] * 5]), create_teacher(teacher_folder), classes=["1"])


def test_features_are_the_teachers_at_its_own_size(teacher_folder):
    """timm's `FeatureDistillationTask`: the mean square between the teacher's features and the student's, projected."""
    student = fill(timm.create_model("vt_resnet_micro", num_classes=3))
    teacher = create_teacher(teacher_folder, img_size=64)
    task = FeatureDistillationTask(student, teacher, criterion=nn.CrossEntropyLoss(), verbose=False).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        given = task.teacher.normalize_input(x, task.student_mean, task.student_std)
        resized = F.interpolate(given, (64, 64), mode="bicubic", antialias=True)
        wanted = teacher.model.forward_features(resized).mean((2, 3))
        own = task.trainable_module.projection(student.forward_head(student.forward_features(x), pre_logits=True))
    assert wanted.shape == own.shape == (2, teacher.num_features) and wanted.var() > 0
    loss = task(x, torch.tensor([0, 1]))["kd_loss"]
    assert loss.item() == pytest.approx(sum(((wanted - own) ** 2).flatten().tolist()) / wanted.numel(), rel=1e-4)


def test_a_file_of_teacher_classes_has_one_name_per_line(tmp_path):
    (tmp_path / "classes.txt").write_text("French horn\n\n  gas pump \n3\n")
    assert _names_for_teacher(str(tmp_path / "classes.txt"), None) == ["French horn", "gas pump", "3"]
