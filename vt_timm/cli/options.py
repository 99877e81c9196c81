"""Options that several commands share, and the kinds of values that they take."""

import argparse

__all__ = ["DEFAULT_MODEL", "add_device", "add_model", "command", "positive"]

DEFAULT_MODEL = "vt_resnet18"


def command(commands: argparse._SubParsersAction, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a command, with one line of help and an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example stays in one line, to be copied
    )


def add_model(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL, note: str = "") -> None:
    parser.add_argument(
        "--model",
        default=default,
        metavar="NAME",
        help="a timm model with weights, a training run or one of its checkpoints, local-dir:FOLDER, hf-hub:ORG/NAME, "
        "FILE.onnx of `vt-timm export` "
        f"(default: {note or default})",
    )
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: cpu)")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "positive number"  # argparse prints it: "invalid positive number value: '0'"
