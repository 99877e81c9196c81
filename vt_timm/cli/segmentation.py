"""The commands about segmenters: segment, train-segmenter."""

import argparse
import os
import shlex
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CommandError, from_torchrun
from ..files import identity, whole_file, writing
from ..run_files import BEST
from .shared import Photos, add_model, command, load_model, make_folder, names_in, positive, print_json, targets, write

INDEXED = 256  # number of colours in a palette


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_segment(commands)
    _add_train_segmenter(commands)


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "segment", "colour photos by the classes that a segmenter sees",
        "vt-timm segment people/ -o out/ --save-labels labels/",
    )  # fmt: skip
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photos, folders of photos, or `sample`")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="picture to write (.png, .pdf, .svg); a folder for several photos"
    )
    parser.add_argument(
        "--layout",
        choices=("beside", "overlay"),
        default="beside",
        help="beside: with the plain photo (default); overlay: alone",
    )
    parser.add_argument("--save-labels", metavar="FOLDER", help="also write the labels, as PNG files with a palette")
    parser.add_argument("--json", action="store_true", help="print the share of each class as JSON")
    parser.add_argument(
        "--short-side",
        type=positive,
        metavar="N",
        help="short side that the model sees, in pixels (default: as evaluated)",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        action="extend",
        metavar="N",
        help="sizes at which it sees the photo, times the short side and up to --max-long-side; the mean of its "
        "probabilities' fourth powers counts (default: 0.5 0.66 1 1.4); 1 is as evaluated",
    )
    parser.add_argument(
        "--max-long-side",
        type=positive,
        metavar="N",
        help="longest side that the model sees, in pixels (default: 1024)",
    )
    parser.add_argument(
        "--window",
        type=positive,
        metavar="N",
        help="side in pixels, a multiple of 64, of a window to move over the photo at its own size instead",
    )
    add_model(parser, None, "the segmenter that ships")
    parser.set_defaults(run=segment_photos, check=_check_segment, sample="person")


def _add_train_segmenter(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "train-segmenter", "train FPN or VT-FPN for semantic segmentation",
        "vt-timm train-segmenter --config ccp --data-dir DATA/ccp -o RUN --set neck=fpn",
    )  # fmt: skip
    parser.add_argument("--config", required=True, metavar="NAME", help="a recipe, or a YAML file of settings")
    parser.add_argument("--data-dir", metavar="FOLDER", help="the data set")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that differ from the recipe",
    )
    parser.set_defaults(run=train_segmenter)


def _check_segment(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before torch is imported."""
    if not (args.output or args.save_labels or args.json):
        raise CommandError("nothing to write: name a picture or a folder with -o, or say --save-labels or --json")
    for option in ("scales", "short_side", "max_long_side"):
        if args.window and getattr(args, option):
            name = f"--{option.replace('_', '-')}"
            raise CommandError(f"{name}: a window sees the photo at its own size; leave --window or {name} out")
    labels = args.save_labels or ""
    if labels.lower().endswith(".png") and not os.path.isdir(labels):
        raise CommandError(f"--save-labels {labels}: name a folder, for one PNG file per photo")


def segment_photos(args: argparse.Namespace) -> int:
    """Draw photos in the colours of their classes, with a legend; write labels and shares where asked for."""
    args.model = args.model or _shipped_segmenter()
    photos = Photos(args.paths, load_model(args, "segmenter"))
    pictures = targets(photos.paths, args.output)
    labels_of: dict[Path, Path] = {}
    if args.save_labels:
        make_folder(args.save_labels)
        labels_of = names_in(args.save_labels, photos.paths)
        _check_two_places(pictures, labels_of)

    def written() -> Iterator[dict[str, Any]]:
        sizes = dict(short_side=args.short_side, max_long_side=args.max_long_side, window=args.window)
        for path, answer in photos.answers(scales=args.scales, **sizes):
            if not args.json:
                print(f"{path}\n{answer}")
            if args.save_labels:
                _save_labels(labels_of[path], answer.labels, answer.class_names)
                if not args.json:
                    print(labels_of[path])
            if args.output:
                write(iter([answer.draw(args.layout == "beside")]), str(pictures[path]), quiet=args.json)
            yield {"image": str(path), **answer.to_dict()}

    if args.json:
        print_json(written())
    else:
        deque(written(), maxlen=0)
    return photos.status


def _check_two_places(pictures: dict[Path, Path], labels_of: dict[Path, Path]) -> None:
    labels = {identity(path) for path in labels_of.values()}
    both = [path for path in pictures.values() if identity(path) in labels]
    if both:
        raise CommandError(f"{min(both)}: -o and --save-labels would both write it; give each a folder of its own")


def _shipped_segmenter() -> str:
    from ..weights.published import published_segmenters

    shipped = list(published_segmenters())
    if not shipped:
        raise CommandError("no segmenter ships with this installation: name one with --model")
    return shipped[0]


def _save_labels(path: Path, labels: Any, class_names: list[str]) -> None:
    """Write an indexed PNG of the labels, its palette the colours of the pictures; 16 bits for many classes."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from ..images import DRAWN_BY
    from ..photos.colours import palette

    marked = PngInfo()
    marked.add_text("Software", DRAWN_BY)
    if len(class_names) > INDEXED:
        picture = Image.fromarray(labels.numpy().astype(np.uint16))
    else:
        picture = Image.fromarray(labels.numpy().astype(np.uint8)).convert("P")
        picture.putpalette(palette(class_names).tobytes())
    with writing(str(path)), whole_file(path) as temporary:
        picture.save(temporary, pnginfo=marked)


def train_segmenter(args: argparse.Namespace) -> int:
    """Train a segmenter by a recipe, and say what it reached, what is kept, and what to type next."""
    from ..recipes import SEGMENTATION, find_recipe
    from ..segmentation.evaluation import SCORES
    from ..segmentation.settings import Settings
    from ..segmentation.training import run
    from ..weights.published import name_of_folder

    changes = {**_changes(args.set), **({"data_dir": args.data_dir} if args.data_dir else {})}
    settings = Settings.from_yaml(find_recipe(args.config, SEGMENTATION), changes)
    best = run(settings, Path(args.output), args.resume)
    if from_torchrun("RANK", 0) == 0:
        scores = ", ".join(f"{said} {best[name]:.2f} %" for name, said in SCORES.items() if name in best)
        print(f"best: {scores} on the validation photos, after update {best['update']}")
        print(f"kept: {Path(args.output) / BEST}")
        print(f"next: vt-timm segment PHOTO -o segmented.png --model {shlex.quote(name_of_folder(args.output))}")
    return 0


def _changes(texts: list[str]) -> dict[str, Any]:
    """Read `KEY=VALUE`, the value as in YAML."""
    import yaml

    changes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--set {text}: write KEY=VALUE, for instance --set neck=fpn lr=0.01")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise CommandError(f"--set {text}: the value is not YAML ({' '.join(str(error).split())})") from error
    return changes
