"""What the page says, in words for a visitor who has not heard of the paper."""

import re
from collections.abc import Sequence
from importlib import metadata

from ..attention_maps import ATTENTION
from ..photos.colours import place_among_named
from ..segmentation.labels import BACKGROUND
from ..weights.published import published_segmenters
from .session import Session

TAKEN, USED = ATTENTION
PAPER, README = "https://arxiv.org/abs/2006.03677", "readme"
UPLOAD, FAILED = "Your own photo", "That did not work"
KIND = {TAKEN: "take from", USED: "are used"}
HELP = {
    "token": "A token is a list of numbers, made from those places of the photo that its map shows. This network sums "
    "a photo up in a few of them. They need not stand for different things: many say much the same.",
    "map": "The map of a token shows how much each place of the photo counts for it: red is most, blue is little. Each "
    "map is scaled to its own range.",
    "kind": "“Take from”: the places that a token was made from. “Are used”: the places to which the network then "
    "brings back what the token knows.",
    "claim": "Of all that the tokens take from this place, the share that goes to each. The four largest are framed "
    "among the tokens.",
    "start": "The page begins with the token that tells most of the place: the one whose map differs most from the "
    "mean of all maps (in bits of information).",
    "step": "The network makes its tokens anew at each step, or at each size of details.",
}
NAMED, LEAST = 3, 0.005  # how many classes an answer names at most, and the least share that it names
WHOLE = 0.98  # a model that sees at least this share of a photo is not said to crop it
NAMES_LISTED = 20  # the classes of a model are listed up to this number
LEVELS = {2: ["fine", "coarse"], 3: ["fine", "medium", "coarse"], 4: ["finest", "fine", "coarse", "coarsest"]}
SHORT = {"vt_resnet18": "What is on the photo", "vt_resnet_micro": "The same, small and quick"}
SHORT |= dict.fromkeys(published_segmenters(), "Clothes")


def models(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the list of models: those that ship by what they do, and others by their name."""
    return [(f"{SHORT[name]} ({name})" if name in SHORT else name, name) for name in names]


def headline(session: Session) -> list[tuple[str, str]]:
    """Return what the model sees, the most probable or the largest first, each with its percentage."""
    found, shares = session.answer, session.answer.shares
    shown = [name for name, share in shares.items() if share >= LEAST]
    if found.labels is None:
        first = shown[:NAMED] or list(shares)[:1]  # the best, however little it is
        if found.unsure:
            return [("Nothing I know well", "")] + [(f"at best {name}", percent(shares[name])) for name in first[:1]]
    else:
        first = [name for name in shown if not place_among_named(name)]
        if not first:
            return [("No clothes" if BACKGROUND in found.class_names else "Nothing", "")]
    return [(name, percent(shares[name])) for name in first]


def crop(session: Session) -> str:
    """Return what the model leaves out of the photo, in words, if it does."""
    return f"It looks only at the middle of the photo, {percent(session.seen)} of it." if session.seen < WHOLE else ""


def knows(session: Session) -> str:
    """Return how few classes the model has, which explains most odd answers."""
    known = len(session.answer.class_names)
    return f"It knows only {known} things." if known <= NAMES_LISTED else ""


def levels(number: int, place: str) -> tuple[str, list[str]]:
    """Return what the tokens' different sets are called, as a headline and names."""
    numbered = [str(i + 1) for i in range(number)]
    if place == "level":
        return "Tokens for details that are", LEVELS.get(number, numbered)
    return "Tokens made at", [f"step {name}" for name in numbered]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= LEAST else "< 1 %"


def about() -> str:
    """Return README as the installed package has it, without its pictures and the links into the repository."""
    text = str(metadata.metadata("vt_timm").json["description"])
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text))
