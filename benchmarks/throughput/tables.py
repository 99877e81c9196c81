"""Make the tables of `benchmarks/results/speed/README.md`, and its plot, from the records."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..common.records import read_records, table
from .passes import PEERS, macs_of
from .runner import FOLDER, Row, rows_of

Column = tuple[str, str, dict[str, Any]]  # title, record, and what its rows must have
# Record, precision, colour and name of what the plot shows.
DRAWN = (
    ("eager", "float32", "tab:green", "float32, AVX2"),
    ("bfloat16_eager", "bfloat16", "tab:red", "bfloat16, AVX512"),
)


def ratios(record: str, *titles: str) -> str:
    """Tabulate a record with the middle half of its pairs: one line per model, peer and layout, a column per batch."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows_of("rows", record):
        key = (f"`{row['model']}`", f"`{row['peer']}`", row["memory_format"], f"{row['macs_ratio']:.2f}")
        lines.setdefault(key, []).append(_with_middle_half(row, "ratio"))
    return table(["model", "against", "layout", "MACs", *titles], ([*key, *cells] for key, cells in lines.items()))


def _with_middle_half(row: Row, key: str) -> str:
    return f"{row[key]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _by_batch(title: str, record: str, **wanted: Any) -> Iterable[Column]:
    return [(f"{title}, batch {size}", record, {**wanted, "batch_size": size}) for size in (1, 16)]


def quick(*columns: Column, layouts: bool = True) -> str:
    """Tabulate ratios alone, in one line per model, and per layout if there are two."""
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
    """Tabulate how the ratio grows with the image, and what a VT stage that took no time would give."""
    free = {(r["model"], r["size"]): r["free"] for r in rows_of("stages", "stages_sizes")}
    free |= {
        (r["model"], 224): r["free"] for r in rows_of("stages", "stages", memory_format="channels_last", batch_size=1)
    }
    rows = []
    for row in rows_of("rows", "sizes"):
        (other,) = rows_of("rows", "bfloat16_sizes", model=row["model"], size=row["size"])
        cells = [f"{row['macs_ratio']:.2f}", _with_middle_half(row, "ratio"), f"{free[row['model'], row['size']]:.2f}"]
        rows.append([f"`{row['model']}`", row["size"], *cells, _with_middle_half(other, "ratio")])
    return table(["model", "px", "MACs", "float32", "with a VT stage of no time", "bfloat16"], rows)


def bounds() -> str:
    """Tabulate the ratios that the parts allow, of channels_last maps at 224 px."""
    kinds = ("as_it_is", "products", "free")
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows_of("stages", "stages", "bfloat16_stages", memory_format="channels_last"):  # batch 1, then 16
        lines.setdefault((f"`{row['model']}`", row["precision"]), []).extend(f"{row[kind]:.2f}" for kind in kinds)
    titles = [f"{kind.replace('_', ' ')}, batch {size}" for size in (1, 16) for kind in kinds]
    return table(["model", "precision", *titles], ([*key, *cells] for key, cells in sorted(lines.items(), key=_order)))


def _order(line: tuple[tuple[str, ...], Any]) -> tuple[bool, int]:
    model, precision = line[0]
    return precision != "float32", list(PEERS).index(model.strip("`"))


def memory() -> str:
    """Tabulate peak memory over the ResNet's."""
    shares = {(r["model"], r["task"], r["memory_format"]): f"{r['share']:.2f}" for r in rows_of("memory")}
    columns = [(task, layout) for task in ("inference", "train") for layout in ("contiguous", "channels_last")]
    names = {"inference": "inference", "train": "training step"}
    head = ["model", *(f"{names[task]}, {layout}" for task, layout in columns)]
    return table(head, ([f"`{model}`", *(shares[(model, *column)] for column in columns)] for model in PEERS))


def kept() -> str:
    """Tabulate what the last stages hold for their backward pass."""
    keys = ("memory_format", "vt_stage_keeps_megabytes", "layer4_keeps_megabytes")
    rows = [[f"`{row['model']}`", *(row[key] for key in keys)] for row in rows_of("memory", task="train")]
    return table(["model", "layout", "VT stage, MB", "layer4, MB"], rows)


def projector() -> str:
    """Tabulate the projector beside torch's fused attention."""
    keys = ("memory_format", "batch_size", "projector_ms", "fused_ms")
    rows = [
        [f"`{row['model']}`", *(row[key] for key in keys), _with_middle_half(row, "fused_is_faster_by")]
        for row in rows_of("projector")
    ]
    return table(["model", "layout", "batch", "projector, ms", "fused, ms", "fused, times its speed"], rows)


def fpn() -> str:
    """Tabulate VT-FPN beside FPN, the neck alone and the whole segmenter."""
    found = read_records("records.json")["fpn"]
    rows = []
    for name in ("neck", "whole network"):
        part = found[name.replace(" ", "_")]
        low, high = part["times_faster_middle_half"]
        seconds, share = part["seconds_median"], part["share_of_fpns_memory"]
        faster = f"{part['times_faster_median']:.2f} ({low:.2f} to {high:.2f})"
        rows.append([name, f"{seconds['fpn']:.2f}", f"{seconds['vt_fpn']:.2f}", faster, f"{share:.2f}"])
    return table(["part", "FPN, s", "VT-FPN, s", "times FPN's speed", "share of FPN's peak memory"], rows)


def startup() -> str:
    """Tabulate milliseconds of imports and of `timm.create_model`."""
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


def folder() -> str:
    """Tabulate images per second of a folder of photos."""
    rows = [[row["what"], row["images_per_second"], f"{row['share']:.2f}"] for row in rows_of("folder")]
    return table(["what", "images per second", "of the network's"], rows)


EXPORTED = [
    *_by_batch("compile", "compile"),
    *_by_batch("AOTInductor", "aot"),
    *_by_batch("ONNX Runtime", "onnx"),
]
MORE: list[Column] = [
    *_by_batch("again", "eager_again"),
    ("huge pages, batch 16", "eager_huge_pages", {}),
    ("batch 64", "eager_batch64", {}),
    *_by_batch("2 threads", "eager_2threads"),
]
BFLOAT16: list[Column] = [
    ("batch 64", "bfloat16_batch64", {}),
    *_by_batch("2 threads", "bfloat16_2threads"),
    *_by_batch("compiled", "bfloat16_compile"),
    ("compiled, batch 1", "bfloat16_compile_34_101", {}),
    ("training, batch 16", "bfloat16_train", {}),
]

TABLES: dict[str, Callable[[], str]] = {
    "speed": partial(
        quick,
        *_by_batch("float32", "eager"),
        *_by_batch("bfloat16", "bfloat16_eager"),
    ),
    "speed_exported": partial(quick, *EXPORTED, layouts=False),
    "speed_training": partial(quick, ("training step, batch 16", "train", {})),
    "speed_memory": memory,
    "speed_more": partial(quick, *MORE),
    "speed_sizes": sizes,
    "speed_bfloat16": partial(quick, *BFLOAT16),
    "speed_others": partial(ratios, "others", "float32, batch 1"),
    "speed_before": partial(ratios, "before", "float32, batch 1", "float32, batch 16"),
    "speed_kept": kept,
    "speed_bounds": bounds,
    "speed_projector": projector,
    "speed_fpn": fpn,
    "speed_folder": folder,
    "speed_startup": startup,
}


def draw() -> None:
    """Draw the ratio of times over that of MACs, and time per image over MACs, of the records that have all models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.0), dpi=150, layout="tight")
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
    figure.savefig(FOLDER / "ratios.png")


def _join(axis: Any, row: Row, colour: str, named: bool) -> None:
    """Draw a line from a ResNet to its VT-ResNet."""
    macs = [macs_of(row[who], 224) for who in ("peer", "model")]
    ms = [1000 / row[f"{who}_images_per_second"] for who in ("peer", "model")]
    axis.plot(macs, ms, color=colour, linewidth=1)
    axis.plot(macs[0], ms[0], "s", color=colour, fillstyle="none")
    axis.plot(macs[1], ms[1], "s", color=colour)
    if named:
        depth = row["peer"].removeprefix("resnet")
        axis.annotate(depth, (macs[0], ms[0]), (-3, 6), textcoords="offset points", fontsize=8)
