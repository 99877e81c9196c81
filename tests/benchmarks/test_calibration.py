"""Calibration against its definition in plain loops."""

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks.calibration import (
    calibration_error,
    fit_temperature,
    fold_temperature,
    measure,
    read_logits,
    threshold,
)


def logits_and_labels(sharpness: float, number: int = 4000, scale: float = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from a softmax, and its logits made sharper: the temperature that is right is the sharpness."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(number, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return logits * sharpness, labels


def test_the_error_is_the_mean_distance_between_what_is_said_and_what_is_right():
    logits, labels = logits_and_labels(3.0, 200)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits.softmax(dim=1).tolist(), labels.tolist(), strict=True):
        bins[min(int(max(row) * 15), 14)].append((max(row), row.index(max(row)) == label))
    expected = sum(abs(sum(right for _, right in b) - sum(said for said, _ in b)) for b in bins) / 200
    assert abs(calibration_error(logits, labels) - 100 * expected) < 1e-3


def test_the_temperature_undoes_what_made_the_logits_sharper():
    for sharpness in (0.5, 3.0):
        logits, labels = logits_and_labels(sharpness)
        found = fit_temperature(logits, labels)
        assert abs(found / sharpness - 1) < 0.1
        assert calibration_error(logits / found, labels) < min(3, calibration_error(logits, labels))


def test_above_the_threshold_answers_are_right():
    logits, labels = logits_and_labels(1.0, scale=5)
    least = threshold(logits, labels)
    assert least is not None and least > 0.5
    said, answer = logits.softmax(dim=1).max(dim=1)
    assert (answer == labels)[said >= least].double().mean() >= 0.99
    assert (answer == labels)[said >= least - 0.05].double().mean() < 0.99


def test_a_folded_temperature_divides_the_logits_and_leaves_all_else(tmp_path):
    model = timm.create_model("vt_resnet_micro", pretrained=True).eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    fold_temperature(tmp_path, 0.5)
    folded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), 2 * model(images))
        torch.testing.assert_close(folded.forward_features(images), model.forward_features(images))


def test_a_folder_of_photos_is_measured(tmp_path):
    """Ten folders of noise: what is said of them is hardly ever right, so that the temperature must be high."""
    generator = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for i in range(2):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(tmp_path / str(label) / f"{i}.png")
    found = measure("vt_resnet_micro", *read_logits("vt_resnet_micro", str(tmp_path)))
    assert found["photos"] == 10 and found["temperature"] > 1.5
    assert found["calibration_error_at_temperature"] < found["calibration_error"]
