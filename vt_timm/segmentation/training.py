"""Training and evaluation of segmenters, for which timm has no script: `vt-timm train-segmenter`.

On Hugging Face accelerate: it leaves the loop to us, runs the same command alone, under torchrun and on several
machines, and saves the whole state. What a step sees depends on the seed and the number of the update alone, so that a
resumed run goes on as if it had not stopped.
"""

import csv
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import Sampler as TorchSampler
from tqdm import tqdm

from .data import IGNORE, DataError, SegmentationDataset, evaluation_transform, training_transform
from .model import Segmenter, create_segmenter
from .settings import Settings, SettingsError

__all__ = ["evaluate", "run", "train"]


class UpdateSampler(TorchSampler[list[tuple[int, int]]]):
    """For each update of this process, (index of a sample, number of its draw); epochs are shuffled one by one."""

    def __init__(self, samples: int, settings: Settings, start: int, rank: int, world: int) -> None:
        self.samples, self.settings, self.start, self.rank, self.world = samples, settings, start, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.settings.batch_size * self.world
        order: dict[int, list[int]] = {}
        for update in range(self.start, self.settings.updates):
            draws = []
            for draw in range(update * batch + self.rank, (update + 1) * batch, self.world):
                epoch, place = divmod(draw, self.samples)
                if epoch not in order:
                    generator = torch.Generator().manual_seed(self.settings.seed + epoch)
                    order = {k: v for k, v in order.items() if k >= epoch - 1}
                    order[epoch] = torch.randperm(self.samples, generator=generator).tolist()
                draws.append((order[epoch][place], draw))
            yield draws

    def __len__(self) -> int:
        return self.settings.updates - self.start


class SeededSamples(Dataset):
    """Samples whose random transform depends on the seed and the number of the draw, not on the worker."""

    def __init__(self, dataset: SegmentationDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index_and_draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, draw = index_and_draw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1_000_003 + draw) % 2**63)
            return self.dataset[index]


def evaluate(
    model: nn.Module, dataset: SegmentationDataset, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """mIoU and pixel accuracy in percent over a whole data set, scored at the size of the masks.

    Every image counts once, also where processes hold different numbers of them: each takes its own, and torchmetrics
    adds up the counts. mIoU is the mean over the classes that occur in a mask or a prediction.

    Args:
        model: a segmenter, in eval mode.
        dataset: with a transform that leaves the mask at its size.
        device: where the model is.
        rank, world: this process and how many there are.

    Returns:
        "miou", "pixel_accuracy", "iou" (one a class, None for one that does not occur) and "images".
    """
    from torchmetrics.classification import MulticlassConfusionMatrix

    num_classes: int = model.num_classes  # type: ignore[assignment]
    confusion = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE).to(device)
    with torch.inference_mode():
        for index in range(rank, len(dataset), world):
            image, mask = dataset[index]
            logits = F.interpolate(model(image[None].to(device)).float(), mask.shape[-2:], mode="bilinear")
            confusion.update(logits.argmax(dim=1), mask[None].to(device))
    counts = confusion.compute().double()
    hits, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    union = labelled + predicted - hits
    iou = [100 * (h / u).item() if u else None for h, u in zip(hits, union, strict=True)]
    occurring = [value for value in iou if value is not None]
    return {
        "miou": sum(occurring) / max(len(occurring), 1),
        "pixel_accuracy": 100 * (hits.sum() / counts.sum().clamp(min=1)).item(),
        "iou": iou,
        "images": len(dataset),
    }


def train(settings: Settings, output: Path, resume: bool = False) -> dict[str, Any]:
    """Train a segmenter; the best by mIoU is kept as a Hub folder.

    Writes under `output`: settings.yaml, summary.csv (a row an evaluation), `best/` (config.json, model.safetensors,
    metrics.json), `last/` (the whole state, for `resume`) and `tensorboard/`.

    Args:
        settings: of the run.
        output: its folder.
        resume: go on from `last/` if it is there.

    Returns:
        The metrics of the best evaluation.

    Raises:
        DataError, ValueError: for data or options that cannot work, before training starts.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(
        # Started by torchrun on a machine without GPUs, accelerate lets each process train alone unless told.
        cpu="RANK" in os.environ and not torch.cuda.is_available(),
        mixed_precision=settings.precision,
        log_with="tensorboard",
        project_dir=str(output / "tensorboard"),
    )
    set_seed(settings.seed, device_specific=True)
    train_set = SegmentationDataset(settings.layout, settings.data_dir, "train")
    val_set = SegmentationDataset(settings.layout, settings.data_dir, "val")
    model: nn.Module = create_segmenter(
        settings.neck,
        settings.backbone,
        len(train_set.classes),
        settings.pretrained_backbone,
        train_set.classes,
        settings.short_side(),
        settings.backbone_options,
        **settings.neck_options,
    )
    colours = model.normalization
    train_set.transform = training_transform(
        settings.crop_size,
        settings.scale,
        settings.short_sides,
        settings.max_long_side,
        train_set.layout.mirrored,
        **colours,  # type: ignore[arg-type]
    )
    val_set.transform = evaluation_transform(settings.eval_size, **colours)  # type: ignore[arg-type]
    if settings.sync_bn and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(
        model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=False
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    ema = ModelEmaV3(accelerator.unwrap_model(model), decay=settings.ema_decay) if settings.ema_decay else None
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    progress = _Progress()
    accelerator.register_for_checkpointing(progress)
    last = output / "last"
    if resume and last.is_dir():
        accelerator.load_state(str(last))

    rank, world = accelerator.process_index, accelerator.num_processes
    sampler = UpdateSampler(len(train_set), settings, progress.updates, rank, world)
    loader = DataLoader(
        SeededSamples(train_set, settings.seed),
        batch_sampler=sampler,
        num_workers=settings.workers,  # type: ignore[arg-type]
    )
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        (output / "settings.yaml").write_text(yaml.safe_dump(_plain(dataclasses.asdict(settings))))
    accelerator.init_trackers("segmenter")

    loss_sum, loss_count = 0.0, 0
    bar = tqdm(total=settings.updates, initial=progress.updates, unit="update", disable=None if rank == 0 else True)
    for images, masks in loader:
        model.train()
        lr = settings.learning_rate(progress.updates)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with accelerator.autocast():
            logits = model(images.to(accelerator.device))
        masks = masks.to(accelerator.device)
        # The sum over the pixels that have a label, so that a crop without any counts nothing instead of NaN.
        loss = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="sum")
        loss = loss / (masks != IGNORE).sum().clamp(min=1)
        accelerator.backward(loss)
        if settings.clip_grad is not None:
            accelerator.clip_grad_norm_(model.parameters(), settings.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        progress.updates += 1
        if ema is not None:
            ema.update(accelerator.unwrap_model(model), step=progress.updates)
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
        if not math.isfinite(loss_sum):
            raise SettingsError(f"the loss is no longer finite at update {progress.updates}: lower lr={settings.lr}")
        bar.update()
        bar.set_postfix(loss=f"{loss_sum / loss_count:.3f}")

        if progress.updates % settings.evaluate_every == 0 or progress.updates == settings.updates:
            scored = ema.module if ema is not None else accelerator.unwrap_model(model)
            metrics = evaluate(scored.eval(), val_set, accelerator.device, rank, world)
            mean_loss = torch.tensor(loss_sum / loss_count, device=accelerator.device)
            row = {
                "update": progress.updates,
                "train_loss": accelerator.reduce(mean_loss, "mean").item(),
                "lr": lr,
                "miou": metrics["miou"],
                "pixel_accuracy": metrics["pixel_accuracy"],
            }
            loss_sum, loss_count = 0.0, 0
            accelerator.log({k: v for k, v in row.items() if k != "update"}, step=progress.updates)
            if metrics["miou"] >= progress.best.get("miou", -1.0):
                progress.best = {**metrics, "update": progress.updates}
                if accelerator.is_main_process:
                    _save_whole(output / "best", lambda folder: _save_best(scored, folder, progress.best))  # noqa: B023
            _save_state(accelerator, last)
            if accelerator.is_main_process:
                _append(output / "summary.csv", row)
                tqdm.write(", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    bar.close()
    accelerator.end_training()
    return progress.best


class _Progress:
    """What a checkpoint holds beside model, optimiser and random state."""

    def __init__(self) -> None:
        self.updates = 0
        self.best: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.best = state["updates"], state["best"]


def _save_best(model: Segmenter, folder: Path, metrics: dict[str, Any]) -> None:
    model.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def _save_whole(folder: Path, save: Any) -> None:
    """Write a folder beside its place and put it there when it is whole: killed in between, the old one stays."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    save(new)
    _put_in_place(new, folder)


def _save_state(accelerator: Any, folder: Path) -> None:
    new = folder.with_name(f"{folder.name}.new")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))  # every process saves its random state
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _put_in_place(new, folder)
    accelerator.wait_for_everyone()


def _put_in_place(new: Path, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _append(path: Path, row: dict[str, Any]) -> None:
    """A row an evaluation; rows after the one resumed from are replaced."""
    rows = []
    if path.is_file():
        with path.open() as file:
            rows = [r for r in csv.DictReader(file) if int(r["update"]) < row["update"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def run(settings: Settings, output: Path, resume: bool) -> dict[str, Any]:
    """`train`, with a hint where the packages of the extra are missing."""
    try:
        import accelerate  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"training a segmenter needs {error.name}: pip install 'vt_timm[segmentation]'") from error
    try:
        return train(settings, output, resume)
    except (DataError, TypeError, ValueError) as error:
        # One from a worker of the data loader carries the worker's traceback, and its own line last.
        raise SettingsError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from error
