"""What is said over all comparisons together: who beats whom, and average ranks."""

from collections.abc import Sequence

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.pairwise import penalty, penalty_table, sum_penalties
from alframe.report.read.section import Section
from alframe.report.statistics.paired import LEVEL, MIN_SEEDS
from alframe.report.statistics.ranks import MIN_COMPARISONS, Ranks, diagram, ranks_over

MAX_PENALTIES = 20
"""More strategies than this have no penalty matrix: nobody reads it."""


def overall(sections: Sequence[Section], options: Options) -> Chapter | None:
    """The penalty matrix and the ranks; nothing under two comparisons of two strategies or more."""
    useful = [section for section in sections if len(section.curves) > 1 and not section.has_all]
    if len(useful) < MIN_COMPARISONS:
        return None
    blocks: list[Block] = [*_penalties(useful)]
    ranks, why_not = ranks_over(useful)
    if ranks is None:
        blocks.append(Paragraph(why_not))
    else:
        blocks += _ranked(ranks)
        if len({section.runs[0].dataset for section in useful}) < len(useful):
            told = (
                "Some comparisons share their dataset, so they are not independent: the ranks look surer than they are."
            )
            blocks.append(Paragraph(told, "warning"))
    return Chapter("Over all comparisons", tuple(blocks))


def _penalties(sections: Sequence[Section]) -> list[Block]:
    matrices = [(list(s.curves), penalty(s.curves, s.lower_is_better)) for s in sections]
    names, total = sum_penalties(matrices)
    if len(names) < 2:
        return [Paragraph("No penalty matrix: fewer than two strategies are in all comparisons.")]
    if len(names) > MAX_PENALTIES:
        return [Paragraph(f"No penalty matrix: {len(names)} strategies are more than can be read ({MAX_PENALTIES}).")]
    if max(len(curve.seeds) for s in sections for curve in s.curves.values()) < MIN_SEEDS:
        return [Paragraph(f"No penalty matrix: its tests take {MIN_SEEDS} common seeds.")]
    return [penalty_table(names, total, len(sections))]


def _ranked(ranks: Ranks) -> list[Block]:
    if ranks.p < LEVEL:
        told = f"They differ (Friedman, p {phrases.p_value(ranks.p)}); two of them do where their mean ranks are more than {ranks.critical_difference:.2f} apart."
    else:
        told = f"That they are all alike cannot be ruled out (Friedman, p {phrases.p_value(ranks.p)}), so no pair should be told apart by rank."
    intro = f"{len(ranks.names)} strategies ranked by mean area in each of {phrases.counted(ranks.n, 'comparison')}; 1 is best. {told}"
    rows = tuple((name, f"{mean:.2f}") for name, mean in zip(ranks.names, ranks.means, strict=True))
    note = "Mean over the comparisons. Critical difference: Nemenyi, 5 %, for all pairs at once. Source: Demsar 2006, JMLR 7."
    alt = "Critical-difference diagram: " + ", ".join(
        f"{name} {mean:.2f}" for name, mean in zip(ranks.names, ranks.means, strict=True)
    )
    caption = "Mean ranks; a bar joins strategies that are not told apart."
    return [
        Paragraph(intro),
        Table(("strategy", "mean rank"), rows, title="Average ranks", note=note),
        Picture("critical_difference", lambda: diagram(ranks), alt, caption),
    ]
