"""What export costs and gains: file size, time and top-1 in 32, 16 and 8 bits, VT-ResNets and their ResNets in turn.

    python -m benchmarks.export --data-dir imagenette2-224                          # R18, with top-1 of the weights
    python -m benchmarks.export --data-dir imagenette2-224 --pairs vt_resnet50,resnet50 --images 0

One thread, ONNX Runtime; the ways take turns, and a time is the median of its rounds, in seconds of the processor: what
else runs on the machine is not counted. Rows are added to `benchmarks/results/export.csv` in place of those of the same
model, precision and size.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import vt_timm
from benchmarks.common.facts import RESULTS, facts
from benchmarks.common.measure import in_turn, ratios
from vt_timm.export.export import Options, export
from vt_timm.export.scores import open_validation, score
from vt_timm.photos.models import Classifier, PhotoModel, load
from vt_timm.photos.onnx_file import OnnxFile

__all__ = ["main"]

RECORD = RESULTS / "export.csv"
PRECISIONS: dict[str, dict[str, Any]] = {"float32": {}, "float16": {"half": True}, "int8": {"int8": True}}
BATCHES = (1, 16)
COLUMNS = [
    "model", "precision", "weights", "size", "megabytes", "top1_model", "top1", "photos",
    *(f"{what}_batch{batch}" for batch in BATCHES for what in ("ms", "over_float32", "over_peer")),
    "calibrated_on", "command", "date", "onnxruntime", "machine",
]  # fmt: skip


def processor_seconds_of(run: Callable[[], object]) -> float:
    """Of this thread alone."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def model_of(name: str, size: int) -> PhotoModel:
    """With its weights where it has some; otherwise as it is made, for its time alone."""
    if timm.list_pretrained(name) and not name.startswith("resnet"):
        return load(name)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=10).eval()
    own: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    module.pretrained_cfg = {**own, "input_size": (3, size, size), "test_input_size": None}  # type: ignore[assignment]
    return Classifier(module)


def measure(pair: list[str], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per model and precision: exported, scored, then timed in turn with all the others of its pair."""
    import onnxruntime

    said = facts()
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    files: dict[tuple[str, str], OnnxFile] = {}
    models: dict[str, PhotoModel] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in pair:
            model = model_of(name, args.size)
            trained = isinstance(model.module.pretrained_cfg, dict) and bool(model.module.pretrained_cfg.get("file"))
            for precision in args.precisions:
                path = Path(folder) / f"{name}-{precision}.onnx"
                calibrate: dict[str, Any] = {"calibrate": str(args.data_dir / "train")} if precision == "int8" else {}
                options = Options(
                    **PRECISIONS[precision], **calibrate, calibrate_images=args.images or 64, tolerance=1e9
                )
                result = export(model, name, path, options)
                files[name, precision] = OnnxFile(path)
                models[name] = model
                row = {"model": name, "precision": precision, "weights": "shipped" if trained else "none"}
                row |= {"size": args.size, "megabytes": round(result.size / 1e6, 2)}
                row["calibrated_on"] = options.calibrate_images if precision == "int8" else ""
                row |= {"command": said["command"], "date": said["date"], "machine": said["machine"]}
                rows[name, precision] = {**row, "onnxruntime": onnxruntime.__version__}
        for batch in BATCHES:
            _time(rows, files, pair, batch, args)
        for key, row in rows.items():
            print(
                *key, {column: value for column, value in row.items() if column[:2] in ("ms", "ov", "me")}, flush=True
            )
            if row["weights"] == "shipped" and args.images and key[1] != "float32":
                scores = score(models[key[0]], files[key], open_validation(models[key[0]], str(args.data_dir / "val")))
                row |= {
                    "top1_model": round(scores.model["top-1"], 2),
                    "top1": round(scores.file["top-1"], 2),
                    "photos": scores.images,
                }
    yield from rows.values()


def _time(
    rows: dict[tuple[str, str], dict[str, Any]],
    files: dict[tuple[str, str], OnnxFile],
    pair: list[str],
    batch: int,
    args: argparse.Namespace,
) -> None:
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, args.size, args.size), np.float32))
    ways: dict[str, Callable[[], object]] = {"/".join(key): partial(file, images) for key, file in files.items()}
    seconds = in_turn(ways, max(5, args.rounds // batch), warm_up=3, clock=processor_seconds_of)
    for (name, precision), row in rows.items():
        own = seconds[f"{name}/{precision}"]
        row[f"ms_batch{batch}"] = round(1000 * statistics.median(own) / batch, 2)
        if precision != "float32" and "float32" in args.precisions:
            row[f"over_float32_batch{batch}"] = round(statistics.median(ratios(seconds[f"{name}/float32"], own)), 2)
        if name == pair[0] and len(pair) > 1:
            row[f"over_peer_batch{batch}"] = round(statistics.median(ratios(seconds[f"{pair[1]}/{precision}"], own)), 2)


def keep(new: list[dict[str, Any]]) -> None:
    """Put rows into the record in place of those of the same models, precisions and sizes."""
    key = ("model", "precision", "size")
    written = {tuple(str(row[k]) for k in key) for row in new}
    old = list(csv.DictReader(RECORD.read_text(encoding="utf-8").splitlines())) if RECORD.is_file() else []
    kept = [row for row in old if tuple(row[k] for k in key) not in written]
    with RECORD.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *new])
    print(f"wrote {RECORD}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Imagenette, with train/ and val/")
    parser.add_argument("--pairs", nargs="+", default=["vt_resnet18,resnet18"], metavar="OURS,PEER")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], choices=PRECISIONS)
    parser.add_argument("--size", type=int, default=160, help="pixels (default: 160, the shipped weights' own)")
    parser.add_argument("--images", type=int, default=256, help="to calibrate on; 0: few, and no top-1")
    parser.add_argument("--rounds", type=int, default=160, help="of batch 1; a sixteenth of them of batch 16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for pair in args.pairs:
        rows = list(measure(pair.split(","), args))
        for row in rows:
            print(*(row.get(column, "") for column in COLUMNS[:14]))
        keep(rows)


if __name__ == "__main__":
    assert vt_timm.__version__  # registers the models
    main()
