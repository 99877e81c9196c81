"""Command line: `vt-timm --help` lists the commands (also `python -m vt_timm`)."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from .. import __version__
from ..attention_maps import ATTENTION
from ..errors import CommandError, UserError, first_line
from ..images import ImageError, find_images, read_image
from ..photos.look import attention, segment_photo
from ..photos.models import load_model, model_input, predict
from ..recipes import FOLDER, SEGMENTATION, find_recipe, list_recipes
from ..timm_scripts.find import SCRIPTS
from .models import download, models

OK, SOME_SKIPPED, FAILED = 0, 1, 2  # exit status
DEFAULT_MODEL = "vt_resnet18"


def classify(args: argparse.Namespace) -> int:
    """Top classes of every image; what cannot be read is named on stderr and skipped."""
    paths = find_images(args.images)
    model = load_model(args.model, args.device)
    results: list[dict[str, Any]] = []
    skipped = 0
    for start in tqdm(range(0, len(paths), args.batch_size), unit="batch", disable=None, leave=False):
        inputs, names = [], []
        for path in paths[start : start + args.batch_size]:
            try:
                inputs.append(model_input(model, read_image(path)))
                names.append(str(path))
            except ImageError as error:
                tqdm.write(f"vt-timm: skipped {error}", file=sys.stderr)
                skipped += 1
        if inputs:
            predictions = predict(model, torch.cat(inputs).to(args.device), args.topk)
            results += [{"image": n, "top": p} for n, p in zip(names, predictions, strict=True)]
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(result["image"])
            for top in result["top"]:
                print(f"  {100 * top['probability']:5.1f} %  {top['class']}")
    if not results:
        raise CommandError("none of the images could be read")
    return SOME_SKIPPED if skipped else OK


def train_segmenter(args: argparse.Namespace) -> int:
    """Train a segmenter by a recipe; prints the metrics of the best evaluation."""
    from ..segmentation.settings import Settings, SettingsError
    from ..segmentation.training import run

    try:
        path = Path(args.config) if Path(args.config).is_file() else find_recipe(args.config, SEGMENTATION)
        settings = Settings.from_yaml(
            path, {**_changes(args.set), **({"data_dir": args.data_dir} if args.data_dir else {})}
        )
        best = run(settings, Path(args.output), args.resume)
    except (SettingsError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(json.dumps({k: v for k, v in best.items() if k != "iou"}, indent=2))
    return OK


def _changes(texts: list[str]) -> dict[str, Any]:
    """`KEY=VALUE`, the value as in YAML."""
    changes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--set {text}: write KEY=VALUE, for instance --set neck=fpn lr=0.01")
        changes[key] = yaml.safe_load(value)
    return changes


def explore(args: argparse.Namespace) -> int:
    """A page on this machine, until it is interrupted."""
    try:
        from ..photos.explore import serve
    except ImportError as error:
        raise CommandError(f"the page needs {error.name}: pip install 'vt_timm[explore]'") from error
    try:
        serve(args.models, args.host, args.port)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {args.host}:{args.port} ({first_line(error)}): try another --port"
        ) from error
    return OK


def recipes(args: argparse.Namespace) -> int:
    """The training recipes, a line each, or one of them whole."""
    if args.name:
        folder = SEGMENTATION if args.name in list_recipes(SEGMENTATION) else FOLDER
        try:
            print(find_recipe(args.name, folder).read_text(), end="")
        except ValueError as error:
            raise CommandError(str(error)) from error
        return OK
    kinds = {"vt-timm run train": list_recipes(), "vt-timm train-segmenter": list_recipes(SEGMENTATION)}
    width = max(len(name) for summaries in kinds.values() for name in summaries)
    for command, summaries in kinds.items():
        print(f"{command} --config NAME")
        for name, summary in summaries.items():
            print(f"  {name:<{width}}  {summary}")
    return OK


def run_timm_script(args: argparse.Namespace) -> int:
    """One of timm's own scripts, in this process."""
    from ..timm_scripts.run import run_script

    run_script(args.script, args.arguments, args.given)
    return OK


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="vt-timm", description="Visual Transformers for timm.")
    main_parser.add_argument("--version", action="version", version=f"vt_timm {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("models", help="list the models, their cost and their weights")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=models)

    command = commands.add_parser("classify", help="name what is on photos")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or `sample`")
    command.add_argument("--topk", type=_positive, default=5, metavar="N", help="classes an image (default: 5)")
    command.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="images at a time (default: 16)")
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_model_arguments(command)
    command.set_defaults(run=classify)

    command = commands.add_parser("attention", help="draw where each visual token looks (Figures 5 and 7 of the paper)")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or `sample`")
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="picture to write (.png, .svg, ...; .pdf pages; .gif)"
    )
    command.add_argument("--module", type=_positive, default=1, metavar="N", help="which VT module (default: 1)")
    command.add_argument(
        "--of",
        choices=ATTENTION,
        default="tokenizer",
        help="tokenizer: where tokens look (default); projector: which tokens the pixels read",
    )
    command.add_argument("--tokens", nargs="+", type=_positive, metavar="N", help="which tokens (default: all)")
    command.add_argument(
        "--colours", default="jet", metavar="NAME", help="colour map of matplotlib: jet, cividis, ... (default: jet)"
    )
    command.add_argument("--strength", type=float, default=0.5, help="of the colours, 0 to 1 (default: 0.5)")
    command.add_argument("--photos", type=_positive, default=8, metavar="N", help="photos a page (default: 8)")
    command.add_argument("--save-maps", metavar="FILE", help="also the maps as they are, as .npy")
    _add_model_arguments(command)
    command.set_defaults(run=attention)

    command = commands.add_parser("explore", help="a page in the browser: drop a photo, look at its tokens")
    command.add_argument(
        "--models",
        nargs="+",
        default=["vt_resnet18", "vt_resnet_micro"],
        metavar="NAME",
        help="to choose from: as --model of attention, also segmenters' folders (default: the shipped ones)",
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    command.add_argument("--port", type=_positive, default=7860, help="(default: 7860)")
    command.set_defaults(run=explore)

    command = commands.add_parser("segment", help="colour a photo by the classes that a trained segmenter sees")
    command.add_argument("image", metavar="IMAGE", help="a file, or `sample`")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="picture to write (.png, .pdf, .svg)")
    command.add_argument(
        "--model", required=True, metavar="FOLDER", help="best/ of a training run, or ORG/NAME on the Hub"
    )
    command.add_argument(
        "--short-side",
        type=_positive,
        metavar="N",
        help="resize to this many pixels first (default: as it was evaluated)",
    )
    command.add_argument(
        "--max-long-side",
        type=_positive,
        default=1024,
        metavar="N",
        help="a longer photo is made this long (default: 1024)",
    )
    command.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: cpu)")
    command.set_defaults(run=segment_photo)

    command = commands.add_parser("train-segmenter", help="train FPN or VT-FPN for semantic segmentation")
    command.add_argument("--config", required=True, metavar="NAME", help="a recipe, or a YAML file of settings")
    command.add_argument("--data-dir", metavar="FOLDER", help="the data set")
    command.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the run goes")
    command.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that differ from the recipe"
    )
    command.set_defaults(run=train_segmenter)

    command = commands.add_parser(
        "download", help="bring models from the Hub into the cache, for use without a network"
    )
    command.add_argument("names", nargs="+", metavar="NAME", help="a model that `vt-timm models` lists, or ORG/NAME")
    command.set_defaults(run=download)

    command = commands.add_parser("recipes", help="list the training recipes, or print one")
    command.add_argument("name", nargs="?", metavar="NAME", help="the recipe to print")
    command.set_defaults(run=recipes)

    command = commands.add_parser(
        "run",
        help="run timm's own train.py and other scripts with these models",
        usage="vt-timm run [--from PATH] SCRIPT [ARGUMENT ...]",
    )
    command.add_argument("--from", dest="given", metavar="PATH", help="timm's repository, or the script")
    command.add_argument("script", metavar="SCRIPT", help=", ".join(SCRIPTS))
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="the script's own arguments")
    command.set_defaults(run=run_timm_script)
    return main_parser


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"a timm model with weights, local-dir:FOLDER or hf-hub:ORG/NAME (default: {DEFAULT_MODEL})",
    )
    command.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: cpu)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive number"  # argparse prints it: "invalid positive number value: '0'"


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"vt-timm: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
