"""The area under a learning curve. Separate from `metrics.py` so that the report need not import torch."""

from collections.abc import Sequence
from itertools import pairwise

from alframe.errors import DataError, expect


def area_under_curve(labels: Sequence[int | float], values: Sequence[int | float]) -> float:
    """Mean height of the learning curve over the labels, in the unit of `values` and between their minimum and maximum.

    Trapezoid rule over `labels` divided by their range; with a single label count, the last value. Raises `DataError`
    if the lengths differ or are zero, or if `labels` decrease.
    """
    expect(
        len(labels) == len(values) > 0,
        f"Expected as many labels as values and at least one, got {len(labels)} and {len(values)}; "
        "pass one value for each label count.",
        DataError,
    )
    steps = [after - before for before, after in pairwise(labels)]
    expect(
        all(step >= 0 for step in steps),
        f"Expected label counts in ascending order, got {list(labels)}; sort the rounds first.",
        DataError,
    )
    span = labels[-1] - labels[0]
    if span == 0:
        return float(values[-1])
    return float(sum(step * (a + b) / 2 for step, (a, b) in zip(steps, pairwise(values), strict=True)) / span)
