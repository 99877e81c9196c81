"""What every record under `benchmarks/results/` says of itself: command, versions, machine, date."""

import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

import vt_timm

__all__ = ["RESULTS", "facts", "keep_run", "keep_segmenter_run", "without_folders", "write_json"]

RESULTS = Path(__file__).parents[1] / "results"


def facts() -> dict[str, Any]:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name.removesuffix(".__main__") if module else sys.argv[0]
    return {
        "command": " ".join([*_huge_pages(), "python", "-m", name, *map(_portable, sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "vt_timm": vt_timm.__version__,
        },
        "machine": f"{_processor()}, {torch.get_num_threads()} torch threads",
    }


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


def keep_run(run: Path, name: str, log: Path, where: Path | None = None) -> Path:
    """Keep a run folder of timm's train.py as `benchmarks/results/runs/NAME`, without this machine's paths.

    Args:
        run: its output folder, with args.yaml and, once an epoch was evaluated, summary.csv.
        name: what to call it.
        log: what train.py printed.
        where: in another folder than `benchmarks/results/runs`.
    """
    record = (where or RESULTS / "runs") / name
    record.mkdir(parents=True, exist_ok=True)
    args = yaml.safe_load((run / "args.yaml").read_text())
    args = {key: without_folders(value) if isinstance(value, str) else value for key, value in args.items()}
    (record / "args.yaml").write_text(yaml.safe_dump(args))
    if (run / "summary.csv").is_file():  # a run that was stopped may have evaluated nothing
        (record / "summary.csv").write_text((run / "summary.csv").read_text())
    kept = re.compile(r"Train|Test|\*{3}|Model|Scheduled|Created|LogitDistillationTask")
    lines = [line for line in log.read_text().splitlines() if kept.match(line)]
    (record / "train.log").write_text("\n".join(lines) + "\n")
    return record


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
