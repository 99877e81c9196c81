"""The command that turns a model into a file for other machines."""

import argparse
from pathlib import Path

from .options import command, positive

__all__ = ["add_commands"]


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export", "write a model as one file: ONNX, torch.export or AOTInductor",
        "vt-timm export vt_resnet18 -o vt.onnx --int8 --calibrate photos/",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="any name that --model of the other commands takes")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".onnx, .pt2 (torch.export) or .aoti.pt2 (AOTInductor)"
    )
    parser.add_argument("--int8", action="store_true", help="8 bits, of an .onnx file; needs --calibrate")
    parser.add_argument("--half", action="store_true", help="16 bits inside")
    parser.add_argument("--calibrate", metavar="FOLDER", help="photos such as the model will see")
    parser.add_argument(
        "--calibrate-images", type=positive, default=256, metavar="N", help="how many of them (default: 256)"
    )
    parser.add_argument(
        "--validate", metavar="FOLDER",
        help="score model and file on one folder of photos per class",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE",
        help="largest difference of the logits, as a share of their size (default: by precision)",
    )  # fmt: skip
    parser.set_defaults(run=export)


def export(args: argparse.Namespace) -> int:
    """Write the file, and say how large it is and how near to the model."""
    from ..export.export import Options, export
    from ..export.formats import kind_of
    from ..photos.models import load

    path = Path(args.output)
    options = Options(args.int8, args.half, args.calibrate, args.calibrate_images, args.validate, args.tolerance)
    options.check(kind_of(path))
    result = export(load(args.model), args.model, path, options)
    if result.scores:
        print(result.scores)
    print(f"{path}: {result.size / 1e6:.1f} MB, logits within {result.difference:.1g} of the model's")
    return 0
