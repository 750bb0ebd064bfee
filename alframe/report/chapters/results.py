"""The results of a comparison: its table, the learning curves by labels and by people's time, the metric at chosen budgets."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.figure import learning_curves
from alframe.report.chapters.phrases import metric_words, p_value, tone_of, value
from alframe.report.read.run import number
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Points, common_range, on_grid
from alframe.report.statistics.paired import MIN_SEEDS, Difference, mean_interval

HOW_TO_READ = """\
At the end is the value at the last label count. Area is the area under the learning curve divided by the range of labels, that is the \
curve's mean height. Both are mean ± standard deviation over the seeds. Differences are paired by seed. p is two-sided, from a paired \
t-test, or from a sign-flip permutation test if 8 or more seeds are common and enough for it. It is Holm-corrected over all tests of the \
table, and computed only from three common seeds on. Better and worse hold at the 5 % level after correction. Inconclusive means that \
these seeds do not show a difference, not that there is none."""


def chapter(section: Section, options: Options) -> Chapter:
    """The table, and the curves by annotation time or why there are none. The page places `curves` itself."""
    words = metric_words(section.metric)
    blocks: list[Block] = [table(section), *(Paragraph(note, "warning") for note in section.notes)]
    hours = annotation_hours(section)
    if hours is None:
        cost = f" ({options.label_cost:g} each)" if options.label_cost != 1 else ""
        same = f"The ledgers record no annotation time, so every label costs the same{cost}. "
        same += "Curves by cost are the curves by labels with another unit on the horizontal axis."
        blocks.append(Paragraph(same))
    else:
        alt = f"{words} of {', '.join(section.curves)} by hours of annotation"
        by_time = lambda: learning_curves([hours], "hours of annotation")  # noqa: E731
        blocks.append(Picture("curves_by_time", by_time, alt, f"{words} by the annotation time of all labels so far."))
    return Chapter("Results", tuple(blocks))


def curves(section: Section) -> Picture:
    """The learning curves by labels."""
    words, (low, high) = metric_words(section.metric), section.range
    alt = f"{words} of {', '.join(section.curves)} from {low:,} to {high:,} labels; the results table has the numbers"
    return Picture("curves", lambda: learning_curves([section]), alt)


def table(section: Section) -> Table:
    """One row per cell: the verdict, the end, the area, and how both differ from the baseline."""
    columns, rows = table_of(section)
    # readers look for the verdict: it stands beside the name, even where a narrow screen cuts the rest
    moved = [(row[0], row[-1], *row[1:-1]) for row in (columns, *rows)]
    return Table(moved[0], tuple(moved[1:]), tones=tuple(tone_of(row[-1]) for row in rows))


def annotation_hours(section: Section) -> Section | None:
    """The section with hours of annotation in place of label counts; None unless every ledger records it.

    The hours at a round cover all answers used for training and validation.
    """
    points: Points = {}
    for name, seeds in section.cells.items():
        for seed, run in seeds.items():
            asked = np.array([line["round"] for line in run.ledger], dtype=int)
            seconds = np.array([number(line.get("time_s")) for line in run.ledger])
            by_round = [float(seconds[asked <= line.get("round", -1)].sum()) / 3600 for line in run.rounds]
            hours = zip(by_round, run.rounds, strict=True)
            measured = [(h, line[section.metric]) for h, line in hours if line.get(section.metric) is not None]
            if not measured or measured[-1][0] <= 0:
                return None
            points.setdefault(name, {})[seed] = ([h for h, _ in measured], [float(value) for _, value in measured])
    low, high = common_range(points)
    return replace(section, curves=on_grid(points, low, high)) if low < high else None


def heading(section: Section) -> str:
    """The metric, the label range and what all runs share, in one line."""
    low, high = section.range
    shared = ", ".join(f"{group} {name}" for group, name in section.common.items())
    direction = "lower" if section.lower_is_better else "higher"
    over = f"{low:,} to {high:,} labels" if low < high else f"at {low:,} labels"
    return f"{section.metric} ({direction} is better), {over}" + (f"; {shared}" if shared else "")


def table_of(section: Section) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of the table, as text; the verdict is the last column."""
    columns = ["strategy", "seeds", f"at {section.range[1]:,} labels", "area"]
    compared = bool(section.against)
    if compared:
        names = set(section.baselines.values())
        baseline = names.pop() if len(names) == 1 else "baseline"
        columns += [f"end − {baseline}", f"area − {baseline}"]
    rows = []
    for name, curve in section.curves.items():
        row = [name, str(len(curve.seeds)), mean_std(curve.finals), mean_std(curve.areas)]
        versus = section.against.get(name)
        if compared:
            row += [_signed(versus.final), _signed(versus.area)] if versus else ["", ""]
        is_baseline = name in section.baselines.values()
        rows.append([*row, versus.verdict if versus else "baseline" if is_baseline else "not compared"])
    return [*columns, "verdict"], rows


def mean_std(values: np.ndarray) -> str:
    """`0.712 ± 0.004`; the mean alone for one value."""
    return f"{values.mean():.3f}" + (f" ± {std(values):.3f}" if len(values) > 1 else "")


def std(values: Sequence[float] | np.ndarray) -> float:
    """The sample's standard deviation, NaN of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _signed(test: Difference) -> str:
    if math.isnan(test.mean):
        return ""
    difference = f"{test.mean:+.3f}".replace("-", "−")
    return difference + (f" (p {p_value(test.p_holm)})" if test.p_holm is not None else "")


def budgets(section: Section, options: Options) -> Chapter | None:
    """One row per strategy: its mean at each count and its area, with 95 % t-intervals from three seeds on."""
    low, high = section.range
    counts, left_out = sorted({float(count) for count in options.at if low <= count <= high}), ""
    if options.at:
        left_out = ", ".join(f"{count:,}" for count in sorted(set(options.at) - set(counts)))
    else:  # the quarter points of the range and its end, each moved to the nearest label count that was evaluated
        labels = next(iter(section.curves.values())).labels
        quarters = np.linspace(labels[0], labels[-1], 5)[1:]  # at the start all strategies have the same labels
        counts = sorted({float(labels[np.abs(labels - quarter).argmin()]) for quarter in quarters})
    columns = ("strategy", "seeds", *(f"at {count:,.0f}" for count in counts), "area")
    rows = []
    for name, curve in section.curves.items():
        values = np.stack([np.interp(counts, curve.labels, row) for row in curve.values])
        cells = [mean_and_interval(values[:, i]) for i in range(len(counts))]
        rows.append((name, str(len(curve.seeds)), *cells, mean_and_interval(curve.areas)))
    note = (
        f"{metric_words(section.metric)}: mean over the seeds and its 95 % t-interval (from {MIN_SEEDS} seeds on). "
        "Paired differences are more precise than these intervals suggest, because runs of a seed share their initial labels. "
        "Area: the area under the curve (trapezoid rule) divided by the range of labels, that is the curve's mean height."
    )
    if left_out:
        note += f" Not shown: {left_out}; all runs share only {low:,} to {high:,} labels."
    return Chapter("At chosen budgets", (Table(columns, tuple(rows), note=note),))


def mean_and_interval(values: Float[np.ndarray, " s"]) -> str:
    """`0.875 [0.867, 0.883]`; with fewer than three seeds the mean alone."""
    interval = mean_interval(values)
    mean = value(float(values.mean()))
    return mean if interval is None else f"{mean} [{', '.join(value(edge) for edge in interval)}]"
