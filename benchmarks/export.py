"""What export costs and gains: file size, time and accuracy in 32, 16 and 8 bits, VT-ResNets and their ResNets in turn.

    python -m benchmarks.export --data-dir imagenette2-224                          # R18, with top-1 of the weights
    python -m benchmarks.export --data-dir imagenette2-224 --pairs vt_resnet50,resnet50 --images 0
    python -m benchmarks.export --data-dir imagenette2-224 --format .aoti.pt2 --precisions float32 bfloat16 int8
    python -m benchmarks.export --data-dir ccp --batches 1 --rounds 20 \\
        --pairs vt_fpn_tf_efficientnet_lite0.ccp,fpn_tf_efficientnet_lite0

One thread, ONNX Runtime or AOTInductor; the files take turns, and a time is the median of its rounds, in seconds of the
processor: what else runs on the machine is not counted. Rows are added to `benchmarks/results/export.csv` in place of
those of the same model, format, precision and size. A segmenter is timed at two sizes, and scored at its own; a folder
of another one gives its row the name, and NECK_BACKBONE is an untrained one of the shipped one's classes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from benchmarks.common.measure import in_turn, ratios
from benchmarks.common.records import RESULTS, facts, replace_rows
from benchmarks.segmentation.analysis import recipe
from vt_timm import create_segmenter  # and registers the models
from vt_timm.export.comparison import score
from vt_timm.export.formats import AOTI, ONNX, open_file
from vt_timm.export.write_file import Options, write_file
from vt_timm.files import without_folders
from vt_timm.pipelines.classification import ClassificationPipeline
from vt_timm.pipelines.pipeline import Pipeline
from vt_timm.pipelines.sources import load, load_network, pipeline_of
from vt_timm.vt_fpn import NECKS
from vt_timm.weights.published import published_segmenters

RECORD = RESULTS / "export.csv"
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {}, "float16": {"half": True}, "bfloat16": {"half": True}, "int8": {"int8": True}
}  # fmt: skip
RUNTIMES = {
    ONNX: lambda: f"onnxruntime {metadata.version('onnxruntime')}",
    AOTI: lambda: f"torch {torch.__version__}, torchao {metadata.version('torchao')}",
}
Key = tuple[str, str]  # model and precision
BATCHES = (1, 16)
FEW = 64  # images to calibrate on where the accuracy is not asked for
# Pixels: half of Clothing Co-Parsing's photos, and as the shipped segmenter sees them.
PHOTOS = [(352, 240), (512, 341)]
MEASURES = {"top-1": "top1", "mIoU": "miou", "pixel accuracy": "pixel_accuracy"}  # what `score` calls them


def processor_seconds_of(run: Callable[[], object]) -> float:
    """Return the processor's time that a call takes in this thread alone, in seconds."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def model_of(name: str, size: int) -> tuple[Pipeline, str]:
    """Return a model and whose weights it has; where there are none it is untrained, for its time alone."""
    if Path(name).is_dir():
        return load(name), "of a run"
    if name in published_segmenters() or (timm.list_pretrained(name) and not name.startswith("resnet")):
        return load(name), "shipped"
    torch.manual_seed(0)
    neck, _, backbone = name.partition("_")
    if neck in NECKS:
        like = load_network(next(iter(published_segmenters())), "segmenter")
        segmenter = create_segmenter(neck, backbone, like.num_classes, short_side=like.short_side)
        return pipeline_of(segmenter.eval(), name), "none"
    seen = {"input_size": (3, size, size), "test_input_size": None}
    module = timm.create_model(name, num_classes=10, pretrained_cfg_overlay=seen).eval()
    return ClassificationPipeline(module, name), "none"


def measure(pair: list[str], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row per model, precision and size: exported, timed in turn with all others of its pair, then scored."""
    found = facts()
    said = {key: found[key] for key in ("command", "commit", "date", "machine")} | {"runtime": RUNTIMES[args.format]()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.files or Path(temporary)
        made = {name: model_of(name, args.size) for name in pair}
        models, weights = {n: model for n, (model, _) in made.items()}, {n: whose for n, (_, whose) in made.items()}
        paths = {(n, p): folder / f"{without_folders(n)}-{p}{args.format}" for n in pair for p in args.precisions}
        for (name, precision), path in paths.items():
            if not path.is_file():
                _export(models[name], precision, path, args)
        files = {key: open_file(path) for key, path in paths.items()}
        for shape in _shapes(models[pair[0]], args):
            rows = {}
            for key, path in paths.items():
                row = {"model": without_folders(key[0]), "format": args.format, "precision": key[1], **said}
                row["weights"] = weights[key[0]]
                row["size"] = shape[1] if shape[0] == shape[1] else f"{shape[0]}x{shape[1]}"
                row["megabytes"] = round(path.stat().st_size / 1e6, 2)
                row["calibrated_on"] = (args.images or FEW) if key[1] == "int8" else ""
                rows[key] = row
            for batch in args.batches:
                images = np.random.default_rng(0).standard_normal((batch, 3, *shape), np.float32)
                _time(rows, files, pair, torch.from_numpy(images), args.rounds)
            for key, row in rows.items():
                print(*key, {column: row[column] for column in row if column[:2] in ("ms", "ov", "me")}, flush=True)
                scored = row["weights"] != "none" and args.images and key[1] != "float32"
                if scored and shape == _shapes(models[key[0]], args)[-1]:
                    row |= _scores(models[key[0]], files[key], args)
            yield from rows.values()


def _shapes(model: Pipeline, args: argparse.Namespace) -> list[tuple[int, int]]:
    """Return height and width of the images that are timed; a segmenter is scored with the photos at its own size."""
    return PHOTOS if model.any_size else [(args.size, args.size)]


def _export(model: Pipeline, precision: str, path: Path, args: argparse.Namespace) -> None:
    calibrate = str(args.data_dir / "train") if precision == "int8" else None
    options = Options(**PRECISIONS[precision], calibrate=calibrate, calibrate_images=args.images or FEW, tolerance=1e9)
    write_file(model, path, options)


def _scores(model: Pipeline, file: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    data = args.data_dir
    settings = None
    if (data / "classes.txt").is_file():  # masks, whose meaning the recipe says
        settings = recipe({"data_dir": str(data)})
    scores = score(model, file, model.validation(str(data if settings else data / "val"), settings))
    print(scores, flush=True)
    found: dict[str, Any] = {"photos": scores.images}
    for what, column in MEASURES.items():
        if what in scores.model:
            found |= {f"{column}_model": round(scores.model[what], 2), column: round(scores.file[what], 2)}
    return found


def _time(
    rows: dict[Key, dict[str, Any]], files: dict[Key, nn.Module], pair: list[str], images: torch.Tensor, rounds: int
) -> None:
    batch = len(images)
    ways = {key: partial(file, images) for key, file in files.items()}
    seconds = in_turn(ways, max(5, rounds // batch), warm_up=3, clock=processor_seconds_of)
    for (name, precision), row in rows.items():
        own = seconds[name, precision]
        row[f"ms_batch{batch}"] = round(1000 * statistics.median(own) / batch, 2)
        if precision != "float32" and (name, "float32") in files:
            row[f"over_float32_batch{batch}"] = round(statistics.median(ratios(seconds[name, "float32"], own)), 2)
        if name == pair[0] and len(pair) > 1:
            row[f"over_peer_batch{batch}"] = round(statistics.median(ratios(seconds[pair[1], precision], own)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Imagenette or CCP, with train/ and val/")
    parser.add_argument("--pairs", nargs="+", default=["vt_resnet18,resnet18"], metavar="OURS,PEER")
    parser.add_argument("--format", default=ONNX, choices=RUNTIMES, help="of the files (default: .onnx)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], choices=PRECISIONS)
    parser.add_argument("--size", type=int, default=192, help="pixels (default: 192, the shipped weights' own)")
    parser.add_argument("--images", type=int, default=256, help=f"to calibrate on; 0: {FEW}, and no accuracy")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, choices=BATCHES)
    parser.add_argument("--files", type=Path, help="folder for the files; those that are there are not written again")
    parser.add_argument("--rounds", type=int, default=160, help="rounds at batch 1; at batch 16 a sixteenth of them")
    args = parser.parse_args()
    if ("bfloat16" if args.format == ONNX else "float16") in args.precisions:
        parser.error(f"the 16 bits of {args.format} files are float16 in {ONNX} and bfloat16 in {AOTI}")
    torch.set_num_threads(1)
    for pair in args.pairs:
        rows = list(measure(pair.split(","), args))
        print(*rows, sep="\n")
        for row in rows:  # each in place of one that was recorded before
            replace_rows(RECORD, [row], **{key: row[key] for key in ("model", "format", "precision", "size")})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
