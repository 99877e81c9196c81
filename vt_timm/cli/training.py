"""The commands about training by timm's scripts: recipes, run."""

import argparse

from ..errors import CommandError
from .options import command

__all__ = ["add_commands"]


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
    parser.set_defaults(run=run_timm_script)


def recipes(args: argparse.Namespace) -> int:
    """The training recipes, one per line, or one of them whole."""
    from ..recipes import FOLDER, SEGMENTATION, find_recipe, list_recipes

    if args.name:
        folder = SEGMENTATION if args.name in list_recipes(SEGMENTATION) else FOLDER
        try:
            print(find_recipe(args.name, folder).read_text(encoding="utf-8"), end="")
        except ValueError as error:
            raise CommandError(str(error)) from error
        return 0
    kinds = {"vt-timm run train": list_recipes(), "vt-timm train-segmenter": list_recipes(SEGMENTATION)}
    width = max(len(name) for summaries in kinds.values() for name in summaries)
    for title, summaries in kinds.items():
        print(f"{title} --config NAME")
        for name, summary in summaries.items():
            print(f"  {name:<{width}}  {summary}")
    return 0


def run_timm_script(args: argparse.Namespace) -> int:
    """One of timm's own scripts, in this process."""
    from ..timm_scripts.run import run_script

    run_script(args.script, args.arguments, args.given)
    return 0
