"""What every record under `benchmarks/results/` says of itself: command, commit, versions, machine, date; and the
Markdown tables that pages make of records.
"""

import csv
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

import vt_timm
from vt_timm.segmentation.settings import name_of_segmenter

__all__ = [
    "RESULTS",
    "facts",
    "keep_record",
    "keep_segmenter_run",
    "line_of_facts",
    "record_of",
    "table",
    "without_folders",
]

RESULTS = Path(__file__).parents[1] / "results"


def facts() -> dict[str, Any]:
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
    """The same as columns of a CSV file, one column per version."""
    found = facts()
    return {**found.pop("versions"), **found}


def _commit() -> str:
    """The commit of this checkout, with "+" after it where a tracked file differs; empty where there is no git."""
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
    """The variable by which torch asks the system for huge pages, if it is set: it changes times."""
    wanted = os.environ.get("THP_MEM_ALLOC_ENABLE")
    return [f"THP_MEM_ALLOC_ENABLE={wanted}"] if wanted else []


def _portable(argument: str) -> str:
    """An absolute path names a folder of this machine: keep its last two parts, also within `A,PATH` or `KEY=PATH`."""
    return re.sub(r"(?<![^,=:])/[^,=:]*", lambda path: "/".join(["DATA", *Path(path[0]).parts[1:][-2:]]), argument)


def _processor() -> str:
    """The processor's name, and the widest instructions that torch uses on it."""
    return f"{_model_name()} ({torch.backends.cpu.get_cpu_capability()})"


def _model_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_record(file: str, name: str, result: dict[str, Any]) -> None:
    """Keep a result with its facts as the object `name` of a JSON file under `benchmarks/results/`, in place of an
    earlier one.
    """
    path = RESULTS / file
    path.parent.mkdir(parents=True, exist_ok=True)
    records = json.loads(path.read_text()) if path.is_file() else {}
    records[name] = {**facts(), **result}
    path.write_text(json.dumps(dict(sorted(records.items())), indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {name} in {path}")


def record_of(file: str, name: str) -> dict[str, Any]:
    """What `keep_record` kept."""
    return json.loads((RESULTS / file).read_text())[name]


def keep_segmenter_run(run: Path, name: str, metrics: dict[str, Any]) -> None:
    """Keep a run of `vt-timm train-segmenter` that ships in `segmentation/shipped.json`, without this machine's paths.

    Args:
        run: the run's output folder.
        name: what to call it.
        metrics: metrics of the weights that were published.
    """
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    settings["data_dir"] = Path(settings["data_dir"]).name
    settings["backbone"] = without_folders(settings["backbone"])
    settings["initial_checkpoint"] = name_of_segmenter(settings.get("initial_checkpoint", ""))
    with (run / "summary.csv").open() as file:
        evaluations = [{key: json.loads(value) for key, value in row.items()} for row in csv.DictReader(file)]
    keep_record("segmentation/shipped.json", name, {**metrics, "settings": settings, "evaluations": evaluations})


def without_folders(value: str) -> str:
    """An absolute path, also behind a prefix as in local-dir:PATH, without the folders that it lies in."""
    prefix, colon, path = value.rpartition(":")
    return f"{prefix}{colon}{Path(path).name}" if path.startswith(("/", "~")) else value


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)
