"""Turn a training run into a folder for the Hub (config.json, model.safetensors, README.md), check it, and upload it.

The folder is loaded back as a user would load it and must say of a photo what the run says, bit for bit and names
included, before it is put in place and before anything goes up. No metric is typed: the card says who measured it.
"""

import argparse
import datetime
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from torch import nn

from ..errors import first_line
from ..weights.download import CONFIG, WEIGHTS
from . import card
from .export import Run, RunError, export_classifier, export_segmenter, same_predictions

__all__ = ["FILES", "build", "push", "report"]

FILES = (CONFIG, WEIGHTS, "README.md")

Measure = Callable[[Path], dict[str, Any]]  # metrics of a model folder, for its card
Keep = Callable[[dict[str, Any]], None]  # keeps the metrics of a run


def build(
    run: Run,
    name: str,
    folder: Path,
    repository: str,
    args: argparse.Namespace,
    measure: Measure | None = None,
    keep: Keep | None = None,
) -> None:
    """Write the folder, once it is clear that it says what the run says; until then an older one stays.

    Args:
        run: a run of train.py or train-segmenter.
        name: MODEL.TAG of a classifier.
        folder: the folder to write.
        repository: ORG/NAME on the Hub.
        args: the command's arguments: checkpoint, class_folders, test_size, half, license, and `ships` for a folder
            that comes with vt_timm.
        measure: measures a classifier anew; without it the card has what the run measured.
        keep: is called with the metrics before the card is written.

    Raises:
        RunError: if the run cannot be published, or the folder does not say what the run says.
    """
    if args.test_size and measure is None and not run.segmenter:
        raise RunError("--test-size changes what the run measured: leave it out, or measure anew")
    with _place_beside(folder) as temporary:
        new = Path(temporary)
        if run.segmenter:
            model = export_segmenter(run, new, args.half)
            text = _segmenter_card(run, new, model, repository, args, keep)
        else:
            model, epoch = export_classifier(
                run, name, new, args.checkpoint, args.class_folders, args.test_size, args.half, args.license
            )
            text = _classifier_card(run, name, new, epoch, repository, args, measure, keep)
        (new / "README.md").write_text(text, encoding="utf-8")
        if not same_predictions(model, new):
            raise RunError(f"{name}, loaded back, gives other predictions than the run: nothing was written")
        folder.mkdir(exist_ok=True)
        for file in FILES:
            os.replace(new / file, folder / file)
            (folder / file).chmod(0o644)  # safetensors writes files that only their owner may read


def _place_beside(folder: Path) -> tempfile.TemporaryDirectory:
    """A folder on the same disk, from which files are moved when all is well."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"-o {folder}: this is a file; name a folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder.parent)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {first_line(error)}") from error


def _classifier_card(
    run: Run,
    name: str,
    folder: Path,
    epoch: int,
    repository: str,
    args: argparse.Namespace,
    measure: Measure | None,
    keep: Keep | None,
) -> str:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if measure is not None:
        metrics = measure(folder)
    else:
        size = config["pretrained_cfg"]["input_size"][-1]
        metrics = {
            **run.evaluation(epoch),
            "images": "the run's validation images",
            "origin": f"one run, as train.py itself measured after epoch {epoch} at {size} x {size} pixels",
        }
    if keep is not None:
        keep(metrics)
    metrics |= {"checkpoint": args.checkpoint, "dtype": "16-bit floats" if args.half else "32-bit floats"}
    source = name if args.ships else f"hf-hub:{repository}"
    return card.classifier_card(config, dict(run.settings), metrics, repository, source, run.data, args.license)


def _segmenter_card(
    run: Run, folder: Path, model: nn.Module, repository: str, args: argparse.Namespace, keep: Keep | None
) -> str:
    metrics = json.loads((run.folder / "best" / "metrics.json").read_text(encoding="utf-8"))
    metrics |= {
        "origin": f"one run, as the training itself measured after update {metrics['update']}",
        "dtype": "16-bit floats" if args.half else "32-bit floats",
        "params": sum(p.numel() for p in model.parameters()) / 1e6,
        "license": args.license,
    }
    if keep is not None:
        keep(metrics)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return card.segmenter_card(config, run.settings, metrics, repository, run.data, None if args.ships else repository)


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


def report(folder: Path, repository: str, args: argparse.Namespace) -> None:
    """Print what was written, and upload it if `args.push` says so."""
    print(f"{folder}: loaded back, same predictions")
    for file in FILES:
        print(f"  {file:<20}{(folder / file).stat().st_size:>14,} bytes")
    if args.push is None:
        print(f"not uploaded; --push would upload it to {repository}")
    elif args.dry_run:
        print(f"dry run, {datetime.date.today()}: these would go to {constants.ENDPOINT}/{repository}")
    else:
        print(push(folder, repository, args.private))
