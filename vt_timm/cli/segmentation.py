"""The command that trains segmenters."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import CommandError
from .options import command

__all__ = ["add_commands"]


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "train-segmenter", "train FPN or VT-FPN for semantic segmentation",
        "vt-timm train-segmenter --config ccp --data-dir DATA/ccp -o RUN --set neck=fpn",
    )  # fmt: skip
    parser.add_argument("--config", required=True, metavar="NAME", help="a recipe, or a YAML file of settings")
    parser.add_argument("--data-dir", metavar="FOLDER", help="the data set")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the run goes")
    parser.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that differ from the recipe"
    )
    parser.set_defaults(run=train_segmenter)


def train_segmenter(args: argparse.Namespace) -> int:
    """Train a segmenter by a recipe; prints the metrics of the best evaluation."""
    from ..recipes import SEGMENTATION, find_recipe
    from ..segmentation.settings import Settings
    from ..segmentation.training import run

    changes = {**_changes(args.set), **({"data_dir": args.data_dir} if args.data_dir else {})}
    try:
        path = Path(args.config) if Path(args.config).is_file() else find_recipe(args.config, SEGMENTATION)
        best = run(Settings.from_yaml(path, changes), Path(args.output), args.resume)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(json.dumps({k: v for k, v in best.items() if k != "iou"}, indent=2))
    return 0


def _changes(texts: list[str]) -> dict[str, Any]:
    """`KEY=VALUE`, the value as in YAML."""
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
