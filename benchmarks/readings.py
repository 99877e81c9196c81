"""Find which reading of the paper fits Table 8 best, of 300 of them, in closed form.

    python -m benchmarks.readings

Prints the tables of benchmarks/reading_the_paper.md. The closed form of our reading is held to the counted cost of the
models by a test.
"""

import itertools
from typing import NamedTuple

from .common.counting import Cost, count, count_stage5
from .common.paper_tables import TABLES
from .common.records import table

DEPTHS = (18, 34, 50, 101)
MODULES = {18: 2, 34: 3, 50: 3, 101: 3}
P, L, D = 14 * 14, 16, 1024
HEADS = 16
CLASSES = 1000
MACS_WITHIN, PARAMS_WITHIN = 0.02, 0.05

# Weights of the transformer's K and Q together, of F1 and F2's hidden width, and of the projector's W_Q.
KEYS_QUERIES = {
    "16 heads, D to D/2": D * D / HEADS,
    "16 heads, D to D": 2 * D * D / HEADS,
    "dense, D to D/4": D * D / 2,
    "dense, D to D/2": D * D,
    "dense, D to D": 2 * D * D,
}
HIDDEN = ("D/4", "D/2", "C", "D", "2D")
PROJECTOR_QUERY = {"16 heads": 16, "4 heads": 4, "dense": 1}


class Reading(NamedTuple):
    """A choice in all that the paper leaves open, or says in two ways."""

    keys_queries: str
    hidden: str
    projector_query: str
    value_always: bool  # a token value projection W_V also where C = D
    last_projector: bool  # a projector in the last module too


OURS = Reading("16 heads, D to D/2", "D", "16 heads", value_always=False, last_projector=False)


def trunk(depth: int) -> Cost:
    """Count what a ResNet keeps, all but stage 5 and classifier, in millions."""
    whole, stage5 = count(f"resnet{depth}"), count_stage5(f"resnet{depth}")
    features = 512 if depth < 50 else 2048
    classifier = Cost(features * CLASSES / 1e6, (features + 1) * CLASSES / 1e6)
    return Cost(*(a - b - c for a, b, c in zip(whole, stage5, classifier, strict=True)))


def cost(depth: int, reading: Reading) -> Cost:
    """Return MACs and parameters of a VT-ResNet under a reading, in millions, but for the VT stage's norms."""
    c = 512 if depth < 50 else 1024
    weights: list[tuple[float, int]] = []  # (number of weights, rows that they are multiplied with)
    products = 0.0  # multiply-accumulates that involve no weight
    if depth < 50:
        weights.append((256 * c, P))
    hidden = {"D/4": D // 4, "D/2": D // 2, "C": c, "D": D, "2D": 2 * D}[reading.hidden]
    heads = PROJECTOR_QUERY[reading.projector_query]
    last = MODULES[depth] - 1
    for module in range(MODULES[depth]):
        if module == 0:
            weights.append((c * L, P))  # W_A
        else:
            weights.append((D * c, L))  # W_T->R
            products += P * c * L
        products += P * c * L  # A^T X
        if c != D:
            weights.append((c * D, L))  # token embedding
        weights += [(KEYS_QUERIES[reading.keys_queries], L), (2 * D * hidden, L)]
        products += 1.5 * D * L * L
        if module < last or reading.last_projector:
            # One product with the keys is the same as one with the pixels, and where W_Q is grouped it is cheaper.
            weights += [(c * c / heads, L if heads == HEADS else P), (D * c, L)]
            if c != D or reading.value_always:
                weights.append((D * c, L))
            products += 2 * P * c * L
    base = trunk(depth)
    macs = sum(number * rows for number, rows in weights) + products + D * CLASSES
    params = sum(number for number, _ in weights) + (D + 1) * CLASSES
    return Cost(base.macs + macs / 1e6, base.params + params / 1e6)


def _paper(depth: int) -> Cost:
    row = next(row for row in TABLES[8] if row.model == f"vt_resnet{depth}")
    assert row.macs and row.params
    return Cost(row.macs, row.params)


def differences(depth: int, reading: Reading) -> tuple[float, float]:
    """Return how far MACs and parameters under a reading are from Table 8, as shares of it."""
    ours, paper = cost(depth, reading), _paper(depth)
    return ours.macs / paper.macs - 1, ours.params / paper.params - 1


def _worst(reading: Reading) -> float:
    """Return the largest difference over the four models, in units of 2 % of the MACs or 5 % of the parameters."""
    return max(
        max(abs(macs) / MACS_WITHIN, abs(params) / PARAMS_WITHIN)
        for macs, params in (differences(depth, reading) for depth in DEPTHS)
    )


def best_readings() -> list[Reading]:
    """Return all 300 readings, those whose worst difference from Table 8 is smallest first."""
    choices = itertools.product(KEYS_QUERIES, HIDDEN, PROJECTOR_QUERY, (False, True), (False, True))
    return sorted((Reading(*choice) for choice in choices), key=_worst)


def readings_table(number: int = 6) -> str:
    rows = []
    for reading in best_readings()[:number]:
        cells = [
            reading.keys_queries,
            reading.hidden,
            reading.projector_query,
            "always" if reading.value_always else "if C != D",
            "yes" if reading.last_projector else "no",
            *("{:+.1%} / {:+.1%}".format(*differences(depth, reading)) for depth in DEPTHS),
        ]
        rows.append(cells)
    head = ["K, Q", "hidden width of F1, F2", "projector's W_Q", "W_V", "last projector"]
    return table([*head, *(f"R{depth}" for depth in DEPTHS)], rows)


def stage_budget(depth: int, macs_off: float, params_off: float) -> Cost:
    """Return what Table 8, changed by those shares, leaves for the VT stage, in millions."""
    paper, base = _paper(depth), trunk(depth)
    return Cost(
        paper.macs * (1 + macs_off) - base.macs - D * CLASSES / 1e6,
        paper.params * (1 + params_off) - base.params - (D + 1) * CLASSES / 1e6,
    )


def budgets_table() -> str:
    rows = []
    for depth in DEPTHS:
        exact, low, high = (
            stage_budget(depth, m, p) for m, p in ((0, 0), (0, -PARAMS_WITHIN), (MACS_WITHIN, PARAMS_WITHIN))
        )
        macs = [f"{budget.macs:.1f}" for budget in (exact, high)]
        rows.append([f"VT-R{depth}", *macs, *(f"{budget.params:.2f}" for budget in (exact, low, high))])
    head = ["VT stage of", "MACs (M), Table 8", "at 2 % more"]
    return table([*head, "parameters (M), Table 8", "at 5 % less", "at 5 % more"], rows)


def main() -> None:
    readings = best_readings()
    print(f"{len(readings)} readings; ours is number {readings.index(OURS) + 1}\n")
    print(readings_table(), "\n")
    print(budgets_table())


if __name__ == "__main__":
    main()
