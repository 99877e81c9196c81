"""Whether VT beat ResNet: the difference of the means, beside what chance alone could make of it."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["IMAGENET", "is_ahead", "verdict"]

IMAGENET = """\
What that says about ImageNet: nothing certain. The paper trains 90 epochs on 135 times as many photos of a hundred
times as many classes at 224 px, where stage 5 sees three times the pixels, and finds VT ahead and overfitting more
([its numbers](../complexity.md)). Every run here is short and small: it shows whether VT learns as fast from little
data, not which is better once both have learned."""


def standard_error(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The standard error of the difference of two means, `sqrt(var_1 / n_1 + var_2 / n_2)`."""
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, peers)))


def is_ahead(ours: Sequence[float], peers: Sequence[float]) -> bool | None:
    """Whether ours is; None where the means differ by less than twice the standard error."""
    gain = statistics.mean(ours) - statistics.mean(peers)
    return gain > 0 if abs(gain) > 2 * standard_error(ours, peers) else None


def verdict(ours: str, our_runs: Sequence[dict[str, Any]], peer: str, peer_runs: Sequence[dict[str, Any]]) -> str:
    """Difference in validation top-1, its standard error over the seeds, and how far each overfits.

    Args:
        ours, peer: names of the models.
        our_runs, peer_runs: their records at the best learning rate, one a seed.
    """
    vt, resnet = ([run["val_top1"] for run in runs] for runs in (our_runs, peer_runs))
    gain = statistics.mean(vt) - statistics.mean(resnet)
    text = f"**{ours} against {peer}: {gain:+.2f} points of top-1.** "
    if min(len(vt), len(resnet)) < 2:
        text += "One run each, so no spread is known and this alone says little."
    else:
        ahead = is_ahead(vt, resnet)
        said = "no winner: less than twice that"
        if ahead is not None:
            said = f"more than twice that, so {ours if ahead else peer} is ahead"
        error = standard_error(vt, resnet)
        text += (
            f"The standard error of this difference, over {len(vt)} and {len(resnet)} seeds, is {error:.2f}; {said}."
        )
    gaps = [statistics.mean(r["train_top1"] - r["val_top1"] for r in runs) for runs in (our_runs, peer_runs)]
    return f"{text} Training top-1 exceeds validation top-1 by {gaps[0]:.2f} points in {ours}, {gaps[1]:.2f} in {peer}."
