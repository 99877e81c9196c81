"""Names of models without the folders of this machine."""

from pathlib import Path


def without_folders(name: str) -> str:
    """Return a name; of a path that is absolute or leads somewhere the last part, also behind a prefix as `local-dir:`.

    A run is named in place of its folder `best`.
    """
    prefix, colon, text = name.rpartition(":")
    path = Path(text)
    if not text.startswith(("/", "~")) and not path.exists():
        return name
    last = path.parent.name if path.name == "best" else path.name
    return f"{prefix}{colon}{last or path.resolve().name}" if text else name
