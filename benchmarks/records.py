"""What every record under `benchmarks/results/` says of itself: command, versions, machine, date."""

import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

import timm
import torch

import vt_timm

__all__ = ["RESULTS", "facts", "write_json"]

RESULTS = Path(__file__).parent / "results"


def facts() -> dict[str, Any]:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return {
        "command": " ".join(["python", "-m", module.name if module else sys.argv[0], *map(_portable, sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "vt_timm": vt_timm.__version__,
        },
        "machine": f"{_processor()}, {torch.get_num_threads()} torch threads",
    }


def _portable(argument: str) -> str:
    """An absolute path names a folder of this machine: keep its last two parts."""
    path = Path(argument)
    return "/".join(["DATA", *path.parts[-2:]]) if path.is_absolute() else argument


def _processor() -> str:
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
