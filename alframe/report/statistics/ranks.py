"""Average ranks of strategies over comparisons, tested by Friedman and Nemenyi, and drawn as a critical-difference diagram.

Source: Demsar 2006, Statistical comparisons of classifiers over multiple data sets, JMLR 7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from alframe.report.read.section import Section
from alframe.report.statistics.paired import LEVEL

MIN_COMPARISONS, MIN_STRATEGIES = 2, 3
INK, FAINT, BAR = "#222222", "#999999", "#0072B2"


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over `n` comparisons, the best first; 1 is the best rank, ties share theirs.

    `p` is Friedman's, of no difference between any of them. Two strategies differ (Nemenyi, at 5 %) where their mean ranks are
    more than `critical_difference` apart; `groups` are the longest runs of places (first, last) that are not.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    n: int
    p: float
    critical_difference: float
    groups: tuple[tuple[int, int], ...]


def ranks_over(sections: Sequence[Section]) -> tuple[Ranks | None, str]:
    """The ranks by mean area of the strategies that all sections have, or None and why not."""
    common = [name for name in sections[0].curves if all(name in s.curves for s in sections)] if sections else []
    if len(sections) < MIN_COMPARISONS:
        return None, f"Ranks take {MIN_COMPARISONS} comparisons (datasets or budgets) or more, here is {len(sections)}."
    if len(common) < MIN_STRATEGIES:
        return None, f"Ranks take {MIN_STRATEGIES} strategies that all comparisons have, here are {len(common)}."
    scores = np.array(
        [[s.curves[name].areas.mean() * (-1 if s.lower_is_better else 1) for name in common] for s in sections]
    )
    return average_ranks(common, scores), ""


def average_ranks(names: Sequence[str], scores: Float[np.ndarray, "n k"]) -> Ranks:
    """Ranks of `scores`, a row a comparison, higher is better; equal scores share the mean of their ranks."""
    n, k = scores.shape
    # differences under the rounding are ties
    ranks = stats.rankdata(-np.round(scores, 9), axis=1)
    tied = bool((ranks == ranks[:, :1]).all())
    p = 1.0 if tied else float(stats.friedmanchisquare(*ranks.T).pvalue)
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    sorted_means = means[order]
    critical = nemenyi(n, k)
    return Ranks(
        names=tuple(names[i] for i in order),
        means=tuple(float(mean) for mean in sorted_means),
        n=n,
        p=p,
        critical_difference=critical,
        groups=_groups(sorted_means, critical),
    )


def nemenyi(n: int, k: int, level: float = LEVEL) -> float:
    """The critical difference of mean ranks of `k` strategies over `n` comparisons: q sqrt(k (k + 1) / (6 n))."""
    q = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def diagram(ranks: Ranks) -> Figure:
    """The critical-difference diagram: strategies at their mean rank, a bar over those that are not told apart."""
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
    _ruler(axes, ranks, k)
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


def _ruler(axes: Axes, ranks: Ranks, k: int) -> None:
    """The length of the critical difference, above the axis; an arrow where it is longer than the axis."""
    length = min(ranks.critical_difference, k - 1)
    y = 0.5
    style: dict[str, Any] = {"color": BAR, "linewidth": 1.6, "clip_on": False}
    axes.plot([1, 1 + length], [y, y], **style)
    for end in (1, 1 + length):
        axes.plot([end, end], [y - 0.05, y + 0.05], **style)
    over = " (longer than the axis)" if ranks.critical_difference > k - 1 else ""
    text = f"critical difference {ranks.critical_difference:.2f}{over}"
    axes.text(1, y + 0.09, text, ha="left", va="bottom", fontsize=8.5, color=BAR)


def _groups(means: Float[np.ndarray, " k"], critical: float) -> tuple[tuple[int, int], ...]:
    """Longest runs of two or more places within `critical`, none inside another."""
    found: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = int(np.flatnonzero(means - means[first] <= critical).max())
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)
