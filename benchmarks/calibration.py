"""How true a classifier's percentages are, and the temperature that makes them truer.

    python -m benchmarks.calibration vt_resnet18 --data DATA/imagenette2-224/val --write
    python -m benchmarks.calibration vt_resnet18 --data DATA/imagenette2-224/val --fold hub/vt_resnet18.TAG

The calibration error is that of 15 bins of equal width (Guo et al., "On Calibration of Modern Neural Networks"): the
mean distance between what is said and what is right. The temperature T, by which the logits are divided, is fitted on
every other photo and judged on those between. `--fold` writes it into the classifier's weights and bias: the order of
the classes stays.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL.Image import Image
from safetensors import safe_open
from safetensors.torch import save_file
from timm.data import create_dataset, create_transform, resolve_data_config
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from vt_timm.files import whole_file

from .common.records import keep_record, read_records, table

FILE = "accuracy/calibration.json"
BINS = 15
SURE = 0.99  # share of the answers above the threshold that are right


def calibration_error(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Return the expected calibration error in percent: `sum_b n_b / N |right_b - said_b|` over bins of confidence."""
    said_N, answer_N = logits_NK.softmax(dim=1).max(dim=1)
    right_N = (answer_N == labels_N).double()
    bin_N = (said_N * BINS).long().clamp(max=BINS - 1)
    distance = torch.zeros(BINS, dtype=torch.double).index_add_(0, bin_N, right_N - said_N.double())
    return 100 * distance.abs().sum().item() / len(labels_N)


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Return the T > 0 with the least cross entropy of `logits / T`."""
    log_t = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits_NK / log_t.exp(), labels_N)
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return log_t.exp().item()


def threshold(logits_NK: Tensor, labels_N: Tensor) -> float | None:
    """Return the least confidence, in steps of 0.05, such that `SURE` of the answers above it are right."""
    said_N, answer_N = logits_NK.softmax(dim=1).max(dim=1)
    for step in range(20):
        above_N = said_N >= step / 20
        if above_N.any() and (answer_N == labels_N)[above_N].double().mean() >= SURE:
            return step / 20
    return None


def fold_temperature(folder: Path, temperature: float) -> None:
    """Divide the classifier of a model's folder by the temperature; its numbers keep their kind."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        weights, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    for key in ("fc.weight", "fc.bias"):
        weights[key] = (weights[key].double() / temperature).to(weights[key].dtype)
    with whole_file(path) as temporary:
        save_file(weights, str(temporary), metadata)


@torch.no_grad()  # not inference mode: the temperature is fitted to the logits by their gradient
def read_logits(
    name: str, folder: str, number: int | None = None, change: Callable[[Image], Image] = lambda photo: photo
) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K) and labels (N,) of photos, seen as the model's config says.

    Args:
        name: a timm model with weights.
        folder: one folder of photos per class.
        number: how many of them, evenly spaced; None for all.
        change: what is done to each photo before.
    """
    model = timm.create_model(name, pretrained=True).eval()
    see = create_transform(**resolve_data_config({}, model=model, use_test_size=True))
    dataset = create_dataset("", root=folder, transform=lambda photo: see(change(photo)))
    if number is not None:
        chosen = torch.linspace(0, len(dataset) - 1, min(number, len(dataset))).long().tolist()
        dataset = Subset(dataset, chosen)
    loader = DataLoader(dataset, batch_size=64)
    found = [(model(images), labels) for images, labels in tqdm(loader, disable=None)]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def measure(name: str, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the errors on the photos that the temperature was not fitted on, and the threshold at T."""
    temperature = fit_temperature(logits[::2], labels[::2])
    logits, labels = logits[1::2], labels[1::2]
    said, answer = logits.softmax(dim=1).max(dim=1)
    least = threshold(logits / temperature, labels)
    above = (logits / temperature).softmax(dim=1).max(dim=1)[0] >= (least or 0)
    return {
        "model": name,
        "photos": len(labels),
        "top1": round(100 * (answer == labels).double().mean().item(), 2),
        "mean_confidence": round(100 * said.mean().item(), 2),
        "calibration_error": round(calibration_error(logits, labels), 2),
        "temperature": round(temperature, 3),
        "calibration_error_at_temperature": round(calibration_error(logits / temperature, labels), 2),
        "unsure_below": least,
        "share_of_photos_above": round(above.double().mean().item(), 3),
        "right_above": round(100 * (answer == labels)[above].double().mean().item(), 2),
    }


def calibration_table() -> str:
    """Tabulate the records: a row per classifier."""
    rows = []
    for r in read_records(FILE).values():
        errors = (
            f"{r['calibration_error']:.1f} %",
            f"{r['temperature']:.2f}",
            f"{r['calibration_error_at_temperature']:.1f} %",
        )
        sure = r["unsure_below"] and (
            f"{100 * r['unsure_below']:.0f} %", f"{100 * r['share_of_photos_above']:.0f} %", f"{r['right_above']:.1f} %"
        )  # fmt: skip
        said = (f"{r['top1']:.1f} %", f"{r['mean_confidence']:.1f} %")
        rows.append([f"`{r['model']}`", r["photos"], *said, *errors, *(sure or ("none", None, None))])
    head = ["classifier", "photos", "right", "says", "calibration error", "T", "... at T", "sure from", "photos above"]
    return table([*head, "right above"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a timm model with weights")
    parser.add_argument("--data", required=True, help="photos that were not trained on, one folder per class")
    parser.add_argument(
        "--fold", type=Path, metavar="FOLDER", help="the model's folder, whose weights are divided by T"
    )
    parser.add_argument("--write", action="store_true", help="record in benchmarks/results/accuracy/calibration.json")
    args = parser.parse_args()
    found = measure(args.model, *read_logits(args.model, args.data))
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    if args.fold:
        fold_temperature(args.fold, found["temperature"])
    if args.write:
        keep_record(FILE, args.model, found)


if __name__ == "__main__":
    main()
