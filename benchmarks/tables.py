"""The generated tables of the pages, written in place from the records.

    python -m benchmarks.tables            # fill the tables
    python -m benchmarks.tables --check    # fail if a page has another table than the records give
    python -m benchmarks.tables --plots    # draw the plots of the pages as well

A page holds `<!-- table: NAME -->`, a table, and `<!-- /table -->`. Everything else on a page is written by a person.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from .accuracy import tables as accuracy
from .common.facts import RESULTS, table
from .common.runs import read_rows
from .throughput import tables as speed
from .throughput.runner import rows_of

__all__ = ["PAGES", "TABLES", "fill"]

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "MODEL_CARD.md",
    RESULTS / "accuracy" / "README.md",
    RESULTS / "speed" / "README.md",
)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
MODELS = ("vt_resnet18", "vt_resnet34", "vt_resnet50", "vt_resnet101", "vt_resnet_micro")


def models() -> str:
    """Cost, speed, and top-1 of the shipped weights, the best of each model."""
    cost = {(r["model"], r["quantity"]): r["ours"] for r in _complexity() if r["ours"]}
    eager = {
        r["model"]: f"{r['ratio']:.2f}" for r in rows_of("rows", "eager", memory_format="contiguous", batch_size=1)
    }
    rows = []
    for name in MODELS:
        macs, params = float(cost[name, "MACs (M)"]), float(cost[name, "parameters (M)"])
        resnet = cost.get((name.removeprefix("vt_"), "MACs (M)"))
        share = f"{macs / float(resnet):.2f}" if resnet else None
        shipped = [r for r in read_rows(RESULTS / "accuracy" / "shipped.csv") if r["architecture"] == name]
        best = max(shipped, key=lambda r: r["top1"], default=None)
        top1 = f"{best['top1']:.2f} % at {best['input_size'][-1]} px" if best else "none"
        rows.append([f"`{name}`", f"{params:.1f}", f"{macs:.0f}", share, eager.get(name), top1])
    head = ["model", "parameters (M)", "MACs at 224 px (M)", "of its ResNet's MACs"]
    return table([*head, "times the ResNet's speed, batch 1", "shipped weights, Imagenette top-1"], rows)


def _complexity() -> list[dict[str, str]]:
    with (RESULTS / "complexity.csv").open() as file:
        return list(csv.DictReader(file))


def weights() -> str:
    """The shipped weights."""
    rows = []
    for r in read_rows(RESULTS / "accuracy" / "shipped.csv"):
        card = f"[card](hub/{r['model']}/README.md)"
        top = (f"{r['top1']:.2f} %", f"{r['top5']:.2f} %")
        rows.append([f"`{r['model']}`", *top, f"{r['input_size'][-1]} px", f"{r['images']:,}", card])
    return table(["weights", "top-1", "top-5", "image size", "validation images", "card"], rows)


def segmentation() -> str:
    """The shipped segmenters, as their records say."""
    rows = []
    for name, record in json.loads((RESULTS / "segmentation" / "shipped.json").read_text()).items():
        if (ROOT / "hub" / name / "config.json").is_file():
            scores = (f"{record['miou']:.2f} %", f"{record['pixel_accuracy']:.2f} %")
            classes, card = len(record["iou"]), f"[card](hub/{name}/README.md)"
            rows.append([f"`{name}`", classes, *scores, record["images"], record["update"], card])
    return table(["segmenter", "classes", "mIoU", "pixel accuracy", "validation images", "updates", "card"], rows)


def exported() -> str:
    """What 8 bits do to the shipped models, each at its own size."""
    rows = {(r["model"], r["size"], r["precision"]): r for r in _files() if r["format"] == ".onnx"}
    cells = []
    for (model, size, precision), small in rows.items():
        if precision == "int8" and small["photos"] and small["weights"] == "shipped":
            full = rows[model, size, "float32"]
            name, column = ("mIoU", "miou") if small["miou"] else ("top-1", "top1")
            accuracy = f"{name} {float(small[f'{column}_model']):.2f} -> {float(small[column]):.2f} %"
            size_of_file = f"{float(full['megabytes']):.1f} -> {float(small['megabytes']):.1f}"
            cells.append([f"`{model}`", size, size_of_file, small["over_float32_batch1"], accuracy])
    return table(["model", "px", "MB", "times faster", "accuracy"], cells)


def _files() -> list[dict[str, str]]:
    with (RESULTS / "export.csv").open() as file:
        return list(csv.DictReader(file))


def files() -> str:
    """Exported files in ONNX Runtime and AOTInductor."""
    cells = []
    for r in _files():
        accuracy = [
            f"{name} {float(r[f'{column}_model']):.2f} -> {float(r[column]):.2f} %"
            for name, column in (("top-1", "top1"), ("mIoU", "miou"), ("pixels", "pixel_accuracy"))
            if r.get(column)
        ]
        photos = f" ({r['photos']} photos)" if accuracy else ""
        times = (r[f"{what}_batch{batch}"] for batch in (1, 16) for what in ("ms", "over_float32", "over_peer"))
        cells.append(
            [
                f"`{r['model']}`",
                r["format"],
                r["precision"],
                r["size"],
                r["megabytes"],
                r["machine"].split(" (AVX")[0].replace("(R)", "").replace(" Processor", ""),
                *times,
                ", ".join(accuracy) + photos,
            ]
        )
    head = ["model", "file", "precision", "px", "MB", "processor"]
    for of_time in ("ms, batch 1", "ms per image, batch 16"):
        head += [of_time, "over float32", "over its peer"]
    return table([*head, "model -> file"], cells)


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "weights": weights,
    "segmentation": segmentation,
    "exported": exported,
    "files": files,
    **accuracy.TABLES,
    **speed.TABLES,
}


def fill(text: str) -> str:
    """A page with every marked table as the records give it.

    Raises:
        KeyError: if there is no table of a name.
    """
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page differs")
    parser.add_argument("--plots", action="store_true", help="draw the plots as well")
    args = parser.parse_args()
    differ = []
    for page in PAGES:
        text = page.read_text()
        try:
            filled = fill(text)
        except KeyError as error:
            parser.error(f"{page.relative_to(ROOT)}: no table {error}; there are {', '.join(TABLES)}")
        if filled != text:
            differ.append(str(page.relative_to(ROOT)))
            if not args.check:
                page.write_text(filled)
    if args.plots:
        accuracy.draw()
        speed.draw()
    if args.check and differ:
        print(f"other tables than the records give: {', '.join(differ)}; run python -m benchmarks.tables")
        return 1
    print(f"{len(PAGES)} pages, {len(differ)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
