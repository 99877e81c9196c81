"""The HTML of the page, from its templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from ..photos.colours import place_among_named
from ..pipelines.pipeline import Pipeline
from . import layers, words
from .samples import Sample
from .session import Session, open_photo

SMALL = 240  # pixels of the long side of a thumbnail
QUALITY = 88  # of the photo as a JPEG
COLUMNS, COLUMNS_IF_WIDE, WIDE = 4, 2, 2.0  # columns of tokens, and for a photo this many times as wide as high

_templates = Environment(
    loader=PackageLoader(__package__, "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass
class TokenSet:
    """The tokens of one module, where they take from or where they are used."""

    kind: str
    module: int
    tokens: list[layers.TokenMap]
    grid: layers.Grid
    places: int  # of the map as the network has it

    @property
    def most_telling(self) -> int:
        return max(range(len(self.tokens)), key=lambda token: self.tokens[token].bits)


def introduction() -> str:
    """Return what stands on top of the page."""
    return _rendered("introduction.html")


def sample_buttons(samples: Sequence[Sample], chosen: Sample | None = None) -> str:
    """Return a button with a picture for each sample photo."""
    pictures = [_small(open_photo(str(sample.path))) for sample in samples]
    return _rendered("samples.html", samples=list(zip(samples, pictures, strict=True)), chosen=chosen)


def stage(session: Session, model: Pipeline) -> str:
    """Return the photo, the answer and the tokens, with everything that the browser may be asked to show."""
    answer, shares, size = session.answer, session.answer.shares, session.view.size
    sets = [
        TokenSet(kind, module, *layers.token_maps(maps, size), places=maps[0].numel())
        for kind, modules in session.maps.items()
        for module, maps in enumerate(modules)
    ]
    classes: list[layers.ClassLayer] = []
    labels = None
    if answer.labels is not None:
        classes, labels = layers.class_layers(answer.labels, answer.class_names, size)
    named = {answer.class_names[layer.label]: (index, layer) for index, layer in enumerate(classes)}
    return _rendered(
        "stage.html",
        session=session,
        photo=layers.address(session.view, quality=QUALITY),
        small=_small(session.view),
        sets=sets,
        first=min(sets, key=lambda one: one.places, default=None),  # fine maps are dots that are hard to see
        levels=words.levels(len(session.maps.get(words.TAKEN, ())), model.place),
        columns=COLUMNS_IF_WIDE if size[0] > WIDE * size[1] else COLUMNS,
        classes=classes,
        legend=[
            (name, *named[name])
            for name in sorted(named, key=lambda name: (place_among_named(name), -shares.get(name, 0)))
        ],
        labels=labels,
    )


def _small(photo: Image.Image) -> str:
    photo = photo.copy()
    photo.thumbnail((SMALL, SMALL))
    return layers.address(photo)


def _rendered(template: str, **values: Any) -> str:
    return _templates.get_template(template).render(words=words, **values)
