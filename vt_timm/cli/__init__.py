"""Command line: `vt-timm --help` lists the commands (also `python -m vt_timm`)."""

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile

from .. import __version__
from ..errors import UserError, did_you_mean, first_line

FAILED, INTERRUPTED = 2, 130  # exit status, beside those of shared
DEBUG = "VT_TIMM_DEBUG"  # where this variable is set, an error shows its traceback


def parser() -> argparse.ArgumentParser:
    from . import models, photos, segmentation, training  # here, where `main` answers Ctrl-C

    main_parser = argparse.ArgumentParser(prog="vt-timm", description="Visual Transformers for timm.")
    main_parser.add_argument("--version", action="version", version=f"vt_timm {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (photos, models, segmentation, training):
        group.add_commands(commands)
    return main_parser


def _commands_of(known: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    (commands,) = (action for action in known._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def _takes_photos(command: argparse.ArgumentParser) -> bool:
    return "images" in (action.dest for action in command._actions)


def _check_command(argv: Sequence[str], known: argparse.ArgumentParser) -> None:
    """Refuse a mistyped command and name the closest one, where argparse would list them all."""
    name = next((argument for argument in argv if not argument.startswith("-")), None)
    if name is not None and name not in (commands := _commands_of(known)):
        known.error(f"there is no command {name}{did_you_mean(name, commands) or '; see vt-timm --help'}")


def _check_dashes(argv: Sequence[str], known: argparse.ArgumentParser) -> None:
    """Refuse the name of a file that argparse would take for an option, and not find."""
    command = _commands_of(known).get(argv[0]) if argv else None
    if command is None or not _takes_photos(command):
        return
    for argument in takewhile(lambda argument: argument != "--", argv):
        if argument[:1] == "-" and argument not in command._option_string_actions and os.path.isfile(argument):
            command.error(f"{argument} begins like an option: name the file ./{argument}")


def _refuse(unknown: list[str], command: str, known: argparse.ArgumentParser) -> None:
    """End with the command's own usage and the closest option, where argparse would show that of all commands."""
    its_parser = _commands_of(known)[command]
    near = did_you_mean(unknown[0].partition("=")[0], its_parser._option_string_actions)
    if not unknown[0].startswith("-") and _takes_photos(its_parser):
        near = "; name all photos in one place, before the options or after them"
    its_parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")


def _print_anywhere() -> None:
    """Print file names that a console cannot show with escapes; without a console, as in a service, print nothing."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    warnings.filterwarnings("ignore", module=r"PIL\b")  # of a photo's metadata, which nobody here reads
    _print_anywhere()
    try:
        known = parser()
        _check_command(argv, known)
        _check_dashes(argv, known)
        args, unknown = known.parse_known_args(argv)
        if unknown:
            _refuse(unknown, args.command, known)
        if "images" in args:
            from ..images import find_images

            # A wrong name is said at once, before torch is imported.
            args.paths = find_images(args.images, getattr(args, "sample", "photo"))
        if "check" in args:
            args.check(args)
        if getattr(args, "needs_package", True):
            from .. import VTResNet  # noqa: F401  all that `import vt_timm` gives: it registers the models with timm
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        text = str(error)
        if isinstance(error, OSError):  # what no part foresaw about a file or a folder
            name = f"{error.filename}: " if error.filename else ""
            text = f"{name}{error.strerror or first_line(error)}"
        print(f"vt-timm: {text}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
