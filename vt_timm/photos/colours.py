"""How the classes of a picture are shown: which come first, and in colours that are natural, calm and told apart."""

from collections.abc import Sequence
from functools import cache

import numpy as np

NAMED_LAST = ("face", "skin", "hair", "background")  # nobody asks for these first
GREY = (112, 112, 112)  # of the first class, the background
# What one would paint it with; found by the last word of a class's name that stands here.
NATURAL = {
    "hair": (84, 50, 34), "skin": (238, 190, 160), "dress": (214, 100, 150), "skirt": (178, 160, 214),
    "top": (122, 178, 142), "jacket": (40, 94, 84), "trousers": (66, 104, 168), "legwear": (108, 58, 110),
    "shoes": (46, 50, 62), "bag": (196, 124, 60), "accessories": (240, 208, 92), "hat": (216, 176, 60),
    "scarf": (206, 96, 72), "gloves": (150, 110, 88), "glasses": (90, 100, 128),
}  # fmt: skip
ALSO = {
    "skin": "face arm arms leg legs hand hands foot feet neck body torso",
    "dress": "dresses romper jumpsuit jumpsuits gown",
    "skirt": "skirts",
    "top": "tops shirt t-shirt blouse sweater sweatshirt jumper hoodie bodysuit clothes upper-clothes",
    "jacket": "coat coats jackets blazer cardigan suit vest cape outerwear",
    "trousers": "pants jeans denim shorts leggings trouser",
    "legwear": "socks sock stockings tights",
    "shoes": "shoe boots sneakers sandals heels flats footwear pumps loafers clogs wedges",
    "bag": "bags purse wallet backpack handbag",
    "accessories": "accessory belt necklace bracelet earrings ring watch tie",
    "hat": "hats cap helmet",
    "gloves": "glove",
    "glasses": "sunglasses",
}
WORDS = {**{word: name for name, words in ALSO.items() for word in words.split()}, **{name: name for name in NATURAL}}
APART = 14.0  # in L*a*b*; fewer than 10 is hard to tell on a photo
STEPS = 16  # per channel of the colours to choose from
LIGHT, CALM = (20, 92), 55  # range of L* and most chroma of colours to choose from
# Linear RGB as usual eyes see it, as full protanopia, and as full deuteranopia (Machado, Oliveira and Fernandes, 2009)
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)


def place_among_named(name: str) -> int:
    """Return a class's place in an answer: 0 for what is worn, then the person, and the background last."""
    return 1 + NAMED_LAST.index(name) if name in NAMED_LAST else 0


def palette(class_names: Sequence[str]) -> np.ndarray:
    """Return one colour per class, (K, 3) of 0 to 255.

    The first class is grey. A class of clothes has its natural colour, or the nearest one that is `APART` from all
    before; any other has the calm colour that is farthest from all. Distances are the smallest of three, as most eyes
    see colours and as the two kinds of red-green blindness show them, so that no two classes look alike to any.
    """
    return _palette(tuple(class_names))


@cache
def _palette(class_names: tuple[str, ...]) -> np.ndarray:
    known = {i: NATURAL[word] for i, name in enumerate(class_names) if i and (word := _word(name))}
    colours = np.tile(np.array(GREY), (len(class_names), 1))
    grid = _calm_colours()
    nearest = seen_distances(grid, colours[0])
    for i in [*known, *(i for i in range(1, len(class_names)) if i not in known)]:
        chosen = grid[nearest.argmax()]
        if i in known and nearest.max() >= APART:
            wanted = np.array([known[i]])
            apart = np.concatenate([wanted, grid[nearest >= APART]])
            taken = colours[[0, *(k for k in known if k < i)]]
            if min(seen_distances(wanted, colour)[0] for colour in taken) < APART:
                apart = apart[1:]
            chosen = apart[np.linalg.norm(_lab(apart) - _lab(wanted), axis=1).argmin()]
        colours[i] = chosen
        nearest = np.minimum(nearest, seen_distances(grid, chosen))
    return colours.astype(np.uint8)


def _word(name: str) -> str | None:
    """Return the natural colour's name for a class, by the last word that has one."""
    found = [WORDS[word] for word in name.lower().replace("_", " ").split() if word in WORDS]
    return found[-1] if found else None


@cache
def _calm_colours() -> np.ndarray:
    steps = np.linspace(0, 255, STEPS)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = _lab(grid).T
    return grid[(lightness > LIGHT[0]) & (lightness < LIGHT[1]) & (np.hypot(a, b) < CALM)]


def seen_distances(colours: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return how far colours are from another one, (N,): the smallest distance for any of `EYES`."""
    return np.min([np.linalg.norm(_lab(colours, eyes) - _lab(colour, eyes), axis=-1) for eyes in EYES], axis=0)


def _lab(rgb: np.ndarray, eyes: np.ndarray = EYES[0]) -> np.ndarray:
    """Return sRGB of 0 to 255 as CIE 1976 L*a*b*, seen under D65 and through a matrix on linear RGB."""
    rgb = np.asarray(rgb) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ eyes.T).clip(0, 1) @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = np.moveaxis(np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
