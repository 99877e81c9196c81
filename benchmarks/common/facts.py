"""What every record under `benchmarks/results/` says of itself: command, commit, versions, machine, date."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

import vt_timm

__all__ = ["RESULTS", "facts", "keep_segmenter_run", "line_of_facts", "without_folders", "write_json"]

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
    """The same as columns of a CSV file: one per version."""
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
    """As it was given, if it was: whether torch asks the system for huge pages, which changes times."""
    wanted = os.environ.get("THP_MEM_ALLOC_ENABLE")
    return [f"THP_MEM_ALLOC_ENABLE={wanted}"] if wanted else []


def _portable(argument: str) -> str:
    """An absolute path names a folder of this machine: keep its last two parts."""
    path = Path(argument)
    return "/".join(["DATA", *path.parts[-2:]]) if path.is_absolute() else argument


def _processor() -> str:
    """Its name, and the widest instructions that torch uses on it."""
    return f"{_model_name()} ({torch.backends.cpu.get_cpu_capability()})"


def _model_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path}")


def keep_segmenter_run(run: Path, name: str, metrics: dict[str, Any]) -> None:
    """Keep a run folder of `vt-timm train-segmenter` as `benchmarks/results/segmentation/NAME`, without paths.

    Args:
        run: its output folder.
        name: what to call it.
        metrics: of the weights that were published, for metrics.json.
    """
    record = RESULTS / "segmentation" / name
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    settings["data_dir"] = Path(settings["data_dir"]).name
    settings["backbone"] = without_folders(settings["backbone"])
    write_json(record / "metrics.json", {**facts(), **metrics})
    (record / "settings.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    (record / "summary.csv").write_text((run / "summary.csv").read_text())


def without_folders(value: str) -> str:
    """An absolute path, also behind a prefix as in local-dir:PATH, without the folders that it lies in."""
    prefix, colon, path = value.rpartition(":")
    return f"{prefix}{colon}{Path(path).name}" if path.startswith(("/", "~")) else value
