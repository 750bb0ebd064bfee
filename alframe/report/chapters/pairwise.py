"""Every pair of strategies, paired by seed, and the pairwise penalty matrix. All pairs at once in numpy: 40 strategies are 780."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Table
from alframe.report.chapters.verdicts import difference_cells, difference_columns
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Curve, by_seed, paired_ends_and_areas
from alframe.report.statistics.paired import MIN_SEEDS, Difference, beats

MAX_MATRIX = 10
"""More strategies than this are not shown as matrices."""
MAX_ROWS = 30


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

    Two-sided and without correction, as published. Source: Ash et al. 2020, arXiv:1906.03671, section 4. Differs: paired over
    the common seeds, whatever their number (five there); under three, or with equal differences, nobody beats anybody.
    """
    every = sorted({seed for curve in curves.values() for seed in curve.seeds})
    n_labels = len(next(iter(curves.values())).labels)
    table = np.full((len(curves), len(every), n_labels), np.nan)
    for values, curve in zip(table, curves.values(), strict=True):
        values[np.searchsorted(every, curve.seeds)] = -curve.values if lower_better else curve.values
    matrix = np.zeros((len(curves), len(curves)))
    for i in range(len(curves)):  # a row at a time: 40 strategies x 20 seeds x 100 counts need 640 kB
        matrix[i] = beats(table[i] - table).mean(axis=1)
    return matrix


def sum_penalties(
    matrices: Sequence[tuple[Sequence[str], Float[np.ndarray, "_ _"]]],
) -> tuple[list[str], Float[np.ndarray, "n n"]]:
    """The penalties of several comparisons, summed over the strategies that all of them have."""
    names = [name for name in matrices[0][0] if all(name in others for others, _ in matrices)]
    total = np.zeros((len(names), len(names)))
    for own, matrix in matrices:
        places = [list(own).index(name) for name in names]
        total += matrix[np.ix_(places, places)]
    return names, total


def penalty_table(names: Sequence[str], matrix: Float[np.ndarray, "k k"], n: int) -> Table:
    """The matrix with its column means below; lower is better there."""
    rows = [
        (name, *("" if i == j else f"{matrix[i, j]:.2f}" for j in range(len(names)))) for i, name in enumerate(names)
    ]
    means = ("column mean", *(f"{mean:.2f}" for mean in matrix.mean(axis=0)))
    note = (
        "Row beats column: the share of label counts at which the row's strategy is better by a paired t-test at 5 % (uncorrected)"
        f"{f', summed over {n} comparisons' if n > 1 else ''}. "
        "Column mean: how much a strategy is beaten; lower is better. Source: Ash et al. 2020, arXiv:1906.03671."
    )
    return Table(("strategy", *names), (*rows, means), title="Pairwise penalty matrix", note=note)


def chapter(section: Section, options: Options) -> Chapter | None:
    """All pairs of strategies; nothing with fewer than two, or where the baseline's table says it all."""
    if len(section.curves) < 3 and section.against:
        return None
    found = pairs(section.curves)
    if not found:
        return None
    title = "Every strategy against every other"
    tests = [test for pair in found for test in (pair.final, pair.area) if test.p_holm is not None]
    if not tests:
        why = f"Nothing was tested: that takes {MIN_SEEDS} common seeds and differences that vary from seed to seed."
        return Chapter(title, (Paragraph(why, "warning"),), folded=True)
    shown = [pair for pair in found if pair.final.is_shown or pair.area.is_shown]
    told = (
        f"{len(shown)} of {phrases.counted(len(found), 'pair')} differ at 5 % after correction for all {len(tests)} tests "
        "(at the end and in area). This is a family of tests of its own: it asks more, so it may show less than the comparison with the baseline."
    )
    blocks: list[Block] = [Paragraph(told)]
    if len(section.curves) <= MAX_MATRIX:
        blocks.append(_matrix(section, found))
    if shown:
        blocks.append(_list(section, shown))
    if len(section.curves) <= MAX_MATRIX:
        names, matrix = list(section.curves), penalty(section.curves, section.lower_is_better)
        blocks.append(penalty_table(names, matrix, 1))
    return Chapter(title, tuple(blocks), folded=True)


def _matrix(section: Section, found: Sequence[Pair]) -> Table:
    names = list(section.curves)
    by_pair: Mapping[tuple[str, str], Pair] = {(pair.first, pair.second): pair for pair in found}

    def cell(row: str, column: str) -> str:
        pair = by_pair.get((row, column)) or by_pair.get((column, row))
        if pair is None or pair.area.n == 0:
            return ""
        difference = pair.area.mean if pair.first == row else -pair.area.mean
        mark = "*" if pair.area.is_shown or (section.range[0] == section.range[1] and pair.final.is_shown) else ""
        return phrases.number(difference, section.metric, sign=True) + mark

    rows = tuple((row, *(cell(row, column) for column in names)) for row in names)
    unit = "points of " if phrases.is_share(section.metric) else ""
    note = f"Row − column, in {unit}{phrases.metric_words(section.metric)}, over their common seeds. *: significant at 5 % after Holm's correction over all pairs."
    return Table(("strategy", *names), rows, title="Differences in area", note=note)


def _list(section: Section, shown: Sequence[Pair]) -> Table:
    rows = []
    for pair in shown:
        for where, test in (("end", pair.final), ("area", pair.area)):
            if test.is_shown:
                rows.append(
                    (test.p_holm or 0.0, (pair.first, pair.second, where, *difference_cells(test, section.metric)))
                )
    rows.sort(key=lambda row: row[0])
    columns = ("first", "second", "where", *difference_columns("first − second", section.metric))
    cut = f"The {MAX_ROWS} surest of {len(rows)}." if len(rows) > MAX_ROWS else ""
    return Table(columns, tuple(row for _, row in rows[:MAX_ROWS]), title="Pairs that differ", note=cut)
