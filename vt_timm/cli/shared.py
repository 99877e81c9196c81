"""What several commands share: options and the kinds of values that they take, photos in, and pictures out."""

import argparse
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from itertools import islice, tee
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from ..errors import CommandError, check_positive
from ..files import identity, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..pipelines.pipeline import Pipeline

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
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps, ... (default: cpu)")


def positive(text: str) -> int:
    return check_positive("value", int(text))


positive.__name__ = "positive number"  # argparse prints it: "invalid positive number value: '0'"


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


not_negative.__name__ = "number of at least 0"


def place(text: str) -> Path:
    """Return the file or folder of a name; an empty one, as a variable that is not set gives, would be the folder
    that one is in.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty name; the folder that you are in is .")
    return Path(text)


OK, SOME_SKIPPED = 0, 1  # exit status
AHEAD = 16  # photos that are read before they are asked for


class Photos:
    """The photos of a command, read one by one; what cannot be read is named on stderr and skipped."""

    def __init__(self, paths: list[Path], model: "Pipeline") -> None:
        self.paths = paths
        self.model = model
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[Path, Any]]:
        from tqdm import tqdm

        from ..images import ImageError

        progress = tqdm(self.paths, unit="photo", disable=None if len(self.paths) > 1 else True, leave=False)
        for path, photo in ahead(self._read, progress):
            if isinstance(photo, ImageError):
                if len(self.paths) == 1:
                    raise photo
                tqdm.write(f"vt-timm: skipped {photo}", file=sys.stderr)
                self.skipped += 1
            else:
                yield path, photo
        if self.skipped == len(self.paths):
            raise CommandError("none of the images could be read")

    def _read(self, path: Path) -> tuple[Path, Any]:
        from ..images import ImageError

        try:
            return path, self.model.prepare(path)
        except ImageError as error:
            return path, error

    def answers(self, **options: Any) -> Iterator[tuple[Path, Any]]:
        """Yield each photo's path and the model's answer, as soon as it is known; the next photos are read meanwhile.

        Raises:
            CommandError: for options that the model refuses.
        """
        named, photos = tee(self)
        try:
            answers = self.model.answers((photo for _, photo in photos), **options)
            for answer, (path, _) in zip(answers, named, strict=True):
                yield path, answer
        except ValueError as error:
            raise CommandError(str(error)) from error

    @property
    def status(self) -> int:
        return SOME_SKIPPED if self.skipped else OK


def ahead(work: Callable[[Any], Any], items: Iterable[Any], number: int = AHEAD) -> Iterator[Any]:
    """Yield `work(item)` of each item in order, done on another thread for a few items before they are asked for."""
    items = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(work, item) for item in islice(items, number))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(items, 1))
            yield done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for no photo that nobody will see


def print_json(entries: Iterable[dict[str, Any]]) -> None:
    """Print a list as JSON, each entry as soon as it is known; the list is closed whatever happens."""
    before = "[\n"
    try:
        for entry in entries:
            print(before + indent(json.dumps(entry, indent=2), "  "), end="", flush=True)
            before = ",\n"
    finally:
        print("[]" if before.startswith("[") else "\n]", flush=True)


def load_model(args: argparse.Namespace, kind: str | None = None) -> "Pipeline":
    """Load the model that a command was told.

    Raises:
        UserError: in one line, if it cannot be loaded, or is of another kind than the command's.
    """
    from ..pipelines.sources import load

    model = load(args.model, args.device)
    return model.expect(kind) if kind else model


def check_drawing(output: str, photos: Iterable[Path] = (), pages: int = 1) -> None:
    """Check, before the model runs, that a picture can be drawn and written, and would not overwrite a photo.

    Args:
        output: the picture to write.
        photos: the photos that the command reads.
        pages: number of pictures; more than one are numbered, picture-1.png first.

    Raises:
        CommandError: if one of these does not hold.
    """
    # Unlike the method of Path, this isdir takes a name that is too long.
    if not output or output.endswith(("/", os.sep)) or os.path.isdir(output):
        example = os.path.join(output, "picture.png")
        raise CommandError(f"-o {output or repr(output)}: name a file, such as {example}")
    if not Path(output).suffix:
        raise CommandError(f"-o {output}: the ending says what kind of picture it is; name it {output}.png")
    numbered = [Path(output).with_stem(f"{Path(output).stem}-{i + 1}") for i in range(pages)] if pages > 1 else []
    check_apart([Path(output), *numbered], photos)
    check_ours(numbered)
    if util.find_spec("matplotlib") is None:
        raise CommandError("drawing needs matplotlib: pip install 'vt_timm[plots]'")
    from ..photos.draw import picture_endings

    kinds = picture_endings()
    if Path(output).suffix[1:].lower() not in kinds:
        raise CommandError(f"-o {output}: pictures are {', '.join(f'.{kind}' for kind in sorted(kinds))}")
    folder = Path(output).parent
    if not folder.is_dir():
        raise CommandError(f"{output}: the folder {folder} does not exist")


def check_apart(written: Iterable[Path], photos: Iterable[Path]) -> None:
    """Refuse to write over a photo that is read.

    Raises:
        CommandError: naming it.
    """
    read = {identity(path) for path in photos}
    for path in written:
        if identity(path) in read:
            raise CommandError(f"{path}: this is one of the photos, and would be overwritten; write to another place")


def check_ours(written: Iterable[Path]) -> None:
    """Refuse to write over a picture that nobody named and that no command of ours has drawn.

    Raises:
        CommandError: naming it.
    """
    from ..images import is_drawn_here

    for path in written:
        if path.exists() and not is_drawn_here(path):
            raise CommandError(
                f"{path} is there and no picture of vt-timm's, and would be overwritten: name another place"
            )


def write(figures: Iterator["Figure"], output: str, quiet: bool = False) -> None:
    from ..photos.draw import save_figures

    try:
        for path in save_figures(figures, Path(output)):
            if not quiet:
                print(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {output}: {error}") from error


def targets(paths: list[Path], output: str | None) -> dict[Path, Path]:
    """Return where each photo's picture goes: the file named, or one per photo in the folder named."""
    if output is None:
        return {}
    if Path(output).suffix and not os.path.isdir(output):
        if len(paths) > 1:
            raise CommandError(
                f"-o {output}: {len(paths)} photos need a folder to be written to; make it first, if it is one"
            )
        check_drawing(output, paths)
        return {paths[0]: Path(output)}
    make_folder(output)
    check_drawing(str(Path(output) / "x.png"))
    return names_in(output, paths)


def names_in(folder: str, paths: list[Path]) -> dict[Path, Path]:
    """Return a .png file in the folder for each photo, by its name; a number tells photos of one name apart."""
    names: dict[Path, Path] = {}
    taken = set()
    for path in dict.fromkeys(paths):
        name, number = path.stem, 2
        while name.casefold() in taken:  # on some systems A.png is a.png
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name.casefold())
        names[path] = Path(folder) / f"{name}.png"
    check_apart(names.values(), paths)
    check_ours(names.values())
    return names


def make_folder(name: str) -> None:
    with writing(f"to {name}"):
        Path(name).mkdir(parents=True, exist_ok=True)
