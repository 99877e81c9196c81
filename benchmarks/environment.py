"""The size of an environment with the package in it.

python -m benchmarks.environment .venv --write
"""

import argparse
import json
from pathlib import Path

from .common.records import keep_record

LARGEST = 5


def megabytes(folder: Path) -> int:
    """Return the size of the files in a folder, in 10^6 bytes."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)


def measure(environment: Path) -> dict:
    """Return the size of a virtual environment and of its largest packages, and which torch is in it."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (torch,) = packages.glob("torch-*.dist-info")
    sizes = {path.name: megabytes(path) for path in packages.iterdir() if path.is_dir()}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]
    return {
        "installed": torch.stem,
        "megabytes": megabytes(environment),
        "largest": {name: sizes[name] for name in largest},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", type=Path, metavar="FOLDER", help="a virtual environment")
    parser.add_argument("--name", default="environment", help="what to call the record (default: environment)")
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/records.json")
    args = parser.parse_args()
    result = measure(args.environment)
    print(json.dumps(result, indent=2))
    if args.write:
        keep_record("records.json", args.name, result)


if __name__ == "__main__":
    main()
