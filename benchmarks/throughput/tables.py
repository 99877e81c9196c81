"""The tables of `benchmarks/results/speed/README.md`, and its plot, from the records."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..common.facts import RESULTS, table
from ..common.runs import read_rows
from .passes import PEERS, macs_of
from .runner import Row, rows_of

__all__ = ["TABLES", "draw"]

Column = tuple[str, str, dict[str, Any]]  # title, record, and what its rows must have
FOLDER = RESULTS / "speed"
# Record, precision, colour and name of what the plot shows.
DRAWN = (
    ("eager", "float32", "tab:green", "float32, AVX2"),
    ("bfloat16_eager", "bfloat16", "tab:red", "bfloat16, AVX512"),
)


def ratios(*columns: Column) -> str:
    """One line per model, layout and size, one column per title; each has a record and what its rows must have."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for title, record, wanted in columns:
        for row in rows_of("rows", record, **wanted):
            key = (row["model"], row["peer"], row["memory_format"], row["size"], f"{row['macs_ratio']:.2f}")
            lines.setdefault(key, {})[title] = _with_middle_half(row, "ratio")
    titles = list(dict.fromkeys(title for title, _, _ in columns))
    head = ["model", "against", "layout", "px", "MACs", *titles]
    return table(head, ([*key, *(cells.get(title) for title in titles)] for key, cells in lines.items()))


def _with_middle_half(row: Row, key: str) -> str:
    return f"{row[key]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _by_batch(title: str, record: str, **wanted: Any) -> Iterable[Column]:
    return [(f"{title}, batch {size}", record, {**wanted, "batch_size": size}) for size in (1, 16)]


def quick(*columns: Column, layouts: bool = True) -> str:
    """The ratios alone, in one line per model, and per layout if there are two."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for title, record, wanted in columns:
        for row in rows_of("rows", record, **wanted):
            layout = (row["memory_format"],) if layouts else ()
            key = (f"`{row['model']}`", *layout, f"{row['macs_ratio']:.2f}")
            lines.setdefault(key, {})[title] = f"{row['ratio']:.2f}"
    titles = list(dict.fromkeys(title for title, _, _ in columns))
    head = ["model", *(["layout"] if layouts else []), "MACs", *titles]
    order = [f"`{model}`" for model in PEERS]
    found = sorted(lines.items(), key=lambda item: order.index(item[0][0]))
    return table(head, ([*key, *(cells.get(title) for title in titles)] for key, cells in found))


def sizes() -> str:
    """How the ratio grows with the image, and what a VT stage that took no time would give."""
    free = {(r["model"], r["size"]): r["free"] for r in rows_of("stages", "stages_sizes")}
    free |= {
        (r["model"], 224): r["free"] for r in rows_of("stages", "stages", memory_format="channels_last", batch_size=1)
    }
    rows = [
        [
            r["model"],
            r["size"],
            f"{r['macs_ratio']:.2f}",
            _with_middle_half(r, "ratio"),
            f"{free[r['model'], r['size']]:.2f}",
        ]
        for r in rows_of("rows", "sizes")
    ]
    return table(["model", "px", "MACs", "float32, batch 1", "with a VT stage of no time"], rows)


def bounds() -> str:
    """Milliseconds of the parts, and the ratios that they allow."""
    head = ["record", "model", "precision", "layout", "px", "batch", "ResNet", "layer4", "VT stage", "as it is"]
    head += ["products", "free", "layer4, GMAC/s", "VT stage, GMAC/s", "product, GMAC/s"]
    keys = ["record", "model", "precision", "memory_format", "size", "batch_size", "resnet_ms", "layer4_ms"]
    keys += ["vt_stage_ms", "as_it_is", "products", "free"]
    keys += [f"{part}_gmacs_per_second" for part in ("layer4", "vt_stage", "product")]
    return table(head, ([row[key] for key in keys] for row in rows_of("stages")))


def memory() -> str:
    """What a pass allocates at its peak."""
    head = ["task", "model", "layout", "precision", "px", "batch", "VT-ResNet, MB", "ResNet, MB", "share"]
    head += ["VT stage keeps, MB", "layer4 keeps, MB"]
    keys = ["task", "model", "memory_format", "precision", "size", "batch_size", "model_megabytes", "peer_megabytes"]
    kept = ("vt_stage_keeps_megabytes", "layer4_keeps_megabytes")
    return table(
        head,
        (
            [*(row[key] for key in keys), f"{row['share']:.3f}", *(row[key] for key in kept)]
            for row in rows_of("memory")
        ),
    )


def memory_shares() -> str:
    """Peak memory over the ResNet's."""
    shares = {(r["model"], r["task"], r["memory_format"]): f"{r['share']:.2f}" for r in rows_of("memory")}
    columns = [(task, layout) for task in ("inference", "train") for layout in ("contiguous", "channels_last")]
    names = {"inference": "inference", "train": "training step"}
    head = ["model", *(f"{names[task]}, {layout}" for task, layout in columns)]
    return table(head, ([f"`{model}`", *(shares[(model, *column)] for column in columns)] for model in PEERS))


def projector() -> str:
    """The projector beside torch's fused attention."""
    head = ["model", "layout", "precision", "px", "batch", "projector, ms", "fused, ms", "fused, times its speed"]
    keys = ["model", "memory_format", "precision", "size", "batch_size", "projector_ms", "fused_ms"]
    rows = rows_of("projector")
    return table(head, ([*(row[key] for key in keys), _with_middle_half(row, "fused_is_faster_by")] for row in rows))


def fpn() -> str:
    """VT-FPN beside FPN, the neck alone and the whole segmenter."""
    found = json.loads((RESULTS / "records.json").read_text())["fpn"]
    rows = []
    for name, key in (("neck", "neck"), ("whole network", "whole_network")):
        part = found[key]
        low, high = part["times_faster_middle_half"]
        seconds, share = part["seconds_median"], part["share_of_fpns_memory"]
        faster = f"{part['times_faster_median']:.2f} ({low:.2f} to {high:.2f})"
        rows.append([name, f"{seconds['fpn']:.2f}", f"{seconds['vt_fpn']:.2f}", faster, f"{share:.2f}"])
    return table(["part", "FPN, s", "VT-FPN, s", "times FPN's speed", "share of FPN's peak memory"], rows)


def startup() -> str:
    """Milliseconds of imports and of `timm.create_model`."""
    rows = [
        [
            " ".join(filter(None, (row["what"], row["model"]))),
            row["ms"],
            None if row["times_the_peer"] is None else f"{row['times_the_peer']:.2f}",
            None if row["low"] is None else f"{row['low']:g} to {row['high']:g}",
        ]
        for row in rows_of("startup")
    ]
    return table(["what", "ms", "times the ResNet's", "middle half"], rows)


def records() -> str:
    """Where the rows come from."""
    keys = ("record", "commit", "date", "machine", "torch", "timm")
    rows = ([*(row[key] for key in keys), f"`{row['command']}`"] for row in read_rows(FOLDER / "records.csv"))
    return table([*keys, "command"], rows)


EAGER: list[Column] = [
    *_by_batch("float32", "eager"),
    *_by_batch("again", "eager_again"),
    ("huge pages, batch 16", "eager_huge_pages", {}),
    ("batch 64", "eager_batch64", {}),
    *_by_batch("2 threads", "eager_2threads"),
]
BFLOAT16: list[Column] = [
    *_by_batch("eager", "bfloat16_eager"),
    ("batch 64", "bfloat16_batch64", {}),
    *_by_batch("2 threads", "bfloat16_2threads"),
    *_by_batch("compiled", "bfloat16_compile"),
    ("compiled, batch 1", "bfloat16_compile_34_101", {}),
    ("training step, batch 16", "bfloat16_train", {}),
    ("second run, batch 1", "bfloat16_sizes", {}),
]
EXPORTED = [
    *_by_batch("torch.compile", "compile"),
    *_by_batch("AOTInductor", "aot"),
    *_by_batch("ONNX Runtime", "onnx"),
]
TRAIN: list[Column] = [("training step, batch 16", "train", {})]

TABLES: dict[str, Callable[[], str]] = {
    "speed": partial(quick, *_by_batch("AVX2, float32", "eager"), *_by_batch("AVX512, bfloat16", "bfloat16_eager")),
    "export": partial(quick, *EXPORTED, layouts=False),
    "training_step": partial(quick, *TRAIN),
    "memory": memory_shares,
    "speed_eager": partial(ratios, *EAGER),
    "speed_exported": partial(ratios, *EXPORTED),
    "speed_train": partial(ratios, *TRAIN),
    "speed_sizes": sizes,
    "speed_bfloat16": partial(ratios, *BFLOAT16),
    "speed_others": partial(ratios, ("float32, batch 1", "others", {})),
    "speed_before": partial(ratios, *_by_batch("float32", "before")),
    "speed_memory": memory,
    "speed_bounds": bounds,
    "speed_projector": projector,
    "speed_fpn": fpn,
    "speed_startup": startup,
    "speed_records": records,
}


def draw() -> None:
    """Ratio of times against ratio of MACs, and time per image against MACs, of the records that have all models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.0), dpi=150)
    left, right = figure.subplots(1, 2)
    markers = {"contiguous": "o", "channels_last": "^"}
    for record, precision, colour, label in DRAWN:
        left.plot([], [], "s", color=colour, label=label)
        right.plot([], [], "s", color=colour, fillstyle="none", label=f"ResNet, {label}")
        right.plot([], [], "s", color=colour, label=f"VT-ResNet, {label}")
        for row in rows_of("rows", record, precision=precision):
            left.scatter(
                row["macs_ratio"],
                row["ratio"],
                marker=markers[row["memory_format"]],
                facecolors=colour if row["batch_size"] == 1 else "none",
                edgecolors=colour,
            )
            if (row["memory_format"], row["batch_size"]) == ("channels_last", 16):
                _join(right, row, colour, record == DRAWN[0][0])
    for layout, marker in markers.items():
        left.plot([], [], marker, color="tab:gray", label=f"{layout}, batch 1")
        left.plot([], [], marker, color="tab:gray", fillstyle="none", label=f"{layout}, batch 16")
    left.plot([1.06, 1.2], [1.06, 1.2], color="tab:gray", linewidth=1, label="time saved as MACs are")
    left.set(xlabel="MACs, ResNet / VT-ResNet", ylabel="time, ResNet / VT-ResNet", ylim=(1.0, 1.36))
    left.legend(fontsize=7, loc="upper left", ncols=2, columnspacing=1)
    right.margins(y=0.1)
    right.set(xlabel="MACs (M)", ylabel="ms per image, batch 16, channels_last", xlim=(1000, 8600))
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(FOLDER / "ratios.png")


def _join(axis: Any, row: Row, colour: str, named: bool) -> None:
    """A line from a ResNet to its VT-ResNet."""
    macs = [macs_of(row[who], 224) for who in ("peer", "model")]
    ms = [1000 / row[f"{who}_images_per_second"] for who in ("peer", "model")]
    axis.plot(macs, ms, color=colour, linewidth=1)
    axis.plot(macs[0], ms[0], "s", color=colour, fillstyle="none")
    axis.plot(macs[1], ms[1], "s", color=colour)
    if named:
        depth = row["peer"].removeprefix("resnet")
        axis.annotate(depth, (macs[0], ms[0]), (-3, 6), textcoords="offset points", fontsize=8)
