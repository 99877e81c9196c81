"""The training recipes that ship with the package, one YAML file each.

Those for classifiers lie here, with the settings of timm's `train.py --config`. Those for segmenters lie under
`segmentation/`, with the settings of `vt-timm train-segmenter --config`.
"""

from itertools import takewhile
from pathlib import Path

from ..errors import CommandError, did_you_mean

FOLDER = Path(__file__).parent
SEGMENTATION = FOLDER / "segmentation"


def list_recipes(folder: Path = FOLDER) -> dict[str, str]:
    """Return what each recipe is for, by its name: the first sentence of the comment that it opens with."""
    summaries = {}
    for path in sorted(folder.glob("*.yaml")):
        comment = takewhile(lambda line: line.startswith("# "), path.read_text().splitlines())
        summaries[path.stem] = " ".join(line[2:] for line in comment).partition(". ")[0].rstrip(".")
    return summaries


def find_recipe(name: str, folder: Path = FOLDER) -> Path:
    """Find a file of settings: one of the user's by its name, or a recipe.

    Raises:
        CommandError: if there is none of that name, with the names that come close.
    """
    if Path(name).is_file():
        return Path(name)
    names = [path.stem for path in folder.glob("*.yaml")]
    if name not in names:
        hint = did_you_mean(name, names, 3) or f"; there are {', '.join(sorted(names))}"
        raise CommandError(f"no recipe and no file is called {name}{hint}")
    return folder / f"{name}.yaml"
