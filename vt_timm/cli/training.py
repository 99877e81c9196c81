"""The commands about training by timm's scripts, and about what becomes of a run: recipes, run, publish."""

import argparse
import functools

from ..errors import CommandError, did_you_mean
from ..files import read_text
from ..run_files import BEST, CHECKPOINTS
from ..timm_scripts import SCRIPTS
from .shared import command, place


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "recipes", "list the training recipes, or print one", "vt-timm recipes finetune")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to print")
    parser.set_defaults(run=recipes, needs_package=False)

    parser = command(
        commands, "run", "run timm's own train.py and other scripts with these models",
        "vt-timm run train --config finetune --data-dir PHOTOS --pretrained",
    )  # fmt: skip
    parser.usage = "vt-timm run [--from PATH] SCRIPT [ARGUMENT ...]"
    parser.add_argument("--from", dest="given", metavar="PATH", help="timm's repository, or the script")
    parser.add_argument("script", metavar="SCRIPT", help="train, validate, benchmark, inference, onnx_export")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="the script's own arguments")
    parser.set_defaults(run=run_timm_script, check=functools.partial(_check_script, parser))

    parser = command(
        commands, "publish", "turn a training run into a checked folder for the Hub, and upload it",
        "vt-timm publish RUN vt_resnet18.my_photos -o FOLDER --push ORG/NAME",
    )  # fmt: skip
    add_publish_options(parser)
    parser.add_argument("-o", "--output", type=place, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload the folder there")
    parser.set_defaults(run=publish_run, check=_check_publish, checkpoint=BEST)


def _check_script(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a name that no script has, before torch is imported."""
    if args.script not in SCRIPTS:
        near = did_you_mean(args.script, SCRIPTS) or f"; there are {', '.join(SCRIPTS)}"
        parser.error(f"timm has no script {args.script} that runs here{near}")


def _check_publish(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect, before torch is imported."""
    if args.private and not args.push:
        raise CommandError("--private belongs to --push ORG/NAME")


def recipes(args: argparse.Namespace) -> int:
    """Print the training recipes, one per line, or one of them whole."""
    from ..recipes import FOLDER, SEGMENTATION, find_recipe, list_recipes

    if args.name:
        folder = SEGMENTATION if args.name in list_recipes(SEGMENTATION) else FOLDER
        print(read_text(find_recipe(args.name, folder)), end="")
        return 0
    kinds = {"vt-timm run train": list_recipes(), "vt-timm train-segmenter": list_recipes(SEGMENTATION)}
    width = max(len(name) for summaries in kinds.values() for name in summaries)
    for title, summaries in kinds.items():
        print(f"{title} --config NAME")
        for name, summary in summaries.items():
            print(f"  {name:<{width}}  {summary}")
    return 0


def run_timm_script(args: argparse.Namespace) -> int:
    """Run one of timm's own scripts, in this process."""
    from ..timm_scripts.run import run_script

    run_script(args.script, args.arguments, args.given)
    return 0


def add_publish_options(parser: argparse.ArgumentParser) -> None:
    """Add what every way of publishing takes."""
    parser.add_argument("source", type=place, metavar="RUN", help="output folder of train.py or train-segmenter")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="MODEL.TAG (default: MODEL.RECIPE of the run, or NECK_BACKBONE.DATA)"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be written, and go up; FOLDER stays as it is"
    )
    parser.add_argument(
        "--checkpoint", choices=tuple(CHECKPOINTS), help="which weights of a run of train.py (default: %(default)s)"
    )
    parser.add_argument("--half", action="store_true", help="store 16-bit floats")
    parser.add_argument(
        "--class-folders", type=place, metavar="FOLDER", help="one subfolder per class, where the run names none"
    )
    parser.add_argument("--license", default="apache-2.0", help="licence of the weights (default: apache-2.0)")


def publish_run(args: argparse.Namespace) -> int:
    """Write the folder of a run, checked, and upload it if told."""
    from ..publishing.publish import open_run, publish, report
    from ..runs.run import Publication

    if args.class_folders and not args.class_folders.exists():
        raise CommandError(f"{args.class_folders}: no such file or folder")
    run = open_run(args.source)
    if not run.keeps_checkpoints and (args.class_folders or args.checkpoint != BEST):
        raise CommandError(
            f"{args.source} is a segmenter's run, which keeps its best weights and the names of its classes: leave "
            "--checkpoint and --class-folders out"
        )
    name = args.name or run.name
    how = Publication(
        name, args.push or f"ORG/{name}", args.checkpoint, args.class_folders, half=args.half, licence=args.license,
        dry_run=args.dry_run, folder=None if args.push else args.output,
    )  # fmt: skip
    report(publish(run, how, args.output), how, args.push is not None, args.private)
    return 0
