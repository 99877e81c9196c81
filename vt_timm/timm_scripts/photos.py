"""The images that a training is given: found, counted, their classes named, and the batch fitted to them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import first_line, say
from .find import ScriptError

__all__ = ["check_data_folder", "check_same_classes", "fit_to_photos", "read_dataset"]

UPDATES_PER_EPOCH = 4  # at least, unless the batch would become smaller than SMALLEST_BATCH
SMALLEST_BATCH = 8  # below it, a batch norm's statistics are mostly noise


def check_data_folder(args: Any) -> None:
    """Refuse a folder that is missing; a reader of timm's (`--dataset`) knows its own place."""
    if getattr(args, "dataset", "") or not hasattr(args, "data_dir"):
        return
    folder = args.data_dir or args.data
    if not folder:
        raise ScriptError("no data: name the folder that holds train and validation images with --data-dir")
    if not Path(folder).exists():
        raise ScriptError(f"--data-dir {folder}: there is no such folder")


def read_dataset(create_dataset: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A data set of timm's, or one line that says which split cannot be read."""
    try:
        return create_dataset(*args, **kwargs)
    except Exception as error:  # whatever its reader raises: no images, a missing package, a tar that is cut off
        raise ScriptError(f"cannot read the data of split {kwargs.get('split')}: {first_line(error)}") from error


def check_same_classes(first: Mapping[str, int], other: Mapping[str, int], names: tuple[str, str]) -> None:
    """Refuse other class folders: timm numbers classes by the folders' names, so that each number would mean another.

    Args:
        first: the number of each class.
        other: the numbers to compare with.
        names: where each comes from, for the message.
    """
    if dict(first) == dict(other):
        return
    lacking = [
        f"only {name} has {', '.join(sorted(own)[:3])}{', ...' if len(own) > 3 else ''}"
        for name, own in ((names[0], set(first) - set(other)), (names[1], set(other) - set(first)))
        if own
    ] or ["the same classes are in another order"]
    raise ScriptError(f"{names[0]} and {names[1]} differ in their classes: {'; '.join(lacking)}")


def fit_to_photos(args: Any, create_dataset: Callable[..., Any], processes: int, batch_is_typed: bool) -> list[str]:
    """Arguments that the data decides and the command leaves open; each is printed.

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
    classes = getattr(photos.reader, "class_to_idx", None)
    if args.num_classes is None and classes:
        say(f"{len(classes)} classes: {', '.join(list(classes)[:5])}{', ...' if len(classes) > 5 else ''}")
        found += ["--num-classes", str(len(classes))]
    share = len(photos) // processes
    batch = fitted_batch(share, args.batch_size, batch_is_typed)
    if batch != args.batch_size and not args.train_img_sizes:  # each of those sizes has a batch of its own
        say(f"{len(photos)} photos: batches of {batch} instead of {args.batch_size}")
        found += ["--batch-size", str(batch)]
    return found


def fitted_batch(photos: int, batch: int, is_typed: bool) -> int:
    """The batch, smaller where the photos of a process would give no update, or too few updates to learn from."""
    wanted = photos if is_typed else max(photos // UPDATES_PER_EPOCH, min(photos, SMALLEST_BATCH))
    if wanted >= batch:
        return batch
    if wanted < 2:
        raise ScriptError(f"{photos} photos per process are too few to train on: a batch needs two")
    return wanted - wanted % 2  # mixup takes even batches only
