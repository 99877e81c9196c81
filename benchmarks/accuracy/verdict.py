"""Whether VT beat ResNet: the difference of the means, beside what chance alone could make of it."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["IMAGENET", "verdict"]

IMAGENET = """\
What that says about ImageNet: nothing certain. The paper trains 90 epochs on 135 times as many photos of a hundred
times as many classes at 224 px, where stage 5 sees three times the pixels, and finds VT ahead and overfitting more
([its numbers](../complexity.md)). Every run here is short and small: it shows whether VT learns as fast from little
data, not which is better once both have learned."""


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
        error = math.sqrt(statistics.variance(vt) / len(vt) + statistics.variance(resnet) / len(resnet))
        winner = ours if gain > 0 else peer
        said = (
            f"more than twice that, so {winner} is ahead"
            if abs(gain) > 2 * error
            else "no winner: less than twice that"
        )
        text += (
            f"The standard error of this difference, over {len(vt)} and {len(resnet)} seeds, is {error:.2f}; {said}."
        )
    gaps = [statistics.mean(r["train_top1"] - r["val_top1"] for r in runs) for runs in (our_runs, peer_runs)]
    return f"{text} Training top-1 exceeds validation top-1 by {gaps[0]:.2f} points in {ours}, {gaps[1]:.2f} in {peer}."
