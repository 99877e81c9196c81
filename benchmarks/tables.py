"""Write the tables of the pages in place, from the records.

    python -m benchmarks.tables            # fill the tables
    python -m benchmarks.tables --check    # fail if a page has another table than the records give
    python -m benchmarks.tables --plots    # draw the plots of the pages as well

A page holds `<!-- table: NAME -->`, a table, and `<!-- /table -->`. Everything else on a page is written by a person.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import timm

from . import calibration, corruptions, token_trials, tokens
from .accuracy import tables as accuracy
from .common.counting import count  # and registers the models
from .common.records import RESULTS, read_rows, table
from .segmentation import tables as segmenters
from .throughput import tables as speed
from .throughput.runner import rows_of

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "MODEL_CARD.md", *sorted(RESULTS.glob("*/*.md")))
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
MODELS = ("vt_resnet18", "vt_resnet34", "vt_resnet50", "vt_resnet101", "vt_resnet_micro")


def models() -> str:
    """Tabulate cost, speed, and top-1 of the shipped weights, the best of each model."""
    eager = {
        r["model"]: f"{r['ratio']:.2f}" for r in rows_of("rows", "eager", memory_format="contiguous", batch_size=1)
    }
    rows = []
    for name in MODELS:
        macs, params = count(name)
        resnet = name.removeprefix("vt_")
        share = f"{macs / count(resnet).macs:.2f}" if timm.is_model(resnet) else None
        shipped = read_rows(RESULTS / "accuracy" / "shipped.csv", architecture=name)
        best = max(shipped, key=lambda r: r["top1"], default=None)
        top1 = f"{best['top1']:.2f} % at {best['input_size'][-1]} px" if best else "none"
        rows.append([f"`{name}`", f"{params:.2f}", f"{macs:.0f}", share, eager.get(name), top1])
    head = ["model", "parameters (M)", "MACs at 224 px (M)", "of its ResNet's MACs"]
    return table([*head, "times the ResNet's speed, batch 1", "shipped weights, Imagenette top-1"], rows)


def weights() -> str:
    """Tabulate the shipped weights."""
    rows = []
    for r in read_rows(RESULTS / "accuracy" / "shipped.csv"):
        card = f"[card](hub/{r['model']}/README.md)"
        top = (f"{r['top1']:.2f} %", f"{r['top5']:.2f} %")
        rows.append([f"`{r['model']}`", *top, f"{r['input_size'][-1]} px", f"{r['images']:,}", card])
    return table(["weights", "top-1", "top-5", "image size", "validation images", "card"], rows)


def exported() -> str:
    """Tabulate what 8 bits do to the shipped models, each at its own size."""
    rows = {(r["model"], r["size"], r["precision"]): r for r in read_rows(RESULTS / "export.csv", format=".onnx")}
    cells = []
    for (model, size, precision), small in rows.items():
        if precision == "int8" and small["photos"] and small["weights"] == "shipped":
            full = rows[model, size, "float32"]
            name, column = ("mIoU", "miou") if small["miou"] else ("top-1", "top1")
            accuracy = f"{name} {small[f'{column}_model']:.2f} -> {small[column]:.2f} %"
            size_of_file = f"{full['megabytes']:.1f} -> {small['megabytes']:.1f}"
            cells.append([f"`{model}`", size, size_of_file, f"{small['over_float32_batch1']:.2f}", accuracy])
    return table(["model", "px", "MB", "times faster", "accuracy"], cells)


def files() -> str:
    """Tabulate exported files in ONNX Runtime and AOTInductor, each beside its peer's."""
    rows = read_rows(RESULTS / "export.csv")
    shared = ("format", "precision", "size", "machine")
    peers = {tuple(row[key] for key in shared): row for row in rows if row["over_peer_batch1"] is None}
    cells = []
    for row in rows:
        if row["over_peer_batch1"] is None:
            continue
        name = row["model"].partition("_tf_")[0]
        size = f"{row['megabytes']:.1f} / {peers[tuple(row[key] for key in shared)]['megabytes']:.1f}"
        times = [
            f"{row[f'ms_batch{batch}']:.1f} ({row[f'over_peer_batch{batch}']:.2f})" if row[f"ms_batch{batch}"] else None
            for batch in (1, 16)
        ]
        cells.append([f"`{name}`", row["format"], row["precision"], row["size"], size, *times])
    head = ["model", "file", "precision", "px", "MB, ours / peer"]
    return table([*head, "ms, batch 1", "ms per image, batch 16"], cells)


def scores() -> str:
    """Tabulate what exported files score beside the models that they came from."""
    cells = []
    for row in read_rows(RESULTS / "export.csv"):
        for name, column in (("top-1", "top1"), ("mIoU", "miou"), ("pixels", "pixel_accuracy")):
            if row[column]:
                score = [f"{row[f'{column}_model']:.2f}", f"{row[column]:.2f}"]
                cells.append([f"`{row['model']}`", row["format"], row["precision"], name, *score, row["photos"]])
    return table(["model", "file", "precision", "score", "model, %", "file, %", "photos"], cells)


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "weights": weights,
    "exported": exported,
    "files": files,
    "scores": scores,
    **accuracy.TABLES,
    **segmenters.TABLES,
    **speed.TABLES,
    "calibration": calibration.calibration_table,
    "corruptions": corruptions.corruptions_table,
    **tokens.TABLES,
    **token_trials.TABLES,
}


def fill(text: str) -> str:
    """Return a page with every marked table as the records give it.

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
        segmenters.draw()
        speed.draw()
    if args.check and differ:
        print(f"other tables than the records give: {', '.join(differ)}; run python -m benchmarks.tables")
        return 1
    print(f"{len(PAGES)} pages, {len(differ)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
