"""Files and folders: written whole, read as text, told apart, and named without this machine's folders."""

import errno
import os
import shutil
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CommandError, UserError, did_you_mean, first_line, from_torchrun
from .run_files import BEST


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Say in one line for the user what keeps from writing to a place.

    Raises:
        CommandError: in place of an OSError, or of what safetensors and torch make of one.
    """
    try:
        yield
    except Exception as error:
        from_torch = isinstance(error, RuntimeError) and "inline_container" in str(error)  # where its writer stands
        if not from_torch and not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = "no space is left" if from_torch else getattr(error, "strerror", "") or first_line(error)
        raise CommandError(f"cannot write {place}: {reason}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder while this one writes to it, by a hidden file in it.

    Of the processes of one training the first holds it. The system frees what a killed one held. A folder that is made
    for it and stays empty is deleted.

    Raises:
        UserError: if another training holds it, or it cannot be written to.
    """
    if from_torchrun("RANK", 0) > 0 or folder.is_file():  # which is refused by who would write to it
        yield
        return
    from filelock import FileLock, Timeout  # here: a command that does not train need not wait for it

    there = folder.resolve()  # a link may be led elsewhere meanwhile
    made = [path for path in (there, *there.parents) if not path.exists()]
    file = there / ".lock"
    lock = FileLock(file, blocking=False)
    try:
        with writing(str(folder)):
            there.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                advice = "name another folder, or wait for its end"
                raise UserError(f"another training writes to {folder}: {advice}") from error
        yield
    finally:
        with suppress(OSError):
            if lock.is_locked:
                file.unlink()  # before the release, after which it could be another's
        lock.release()
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty, hidden folder on the disk of `path`, which is deleted at the end with what is left in it.

    Raises:
        OSError: naming `path`, where no folder can be made or writing into it fails.
    """
    temporary = ""
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as temporary:
            yield Path(temporary)
    except OSError as error:
        if error.errno is None or not str(error.filename).startswith(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # not a temporary name, which says nothing


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name to write a file by, which takes the place of `path` if all goes well.

    It is the same name in another folder, so that a writer that adds an ending to it leaves nothing behind.

    Raises:
        OSError: naming `path`, if it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with folder_beside(path) as folder:
        yield folder / path.name
        move(folder / path.name, path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `folder` if all goes well; until then an older one stays."""
    with folder_beside(folder) as temporary:
        new = temporary / folder.name
        new.mkdir()
        yield new
        for file in new.iterdir():
            move(file, file)
        put_in_place(new, folder)


def move(file: Path, target: Path) -> None:
    """Move a file on its disk, in place of an older one, and give it the rights that the user's new files have.

    Some writers leave files that only their owner may read.
    """
    probe = file.with_name(".probe")  # short: the file's own name may be as long as the system allows
    probe.touch()
    file.chmod(probe.stat().st_mode)
    probe.unlink()
    os.replace(file, target)


def put_in_place(new: Path, folder: Path) -> None:
    """Move a folder to the place of an older one; if this is broken off, `restore` brings the older one back."""
    old = _aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path) -> None:
    """Bring back the folder that a process moved aside before it was killed."""
    if _aside(folder).is_dir() and not folder.exists():
        os.replace(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")  # hidden: the user may have a copy under the plain name


def read_text(path: Path) -> str:
    """Read a text file that a person wrote: UTF-8, with or without a byte-order mark, whatever the locale.

    Raises:
        UserError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def without_folders(name: str) -> str:
    """Return a name; of a path that is absolute or leads somewhere the last part, also behind a prefix as `local-dir:`.

    A run is named in place of its folder `best`.
    """
    prefix, colon, text = name.rpartition(":")
    path = Path(text)
    if not text.startswith(("/", "~")) and not path.exists():
        return name
    last = path.parent.name if path.name == BEST else path.name
    return f"{prefix}{colon}{last or path.resolve().name}" if text else name


def near(path: Path) -> str:
    """Ask whether the file or folder beside that is called nearly so was meant; "" if there is none.

    Of a name that is taken, by something else than was looked for, it says by what.
    """
    if os.path.lexists(path):
        kinds = {"a folder": path.is_dir(), "a file": path.is_file(), "a link that leads nowhere": not path.exists()}
        return f"; {next((kind for kind, holds in kinds.items() if holds), 'a pipe or a device')} has this name"
    return did_you_mean(str(path), map(str, path.parent.iterdir())) if path.parent.is_dir() else ""


def identity(path: Path) -> Hashable:
    """Return what is equal for two names of one file: links, and on some systems letters of another case or form."""
    try:
        status = path.stat()
    except OSError:  # there is no such file
        return path.resolve()
    return status.st_dev, status.st_ino


def find_circle(folder: Path) -> Path | None:
    """Return the first link below a folder that leads back to a folder that it lies in; None if none does.

    It is the link itself and never what is reached through it: who deletes it loses nothing.
    """
    for place, _, _ in os.walk(folder, followlinks=True):
        if leads_back(Path(place), folder):
            return next(path for path in (Path(place), *Path(place).parents) if path.is_symlink())
    return None


def leads_back(path: Path, root: Path) -> bool:
    """True if a folder below a root is, by a link, one of those that it lies in: who went on would go in a circle."""
    above = path.parents[: len(path.relative_to(root).parts)]
    return identity(path) in map(identity, above)
