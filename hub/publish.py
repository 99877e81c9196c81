"""Publish a training run under hub/, as a model that ships: `vt-timm publish`, with measuring and records.

python -m hub.publish RUN                                   # hub/MODEL.RECIPE, with the metrics of the run itself
python -m hub.publish RUN NAME --measure DATA/val --push    # measure anew, then upload to ORGANISATION/NAME
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import vt_timm  # noqa: F401  registers the models
from benchmarks.accuracy.runs import keep_accuracy, keep_run
from benchmarks.common.records import line_of_facts
from benchmarks.pretrained import evaluate
from benchmarks.segmentation.runs import keep_segmenter_run
from vt_timm.cli.training import add_publish_options
from vt_timm.errors import UserError, first_line
from vt_timm.publishing.publish import draft, open_run, report
from vt_timm.runs.run import Publication, Run, RunError
from vt_timm.weights.published import hub_name

from . import card

HUB = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hub.publish", description=__doc__.splitlines()[0])
    add_publish_options(parser)
    parser.set_defaults(checkpoint="last")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder to write (default: hub/NAME)")
    parser.add_argument(
        "--push", nargs="?", const="", metavar="ORG/NAME", help=f"upload (default name: {hub_name('NAME')})"
    )
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="measure top-1 and top-5 on these images")
    parser.add_argument("--test-size", type=int, metavar="N", help="with --measure: size of the images in pixels")
    parser.add_argument(
        "--record",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="LOG",
        help="keep the run under benchmarks/results; a run of train.py needs the file with what it printed",
    )
    return parser


def measured(folder: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure top-1 and top-5 of a folder on `--measure`, for its card; `--record` keeps them."""
    record = {**line_of_facts(), "data": args.measure.name, **evaluate(f"local-dir:{folder}", str(args.measure))}
    if args.record:
        keep_accuracy({**record, "model": name})
    return card.measured(record)


def keep(run: Run, name: str, metrics: dict[str, Any], log: Path) -> None:
    """Keep the run under benchmarks/results."""
    if not run.keeps_checkpoints:  # a segmenter's, whose log is its summary.csv
        keep_segmenter_run(run.folder, name, metrics)
    elif log.is_file():
        keep_run(run.folder, name, "shipped", log)
    else:
        raise RunError("to keep a run of train.py, --record needs the file with what train.py printed")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for folder in (args.measure, args.class_folders, args.record):
            if folder and not folder.exists():
                raise RunError(f"{folder}: no such file or folder")
        if args.test_size and not args.measure:
            raise RunError("--test-size changes what the run measured: leave it out, or measure anew")
        if args.record and args.dry_run:
            raise RunError("--record keeps a run that is published: leave it or --dry-run out")
        run = open_run(args.source)
        name = args.name or run.name
        folder = args.output or HUB / name
        how = Publication(
            name, args.push or hub_name(name), args.checkpoint, args.class_folders, args.test_size, args.half,
            args.license, ships=args.output is None, dry_run=args.dry_run,
        )  # fmt: skip
        with draft(run, how, folder) as new:
            metrics = measured(new.files, name, args) if args.measure else new.metrics()
            if args.record:
                keep(run, name, metrics, args.record)
            done = new.finish(metrics)
        report(done, how, args.push is not None, args.private)
    except (UserError, RuntimeError, ValueError, OSError) as error:
        print(f"hub.publish: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
