"""Whether VT beat ResNet: the difference of the means, beside what chance alone could make of it."""

import math
import statistics
from collections.abc import Sequence

__all__ = ["is_ahead", "standard_error"]


def standard_error(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The standard error of the difference of two means, `sqrt(var_1 / n_1 + var_2 / n_2)`."""
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, peers)))


def is_ahead(ours: Sequence[float], peers: Sequence[float]) -> bool | None:
    """Whether ours is; None where the means differ by less than twice the standard error."""
    gain = statistics.mean(ours) - statistics.mean(peers)
    return gain > 0 if abs(gain) > 2 * standard_error(ours, peers) else None
