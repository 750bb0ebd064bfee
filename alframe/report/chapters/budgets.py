"""The metric at chosen label counts, as mean and interval over the seeds, and the area under the curve with its interval."""

import numpy as np
from jaxtyping import Float

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Chapter, Options, Table
from alframe.report.read.section import Section
from alframe.report.statistics.paired import MIN_SEEDS, mean_interval


def chosen_counts(section: Section, at: tuple[int, ...]) -> tuple[list[float], list[int]]:
    """The label counts to show, and those of `at` that are left out because some run lacks them.

    Without `at`: the quarter points of the range and its end, each moved to the nearest label count that was evaluated.
    """
    labels = next(iter(section.curves.values())).labels
    low, high = section.range
    if at:
        inside = sorted({count for count in at if low <= count <= high})
        return [float(count) for count in inside], sorted(set(at) - set(inside))
    quarters = np.linspace(labels[0], labels[-1], 5)[1:]  # at the start all strategies have the same labels
    return sorted({float(labels[np.abs(labels - quarter).argmin()]) for quarter in quarters}), []


def chapter(section: Section, options: Options) -> Chapter | None:
    """One row per strategy: its mean at each count and its area, with 95 % t-intervals from three seeds on."""
    counts, left_out = chosen_counts(section, options.at)
    columns = ("strategy", "seeds", *(f"at {count:,.0f}" for count in counts), "area")
    rows = []
    for name, curve in section.curves.items():
        values = np.stack([np.interp(counts, curve.labels, row) for row in curve.values])
        cells = [mean_and_interval(values[:, i]) for i in range(len(counts))]
        rows.append((name, str(len(curve.seeds)), *cells, mean_and_interval(curve.areas)))
    low, high = section.range
    note = (
        f"{phrases.metric_words(section.metric)}: mean over the seeds and its 95 % t-interval (from {MIN_SEEDS} seeds on). "
        "Paired differences are more precise than these intervals suggest, because runs of a seed share their initial labels. "
        "Area: the area under the curve (trapezoid rule) divided by the range of labels, that is the curve's mean height."
    )
    if left_out:
        missing = ", ".join(f"{count:,}" for count in left_out)
        note += f" Not shown: {missing}; all runs share only {low:,} to {high:,} labels."
    return Chapter("At chosen budgets", (Table(columns, tuple(rows), note=note),))


def mean_and_interval(values: Float[np.ndarray, " s"]) -> str:
    """`0.875 [0.867, 0.883]`; with fewer than three seeds the mean alone."""
    interval = mean_interval(values)
    mean = phrases.value(float(values.mean()))
    return mean if interval is None else f"{mean} [{', '.join(phrases.value(edge) for edge in interval)}]"
