"""The command that turns a training run into a folder for the Hub."""

import argparse
from pathlib import Path

from ..errors import CommandError
from .options import command

__all__ = ["add_commands", "add_options"]


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "publish", "turn a training run into a checked folder for the Hub, and upload it",
        "vt-timm publish RUN vt_resnet18.my_photos -o FOLDER --push ORG/NAME",
    )  # fmt: skip
    add_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload the folder there")
    parser.set_defaults(run=publish, checkpoint="best", ships=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every way of publishing takes."""
    parser.add_argument("source", type=Path, metavar="RUN", help="output folder of train.py or train-segmenter")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="MODEL.TAG (default: MODEL.RECIPE of the run, or NECK_BACKBONE.DATA)"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="with --push: only say what would go up")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), help="which weights of a run of train.py (default: %(default)s)"
    )
    parser.add_argument("--half", action="store_true", help="store 16-bit floats")
    parser.add_argument(
        "--class-folders", type=Path, metavar="FOLDER", help="one subfolder per class, where the run names none"
    )
    parser.add_argument("--license", default="apache-2.0", help="licence of the weights (default: apache-2.0)")


def publish(args: argparse.Namespace) -> int:
    """Write the folder of a run, checked, and upload it if told."""
    from ..publishing.export import read_run
    from ..publishing.publish import build, report

    if args.class_folders and not args.class_folders.exists():
        raise CommandError(f"{args.class_folders}: no such file or folder")
    args.test_size = None  # a card claims what was measured, at the size at which it was
    run = read_run(args.source)
    name = args.name or run.name
    repository = args.push or f"ORG/{name}"
    build(run, name, args.output, repository, args)
    report(args.output, repository, args)
    return 0
