"""Where timm's scripts are: they lie in its repository, not in its wheel.

They are looked for in this order: a path given, the environment variable VT_TIMM_SCRIPTS, the checkout that an editable
timm lies in, and a download of the tag that matches the installed timm, kept in a cache.
"""

import base64
import json
import os
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path

import timm
from huggingface_hub.utils.sha import git_hash

from ..files import whole_file
from . import SCRIPTS
from .checks import ScriptError

REPOSITORY = "https://github.com/huggingface/pytorch-image-models"
SCRIPTS_VARIABLE = "VT_TIMM_SCRIPTS"
# GitHub's contents interface: unlike the plain file it also tells the hash, so that a cut download is noticed.
CONTENTS_VARIABLE = "VT_TIMM_SCRIPTS_URL"
CONTENTS = "https://api.github.com/repos/huggingface/pytorch-image-models/contents"
TIMEOUT = 20  # seconds


def find_script(name: str, given: str | None = None) -> Path:
    """Return the file of one of timm's scripts.

    Args:
        name: one of `SCRIPTS`.
        given: the script, or a folder that it lies in.

    Raises:
        ScriptError: if it is none of timm's scripts, or is nowhere to be had.
    """
    if name not in SCRIPTS:
        raise ScriptError(f"timm has no script {name!r} that runs here: choose one of {', '.join(SCRIPTS)}")
    for origin, place in (("--from", given), (SCRIPTS_VARIABLE, os.environ.get(SCRIPTS_VARIABLE))):
        if place:
            path = Path(place).expanduser()
            path = path / f"{name}.py" if path.is_dir() else path
            if not path.is_file():
                raise ScriptError(f"{origin} {place}: there is no {path}; {_how_to_get_them()}")
            return path
    checkout = Path(timm.__file__).parents[1]
    if (checkout / f"{name}.py").is_file() and script_version(checkout / f"{name}.py"):
        return checkout / f"{name}.py"
    return _cached(name) or _download(name)


def script_version(script: Path) -> str | None:
    """Return the version of timm that a script came with, None where it does not lie in a checkout or our cache."""
    version = script.parent / "timm" / "version.py"
    if version.is_file():
        found = re.search(r"__version__ = '(.+)'", version.read_text())
        return found[1] if found else None
    return script.parent.name.removeprefix("timm-") if script.parent.parent == _cache() else None


def _cache() -> Path | None:
    """Return the folder of our downloads, None for a user without a home, as some containers have."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if folder.startswith("~") else Path(folder) / "vt_timm"


def _cached(name: str) -> Path | None:
    """Return a download whose content still has the hash in its name."""
    folder = _cache()
    for path in folder.glob(f"timm-{timm.__version__}/{name}.*.py") if folder else ():
        if git_hash(path.read_bytes()) == path.name.split(".")[1]:
            return path
    return None


def _download(name: str) -> Path:
    folder = _cache()
    if folder is None:
        raise ScriptError(
            f"timm's {name}.py is not on this machine, and this user has no home folder to keep it in: set "
            f"XDG_CACHE_HOME to a folder that can be written, or {_how_to_get_them()}"
        )
    url = f"{os.environ.get(CONTENTS_VARIABLE, CONTENTS)}/{name}.py?ref=v{timm.__version__}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            answer = json.load(response)
        content, sha = base64.b64decode(answer["content"]), answer["sha"]
    except (OSError, HTTPException, KeyError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ScriptError(
            f"timm's {name}.py is not on this machine and {url} gives none ({reason}); {_how_to_get_them()}"
        ) from error
    if git_hash(content) != sha:
        raise ScriptError(f"{url} gave a damaged file; try again, or {_how_to_get_them()}")
    path = folder / f"timm-{timm.__version__}" / f"{name}.{sha}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:  # several processes may download at once
            file.write_bytes(content)
    except OSError as error:
        raise ScriptError(
            f"cannot keep timm's {name}.py in {folder} ({error}): set XDG_CACHE_HOME to a folder that can be "
            f"written, or {_how_to_get_them()}"
        ) from error
    return path


def _how_to_get_them() -> str:
    return (
        f"run `git clone --branch v{timm.__version__} {REPOSITORY}` "
        f"and set {SCRIPTS_VARIABLE}=pytorch-image-models, or say `vt-timm run --from pytorch-image-models ...`"
    )
