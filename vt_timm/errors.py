"""Errors in one line."""

from collections.abc import Collection

__all__ = ["CommandError", "check_choice", "check_positive", "first_line"]


class CommandError(Exception):
    """What the user of a command has to know, in one line."""


def first_line(error: BaseException) -> str:
    """What an error says, without the lines after the first and without a full stop; its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def check_choice(option: str, value: object, allowed: Collection[str]) -> None:
    """Raise a ValueError that names the option, the value and what is allowed."""
    if value not in allowed:
        raise ValueError(f"{option}={value!r}: choose one of {', '.join(map(repr, allowed))}")


def check_positive(option: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option}={value!r} must be a whole number of at least 1")
