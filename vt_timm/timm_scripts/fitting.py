"""What train.py's photos decide: the number of classes, and the batch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.data import ImageDataset

from ..errors import say, some
from .checks import ScriptError, check_same_classes, check_strays, classes_of, read_dataset

UPDATES_PER_EPOCH = 4  # at least, unless the batch would become smaller than SMALLEST_BATCH
SMALLEST_BATCH = 8  # below it, a batch norm's statistics are mostly noise


def fit_to_photos(args: Any, create_dataset: Callable[..., Any], processes: int, batch_is_typed: bool) -> list[str]:
    """Return arguments that the data decides and the command leaves open; each is printed.

    Args:
        args: train.py's arguments.
        create_dataset: timm's function of this name.
        processes: number of processes that share the data.
        batch_is_typed: whether the batch size stands on the command line; it then shrinks only if it has to.

    Returns:
        What to append to the command line: `--num-classes` if none is given, `--batch-size` if it is too large.
    """
    if args.dataset not in ("", "folder"):  # to count what a reader of timm's has could mean to download it
        return []
    root = args.data_dir or args.data
    photos = read_dataset(
        create_dataset, args.dataset, root=root, split=args.train_split, is_training=True, class_map=args.class_map
    )
    found = []
    classes = classes_of(photos)
    if classes and len(classes) < 2:
        (name,) = classes
        which = name or "they lie in no class folder"
        raise ScriptError(
            f"the photos of {root} are of one class ({which}), with nothing to tell apart: sort them as "
            "PHOTOS/train/CLASS/*.jpg and PHOTOS/val/CLASS/*.jpg"
        )
    _check_splits(args, Path(root), photos, create_dataset)
    check_strays(photos)
    if not args.class_map:
        _check_depth(photos)
    if args.num_classes is None and classes:
        say(f"{len(classes)} classes: {some(classes, 5)}")
        found += ["--num-classes", str(len(classes))]
    share = len(photos) // processes
    batch = fitted_batch(share, args.batch_size, batch_is_typed)
    if batch != args.batch_size and not args.train_img_sizes:  # each of those sizes has a batch of its own
        updates = f"{share // batch} update{'s' if share >= 2 * batch else ''}"
        say(f"{len(photos)} photos: batches of {batch} instead of {args.batch_size}, so that an epoch has {updates}")
        found += ["--batch-size", str(batch)]
    return found


def _check_splits(args: Any, root: Path, photos: Any, create_dataset: Callable[..., Any]) -> None:
    """Refuse a data folder without one of its splits: timm takes the whole of it then, and validates on what it trains.

    Args:
        args: train.py's arguments.
        root: the data folder.
        photos: its split to train on.
        create_dataset: timm's function of this name.
    """
    if args.train_split == args.val_split or type(photos.reader).__name__ != "ReaderImageFolder":
        return
    validation = read_dataset(
        create_dataset, args.dataset, root=str(root), split=args.val_split, class_map=args.class_map
    )
    missing = [
        split
        for split, dataset in ((args.train_split, photos), (args.val_split, validation))
        if Path(dataset.reader.root) == root
    ]
    if missing:
        raise ScriptError(
            f"{root} has no folder {' and no folder '.join(missing)}, so that photos would be trained on and validated "
            "with: sort them as PHOTOS/train/CLASS/*.jpg and PHOTOS/val/CLASS/*.jpg"
        )
    for dataset in (photos, validation):
        check_strays(dataset)
    check_same_classes(classes_of(photos) or {}, classes_of(validation) or {}, (args.train_split, args.val_split))


def _check_depth(photos: Any) -> None:
    """Refuse two folders of one name: timm calls a class by a photo's own folder, and would mix what is above.

    Args:
        photos: a data set of timm's.
    """
    if type(photos.reader).__name__ != "ReaderImageFolder":
        return
    found: dict[str, Path] = {}
    for path, _ in photos.reader.samples:
        folder = Path(path).parent
        other = found.setdefault(folder.name, folder)
        if other != folder:
            raise ScriptError(
                f"{other} and {folder} would be one class, {folder.name}, since a class is called as the folder that "
                "its photos lie in: sort them as PHOTOS/train/CLASS/*.jpg"
            )


def fitted_batch(photos: int, batch: int, is_typed: bool) -> int:
    """Return the batch, smaller where the photos of a process would give no update, or too few to learn from."""
    wanted = photos if is_typed else max(photos // UPDATES_PER_EPOCH, min(photos, SMALLEST_BATCH))
    if batch < 1:
        raise ScriptError(f"--batch-size {batch}: a batch has at least one photo")
    if wanted >= batch:
        return batch
    if wanted < 2:
        raise ScriptError(f"{photos} photos per process are too few to train on: a batch needs two")
    return wanted - wanted % 2  # mixup takes even batches only


def check_batch(dataset: Any, options: Mapping[str, Any], processes: int) -> None:
    """Refuse a batch that is larger than the data of a reader, whose photos nobody has counted before."""
    batch = options.get("batch_size") or 1
    photos = len(dataset) // processes if isinstance(dataset, ImageDataset) else batch
    if options.get("is_training") and photos < batch:
        raise ScriptError(f"{photos} photos per process give no batch of {batch}: pass --batch-size {max(photos, 1)}")
