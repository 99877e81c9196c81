"""The words of the page, for a visitor who has not heard of the paper."""

from collections.abc import Sequence
from html import escape

from ..photos.colours import palette
from ..pipelines.pipeline import Pipeline
from ..pipelines.sources import published_segmenters
from .session import KINDS as KEYS
from .session import Session

TAKEN, USED = KEYS
INTRODUCTION = """\
# Visual tokens

This network sums a photo up in a few **tokens**, as a person would in a few words: one token may stand for a roof,
another for the sky. The map of a token shows where in the photo it takes its information from.
"""
UPLOAD = "Drop your photo, or click"
INVITATION = "Click a place in the photo to see which tokens look at it"
HEADLINE = "### The tokens: click one to see it large"
KIND, KINDS = "Show where tokens", [("take from", TAKEN), ("are used", USED)]
NAMED, LEAST = 3, 0.005  # how many classes an answer names at most, and the least share that it names
WHOLE = 0.98  # a model that sees at least this share of a photo is not said to crop it
NAMES_LISTED = 20  # the classes of a model are listed up to this number
LEVELS = {2: ["fine", "coarse"], 3: ["fine", "medium", "coarse"], 4: ["finest", "fine", "coarse", "coarsest"]}
DOES = {"vt_resnet18": "Names what is on the photo", "vt_resnet_micro": "Names it too, small and quick"}
DOES |= dict.fromkeys(published_segmenters(), "Finds people's clothes")


def models(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the list of models: those that ship by what they do, and others by their name."""
    return [(f"{DOES[name]} ({name})" if name in DOES else name, name) for name in names]


def answer(session: Session) -> str:
    """Say what the model sees, the most probable or the largest first, with the colours of a segmenter's classes."""
    found = session.look.answer
    colours = None if found.labels is None else palette(found.class_names)
    shares = list(found.shares.items())[: NAMED if colours is None else None]
    shares = [(name, share) for i, (name, share) in enumerate(shares) if i == 0 or share >= LEAST]
    parts = []
    for rank, (name, share) in enumerate(shares):
        what = f"<b>{escape(name)}</b>" if rank == 0 else escape(name)
        if colours is not None:
            red, green, blue = colours[found.class_names.index(name)]
            what = f'<i style="background: rgb({red}, {green}, {blue})"></i> {what}'
        parts.append(f"<span>{what} {100 * share:.0f} %</span>")
    notes = [f"It looks only at the middle of the photo, {100 * session.seen:.0f} % of it."] * (session.seen < WHOLE)
    if len(found.class_names) <= NAMES_LISTED:  # explains most odd answers
        notes.append(f"It knows only {len(found.class_names)} things: {escape(', '.join(found.class_names))}.")
    return f"{' '.join(parts)}<small>{' '.join(notes)}</small>"


def caption(session: Session) -> str:
    """Say what the large picture shows."""
    if not session.has_tokens:
        return "This model answers without showing tokens. Choose another model to see some."
    if session.show_map:
        what = "it takes most from" if session.kind == TAKEN else "it is used most"
        return f"**Token {session.token + 1}**: red is where {what}."
    painted = session.show_classes and session.look.answer.labels is not None
    return f"{'The colours are what the model sees. ' if painted else ''}Click a token to see its map."


def claimed(session: Session) -> str:
    """Return the headline of the list of tokens that claim a place."""
    name = session.class_at_place()
    here = f"this place ({name})" if name else "this place"
    return f"Tokens that take most from {here}" if session.kind == TAKEN else f"Tokens that {here} uses most"


def modules(session: Session, model: Pipeline) -> tuple[str, list[tuple[str, int]]]:
    """Return what the tokens' different sets are called, as a headline and choices."""
    number = len(session.look.maps)
    numbered = [str(i + 1) for i in range(number)]
    if model.place == "level":
        return "Tokens for details that are", [(name, i) for i, name in enumerate(LEVELS.get(number, numbered))]
    return "Tokens made at", [(f"step {name}", i) for i, name in enumerate(numbered)]
