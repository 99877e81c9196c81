"""The data of a segmenter's training: both splits, looked at before it begins, and the samples of each update."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Sampler as TorchSampler
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from ..errors import say, some
from ..images import ImageError, find_images
from .data import IGNORE, LeftOut, SegmentationDataset, class_shares
from .labels import BACKGROUND, LAYOUTS, DataError, Labels
from .settings import Settings, SettingsError

FIGURES = (2, 12)  # how many are pasted onto one photo
FIGURE_HEIGHT = (0.2, 1.0)  # of the photo's height, before all but a part of it is cut off
WHOLE_FIGURES, LEAST_OF_A_FIGURE = 0.5, 0.3  # the share that is left whole; of the others at least so much is left


def open_splits(settings: Settings) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Open both splits. Up to 399 masks of each are read, and masks from which nothing can be learnt are refused.

    Raises:
        DataError: for a file or a folder that is missing or wrong, and for masks of fewer than two classes.
        ValueError: for options about labels that do not fit.
    """
    channels = int(settings.backbone_options.get("in_chans", 3))
    if _are_of_another_data_set(settings):
        say("classes: the recipe's are of another data set, so this one's own are trained")
    label_options = label_options_of(settings)
    train_set, val_set = (
        SegmentationDataset(
            settings.layout, settings.data_dir, split, None, label_options, channels, settings.mask_suffix, go_on
        )
        for split, go_on in (("train", True), ("val", False))
    )
    _check_shares(settings, class_shares(train_set), train_set.labels)
    shares = class_shares(val_set)  # a bad mask is said now, and not after the first updates
    missing = [name for name in val_set.classes if shares.get(name) == 0]
    if missing:
        say(f"warning: {some(missing)} occurs in none of the validation masks that were looked at: no score counts it")
    return train_set, val_set


def label_options_of(settings: Settings) -> dict[str, Any]:
    """Return what `Labels` takes, without the groups of classes of a recipe for another data set."""
    apart = {"groups": None, "rest": None} if _are_of_another_data_set(settings) else {}
    return {**settings.label_options(), **apart}


def _are_of_another_data_set(settings: Settings) -> bool:
    if settings.classes is None or settings.layout not in LAYOUTS or not Path(settings.data_dir).is_dir():
        return False
    names = set(LAYOUTS[settings.layout].classes(Path(settings.data_dir)))
    return names.isdisjoint(name for group in settings.classes.values() for name in group)


def _check_shares(settings: Settings, shares: dict[str, float], labels: Labels) -> None:
    """Say how the pixels are shared out, and refuse what cannot be learnt."""
    say("share of the pixels: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    ignored = shares.pop("(ignored)")
    missing = [name for name, share in shares.items() if share == 0]
    hint = f"; {100 * ignored:.1f} % of the pixels have no class{_why_ignored(labels)}" if ignored else ""
    if len(missing) > len(shares) - 2:
        found = ", ".join(name for name in shares if name not in missing)
        seen = f"all pixels that have a class are {found}" if found else "no pixel has a class"
        raise DataError(f"{settings.data_dir}: in the training masks {seen}, so nothing can be learnt{hint}")
    if missing:
        say(f"warning: {', '.join(missing)} occurs in none of the training masks that were looked at{hint}")


def _why_ignored(labels: Labels) -> str:
    """Return what takes the class from pixels, and what to do about it."""
    if labels.left_out:
        return (
            f", since classes names no group for {some(labels.left_out, 5)}: rest=GROUP names the one that takes them"
        )
    if labels.reduce_zero:
        return ", since 0 means no class: if it is one, say --set reduce_zero_label=false"
    if labels.ignore is None or labels.colours is not None:
        return ""
    return (
        f", since the label {labels.ignore} is ignored: if it is a class, say which with --set "
        f"'values={{{labels.ignore}: NUMBER}}'"
    )


def fit_batch(settings: Settings, photos: int, world: int) -> Settings:
    """Return the settings with a batch no larger than the data set, and say so where it was."""
    fitting = max(1, photos // world)
    if settings.batch_size <= fitting:
        return settings
    say(f"batch_size={settings.batch_size} is more than the {photos} training photos allow: it becomes {fitting}")
    return dataclasses.replace(settings, batch_size=fitting)


class Backgrounds(Dataset):
    """Training photos, and photos of things that no mask shows, all of whose pixels are of the class "background".

    Args:
        dataset: the training photos with their masks.
        settings: names the folders in `background_photos`, in `background_share` the share of the samples that they
            make up, in `background_crowds` the share of these onto which figures of several training photos are pasted,
            and in `background_swap` the share of the training photos whose background one of them takes the place of
            ("simple copy-paste", Ghiasi et al., 2021). Drawn anew for each sample, by torch's random numbers.

    Raises:
        SettingsError: for classes among which no background is.
        DataError: for a folder that is missing or holds no photos, and, when a sample is drawn, for many photos in a
            row that cannot be read; fewer are said once, and others take their place.
    """

    def __init__(self, dataset: SegmentationDataset, settings: Settings) -> None:
        if BACKGROUND not in dataset.classes:
            classes = ", ".join(dataset.classes)
            raise SettingsError(f"background_photos needs a class {BACKGROUND!r}; the classes are {classes}")
        self.dataset, self.label = dataset, dataset.classes.index(BACKGROUND)
        try:
            self.photos = find_images(settings.background_photos)
        except ImageError as error:
            raise DataError(f"background_photos: {error}") from error
        self.left_out = LeftOut(len(self.photos))
        self.swap, self.crowds = settings.background_swap, settings.background_crowds
        self.samples = round(len(dataset) / (1 - settings.background_share))
        say(f"background: {len(self.photos)} photos, {settings.background_share:.0%} of the samples")

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self.dataset):
            image, mask = self._crowd() if _happens(self.crowds) else self._nobody(self._photo())
        else:
            image, mask = self.dataset.pair(index)
            if _happens(self.swap):
                photo = self._covering(*image.shape[-2:])
                image = tv_tensors.wrap(torch.where(mask == self.label, photo, image), like=image)
        return self.dataset.transform(image, mask) if self.dataset.transform else (image, mask)

    def _photo(self) -> tv_tensors.Image:
        drawn = int(torch.randint(len(self.photos), ()))
        return self.left_out.first_usable(lambda index: self.dataset.image(self.photos[index]), drawn)

    def _nobody(self, image: tv_tensors.Image) -> tuple[Tensor, Tensor]:
        return image, tv_tensors.Mask(torch.full(image.shape[-2:], self.label))

    def _covering(self, *size: int) -> tv_tensors.Image:
        """Return a photo of this height and width: of its shape where it is not, a random part."""
        photo = self._photo()
        factor = max(side / own for side, own in zip(size, photo.shape[-2:], strict=True))
        larger = [max(round(factor * own), side) for side, own in zip(size, photo.shape[-2:], strict=True)]
        return v2.RandomCrop(size)(v2.functional.resize(photo, larger, antialias=True))

    def _crowd(self) -> tuple[Tensor, Tensor]:
        """Paste figures of training photos onto a lying photo that is as large as one of those, the largest last."""
        number = int(torch.randint(FIGURES[0], FIGURES[1] + 1, ()))
        pairs = [self.dataset.pair(int(torch.randint(len(self.dataset), ()))) for _ in range(number)]
        height, width = sorted(pairs[0][0].shape[-2:])
        image, mask = self._nobody(self._covering(height, width))
        low, high = FIGURE_HEIGHT
        for pair, share in zip(pairs, sorted(low * (high / low) ** torch.rand(number)), strict=True):
            here, figure, labels = self._place(*pair, max(1, round(share.item() * height)), (height, width))
            image, mask = tv_tensors.wrap(torch.where(here, figure, image), like=image), torch.where(here, labels, mask)
        return image, tv_tensors.Mask(mask)

    def _place(self, image: Tensor, mask: Tensor, tall: int, size: tuple[int, int]) -> list[Tensor]:
        """Return where a figure is in a photo of this size, its image and its mask; up to half of it may be beside it.

        The figure is what is not background, cut out and resized to a height, or the upper part of it.
        """
        here = tv_tensors.Mask((mask != self.label) & (mask != IGNORE))
        if not here.any():
            return [v2.functional.resize(part, size).as_subclass(Tensor) for part in (here, image, mask)]
        left, top, right, bottom = masks_to_boxes(here[None])[0].int().tolist()
        box = top, left, bottom - top + 1, right - left + 1
        wide = max(1, round(tall * box[3] / box[2]))
        part = 1.0 if _happens(WHOLE_FIGURES) else LEAST_OF_A_FIGURE + (1 - LEAST_OF_A_FIGURE) * torch.rand(()).item()
        shown = max(1, round(part * tall))
        down, along = int(torch.randint(size[0] - shown + 1, ())), int(torch.randint(size[1], ())) - wide // 2
        placed = []
        for part_of in (here, image, mask):
            figure = v2.functional.resized_crop(part_of, *box, [tall, wide], antialias=True)
            figure = v2.functional.crop(figure, 0, 0, shown, wide)
            placed.append(v2.functional.crop(figure, -down, -along, *size))
        return [part.as_subclass(Tensor) for part in placed]


def _happens(share: float) -> bool:
    return share > 0 and torch.rand(()).item() < share


class UpdateSampler(TorchSampler[list[tuple[int, int]]]):
    """For each update, this process's list of (index of a sample, number of its draw); each epoch has its own order."""

    def __init__(self, samples: int, settings: Settings, start: int, rank: int, world: int) -> None:
        self.samples, self.settings, self.start, self.rank, self.world = samples, settings, start, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.settings.batch_size * self.world

        @lru_cache(maxsize=2)
        def order(epoch: int) -> list[int]:
            generator = torch.Generator().manual_seed(self.settings.seed + epoch)
            return torch.randperm(self.samples, generator=generator).tolist()

        for update in range(self.start, self.settings.updates):
            draws = range(update * batch + self.rank, (update + 1) * batch, self.world)
            yield [(order(draw // self.samples)[draw % self.samples], draw) for draw in draws]

    def __len__(self) -> int:
        return self.settings.updates - self.start


class SeededSamples(Dataset):
    """Samples whose random transform depends on the seed and the number of the draw, not on the worker."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index_and_draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, draw = index_and_draw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1_000_003 + draw) % 2**63)
            return self.dataset[index]
