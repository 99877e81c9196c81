"""Lines for the user: errors, the checks that raise them, and remarks on stderr."""

import difflib
import operator
import os
import sys
from collections.abc import Collection, Iterable
from typing import Any

ADDRESSES = ("http://", "https://")  # of the web, which nothing is fetched from but the Hub


class UserError(Exception):
    """An error that the user can mend: one line says what was wrong and what to do. `cli.main` prints it."""


class CommandError(UserError):
    """An error that says in one line what is wrong with a command's options or input."""


def from_torchrun(variable: str, alone: int) -> int:
    """Return the number in a variable that torchrun sets, RANK or WORLD_SIZE; that of a process alone without it.

    Raises:
        UserError: if it holds something else.
    """
    text = os.environ.get(variable) or str(alone)
    if not text.isdecimal():
        raise UserError(f"{variable}={text}: torchrun sets this variable to a number; unset it to run without torchrun")
    return int(text)


def say(text: str) -> None:
    """Print a remark on stderr, once however many processes run."""
    if from_torchrun("RANK", 0) == 0:
        print(f"vt-timm: {text}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """Return what an error says, without lines after the first and without a full stop; its kind if it says nothing.

    A first line that ends with a colon only announces what is wrong, as torch's do: the second belongs to it.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 1 + lines[0].endswith(":")]).rstrip(".")


def some(names: Iterable[str], number: int = 3) -> str:
    """Return the first of some names, with dots for the rest, or "none"."""
    names = list(names)
    return ", ".join(names[:number]) + ", ..." * (len(names) > number) if names else "none"


def did_you_mean(name: str, known: Iterable[str], number: int = 1) -> str:
    """Return `; did you mean NAME?` with the closest of what is known, else with what begins so, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=number) or [one for one in known if one.startswith(name)][:number]
    return f"; did you mean {', '.join(close)}?" if close else ""


def check_choice(option: str, value: object, allowed: Collection[object]) -> None:
    """Raise a ValueError that names option, value and choices, unless the value is among them."""
    if value not in allowed:
        raise ValueError(f"{option}={value!r}: choose one of {', '.join(map(repr, allowed))}")


def check_positive(option: str, value: object) -> int:
    """Return the value as an int; NumPy's and torch's whole numbers count as such.

    Raises:
        ValueError: naming the option, for anything else and for less than 1.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{option}={value!r} must be a whole number of at least 1")
    return number


def plain(value: Any) -> Any:
    """Return the value with NumPy's and torch's numbers as Python's, as JSON and TorchScript want them.

    Lists and tuples are looked into, dicts are not: a state dict keeps its tensors.
    """
    if type(value) in (list, tuple):
        return type(value)([plain(entry) for entry in value])
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value
