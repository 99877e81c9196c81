"""Training of segmenters, for which timm has no script: `vt-timm train-segmenter`.

Hugging Face accelerate leaves the loop to us, runs the same command in one process, under torchrun and on several
machines, and saves the whole state. What a step sees depends on the seed and the number of the update alone, so that a
resumed run goes on as if it had not stopped.
"""

import copy
import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import first_line, say
from ..files import alone_in
from ..run_files import SETTINGS
from .checkpoints import Progress, append_row, check_new, load_state, save_best, save_state
from .data import SegmentationDataset, evaluation_transform, training_transform
from .evaluation import SCORES, evaluate
from .labels import DataError
from .loss import segmentation_loss
from .model import create_segmenter
from .settings import Settings, SettingsError
from .training_data import Backgrounds, SeededSamples, UpdateSampler, fit_batch, open_splits
from .warm_start import start_from


class Training:
    """A run in progress: the data, the model and what its steps need; `train` is its loop."""

    def __init__(self, settings: Settings, output: Path, resume: bool) -> None:
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        self.output = output
        self.accelerator = Accelerator(
            # Started by torchrun on a machine without GPUs, accelerate lets each process train alone unless told.
            cpu="RANK" in os.environ and not torch.cuda.is_available(),
            mixed_precision=settings.precision,
            log_with="tensorboard",
            project_dir=str(output / "tensorboard"),
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        set_seed(settings.seed, device_specific=True)
        self.train_set, self.val_set = open_splits(settings)
        self.samples = Backgrounds(self.train_set, settings) if settings.background_photos else self.train_set
        self.settings = settings = fit_batch(settings, len(self.train_set), self.world)
        model = _model(settings, self.train_set, self.val_set)
        self.start = copy.deepcopy(model.state_dict()) if settings.start_share else {}
        check_sizes(model, settings, self.val_set, self.world)
        if settings.sync_bn and self.world > 1:
            model = synchronised(model, self.accelerator.device)
        self.class_weights = _class_weights(settings, self.train_set.classes, self.accelerator.device)
        if settings.precision == "bf16" and self.accelerator.device.type == "cpu":
            keep_depthwise_in_float32(model)
        self.model, self.optimizer = self.accelerator.prepare(model, _optimizer(settings, model))
        self.ema = ModelEmaV3(self.bare_model(), decay=settings.ema_decay) if settings.ema_decay else None
        self.progress = Progress(self.train_set.classes)
        kept = [self.progress] if self.ema is None else [self.ema, self.progress]
        self.accelerator.register_for_checkpointing(*kept)
        if resume:
            load_state(self.accelerator, output)
        self.losses: list[float] = []

    def bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def batches(self) -> DataLoader:
        """Return the batches, one per update that is left."""
        start = self.progress.updates
        sampler = UpdateSampler(len(self.samples), self.settings, start, self.rank, self.world)
        samples = SeededSamples(self.samples, self.settings.seed)
        return DataLoader(samples, batch_sampler=sampler, num_workers=self.settings.workers)  # type: ignore[arg-type]

    def write_settings(self) -> None:
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dataclasses.asdict(self.settings), allow_unicode=True, sort_keys=False)
            (self.output / SETTINGS).write_text(text, encoding="utf-8")
        self.accelerator.init_trackers("segmenter")

    def update(self, images: Tensor, masks: Tensor) -> float:
        """Make one step of the optimizer, and return its loss."""
        settings, accelerator = self.settings, self.accelerator
        _to_training_mode(self.bare_model(), settings.freeze_backbone)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * settings.schedule_factor(self.progress.updates)
        with accelerator.autocast():
            logits = self.model(images.to(accelerator.device, memory_format=torch.channels_last))
        loss = segmentation_loss(logits, masks.to(accelerator.device), self.class_weights, settings.dice)
        accelerator.backward(loss)
        if settings.clip_grad is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.updates += 1
        if self.ema is not None:
            self.ema.update(self.bare_model(), step=self.progress.updates)
        if not math.isfinite(loss.item()):
            raise SettingsError(
                f"the loss is no longer finite at update {self.progress.updates}: lower lr={settings.lr}"
            )
        self.losses.append(loss.item())
        return loss.item()

    def is_time_to_evaluate(self) -> bool:
        updates = self.progress.updates
        return updates % self.settings.evaluate_every == 0 or updates == self.settings.updates

    def kept_model(self) -> nn.Module:
        """Return what is evaluated and kept: the model, or its average if there is one, drawn to its start if asked."""
        model = self.ema.module if self.ema is not None else self.bare_model()
        if not self.start:
            return model
        state, share = model.state_dict(), self.settings.start_share
        start = {name: tensor.to(state[name].device) for name, tensor in self.start.items()}
        mixed = {k: torch.lerp(v, start[k], share) if v.is_floating_point() else v for k, v in state.items()}
        model = copy.deepcopy(model)
        model.load_state_dict(mixed)
        return model

    def evaluate_and_save(self) -> None:
        """Score the model, keep it if it is the best, and save the whole state."""
        progress, accelerator = self.progress, self.accelerator
        scored = self.kept_model()
        metrics = evaluate(scored.eval(), self.val_set, accelerator.device, self.rank, self.world)
        mean_loss = torch.tensor(sum(self.losses) / len(self.losses), device=accelerator.device)
        self.losses.clear()
        row = {
            "update": progress.updates,
            "train_loss": accelerator.reduce(mean_loss, "mean").item(),
            "lr": self.settings.lr * self.settings.schedule_factor(progress.updates - 1),
            **{name: metrics[name] for name in SCORES if name in metrics},
        }
        accelerator.log({k: v for k, v in row.items() if k != "update"}, step=progress.updates)
        progress.since_best += 1
        if metrics["miou"] >= progress.best.get("miou", -1.0):
            progress.best, progress.since_best = {**metrics, "update": progress.updates}, 0
            if accelerator.is_main_process:
                save_best(self.output, scored, progress.best, self.settings)  # type: ignore[arg-type]
        save_state(accelerator, self.output)
        if accelerator.is_main_process:
            append_row(self.output, row)
            tqdm.write(", ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def has_stopped_improving(self) -> bool:
        return 0 < self.settings.patience <= self.progress.since_best


def train(settings: Settings, output: Path, resume: bool = False) -> dict[str, Any]:
    """Train a segmenter; the best by mIoU is kept as a Hub folder.

    Writes under `output`: settings.yaml, summary.csv (one row per evaluation), `best/` (config.json,
    model.safetensors, metrics.json, README.md), `last/` (the whole state, for `resume`) and `tensorboard/`.

    Args:
        settings: the run's settings.
        output: the run's folder.
        resume: whether to go on from `last/` if it is there.

    Returns:
        The metrics of the best evaluation.

    Raises:
        UserError, ValueError: before training, for data or options that cannot work, or a folder that holds a run.
        SettingsError, DataError: during training, for a loss that is not finite, or many bad photos or masks in a row.
    """
    if not resume:
        check_new(output)
    training = Training(settings, output, resume)
    if training.progress.updates >= settings.updates:  # its settings stay those that it was trained with
        say(f"nothing was left to train: {output} has {training.progress.updates} updates; raise the setting updates")
        return training.progress.best
    training.write_settings()
    start, quiet = training.progress.updates, None if training.rank == 0 else True
    with tqdm(total=settings.updates, initial=start, unit="update", disable=quiet) as bar:
        for images, masks in training.batches():
            loss = training.update(images, masks)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if training.is_time_to_evaluate():
                training.evaluate_and_save()
                if training.has_stopped_improving():
                    tqdm.write(f"no better mIoU in {settings.patience} evaluations: stopped")
                    break
    training.accelerator.end_training()
    return training.progress.best


def _model(settings: Settings, train_set: SegmentationDataset, val_set: SegmentationDataset) -> nn.Module:
    """Return the segmenter; the data sets get the transforms that its colours need."""
    model = create_segmenter(
        settings.neck,
        settings.backbone,
        len(train_set.classes),
        settings.pretrained_backbone and not settings.initial_checkpoint,
        train_set.classes,
        settings.eval_size,
        settings.backbone_options,
        **settings.neck_options,
    )
    if settings.initial_checkpoint:
        known = start_from(model, settings.initial_checkpoint)
        say(f"starts from {settings.initial_checkpoint}, which knows {len(known)} of {len(train_set.classes)} classes")
    colours: dict[str, Any] = model.normalization
    train_set.transform = training_transform(
        settings.crop_size,
        settings.scale,
        settings.short_sides,
        settings.max_long_side,
        settings.color_jitter,
        train_set.layout.mirrored,
        **colours,
    )
    val_set.transform = evaluation_transform(settings.eval_size, **colours)
    model.backbone.requires_grad_(not settings.freeze_backbone)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_sizes(model: nn.Module, settings: Settings, val_set: SegmentationDataset, world: int) -> None:
    """Send shapes without numbers through the network: a training batch, and a validation photo.

    Raises:
        SettingsError: if the network cannot take one of them, with the settings to change.
        DataError: if no photo can be used.
    """
    shapes_only = copy.deepcopy(model).to("meta")
    batch = settings.batch_size * (world if settings.sync_bn else 1)
    first = next(val_set.usable(), None)
    if first is None:
        raise DataError(f"{settings.data_dir}: none of the {len(val_set)} photos to validate on can be used")
    channels, height, width = first[0].shape
    for trains, shape in ((True, (batch, channels, *2 * [settings.crop_size])), (False, (1, channels, height, width))):
        shapes_only.eval()
        if trains:
            _to_training_mode(shapes_only, settings.freeze_backbone)
        try:
            shapes_only(torch.empty(shape, device="meta"))
        except (AssertionError, RuntimeError, ValueError) as error:
            advice = "crop_size or a larger batch_size" if trains else "eval_size"
            own = model.backbone.pretrained_cfg["input_size"][-2:]  # type: ignore[union-attr,index]
            raise SettingsError(
                f"the network cannot take {'batches' if trains else 'photos'} of {' x '.join(map(str, shape))}: "
                f"{first_line(error)}; choose another {advice}; {settings.backbone} was made for images of {own[0]} x "
                f"{own[1]} (crop_size={own[0]} 'eval_size=[{own[0]}, {own[1]}]')"
            ) from error


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with batch norms whose statistics are those of all processes.

    timm's converter and not torch's, which drops the activation that a norm of timm's holds: that network would train
    well, and another one would be loaded from its weights.

    Raises:
        SettingsError: on a CPU, where torch cannot synchronise them.
    """
    if device.type == "cpu":
        raise SettingsError("sync_bn=true: torch synchronises batch norms on GPUs alone; here say --set sync_bn=false")
    return convert_sync_batchnorm(model)


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Take the depthwise convolutions out of autocast.

    oneDNN's gradient of a depthwise convolution takes up to five times as long in bfloat16 as in float32, which made
    up a third of a training step with an EfficientNet. All other layers gain from bfloat16.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # On the instance and bound by partial, so that a deep copy (as of averaged weights) gets its own.
            module.forward = functools.partial(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(module: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(module).forward(module, x.float())


def _optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Return timm's optimizer, with the backbone's own learning rate. Only plain SGD decays norms and biases."""
    backbone = {id(p) for p in model.backbone.parameters()}  # type: ignore[union-attr]
    groups = []
    for rate, chosen in ((settings.backbone_lr, True), (settings.lr, False)):
        rate = settings.lr if rate is None else rate
        own = [p for p in model.parameters() if p.requires_grad and (id(p) in backbone) is chosen]
        for decay, decayed in ((settings.weight_decay, True), (0.0, False)):
            params = [p for p in own if (p.ndim > 1 or settings.opt == "sgd") is decayed]
            if params:
                groups.append({"params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay})
    options = {"nesterov": False, **settings.opt_kwargs} if settings.opt == "sgd" else settings.opt_kwargs
    return create_optimizer_v2(groups, settings.opt, settings.lr, settings.weight_decay, settings.momentum, **options)


def _class_weights(settings: Settings, classes: list[str], device: torch.device) -> Tensor | None:
    for name in settings.class_weights:
        if name not in classes:
            raise SettingsError(f"class_weights: there is no class {name}; the classes are {', '.join(classes)}")
    if not settings.class_weights:
        return None
    return torch.tensor([float(settings.class_weights.get(name, 1.0)) for name in classes], device=device)


def _to_training_mode(model: nn.Module, freeze_backbone: bool) -> None:
    model.train()
    if freeze_backbone:
        model.backbone.eval()  # type: ignore[union-attr,operator]  # a frozen batch norm keeps its statistics


def run(settings: Settings, output: Path, resume: bool) -> dict[str, Any]:
    """Train, and say in one line what is wrong and what to install."""
    try:
        import accelerate  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"training a segmenter needs {error.name}: pip install 'vt_timm[segmentation]'") from error
    settings.check()
    try:
        with alone_in(output):
            return train(settings, output, resume)
    except (DataError, TypeError, ValueError) as error:
        # An error from a worker of the data loader carries the worker's traceback; its own line is the last.
        raise SettingsError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from error
