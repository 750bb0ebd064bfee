"""Every strategy against every other: the pairs that differ, and the pairwise penalty matrix."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Table
from alframe.report.chapters.verdicts import difference_cells, difference_columns
from alframe.report.read.section import Section
from alframe.report.statistics.paired import MIN_SEEDS
from alframe.report.statistics.pairwise import Pair, pairs, penalty

MAX_MATRIX = 10
"""More strategies than this are not shown as matrices."""
MAX_ROWS = 30


def penalty_table(names: Sequence[str], matrix: Float[np.ndarray, "k k"], n: int) -> Table:
    """The matrix with its column means below; lower is better there."""
    rows = [
        (name, *("" if i == j else f"{matrix[i, j]:.2f}" for j in range(len(names)))) for i, name in enumerate(names)
    ]
    means = ("column mean", *(f"{mean:.2f}" for mean in matrix.mean(axis=0)))
    note = (
        "Row beats column: the share of label counts at which the row's strategy is better by a paired t-test at 5 % (uncorrected)"
        f"{f', summed over {n} comparisons' if n > 1 else ''}. "
        "Column mean: how often a strategy is beaten; lower is better. Source: Ash et al. 2020, arXiv:1906.03671."
    )
    return Table(("strategy", *names), (*rows, means), title="Pairwise penalty matrix", note=note)


def chapter(section: Section, options: Options) -> Chapter | None:
    """All pairs of strategies; None without two, or if the table of differences from the baseline covers them."""
    if len(section.curves) < 3 and section.against:
        return None
    found = pairs(section.curves)
    if not found:
        return None
    title = "Every strategy against every other"
    tests = [test for pair in found for test in (pair.final, pair.area) if test.p_holm is not None]
    if not tests:
        why = f"Nothing was tested: a test needs {MIN_SEEDS} common seeds and differences that vary between seeds."
        return Chapter(title, (Paragraph(why, "warning"),), folded=True)
    shown = [pair for pair in found if pair.final.is_shown or pair.area.is_shown]
    summary = (
        f"{len(shown)} of {phrases.counted(len(found), 'pair')} differ at 5 % after correction for all {len(tests)} tests "
        "(at the end and in area). This is a separate, larger family of tests, so it may show less than the comparison with the baseline."
    )
    blocks: list[Block] = [Paragraph(summary)]
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
    rows = [
        (test.p_holm or 0.0, (pair.first, pair.second, where, *difference_cells(test, section.metric)))
        for pair in shown
        for where, test in (("end", pair.final), ("area", pair.area))
        if test.is_shown
    ]
    rows.sort(key=lambda row: row[0])
    columns = ("first", "second", "where", *difference_columns("first − second", section.metric))
    cut = f"The {MAX_ROWS} most significant of {len(rows)}." if len(rows) > MAX_ROWS else ""
    return Table(columns, tuple(row for _, row in rows[:MAX_ROWS]), title="Pairs that differ", note=cut)
