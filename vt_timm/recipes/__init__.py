"""The training recipes that ship with the package: settings for timm's `train.py --config`, one YAML file each."""

import difflib
from pathlib import Path

__all__ = ["find_recipe", "list_recipes"]

FOLDER = Path(__file__).parent


def list_recipes() -> dict[str, str]:
    """What each recipe is for, by its name: the first sentence of the comment that it opens with."""
    summaries = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        comment = []
        for line in path.read_text().splitlines():
            if not line.startswith("# "):
                break
            comment.append(line[2:])
        summaries[path.stem] = " ".join(comment).partition(". ")[0].rstrip(".")
    return summaries


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: if there is none of that name, with the names that come close.
    """
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(names))}"
        raise ValueError(f"no recipe and no file is called {name}; {hint}")
    return FOLDER / f"{name}.yaml"
