"""Errors in one line."""

__all__ = ["CommandError", "first_line"]


class CommandError(Exception):
    """What the user of a command has to know, in one line."""


def first_line(error: BaseException) -> str:
    """What an error says, without the lines after the first and without a full stop; its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
