"""Keep, read and tabulate the records under `benchmarks/results/`.

Every record says of itself: command, commit, versions, machine and date.
"""

import datetime
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch

import vt_timm

RESULTS = Path(__file__).parents[1] / "results"


def facts() -> dict[str, Any]:
    """Return where a record comes from, for its own object in a JSON file."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name.removesuffix(".__main__") if module else sys.argv[0]
    return {
        "command": " ".join([*_huge_pages(), "python", "-m", name, *map(_portable, sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "vt_timm": vt_timm.__version__,
        },
        "machine": f"{_processor()}, {torch.get_num_threads()} torch threads",
    }


def line_of_facts() -> dict[str, str]:
    """Return the same as columns of a CSV file, one column per version."""
    found = facts()
    return {**found.pop("versions"), **found}


def _commit() -> str:
    """Return the commit of this checkout, with "+" where a tracked file differs; empty where there is no git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _huge_pages() -> list[str]:
    """Return the variable by which torch asks the system for huge pages, if it is set: it changes times."""
    wanted = os.environ.get("THP_MEM_ALLOC_ENABLE")
    return [f"THP_MEM_ALLOC_ENABLE={wanted}"] if wanted else []


def _portable(argument: str) -> str:
    """Keep the last two parts of an absolute path alone, also within `A,PATH` and `KEY=PATH`."""
    return re.sub(r"(?<![^,=:])/[^,=:]*", lambda path: "/".join(["DATA", *Path(path[0]).parts[1:][-2:]]), argument)


def _processor() -> str:
    """Name the processor and the widest instructions that torch uses on it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def read_rows(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """Read the lines of a CSV file whose columns are as wanted.

    Numbers and JSON come as what they are, empty cells as None. A missing file has no lines.
    """
    rows = _rows_in(path.read_bytes()) if path.is_file() else []
    return [dict(row) for row in rows if all(row[key] == value for key, value in wanted.items())]


@lru_cache(maxsize=16)  # a page asks for hundreds of runs, and parsing their file takes a twentieth of a second
def _rows_in(content: bytes) -> list[dict[str, Any]]:
    # Nullable types: a number that is missing somewhere stays an integer elsewhere. A commit of digits is no number.
    frame = pd.read_csv(io.BytesIO(content), dtype={"commit": str}, dtype_backend="numpy_nullable")
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{key: _parsed(value) for key, value in row.items()} for row in rows]


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def replace_rows(path: Path, rows: Iterable[Mapping[str, Any]], **same: Any) -> None:
    """Put rows into a CSV file, in place of those that have these values in these columns, or of all.

    Other rows stay as they are to the letter. A column that the file does not have is added to it.
    """
    written = [
        {key: json.dumps(value) if isinstance(value, dict | list | tuple) else value for key, value in row.items()}
        for row in rows
    ]
    new = pd.DataFrame(written, dtype=object)
    if path.is_file() and same:
        old = pd.read_csv(path, dtype=str, keep_default_na=False)
        replaced = (old[list(same)] == [str(value) for value in same.values()]).all(axis=1)
        new = pd.concat([old[~replaced], new])
    path.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(path, index=False, lineterminator="\n")


def keep_record(file: str, name: str, result: dict[str, Any]) -> None:
    """Keep a result with its facts as the object `name` of a JSON file, in place of an earlier one."""
    path = RESULTS / file
    path.parent.mkdir(parents=True, exist_ok=True)
    records = read_records(file)
    records[name] = {**facts(), **result}
    path.write_text(json.dumps(dict(sorted(records.items())), indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {name} in {path}")


def read_records(file: str) -> dict[str, Any]:
    """Return everything that `keep_record` kept in a file, by name; nothing if there is no file yet."""
    path = RESULTS / file
    return json.loads(path.read_text()) if path.is_file() else {}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a Markdown table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)
