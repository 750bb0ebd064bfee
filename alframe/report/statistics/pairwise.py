"""Every pair of strategies, paired by seed, and pairwise penalties. All pairs at once in numpy: 40 strategies are 780."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from alframe.report.statistics.curves import Curve, by_seed, paired_ends_and_areas
from alframe.report.statistics.paired import Difference, beats


@dataclass(frozen=True)
class Pair:
    """`first - second`, at the last label count and in area; corrected over all pairs of the comparison."""

    first: str
    second: str
    final: Difference
    area: Difference


def pairs(curves: dict[str, Curve]) -> list[Pair]:
    """All pairs of cells, in the order of `curves`; one Holm correction over all their tests."""
    names = list(curves)
    if len(names) < 2:
        return []
    i, j = np.triu_indices(len(names), k=1)
    ends, areas = (table[i] - table[j] for table in (by_seed(curves, "finals"), by_seed(curves, "areas")))
    found = paired_ends_and_areas(ends, areas, n_labels=len(curves[names[0]].labels))
    return [Pair(names[a], names[b], *both) for a, b, both in zip(i, j, found, strict=True)]


def penalty(curves: dict[str, Curve], lower_better: bool) -> Float[np.ndarray, "k k"]:
    """Entry (i, j): the share of label counts, in [0, 1], at which strategy i beats j by a paired t-test at 5 %.

    Two-sided and uncorrected, as published. Source: Ash et al. 2020, arXiv:1906.03671, section 4. Differs: paired over any
    number of common seeds (five there); below three, or with equal differences, no strategy beats another.
    """
    table = by_seed(curves, "values") * (-1 if lower_better else 1)
    matrix = np.zeros((len(curves), len(curves)))
    for i in range(len(curves)):  # a row at a time: 40 strategies x 20 seeds x 100 counts need 640 kB
        matrix[i] = beats(table[i] - table).mean(axis=1)
    return matrix


def sum_penalties(
    matrices: Sequence[tuple[Sequence[str], Float[np.ndarray, "_ _"]]],
) -> tuple[list[str], Float[np.ndarray, "n n"]]:
    """The penalties of several comparisons, summed over the strategies that all of them share."""
    names = [name for name in matrices[0][0] if all(name in others for others, _ in matrices)]
    total = np.zeros((len(names), len(names)))
    for own, matrix in matrices:
        places = [list(own).index(name) for name in names]
        total += matrix[np.ix_(places, places)]
    return names, total
