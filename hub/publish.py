"""Turn a training run into a Hub folder, check it, and publish it.

    python -m hub.publish RUN                                # hub/MODEL.RECIPE, with the metrics of the run itself
    python -m hub.publish RUN NAME --measure DATA/val --push # measure anew, then upload to ORGANISATION/NAME
    python -m hub.publish RUN --push me/my-model --dry-run   # say what would go up

RUN is an output folder of timm's train.py or of `vt-timm train-segmenter`. The folder (config.json, model.safetensors,
README.md) is loaded back and must give the run's outputs bit for bit before it is put in place and before anything goes
up. No metric is typed: the card says whether the run measured it or `--measure`.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from torch import nn

from benchmarks.common.records import RESULTS, facts, keep_run, keep_segmenter_run, write_json
from benchmarks.pretrained import evaluate
from vt_timm.errors import first_line
from vt_timm.weights.download import CONFIG, WEIGHTS
from vt_timm.weights.published import hub_name

from . import card
from .export import CHECKPOINTS, Run, RunError, export_classifier, export_segmenter, read_run, same_outputs

HUB = Path(__file__).parent
FILES = (CONFIG, WEIGHTS, "README.md")


def build(run: Run, name: str, folder: Path, repository: str, args: argparse.Namespace) -> None:
    """Write the folder, once it is clear that it gives the run's outputs; until then an older one stays.

    Raises:
        RunError: if the run cannot be published, or the folder does not give the run's outputs.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary)
        if run.segmenter:
            model = export_segmenter(run, new, args.half)
            text = _segmenter_card(run, name, new, model, repository, args)
        else:
            model, epoch = export_classifier(
                run, name, new, args.checkpoint, args.class_folders, args.test_size, args.half, args.license
            )
            text = _classifier_card(run, name, new, epoch, repository, args)
        (new / "README.md").write_text(text)
        if not same_outputs(model, new, run.segmenter):
            raise RunError(f"{name}, loaded back, gives other outputs than the run: nothing was written or uploaded")
        folder.mkdir(exist_ok=True)
        for file in FILES:
            os.replace(new / file, folder / file)


def _classifier_card(run: Run, name: str, folder: Path, epoch: int, repository: str, args: argparse.Namespace) -> str:
    config = json.loads((folder / CONFIG).read_text())
    settings = dict(run.settings)
    metrics: dict[str, Any]
    if args.measure:
        record = {**facts(), "data": args.measure.name, **evaluate(f"local-dir:{folder}", str(args.measure))}
        metrics = card.measured(record)
        if args.record:
            write_json(RESULTS / f"accuracy_{name}.json", {**record, "model": name})
    else:
        own = run.evaluation(epoch)
        size = settings["img_size"] or config["pretrained_cfg"]["input_size"][-1]
        metrics = {
            **own,
            "images": "the run's validation images",
            "origin": f"one run, as train.py itself measured after epoch {epoch} at {size} x {size} pixels",
        }
    if args.record:
        if not args.record.is_file():
            raise RunError("to keep a run of train.py, --record needs the file with what train.py printed")
        keep_run(run.folder, name, args.record)
    metrics |= {"checkpoint": args.checkpoint, "dtype": "16-bit floats" if args.half else "32-bit floats"}
    source = f"hf-hub:{repository}" if args.output else name  # under hub/ it becomes a tag of vt_timm
    return card.classifier_card(config, settings, metrics, repository, source, run.data, args.license)


def _segmenter_card(
    run: Run, name: str, folder: Path, model: nn.Module, repository: str, args: argparse.Namespace
) -> str:
    metrics = json.loads((run.folder / "best" / "metrics.json").read_text())
    metrics |= {
        "origin": f"one run, as the training itself measured after update {metrics['update']}",
        "dtype": "16-bit floats" if args.half else "32-bit floats",
        "params": sum(p.numel() for p in model.parameters()) / 1e6,
        "license": args.license,
    }
    if args.record:
        keep_segmenter_run(run.folder, name, metrics)
    config = json.loads((folder / CONFIG).read_text())
    source = repository if args.output else None  # under hub/ it ships with vt_timm
    return card.segmenter_card(config, run.settings, metrics, repository, run.data, source)


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload the folder's three files in one commit; returns the commit's page.

    Raises:
        RunError: in one line, if the Hub does not take them.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"Upload {folder.name}",
        )
    except LocalTokenNotFoundError as error:
        raise RunError("the Hub wants to know who you are: log in with `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = "log in with `hf auth login` as one who may write there" if status in (401, 403) else "try again later"
        raise RunError(f"the Hub refused {repository} (HTTP {status}): {advice}; {folder} is kept") from error
    except Exception as error:  # whatever its transports raise for a network that fails
        raise RunError(
            f"{repository} was not uploaded, {constants.ENDPOINT} did not answer ({first_line(error)}): try again, "
            f"{folder} is kept"
        ) from error
    return str(commit.commit_url)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hub.publish", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="output folder of train.py or vt-timm train-segmenter")
    parser.add_argument("name", nargs="?", help="MODEL.TAG (default: the model and the recipe of the run)")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to (default: hub/NAME)")
    parser.add_argument(
        "--push", nargs="?", const="", metavar="ORG/NAME", help=f"upload (default name: {hub_name('NAME')})"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="with --push: only say what would go up")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="last", help="of train.py (default: last)")
    parser.add_argument("--half", action="store_true", help="store 16-bit floats")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="measure top-1 and top-5 on these images")
    parser.add_argument("--class-folders", type=Path, metavar="FOLDER", help="one subfolder per class, for their names")
    parser.add_argument("--test-size", type=int, metavar="N", help="image size for evaluation, pixels")
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: apache-2.0)")
    parser.add_argument(
        "--record",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="LOG",
        help="keep the run under benchmarks/results; one of train.py with this log",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for folder in (args.measure, args.class_folders, args.record):
            if folder and not folder.exists():
                raise RunError(f"{folder}: no such file or folder")
        run = read_run(args.run)
        name = args.name or run.name
        folder = args.output or HUB / name
        repository = args.push or hub_name(name)
        build(run, name, folder, repository, args)
        sizes = {file: (folder / file).stat().st_size for file in FILES}
        print(f"{folder}: loaded back, same outputs")
        for file, size in sizes.items():
            print(f"  {file:<20}{size:>14,} bytes")
        if args.push is None:
            print(f"not uploaded; --push would upload it to {repository}")
        elif args.dry_run:
            print(f"dry run, {datetime.date.today()}: these would go to {constants.ENDPOINT}/{repository}")
        else:
            print(push(folder, repository, args.private))
    except (RunError, RuntimeError, ValueError, OSError) as error:
        print(f"hub.publish: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
