"""Every row of the paper's Tables 1 to 10 beside ours: MACs, parameters, and how much smaller stage 5 becomes.

    python -m benchmarks.complexity            # print
    python -m benchmarks.complexity --write    # and record as complexity.csv and complexity.md in benchmarks/results/

MACs are multiply-accumulates, half of the FLOPs that torch counts.
"""

import argparse
import inspect
import itertools
from functools import partial
from typing import Any, NamedTuple

import vt_timm

from .common.counting import Cost, count, count_segmenter, count_stage5
from .common.paper_tables import ABLATIONS, FPN_TABLES, TABLE_1, TABLES, FPNRow, Row
from .common.records import RESULTS, facts, read_rows, replace_rows
from .common.records import table as grid

ABLATED = ("tokenizer", "recurrent", "relation", "num_tokens", "projector")  # Tables 3 to 7
MARK_OVER = 0.05  # differences from the paper over this share of its value are marked
TITLES = {
    1: "Table 1: how many times less than the ResNet, in all and in stage 5",
    2: "Table 2: VT-ResNets and ResNets, basic recipe",
    3: "Table 3: tokenizer of the first module",
    4: "Table 4: recurrent tokenizers (RT) in the later modules",
    5: "Table 5: relations between the tokens",
    6: "Table 6: number of tokens",
    7: "Table 7: projector",
    8: "Table 8: VT-ResNets, advanced recipe, and ResNets with other attention",
    9: "Table 9: semantic segmentation, COCO-Stuff, 800 x 1216",
    10: "Table 10: semantic segmentation, Look Into Person, 473 x 473",
}
# Our test model, and attention ResNets of timm that Table 8 does not have: options and size in pixels.
NOT_IN_THE_PAPER: list[tuple[str, dict[str, Any], int]] = [
    ("vt_resnet_micro", {}, 224),
    ("skresnet18", {}, 224),
    ("skresnet34", {}, 224),
    ("gcresnet50t", {}, 224),
    ("resnet50", {"block_args": {"attn_layer": "nl"}}, 224),
    ("lambda_resnet26t", {}, 224),
    ("haloregnetz_b", {}, 224),
    ("halonet26t", {}, 256),
    ("botnet26t_256", {}, 256),
]


class Comparison(NamedTuple):
    """One number of the paper and ours for the same model; None where one of the two has none."""

    table: int
    row: str
    model: str
    quantity: str
    paper: float | None
    ours: float | None

    @property
    def is_accuracy(self) -> bool:
        return "top-1" in self.quantity or "mIoU" in self.quantity

    @property
    def difference(self) -> str:
        """Ours from the paper's, in percent of the paper's; not for accuracies, which need runs and a spread."""
        if self.paper is None or self.ours is None or self.is_accuracy:
            return ""
        share = self.ours / self.paper - 1
        return f"{share:+.1%}" + (" !" if abs(share) > MARK_OVER else "")


def compare(table: int) -> list[Comparison]:
    """Compare every number of one of the paper's Tables 1 to 10 with ours."""
    if table == 1:
        return [c for depth in TABLE_1 for c in _compare_reduction(depth)]
    if table in FPN_TABLES:
        return [c for row in FPN_TABLES[table] for c in _compare_segmenter(table, row)]
    return [c for row in TABLES[table] for c in _compare_row(table, row)]


def _compare_reduction(depth: int) -> list[Comparison]:
    resnet, vt = f"resnet{depth}", f"vt_resnet{depth}"
    macs, params = (a / b for a, b in zip(count(resnet), count(vt), strict=True))
    stage5_macs, stage5_params = (a / b for a, b in zip(count_stage5(resnet), count_stage5(vt), strict=True))
    paper = TABLE_1[depth]
    compared = partial(Comparison, 1, f"R{depth}", vt)
    return [
        compared("MACs, total (x)", paper.macs, round(macs, 2)),
        compared("MACs, stage 5 (x)", paper.stage5_macs, round(stage5_macs, 2)),
        compared("parameters, total (x)", paper.params, round(params, 2)),
        compared("parameters, stage 5 (x)", paper.stage5_params, round(stage5_params, 2)),
    ]


def _compare_row(table: int, row: Row) -> list[Comparison]:
    macs, params = _rounded(count(row.model, **row.options)) if row.model else (None, None)
    model = _call(row.model, row.options) if row.model else "not in timm"
    compared = partial(Comparison, table, row.label, model)
    return [
        compared("top-1 (%)", row.top1, _our_top1(table, row)),
        *([] if row.train_top1 is None else [compared("training top-1 (%)", row.train_top1, None)]),
        compared("MACs (M)", row.macs, macs),
        compared("parameters (M)", row.params, params),
    ]


def _compare_segmenter(table: int, row: FPNRow) -> list[Comparison]:
    cost = count_segmenter(row)
    compared = partial(Comparison, table, row.label, f"{row.kind} {row.backbone}")
    return [
        compared("mIoU (%)", row.miou, None),
        compared("MACs of the neck (G)", row.neck, round(cost.neck, 2)),
        compared("MACs in all (G)", row.total, round(cost.total, 1)),
        compared("MACs in all, stride in the 1x1 (G)", row.total, round(cost.total_stride_in_1x1, 1)),
    ]


def _our_top1(table: int, row: Row) -> float | None:
    """Return our top-1 on ImageNet-1k, from a record of that model, options and recipe; None until there is one."""
    if table == 8 and "(ours)" not in row.label:
        return None
    recipe = "advanced_in1k" if table == 8 else "basic_in1k"
    for record in read_rows(RESULTS / "accuracy" / "shipped.csv", architecture=row.model, tag=recipe):
        if _ablated(record["options"]) == _ablated(row.options):
            return record["top1"]
    return None


def _ablated(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of Tables 3 to 7, defaults filled in."""
    parameters = inspect.signature(vt_timm.VTResNet).parameters
    return {name: options.get(name, parameters[name].default) for name in ABLATED}


def _call(model: str, options: dict[str, Any]) -> str:
    return " ".join([model, *(f"{k}={v}" for k, v in options.items())])


class Change(NamedTuple):
    """What one option changes, in millions: MACs or parameters of one row less those of another."""

    table: int
    start: str
    end: str
    quantity: str
    paper: float
    ours: float

    @property
    def verdict(self) -> str:
        if abs(self.paper) < 0.05:
            return "none in the paper"
        if self.paper * self.ours <= 0:
            return "other sign !" if self.ours else "no change !"
        share = self.ours / self.paper - 1
        return f"{share:+.0%}" + (" !" if abs(share) > 0.3 else "")


def ablation_changes() -> list[Change]:
    """Return the changes of Tables 3 to 7; those over 30 % from the paper's are marked."""
    changes = []
    for table, pairs in ABLATIONS.items():
        rows = [list(group) for _, group in itertools.groupby(compare(table), key=lambda c: c.row)]
        for start, end in pairs:
            for before, after in zip(rows[start], rows[end], strict=True):
                numbers = (before.paper, after.paper, before.ours, after.ours)
                if not before.is_accuracy and None not in numbers:
                    paper, ours = after.paper - before.paper, after.ours - before.ours  # type: ignore[operator]
                    quantity = before.quantity
                    changes.append(Change(table, before.row, after.row, quantity, round(paper, 1), round(ours, 2)))
    return changes


INTRODUCTION = """\
At 224 x 224 pixels but for Tables 9 and 10. Differences are in percent of the paper's number; those over 5 % are marked
`!`. The accuracy columns are of the paper's data sets: ours stay empty until a run of ours fills them. Models that timm
does not have keep the paper's numbers alone. Why some differ, and where the paper contradicts itself:
[reading_the_paper.md](../reading_the_paper.md)."""
NOTE_ON_TABLE_8 = """\
The paper took the MACs of SE and CBAM on R50 and R101 from another source, whose ResNets have fewer (its footnote), as
timm's `legacy_seresnet101` has: the stride sits in the first 1x1 convolution there, in the 3x3 in timm's others."""

NOTE_ON_TABLES_9_AND_10 = """\
The paper builds on Detectron2, whose ResNet halves the map in the first 1x1 convolution of a stage; timm's halves it in
the 3x3, which costs 6 % more. With the stride moved, the totals agree to 1 %. The neck of VT-FPN costs less than the
paper's by what the projectors' W_Q save when they are applied to the keys."""


def markdown_page() -> str:
    """Return all tables, as Markdown."""
    parts = ["# The paper's Tables 1 to 10 beside ours", INTRODUCTION]
    notes = {8: NOTE_ON_TABLE_8, 10: NOTE_ON_TABLES_9_AND_10}
    for table, title in TITLES.items():
        parts += [f"## {title}", _side_by_side(compare(table)), *([notes[table]] if table in notes else [])]
    others = [
        [_call(name, options), size, *_rounded(count(name, size, **options))]
        for name, options, size in NOT_IN_THE_PAPER
    ]
    changes = [
        [c.table, c.start, c.end, c.quantity, f"{c.paper:+g}", f"{c.ours:+g}", c.verdict] for c in ablation_changes()
    ]
    parts += [
        "## Models that the paper does not have",
        grid(["timm model", "size (px)", "MACs (M)", "parameters (M)"], others),
        "`halonet26t` and `botnet26t_256` take no image of 224 px.",
        "## What each ablation changes",
        "From one row of Tables 3 to 7 to another. Changes over 30 % from the paper's are marked `!`.",
        grid(["table", "from", "to", "quantity", "paper", "ours", "ours from the paper's"], changes),
    ]
    return "\n\n".join(parts) + "\n"


def _rounded(cost: Cost) -> tuple[float, float]:
    return round(cost.macs, 1), round(cost.params, 2)


def _side_by_side(comparisons: list[Comparison]) -> str:
    rows = [list(group) for _, group in itertools.groupby(comparisons, key=lambda c: c.row)]
    header = ["row", "timm model"]
    for c in rows[0]:
        header += [f"{c.quantity}, paper", "ours"] + ([] if c.is_accuracy else ["difference"])
    body = []
    for row in rows:
        cells = [row[0].row, row[0].model]
        for c in row:
            cells += [_cell(c.paper), _cell(c.ours)] + ([] if c.is_accuracy else [c.difference])
        body.append(cells)
    return grid(header, body)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"  # as recorded: rounded once


def write() -> None:
    page, table = RESULTS / "complexity.md", RESULTS / "complexity.csv"
    measured = "\n".join(f"- {key}: {value}" for key, value in facts().items())
    page.write_text(f"{markdown_page()}\n## How this was measured\n\n{measured}\n")
    rows = [{**c._asdict(), "difference": c.difference} for number in TITLES for c in compare(number)]
    for name, options, size in NOT_IN_THE_PAPER:
        own = {"row": f"{size} px", "model": _call(name, options)}
        macs, params = _rounded(count(name, size, **options))
        rows += [{**own, "quantity": "MACs (M)", "ours": macs}, {**own, "quantity": "parameters (M)", "ours": params}]
    replace_rows(table, rows)
    print(f"wrote {page} and {table}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record the tables under benchmarks/results/")
    args = parser.parse_args()
    print(markdown_page())
    if args.write:
        write()


if __name__ == "__main__":
    main()
