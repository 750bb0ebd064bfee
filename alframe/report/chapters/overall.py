"""All comparisons together: who beats whom, average ranks and their critical-difference diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.figure import INK
from alframe.report.chapters.pairwise import penalty_table
from alframe.report.read.section import Section
from alframe.report.statistics.paired import LEVEL, MIN_SEEDS
from alframe.report.statistics.pairwise import Ranks, average_ranks, penalty, sum_penalties

MIN_COMPARISONS, MIN_STRATEGIES = 2, 3
FAINT, BAR = "#999999", "#0072B2"
MAX_PENALTIES = 20
"""With more strategies than this the penalty matrix is too large to read."""


def overall(sections: Sequence[Section], options: Options) -> Chapter | None:
    """The penalty matrix and the ranks; None without two comparisons of two strategies or more."""
    useful = [section for section in sections if len(section.curves) > 1 and not section.fully_labelled]
    if len(useful) < MIN_COMPARISONS:
        return None
    blocks: list[Block] = [*_penalties(useful)]
    ranks, why_not = ranks_over(useful)
    if ranks is None:
        blocks.append(Paragraph(why_not))
    else:
        blocks += _ranked(ranks)
        if len({section.runs[0].dataset for section in useful}) < len(useful):
            shared = "Some comparisons share a dataset, so they are not independent: the ranks look more certain than they are."
            blocks.append(Paragraph(shared, "warning"))
    return Chapter("Over all comparisons", tuple(blocks))


def _penalties(sections: Sequence[Section]) -> list[Block]:
    matrices = [(list(s.curves), penalty(s.curves, s.lower_is_better)) for s in sections]
    names, total = sum_penalties(matrices)
    if len(names) < 2:
        return [Paragraph("No penalty matrix: all comparisons share fewer than two strategies.")]
    if len(names) > MAX_PENALTIES:
        return [Paragraph(f"No penalty matrix: {len(names)} strategies are more than fit on a page ({MAX_PENALTIES}).")]
    if max(len(curve.seeds) for s in sections for curve in s.curves.values()) < MIN_SEEDS:
        return [Paragraph(f"No penalty matrix: its tests need {MIN_SEEDS} common seeds.")]
    return [penalty_table(names, total, len(sections))]


def _ranked(ranks: Ranks) -> list[Block]:
    if ranks.p < LEVEL:
        verdict = f"They differ (Friedman, p {phrases.p_value(ranks.p)}); two of them differ if their mean ranks are more than {ranks.critical_difference:.2f} apart."
    else:
        verdict = f"Whether they differ is inconclusive (Friedman, p {phrases.p_value(ranks.p)}), so no pair should be compared by rank."
    intro = f"{len(ranks.names)} strategies ranked by mean area in each of {phrases.counted(ranks.n, 'comparison')}; 1 is best. {verdict}"
    rows = tuple((name, f"{mean:.2f}") for name, mean in zip(ranks.names, ranks.means, strict=True))
    alt = f"Critical-difference diagram: {', '.join(map(' '.join, rows))}"
    note = "Mean over the comparisons. Critical difference: Nemenyi, 5 %, for all pairs at once. Source: Demsar 2006, JMLR 7."
    caption = "Mean ranks; a bar joins strategies that do not differ significantly."
    return [
        Paragraph(intro),
        Table(("strategy", "mean rank"), rows, title="Average ranks", note=note),
        Picture("critical_difference", lambda: diagram(ranks), alt, caption),
    ]


def ranks_over(sections: Sequence[Section]) -> tuple[Ranks | None, str]:
    """The ranks by mean area of the strategies that all sections have, or None and the reason."""
    common = [name for name in sections[0].curves if all(name in s.curves for s in sections)] if sections else []
    if len(sections) < MIN_COMPARISONS:
        return None, f"Ranks need {MIN_COMPARISONS} comparisons (datasets or budgets) or more, got {len(sections)}."
    if len(common) < MIN_STRATEGIES:
        return None, f"Ranks need {MIN_STRATEGIES} strategies that all comparisons share, got {len(common)}."
    scores = np.array(
        [[s.curves[name].areas.mean() * (-1 if s.lower_is_better else 1) for name in common] for s in sections]
    )
    return average_ranks(common, scores), ""


def diagram(ranks: Ranks) -> Figure:
    """The critical-difference diagram: strategies at their mean rank, a bar joins those that do not differ significantly."""
    k = len(ranks.names)
    n_left = (k + 1) // 2
    margins = [0.6 + 0.085 * max(map(len, names)) for names in (ranks.names[:n_left], ranks.names[n_left:])]
    width, line = 4.6 + sum(margins), 0.27
    bars = 0.14 * len(ranks.groups)
    above, below = 0.75, 0.25 + bars + line * n_left
    figure = Figure(figsize=(width, above + below), facecolor="white")
    axes = figure.add_axes((margins[0] / width, 0, 4.6 / width, 1))
    axes.set(xlim=(1, k), ylim=(-below, above))
    axes.axis("off")
    style: dict[str, Any] = {"color": INK, "linewidth": 1.0, "clip_on": False}
    axes.plot([1, k], [0, 0], **style)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.07], **style)
        axes.text(tick, 0.11, str(tick), ha="center", va="bottom", fontsize=9, color=INK)
    # the length of the critical difference, above the axis
    length, y = min(ranks.critical_difference, k - 1), 0.5
    ruler: dict[str, Any] = {"color": BAR, "linewidth": 1.6, "clip_on": False}
    axes.plot([1, 1 + length], [y, y], **ruler)
    for end in (1, 1 + length):
        axes.plot([end, end], [y - 0.05, y + 0.05], **ruler)
    over = " (longer than the axis)" if ranks.critical_difference > k - 1 else ""
    text = f"critical difference {ranks.critical_difference:.2f}{over}"
    axes.text(1, y + 0.09, text, ha="left", va="bottom", fontsize=8.5, color=BAR)
    for i, (first, last) in enumerate(ranks.groups):
        y = -0.12 - 0.14 * i
        ends = [ranks.means[first] - 0.03, ranks.means[last] + 0.03]
        axes.plot(ends, [y, y], color=BAR, linewidth=3.5, solid_capstyle="round", clip_on=False)
    for place, (name, mean) in enumerate(zip(ranks.names, ranks.means, strict=True)):
        left = place < n_left
        y = -(0.25 + bars) - line * (place if left else k - 1 - place)
        edge, shift = (1, -0.02 * (k - 1)) if left else (k, 0.02 * (k - 1))
        axes.plot([mean, mean, edge + shift], [0, y, y], color=FAINT, linewidth=0.9, clip_on=False)
        label = f"{name}  {mean:.2f}" if left else f"{mean:.2f}  {name}"
        side = "right" if left else "left"
        axes.text(edge + 1.5 * shift, y, label, ha=side, va="center", fontsize=9.5, color=INK)
    return figure
