"""The data of a segmenter's training: both splits, looked at before it begins, and the samples of each update."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Sampler as TorchSampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..errors import say
from ..images import ImageError, find_images
from .data import SegmentationDataset, class_shares
from .labels import BACKGROUND, LAYOUTS, DataError
from .settings import Settings, SettingsError


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
            settings.layout, settings.data_dir, split, None, label_options, channels, settings.mask_suffix
        )
        for split in ("train", "val")
    )
    _check_shares(settings, class_shares(train_set))
    class_shares(val_set)  # a bad mask is said now, and not after the first updates
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


def _check_shares(settings: Settings, shares: dict[str, float]) -> None:
    """Say how the pixels are shared out, and refuse what cannot be learnt."""
    say("share of the pixels: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    ignored = shares.pop("(ignored)")
    missing = [name for name, share in shares.items() if share == 0]
    hint = ""
    if ignored and settings.ignore_label is not None and settings.colours is None:
        hint = (
            f"; {100 * ignored:.1f} % of the pixels have no class, since the label {settings.ignore_label} is ignored: "
            f"if it is a class, say which with --set 'values={{{settings.ignore_label}: NUMBER}}'"
        )
    if len(missing) > len(shares) - 2:
        found = ", ".join(name for name in shares if name not in missing)
        seen = f"all pixels that have a class are {found}" if found else "no pixel has a class"
        raise DataError(f"{settings.data_dir}: in the training masks {seen}, so nothing can be learnt{hint}")
    if missing:
        say(f"warning: {', '.join(missing)} occurs in none of the training masks that were looked at{hint}")


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
            make up, and in `background_swap` the share of the training photos whose background one of them takes the
            place of ("simple copy-paste", Ghiasi et al., 2021). A photo is drawn anew for each sample, by torch's
            random numbers.

    Raises:
        SettingsError: for classes among which no background is.
        DataError: for a folder that is missing or holds no photos.
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
        self.swap = settings.background_swap
        self.samples = round(len(dataset) / (1 - settings.background_share))
        say(f"background: {len(self.photos)} photos, {settings.background_share:.0%} of the samples")

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self.dataset):
            image: Tensor = self._photo()
            mask: Tensor = tv_tensors.Mask(torch.full(image.shape[-2:], self.label))
        else:
            image, mask = self.dataset.pair(index)
            if self.swap and torch.rand(()) < self.swap:
                image = tv_tensors.wrap(torch.where(mask == self.label, self._covering(image), image), like=image)
        return self.dataset.transform(image, mask) if self.dataset.transform else (image, mask)

    def _photo(self) -> tv_tensors.Image:
        return self.dataset.image(self.photos[int(torch.randint(len(self.photos), ()))])

    def _covering(self, image: Tensor) -> Tensor:
        """Return a photo as large as the image: of its shape where it is not, a random part."""
        photo, size = self._photo(), image.shape[-2:]
        factor = max(side / own for side, own in zip(size, photo.shape[-2:], strict=True))
        larger = [max(round(factor * own), side) for side, own in zip(size, photo.shape[-2:], strict=True)]
        return v2.RandomCrop(size)(v2.functional.resize(photo, larger, antialias=True))


class UpdateSampler(TorchSampler[list[tuple[int, int]]]):
    """For each update, this process's list of (index of a sample, number of its draw); each epoch has its own order."""

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

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index_and_draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, draw = index_and_draw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1_000_003 + draw) % 2**63)
            return self.dataset[index]
