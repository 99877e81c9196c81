"""Train small versions of the paper's accuracy tables on Imagenette, once each.

    python -m benchmarks.accuracy table2 --data DATA/imagenette2-224 --runs RUNS --jobs 2    # Table 2
    python -m benchmarks.accuracy ablations ...                                              # Tables 3 to 7
    python -m benchmarks.accuracy ingredients ...                                            # section 5.2
    python -m benchmarks.accuracy controls ...                                               # no tokens, one, whole
    python -m benchmarks.accuracy controls_at_best ...                                       # at the best rate of each
    python -m benchmarks.accuracy rates ...                                                  # learning rates of Muon
    python -m benchmarks.accuracy answers ... --teacher local-dir:LITE0                      # the same, asked for more
    python -m benchmarks.accuracy transfer --data DATA/ccp --runs RUNS                       # digits and garments
    python -m benchmarks.accuracy keep RUN NAME                                              # record another run

Every run is timm's train.py under `vt-timm run` with the recipe `matched_imagenette`, those of `transfer` with
`finetune`. A run that was interrupted begins again, since train.py keeps what it evaluates and these recipes evaluate
little but the end. A run that diverges is stopped. It becomes lines of runs.csv and epochs.csv under
`benchmarks/results/accuracy/`, as a finished run does, and `python -m benchmarks.tables` makes the page from them.
`table2` and `transfer` first try the learning rates, and then other seeds at the best; the others take their model's
best from `table2`.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from timm.data import resolve_data_config
from timm.models import load_state_dict
from tqdm import tqdm

import vt_timm  # noqa: F401  registers the models
from vt_timm.run_files import SUMMARY
from vt_timm.runs.run import read_evaluations
from vt_timm.weights.published import HUB

from ..pretrained import validation_loader
from ..tokens import keep_classes
from . import plan
from .answers import agreement, write_class_map
from .pairs import keep_right
from .plan import Experiment, best_learning_rates
from .runs import keep_run, run_named, training_losses
from .sets import prepare

TABLES = {
    "table2": plan.table_2,
    "ablations": plan.ablations,
    "ingredients": plan.ingredients,
    "controls": plan.controls,
    "controls_at_best": plan.controls_at_best,
    "rates": plan.rates,
    "answers": plan.answers,
    "transfer": plan.transfer,
}
# In pixels, beside the recipe's own.
LARGER = (160, 192, 224)
SIZES: dict[str, tuple[int, ...]] = {
    "table2": (),
    "controls": LARGER,
    "controls_at_best": LARGER,
    "answers": (128, *LARGER),
}
# glibc's malloc keeps what it has instead of handing every large tensor back to the kernel. By hand, one trial with
# MALLOC_TOP_PAD_ set as well, on an AMD EPYC: 18 % (resnet18) and 27 % (vt_resnet18) more images per second at 128 px,
# 1 to 11 % at 64 and 96 px. Without effect on another C library.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000"}
# Mean training loss of an epoch from which no run here came back: runs with 23 did, those with 50 and more did not.
DIVERGED = 100.0
TEACHER = f"local-dir:{HUB / 'vt_resnet18.robust_imagenette'}"


def train(experiment: Experiment, table: str, data: str, runs: Path, jobs: int, threads: int) -> None:
    """Train, or go on with, one experiment, and record it; stop it once it has diverged."""
    runs.mkdir(parents=True, exist_ok=True)
    folder, log = runs / experiment.name, runs / f"{experiment.name}.log"
    start = time.time()
    if not finished(folder):
        machine = ["--device", "cpu", "--channels-last"]
        if experiment.dtype != "float32":
            machine += ["--amp", "--amp-dtype", experiment.dtype]
        place = ["--data-dir", data, "--output", str(runs), "--experiment", experiment.name, "--resume", "auto"]
        command = [sys.executable, "-m", "vt_timm", "run", "train", *machine, *place]
        environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)}
        command += experiment.arguments(TEACHER)
        if experiment.after:
            command += ["--initial-checkpoint", str(runs / experiment.after / "last.pth.tar")]
        with (
            log.open("a") as file,
            subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment) as run,
        ):
            while run.poll() is None and not diverged(log):
                time.sleep(5)
            run.terminate()
        if not (finished(folder) or diverged(log)):
            raise subprocess.CalledProcessError(run.returncode, command)
    record = keep(folder, experiment.name, table, log, time.time() - start, jobs, data)
    result = f"top-1 {record['val_top1']:.2f} %" if not record["diverged"] else f"diverged: {record['diverged']}"
    print(f"{experiment.name:<32} {result}", flush=True)


def finished(run: Path) -> bool:
    """True if train.py reached the last epoch and evaluated it."""
    rows = read_evaluations(run / SUMMARY)
    if not rows:
        return False
    epochs = yaml.safe_load((run / "args.yaml").read_text())["epochs"]
    return rows[-1]["epoch"] == epochs - 1 and "eval_top1" in rows[-1]


def diverged(log: Path) -> dict[str, Any] | None:
    """Find the first epoch, counted from 1, whose mean loss is above `DIVERGED` or no number, and that loss."""
    for epoch, loss in enumerate(training_losses(log.read_text()), start=1):
        if not loss <= DIVERGED:
            return {"epoch": epoch, "train_loss": loss}
    return None


def keep(run: Path, name: str, table: str, log: Path, seconds: float, jobs: int, data: str) -> dict[str, Any]:
    """Record a run that finished, or that was stopped because it diverged.

    Args:
        run: the run's output folder.
        name: the experiment's name.
        table: the command that runs it.
        log: what train.py printed.
        seconds: how long train.py took.
        jobs: how many runs shared the machine.
        data: folder with train/ and val/, for the accuracies that the tables of `SIZES` have beside train.py's.
    """
    results: dict[str, Any] = {"seconds": round(seconds), "runs_at_once": jobs}
    if not finished(run):
        results |= {"val_top1": None, "val_loss": None, "diverged": diverged(log)}
    elif table in SIZES:
        results |= scores(run, name, data, SIZES[table])
    return keep_run(run, name, table, log, **results)


def scores(run: Path, name: str, data: str | Path, sizes: Sequence[int], **facts: str) -> dict[str, Any]:
    """Measure top-1 of the training photos, seen as validation photos are, and of the latter at more sizes.

    Which of the latter are right is kept.
    """
    args = yaml.safe_load((run / "args.yaml").read_text())
    found: dict[str, Any] = {"train_top1": percent(find_right(run, args, f"{data}/train"))}
    if sizes:
        right = {size: find_right(run, args, f"{data}/val", size) for size in sizes}
        keep_right(name, right, **facts)
        found["top1_at"] = {size: percent(right_N) for size, right_N in right.items()}
    if args.get("class_map") and args.get("kd_model_name"):
        model, config = trained(run, args)
        found["answers"] = agreement(model, args, Path(data) / "val", config)
    return found


def trained(run: Path, args: dict[str, Any], size: int | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a run's network with the weights after the last epoch, and how it sees validation images."""
    model = timm.create_model(
        args["model"].partition(".")[0], num_classes=args["num_classes"], **(args["model_kwargs"] or {})
    )
    weights = load_state_dict(str(run / "last.pth.tar"), use_ema=bool(args["model_ema"]), weights_only=True)
    model.load_state_dict(weights)
    model.eval().to(memory_format=torch.channels_last)
    chosen = {"img_size": size or args["img_size"], "crop_pct": args["crop_pct"]}
    return model, resolve_data_config(chosen, model=model, verbose=False)


@torch.inference_mode()
def find_right(run: Path, args: dict[str, Any], folder: str, size: int | None = None) -> np.ndarray:
    """Find which images of a folder the weights after the last epoch have right, seen as validation images are.

    A network of ImageNet's classes is asked for those that have a folder.

    Args:
        run: the run's output folder.
        args: train.py's arguments, from the run's args.yaml.
        folder: images, one folder per class.
        size: side in pixels; None for the run's own.

    Returns:
        A bool per image, in the order of their paths.
    """
    model, config = trained(run, args, size)
    if args.get("class_map"):
        keep_classes(model, sorted(place.name for place in Path(folder).iterdir() if place.is_dir()), run.name)
    loader = validation_loader(folder, config, batch_size=128)
    with torch.autocast("cpu", torch.bfloat16, enabled=args["amp"]):
        return np.concatenate(
            [(model(images).argmax(dim=1) == labels).numpy() for images, labels in tqdm(loader, disable=None)]
        )


def percent(right_N: np.ndarray) -> float:
    """Return the share of what is right, in percent."""
    return round(100 * float(right_N.mean()), 3)


def run_table(
    table: str, data: str, runs: Path, jobs: int, threads: int, only: list[str] | None, asked: Mapping[str, Any]
) -> None:
    """Make all runs of a table that have no record; what a run needs comes before it.

    `asked` are settings that name files, and so are not the plan's.
    """
    while True:
        missing = [e for e in TABLES[table](best_learning_rates()) if run_named(e.name) is None]
        missing = [e for e in missing if only is None or e.model in only]
        missing = [e for e in missing if not e.after or run_named(e.after)]
        if not missing:
            break
        missing = [dataclasses.replace(e, settings={**e.settings, **asked}) for e in missing]
        places = [str(prepare(e.dataset, Path(data), runs / "sets")) if e.dataset else data for e in missing]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda e, place: train(e, table, place, runs, jobs, threads), missing, places))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for table, experiments in TABLES.items():
        command = commands.add_parser(table, help=(experiments.__doc__ or "").splitlines()[0])
        command.add_argument("--data", required=True, help="folder with train/ and val/: Imagenette, for transfer CCP")
        command.add_argument("--runs", type=Path, required=True, help="folder for the runs, checkpoints included")
        command.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
        command.add_argument("--threads", type=int, help="threads per run (default: the cores divided by --jobs)")
        if table == "answers":
            command.add_argument("--teacher", default="tf_efficientnet_lite0.in1k", help="a timm model of ImageNet")
        command.add_argument("--only", nargs="+", choices=plan.SEEDS, metavar="MODEL", help="only these models")
    command = commands.add_parser("keep", help="record a run folder of train.py that was made elsewhere")
    command.add_argument("run", type=Path, help="output folder of train.py, with args.yaml and summary.csv")
    command.add_argument("name", help="what to call it; the run of a shipped model is called MODEL.TAG")
    command.add_argument("--log", type=Path, help="what train.py printed: losses and seconds of every epoch")
    command.add_argument("--table", default="shipped", help="the table that it belongs to (default: shipped)")
    command.add_argument("--data", type=Path, help="folder with train/ and val/: measure the top-1 on train/ as well")
    command.add_argument("--sizes", type=int, nargs="+", default=[], help="with --data: sizes to validate at as well")
    command.add_argument("--commit", help="the commit that trained it, if it is not the one that is checked out")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.command == "keep":
        if not (args.run / "args.yaml").is_file():
            parser().error(f"{args.run}: there is no args.yaml in this folder: name an output folder of train.py")
        if args.log and not args.log.is_file():
            parser().error(f"{args.log}: no such file")
        results: dict[str, Any] = {"commit": args.commit} if args.commit else {}
        if args.data:
            results |= scores(args.run, args.name, args.data, args.sizes, **results)
        record = keep_run(args.run, args.name, args.table, args.log, **results)
        print(f"kept {args.name}: top-1 {record['val_top1']} % after {record['epochs']} epochs")
        return
    if not (Path(args.data) / "train").is_dir():
        parser().error(f"{args.data}: there is no train/ in this folder")
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    asked = {}
    if args.command == "answers":
        asked = {"kd_model_name": args.teacher, "class_map": str(write_class_map(args.runs))}
    run_table(args.command, args.data, args.runs, args.jobs, threads, args.only, asked)
    print("recorded; python -m benchmarks.tables --plots brings the pages up to date")


if __name__ == "__main__":
    main()
