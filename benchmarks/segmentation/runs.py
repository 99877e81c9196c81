"""Keep the training runs of segmenters that the pages and cards quote, under `benchmarks/results/segmentation/`."""

from pathlib import Path
from typing import Any

import yaml

from vt_timm.files import without_folders
from vt_timm.segmentation.evaluation import evaluate
from vt_timm.segmentation.model import LEVELS, load_segmenter

from ..common.records import RESULTS, keep_record, line_of_facts, read_records, read_rows
from .analysis import recipe, tokens_cut_off, validation_photos

RUNS = RESULTS / "segmentation" / "runs.csv"


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """Read a run folder's summary.csv: one dictionary per evaluation, none where there is no such file yet."""
    return read_rows(folder / "summary.csv")


def settings_of(folder: Path) -> dict[str, Any]:
    """Read the settings of a run without this machine's folders."""
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings["data_dir"] = Path(settings["data_dir"]).name
    settings["backbone"] = without_folders(settings["backbone"])
    settings["initial_checkpoint"] = without_folders(settings.get("initial_checkpoint", ""))
    settings["background_photos"] = [without_folders(folder) for folder in settings.get("background_photos", ())]
    return settings


def record(name: str, data: str, folder: Path) -> dict[str, Any]:
    """Return the line of a run: its settings, its last evaluation, which no score picked, and where it comes from."""
    settings = settings_of(folder)
    without = None
    if settings["neck"] == "vt_fpn":
        model = load_segmenter(folder / "best")
        with tokens_cut_off(model, list(range(LEVELS))):
            without = round(evaluate(model, validation_photos(model, data, recipe().label_options()))["miou"], 2)
    last = evaluations(folder)[-1]
    return {
        "run": name,
        "neck": settings["neck"],
        "seed": settings["seed"],
        "updates": int(last["update"]),
        "crop_size": settings["crop_size"],
        "miou": round(last["miou"], 2),
        "pixel_accuracy": round(last["pixel_accuracy"], 2),
        "miou_without_tokens": without,
        "settings": {key: value for key, value in settings.items() if key not in ("data_dir", "classes")},
        "curve": curve(folder),
        **line_of_facts(),
    }


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return (update, training loss since the point before, mIoU in percent) of every evaluation."""
    return [(int(row["update"]), round(row["train_loss"], 3), round(row["miou"], 2)) for row in evaluations(folder)]


def keep_segmenter_run(run: Path, name: str, metrics: dict[str, Any]) -> None:
    """Keep a run that ships in shipped.json, without this machine's paths.

    Args:
        run: the output folder of `vt-timm train-segmenter`.
        name: what to call it.
        metrics: metrics of the weights that were published.
    """
    kept = {**metrics, "settings": settings_of(run), "evaluations": evaluations(run)}
    keep_record("segmentation/shipped.json", name, kept)


def shipped_metrics(name: str) -> dict[str, Any]:
    """Return the metrics of a segmenter that ships, as every card and page tells them.

    They are those that `benchmarks.segmentation.analysis` measured in float32, at one size and at the command's four;
    of a segmenter that it has not measured, those of its training.
    """
    trained = read_records("segmentation/shipped.json")[name]
    measured = read_records("records.json").get("segmenter", {})
    if measured.get("segmenter") != name:
        return trained
    one, *_, four = measured["scores"]
    measured = {**measured, **one}  # a score that was measured apart from the others says when
    origin = f"one run, in float32, measured on {measured['date']} with `{measured['command']}`"
    return {**trained, **one, "origin": origin, "at_four_sizes": four}
