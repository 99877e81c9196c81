"""The command that turns a model into a file for other machines."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CommandError
from .options import command, positive

if TYPE_CHECKING:
    from ..segmentation.settings import Settings

__all__ = ["add_commands"]

BEST, SETTINGS = "best", "settings.yaml"  # a folder and a file in a run of train-segmenter


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export", "write a model as one file: ONNX, torch.export or AOTInductor",
        "vt-timm export vt_resnet18 -o vt.onnx --int8 --calibrate photos/",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="a name as for --model of the other commands")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".onnx, .pt2 (torch.export) or .aoti.pt2 (AOTInductor)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="compute in 8 bits; with --calibrate, for .onnx and .aoti.pt2"
    )
    parser.add_argument("--half", action="store_true", help="compute in 16 bits: float16, in .aoti.pt2 bfloat16")
    parser.add_argument("--calibrate", metavar="FOLDER", help="for --int8: photos such as the model will see")
    parser.add_argument(
        "--calibrate-images", type=positive, default=256, metavar="N", help="how many of them (default: 256)"
    )
    parser.add_argument(
        "--validate", metavar="FOLDER",
        help="score model and file on labelled photos: a folder with one folder per class, or a segmenter's data set",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="NAME",
        help="what a segmenter's masks mean: a recipe or a YAML file of settings (default: those of its run)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE",
        help="largest difference of the logits, as a share of their size, and largest share of a segmenter's pixels "
        "with another label (default: by precision)",
    )  # fmt: skip
    parser.set_defaults(run=export)


def export(args: argparse.Namespace) -> int:
    """Write the file, and say how large it is and how near to the model."""
    from ..export.export import Options, export
    from ..export.formats import kind_of
    from ..photos.models import load

    path = Path(args.output)
    settings = _settings(args)
    options = Options(
        args.int8, args.half, args.calibrate, args.calibrate_images, args.validate, settings, args.tolerance
    )
    options.check(kind_of(path))
    result = export(load(args.model), args.model, path, options)
    if result.scores:
        print(result.scores)
    print(f"{path}: {result.size / 1e6:.1f} MB, {result.difference}")
    return 0


def _settings(args: argparse.Namespace) -> "Settings | None":
    """What a segmenter was trained with, as the user says or as its run does."""
    from ..recipes import SEGMENTATION, find_recipe
    from ..segmentation.settings import Settings

    run = Path(args.model.removeprefix("local-dir:"))
    run = run.parent if run.name == BEST else run
    changes = {"data_dir": args.validate or "-"}  # a recipe names none
    if args.config:
        if not args.validate:
            raise CommandError("--config belongs to --validate")
        try:
            path = Path(args.config) if Path(args.config).is_file() else find_recipe(args.config, SEGMENTATION)
        except ValueError as error:
            raise CommandError(str(error)) from error
        return Settings.from_yaml(path, changes)
    return Settings.from_yaml(run / SETTINGS, changes) if args.validate and (run / SETTINGS).is_file() else None
