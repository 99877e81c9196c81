"""Small versions of the paper's accuracy tables on Imagenette, a command each; what is recorded is not run again.

    python -m benchmarks.accuracy table2 --data DATA/imagenette2-224 --runs RUNS --jobs 2    # Table 2
    python -m benchmarks.accuracy ablations ...                                              # Tables 3 to 7
    python -m benchmarks.accuracy ingredients ...                                            # section 5.2
    python -m benchmarks.accuracy transfer --data DATA/ccp --runs RUNS                       # digits and garments
    python -m benchmarks.accuracy report                                                     # CSV, page and curves

Every run is timm's train.py under `vt-timm run` with the recipe `matched_imagenette`, those of `transfer` with
`finetune`. A run that was interrupted begins again, since train.py keeps what it evaluates and these recipes evaluate
little but the end; one that diverges is stopped. Both that and a finished one are recorded under
`benchmarks/results/accuracy/runs/`. `table2` and `transfer` first try the learning rates, and then other seeds at the
best; the others take their model's best from `table2`.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vt_timm.weights.published import HUB

from . import plan, report
from .plan import Experiment
from .records import best_learning_rates, diverged, finished, keep, load
from .transfer import prepare

TABLES = {
    "table2": plan.table_2,
    "ablations": plan.ablations,
    "ingredients": plan.ingredients,
    "transfer": plan.transfer,
}
# glibc's malloc keeps what it has instead of handing every large tensor back to the kernel. By hand, one trial with
# MALLOC_TOP_PAD_ set as well, on an AMD EPYC: 18 % (resnet18) and 27 % (vt_resnet18) more images per second at 128 px,
# 1 to 11 % at 64 and 96 px. Without effect on another C library.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000"}
TEACHER = f"local-dir:{HUB / 'vt_resnet18.muon_imagenette'}"


def train(experiment: Experiment, data: str, runs: Path, jobs: int, threads: int) -> None:
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
        with (
            log.open("a") as file,
            subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment) as run,
        ):
            while run.poll() is None and not diverged(log):
                time.sleep(5)
            run.terminate()
        if not (finished(folder) or diverged(log)):
            raise subprocess.CalledProcessError(run.returncode, command)
    train_data = data if experiment.is_reference else None
    record = keep(folder, experiment.name, log, time.time() - start, jobs, train_data)
    result = f"top-1 {record['val_top1']:.2f} %" if "diverged" not in record else f"diverged: {record['diverged']}"
    print(f"{experiment.name:<32} {result}", flush=True)


def run_table(table: str, data: str, runs: Path, jobs: int, threads: int, only: list[str] | None) -> None:
    """All runs of a table that have no record; those of a search come before those that need its result."""
    while True:
        missing = [e for e in TABLES[table](best_learning_rates()) if load(e.name) is None]
        missing = [e for e in missing if only is None or e.model in only]
        if not missing:
            break
        places = [str(prepare(e.dataset, Path(data), runs / "sets")) if e.dataset else data for e in missing]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda e, place: train(e, place, runs, jobs, threads), missing, places))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=[*TABLES, "report"])
    parser.add_argument("--data", help="folder with train/ and val/: Imagenette, for transfer Clothing Co-Parsing")
    parser.add_argument("--runs", type=Path, help="folder for the runs, checkpoints included")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--threads", type=int, help="of a run, default the cores divided by --jobs")
    parser.add_argument("--only", nargs="+", choices=plan.SEEDS, metavar="MODEL", help="only these models")
    args = parser.parse_args()
    if args.table != "report":
        if not (args.data and args.runs):
            parser.error("training needs --data and --runs")
        if not (Path(args.data) / "train").is_dir():
            parser.error(f"{args.data}: there is no train/ in this folder")
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
        run_table(args.table, args.data, args.runs, args.jobs, threads, args.only)
    report.write(best_learning_rates())
    return 0


if __name__ == "__main__":
    sys.exit(main())
