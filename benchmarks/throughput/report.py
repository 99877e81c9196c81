"""The records of speed and memory as CSV, Markdown and plot: `python -m benchmarks.throughput.report`."""

import csv
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from ..common.records import RESULTS
from .passes import Setting, macs_of

FOLDER = RESULTS / "throughput"
HEAD = "# Speed and memory against the ResNet of the same depth"
INTRODUCTION = """\
Ratios of times, the ResNet's over the VT-ResNet's, so that above 1 the VT-ResNet is faster: the median over pairs of
passes that took turns in one process, and in brackets the middle half of the pairs. Images of random numbers, weights
as initialised. "MACs" is the ratio of multiply-accumulates. Every row is in [rows.csv](rows.csv), with images a second.

![Time against MACs](ratios.png)

Both are eager inference on one thread at 224 px, from cpu_1thread_avx2.json and cpu_1thread.json; on the right a line
joins each VT-ResNet to its ResNet, and numbers are depths.

Records of times that end in `_avx2` are of the code as it is, on an AMD EPYC with AVX2 and no more, where bfloat16 is
emulated and was not timed. The others are older, of AMD EPYCs with AVX512 and bfloat16 in hardware (their machine lines
do not say so), and of before some or all of the copies that the VT stage was spared on 2026-11-24 and 25: of the
transformer's heads, of channels_last maps, of gradients in training. We had no such machine since, and no GPU ever.

cpu_1thread_again_avx2.json is cpu_1thread_avx2.json measured a second time. cpu_1thread_huge_pages_avx2.json is batch
16 once more with `THP_MEM_ALLOC_ENABLE=1`, by which torch asks the system (Linux) for huge pages, which spares it many
page faults where maps are large: `vt_resnet50` and `vt_resnet18` in contiguous came out higher, most others lower, and
the middle halves are wide."""
# record, precision, colour and name of what the plot shows
DRAWN = (
    ("cpu_1thread_avx2", "float32", "tab:green", "float32, AVX2"),
    ("cpu_1thread", "float32", "tab:blue", "float32, AVX512"),
    ("cpu_1thread", "bfloat16", "tab:red", "bfloat16, AVX512"),
)
BOUNDS = """\
Milliseconds of one batch: the whole ResNet, its last stage, and the VT stage in its place. "As it is" is the ratio that
follows; "products" the one if the VT stage's MACs ran at the rate of a dense product of 1024 x 1024 weights, timed in
the same run, and it did nothing else; "free" the one if it took no time at all. Where "as it is" is below the ratio of
MACs, "products" often is too. On AVX512 a 3x3 convolution does more MACs a second than a product of 16 tokens an image
with weights of 1024 x 1024, so that a saved MAC of `layer4` saves less time than one of the tokens costs. On either
machine, `layer4` of bottlenecks takes less of the time of a batch of 16 than of its MACs. Only a faster product would
get past that. What lies between "as it is" and "products" are softmaxes, sums and batch norms of 14 x 14 maps, and
products that are smaller than the one that was timed. A stage that is timed alone finds its memory where it left it,
which it does not in a whole pass: the ratios above can be lower."""

TWO_PROJECTORS = ("vt_resnet50", 16)  # model and batch size that FUSED speaks of
FUSED = """\
`scaled_dot_product_attention` in the projector's place, pixels as queries, with the same result. It reads a
channels_last map as it is, where the projector's products of heads make a copy, but a contiguous one, such as the lift
gives, slows it down. A projector hands on a contiguous map, so that of the two of `vt_resnet50` only the first makes
that copy: {first:.1f} and {second:.1f} ms at batch 16 against twice {fused:.1f}. For the attention maps, which it never
shows, there would have to be a second path. So it is not used. In the transformer torch's fused kernel for CPUs does
not apply: its keys are half as wide as its values."""

MEMORY = """\
The most that is allocated at once in a pass: weights, maps, and in a training step gradients and SGD's momentum. The
same every time, unlike the resident size above, and without what libraries keep for themselves. "Keeps" is what the
last stage holds for its backward pass. A VT stage works where the stage before ended, at 14 x 14 pixels for 224, with
as many channels as `layer4` has at 7 x 7: a map of it has four times the pixels, so that of basic blocks (18, 34) it
keeps more than `layer4` did, and of bottlenecks (50, 101) less. The peak of `vt_resnet18` in a training step is in the
first tokenizer's backward pass, where the lift's product, its output and the gradient of that, 6.4 MB each, stand
beside the gradients of the stage's weights; nothing else of the stage is left by then. Computing the lift a second time
would spare one of the three, less than the 8.3 MB by which that peak is above `resnet18`'s in contiguous."""


def records(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of the records that hold a key, those of the code as it is first."""
    paths = sorted(FOLDER.glob("*.json"), key=lambda path: (not path.stem.endswith("_avx2"), path.stem))
    found = [(path.stem, json.loads(path.read_text())) for path in paths]
    return [(name, record) for name, record in found if kind in (record.get("rows") or [record])[0]]


def page() -> str:
    parts = [HEAD, INTRODUCTION]
    for name, record in records("ratio"):
        parts += _ratios(name, record)
    for name, record in records("share"):
        parts += _memory(name, record)
    parts += ["## Where the time goes, and bounds", BOUNDS]
    for name, record in records("free"):
        parts += _bounds(name, record)
    for name, record in records("fused_is_faster_by"):
        parts += _projector(name, record)
    for name, record in records("extra_import_ms"):
        parts += _startup(name, record)
    return "\n\n".join(parts) + "\n"


def _title(name: str, record: dict[str, Any]) -> str:
    versions = record["versions"]
    return (
        f"[{name}.json]({name}.json): `{record['command']}`, {record['date']}, {record['machine']}, torch "
        f"{versions['torch']}, timm {versions['timm']}."
    )


def _ratios(name: str, record: dict[str, Any]) -> list[str]:
    """A table a record: a line a model, peer, mode, layout and size, a column a precision and batch size."""
    rows = record["rows"]
    columns = list(dict.fromkeys((r["precision"], r["batch_size"]) for r in rows))
    memory = "model_peak_megabytes" in rows[0]
    head = ["model", "against", "mode", "layout", "px", "MACs", *(f"{p}, batch {b}" for p, b in columns)]
    lines = [_line(head), "|---" * len(head) + "|"]

    def line_of(row: Setting) -> tuple[Any, ...]:
        return row["model"], row["peer"], row["mode"], row["memory_format"], row["size"], f"{row['macs_ratio']:.2f}"

    for key, group in itertools.groupby(sorted(rows, key=lambda r: _order(rows, r, line_of)), line_of):
        cells = {(r["precision"], r["batch_size"]): _cell(r, memory) for r in group}
        lines.append(_line([*key, *(cells.get(column, "") for column in columns)]))
    task = "inference" if rows[0]["task"] == "inference" else "training step (forward, backward, SGD)"
    threads = rows[0]["threads"]
    where = f"{threads} CPU thread{'s' * (threads > 1)}" if rows[0]["device"] == "cpu" else rows[0]["device"]
    note = ""
    if memory:
        note = " Then peak resident memory in MB, the VT-ResNet's / the ResNet's, weights included, "
        second = rows[0].get("peak_of_pass") == 2
        note += "of a second pass." if second else "of a first pass, where training has no momentum yet."
    return [f"## {name}: {task}, {where}", _title(name, record) + note, "\n".join(lines)]


def _order(rows: list[Setting], row: Setting, line_of: Any) -> int:
    """Lines in the order in which they were measured first."""
    return next(i for i, other in enumerate(rows) if line_of(other) == line_of(row))


def _cell(row: Setting, memory: bool) -> str:
    low, high = row["middle_half"]
    text = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
    if memory and "model_peak_megabytes" in row:
        text += f"; {row['model_peak_megabytes']:.0f} / {row['peer_peak_megabytes']:.0f}"
    return text


def _bounds(name: str, record: dict[str, Any]) -> list[str]:
    head = ["model", "precision", "layout", "px", "batch", "ResNet", "layer4", "VT stage", "as it is", "products"]
    head += ["free", "layer4, GMAC/s", "VT stage, GMAC/s", "product, GMAC/s"]
    keys = ["model", "precision", "memory_format", "size", "batch_size", "resnet_ms", "layer4_ms", "vt_stage_ms"]
    keys += ["as_it_is", "products", "free"]
    keys += [f"{part}_gmacs_per_second" for part in ("layer4", "vt_stage", "product")]
    lines = [_line(head), "|---" * len(head) + "|"]
    lines += [_line([row[key] for key in keys]) for row in record["rows"]]
    return [_title(name, record), "\n".join(lines)]


def _memory(name: str, record: dict[str, Any]) -> list[str]:
    head = ["task", "model", "layout", "precision", "px", "batch", "VT-ResNet, MB", "ResNet, MB", "share"]
    head += ["VT stage keeps, MB", "layer4 keeps, MB"]
    keys = ["task", "model", "memory_format", "precision", "size", "batch_size", "model_megabytes", "peer_megabytes"]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in record["rows"]:
        kept = [row.get(f"{stage}_keeps_megabytes", "") for stage in ("vt_stage", "layer4")]
        lines.append(_line([*(row[key] for key in keys), f"{row['share']:.3f}", *kept]))
    return ["## Memory as torch allocates it", MEMORY, _title(name, record), "\n".join(lines)]


def _projector(name: str, record: dict[str, Any]) -> list[str]:
    head = ["model", "layout", "precision", "px", "batch", "projector, ms", "fused, ms", "fused is faster by"]
    keys = ["model", "memory_format", "precision", "size", "batch_size", "projector_ms", "fused_ms"]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in record["rows"]:
        low, high = row["middle_half"]
        faster = f"{row['fused_is_faster_by']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(_line([*(row[key] for key in keys), faster]))
    at_16 = {row["memory_format"]: row for row in record["rows"] if (row["model"], row["batch_size"]) == TWO_PROJECTORS}
    copying = at_16["channels_last"]
    text = FUSED.format(
        first=copying["projector_ms"], second=at_16["contiguous"]["projector_ms"], fused=copying["fused_ms"]
    )
    return ["## The projector with fused attention", text, _title(name, record), "\n".join(lines)]


def _startup(name: str, record: dict[str, Any]) -> list[str]:
    low, high = record["extra_import_middle_half_ms"]
    lines = [
        f"`import vt_timm` after `import timm`: {record['extra_import_ms']} ms ({low:.0f} to {high:.0f}); timm itself "
        f"{record['import_timm_ms']} ms. `timm.create_model` without weights, its time over the ResNet's:",
        "",
        _line(["model", "times the ResNet's", "middle half", "ms"]),
        "|---" * 4 + "|",
    ]
    for row in record["create_model"]:
        low, high = row["middle_half"]
        lines.append(_line([row["model"], f"{row['times_the_peer']:.2f}", f"{low:.2f} to {high:.2f}", row["model_ms"]]))
    return ["## Import and creation", _title(name, record), "\n".join(lines)]


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def write_rows() -> list[Setting]:
    """rows.csv: every timed row of every record, with its machine."""
    rows = [
        {
            "record": name,
            "date": record["date"],
            "machine": record["machine"],
            "torch": record["versions"]["torch"],
            **r,
        }
        for name, record in records("ratio")
        for r in record["rows"]
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (FOLDER / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def draw(rows: list[Setting], path: Path) -> None:
    """Ratio of times against ratio of MACs, and time an image against MACs, from the records that have all models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.0), dpi=150)
    left, right = figure.subplots(1, 2)
    markers = {"contiguous": "o", "channels_last": "^"}
    for record, precision, colour, label in DRAWN:
        points = [row for row in rows if (row["record"], row["precision"]) == (record, precision)]
        left.plot([], [], "s", color=colour, label=label)
        right.plot([], [], "s", color=colour, fillstyle="none", label=f"ResNet, {label}")
        right.plot([], [], "s", color=colour, label=f"VT-ResNet, {label}")
        for row in points:
            left.scatter(
                row["macs_ratio"],
                row["ratio"],
                marker=markers[row["memory_format"]],
                facecolors=colour if row["batch_size"] == 1 else "none",
                edgecolors=colour,
            )
            if (row["memory_format"], row["batch_size"]) != ("channels_last", 16):
                continue
            macs = [macs_of(row[who], 224) for who in ("peer", "model")]
            ms = [1000 / row[f"{who}_images_per_second"] for who in ("peer", "model")]
            right.plot(macs, ms, color=colour, linewidth=1)
            right.plot(macs[0], ms[0], "s", color=colour, fillstyle="none")
            right.plot(macs[1], ms[1], "s", color=colour)
            if record == DRAWN[0][0]:
                depth = row["peer"].removeprefix("resnet")
                right.annotate(depth, (macs[0], ms[0]), (-3, 6), textcoords="offset points", fontsize=8)
    for layout, marker in markers.items():
        left.plot([], [], marker, color="tab:gray", label=f"{layout}, batch 1")
        left.plot([], [], marker, color="tab:gray", fillstyle="none", label=f"{layout}, batch 16")
    left.plot([1.06, 1.2], [1.06, 1.2], color="tab:gray", linewidth=1, label="time saved as MACs are")
    left.set_xlabel("MACs, ResNet / VT-ResNet")
    left.set_ylabel("time, ResNet / VT-ResNet")
    left.set_ylim(1.0, 1.36)
    left.legend(fontsize=7, loc="upper left", ncols=2, columnspacing=1)
    right.set_xlim(1000, 8600)
    right.margins(y=0.1)
    right.set_xlabel("MACs (M)")
    right.set_ylabel("ms an image, batch 16, channels_last")
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = write_rows()
    (FOLDER / "README.md").write_text(page())
    draw(rows, FOLDER / "ratios.png")
    print(f"wrote {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
