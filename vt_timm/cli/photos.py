"""The commands about photos: classify, attention, explore."""

import argparse
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CommandError
from ..files import whole_file, writing
from .shared import OK, Photos, add_model, check_apart, check_drawing, command, load_model, positive, print_json, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..pipelines.answers import Look

LONGEST = 20  # letters of a photo's name in a picture
NOUNS = {"tokenizer": "where each visual token looks", "projector": "which pixels read each visual token"}


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_classify(commands)
    _add_attention(commands)
    _add_explore(commands)


def _add_classify(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "classify", "name what is on photos", "vt-timm classify holiday/ --topk 3")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photos, folders of photos, or `sample`")
    parser.add_argument("--topk", type=positive, default=5, metavar="N", help="classes per image (default: 5)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images at a time (default: 16)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model(parser)
    parser.set_defaults(run=classify)


def _add_attention(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "attention", "draw where each visual token looks (Figures 5 and 7 of the paper)",
        "vt-timm attention photo.jpg -o attention.png --module 2 --tokens 1 4 7",
    )  # fmt: skip
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photos, folders of photos, or `sample`")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="picture to write: .png, .svg, ..., .pdf (pages) or .gif (frames)",
    )
    parser.add_argument("--module", type=positive, default=1, metavar="N", help="which VT module (default: 1)")
    parser.add_argument(
        "--of",
        choices=NOUNS,
        default="tokenizer",
        help="tokenizer: where tokens look (default); projector: which tokens the pixels read",
    )
    parser.add_argument(
        "--tokens", nargs="+", action="extend", type=positive, metavar="N", help="which tokens (default: all)"
    )
    parser.add_argument(
        "--colours", default="jet", metavar="NAME", help="colour map of matplotlib: jet, cividis, ... (default: jet)"
    )
    parser.add_argument(
        "--opacity",
        choices=("weight", "even"),
        default="weight",
        help="weight: colours cover the photo where a token looks (default); even: everywhere by half, as in the paper",
    )
    parser.add_argument(
        "--columns", type=positive, metavar="N", help="pictures per row (default: 6, or one row per photo)"
    )
    parser.add_argument(
        "--photos", type=positive, metavar="N", help="photos per page (default: 4, or 1 per frame of a .gif)"
    )
    parser.add_argument("--save-maps", metavar="FILE", help="also write the maps as they are, as .npy")
    add_model(parser)
    parser.set_defaults(run=attention)


def _add_explore(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "explore", "open a page in the browser: drop a photo, look at its tokens", "vt-timm explore --open"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="models to choose from, named as for --model (default: those that ship)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=positive, default=7860, help="port to listen on (default: 7860)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=explore)


def classify(args: argparse.Namespace) -> int:
    """Print the top classes of every image, each as soon as it is known."""
    photos = Photos(args.paths, load_model(args, "classifier"))
    answers = photos.answers(topk=args.topk, batch_size=args.batch_size)
    if args.json:
        print_json({"image": str(path), **answer.to_dict()} for path, answer in answers)
    else:
        for path, answer in answers:
            print(f"{path}\n{answer}", flush=True)
    return photos.status


def attention(args: argparse.Namespace) -> int:
    """Draw Figures 5 and 7 of the paper: what each token of one VT module looks at, for one photo or many."""
    from ..photos.draw import draw_attention

    each = args.photos or (1 if args.output.lower().endswith(".gif") else 4)
    check_drawing(args.output, args.paths, -(-len(args.paths) // each))
    _check_colours(args.colours)
    maps = None if args.save_maps is None else _npy(args.save_maps)
    check_apart([maps] if maps else [], args.paths)
    if maps and not args.save_maps.endswith(".npy") and maps.exists():
        raise CommandError(f"{maps} is there, and would be overwritten: name it in full, or another place")
    photos = Photos(args.paths, load_model(args))
    named, looks = zip(*_looks(photos, args), strict=True)
    chosen = [found.maps[args.module - 1] for found in looks]
    # Of several photos nobody would know which is which.
    captions = [f"{_start(path.name)}\n{one.answer.caption}" if len(looks) > 1 else one.answer.caption
                for path, one in zip(named, looks, strict=True)]  # fmt: skip
    tokens = args.tokens or list(range(1, len(chosen[0]) + 1))
    if max(tokens) > len(chosen[0]):
        raise CommandError(f"--tokens {max(tokens)}: the module has tokens 1 to {len(chosen[0])}")
    if maps:
        _save_maps(maps, chosen)
    place = photos.model.place
    title = f"{_short(args.model)}, {place} {args.module} of {looks[0].modules}: {NOUNS[args.of]}"

    def figures() -> Iterator["Figure"]:
        for start in range(0, len(looks), each):
            page = slice(start, start + each)
            views, texts = [one.view for one in looks[page]], captions[page]
            yield draw_attention(views, chosen[page], title, texts, tokens, args.colours, args.opacity, args.columns)

    write(figures(), args.output)
    return photos.status


def _looks(photos: Photos, args: argparse.Namespace) -> Iterator[tuple[Path, "Look"]]:
    for path, photo in photos:
        try:
            found = photos.model.attention(photo, args.of)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if args.module > len(found.maps):
            place = photos.model.place
            if args.module > found.modules:
                raise CommandError(f"--module {args.module}: {args.model} has {place}s 1 to {found.modules}")
            raise CommandError(f"--module {args.module}: {place} {args.module} of {found.modules} has no {args.of}")
        yield path, found


def _start(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _short(name: str) -> str:
    import timm

    is_folder = Path(name).is_dir() and not timm.is_model(name)
    return "/".join(Path(name).resolve().parts[-2:]) if is_folder else name


def _npy(name: str) -> Path:
    """Return the file that NumPy writes under a name."""
    if not name:
        raise CommandError("--save-maps: name a file, such as maps.npy")
    return Path(name if name.endswith(".npy") else f"{name}.npy")


def _save_maps(path: Path, maps_LHW: list[Any]) -> None:
    """Write the maps as they are, at feature resolution: (photos, L, H, W)."""
    import numpy as np

    arrays = [attention.numpy() for attention in maps_LHW]
    if len({array.shape for array in arrays}) > 1:
        raise CommandError(f"--save-maps {path}: the photos differ in shape, and so do their maps: name one at a time")
    with writing(str(path)), whole_file(path) as new:
        np.save(new, np.stack(arrays))
    print(path)


def explore(args: argparse.Namespace) -> int:
    """Serve a page on this machine until it is interrupted."""
    try:
        from ..explore.page import serve
    except ImportError as error:
        raise CommandError(f"the page needs {error.name}: pip install 'vt_timm[explore]'") from error
    args.host = args.host.strip("[]")  # as addresses of IPv6 stand in the browser's line
    _check_address(args.host, args.port)
    print("The models are loaded; that takes some seconds.", flush=True)
    try:
        serve(args.models, args.host, args.port, args.open)
    except OSError:
        _check_address(args.host, args.port)  # somebody may have taken it since
        raise
    return OK


def _check_address(host: str, port: int) -> None:
    """Check that the page can be served there, before the model is loaded."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, after one that has ended
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        raise CommandError(_cannot_listen(host, port, error)) from error


def _cannot_listen(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OverflowError):
        return f"--port {port}: ports go from 1 to 65535"
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return f"--host {host}: this machine has no such address; leave it out for 127.0.0.1"
    if number == errno.EACCES:
        return f"--port {port}: only an administrator may use ports below 1024; try --port 7860"
    return f"port {port} is in use, perhaps by another such page: end that, or choose another with --port"


def _check_colours(name: str) -> None:
    from matplotlib import colormaps

    if name not in colormaps:
        raise CommandError(f"--colours {name}: matplotlib has no such colour map; try jet, viridis or cividis")
