"""Learning curves of a cell over its seeds, and how they compare with a baseline's. Plain numpy and scipy; no files.

Everything is computed over the range of label counts that all runs of a comparison have, on the sorted union of their
counts; a run that was not evaluated at one of them is interpolated linearly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from alframe.area import area_under_curve

LEVEL = 0.05
MIN_SEEDS = 3
"""Fewer common seeds than this are not tested."""
BOOTSTRAP_SEEDS = 5
"""From this many seeds on the band is a bootstrap interval, below it the lowest to the highest seed."""
LOWER_IS_BETTER = ("nll", "ece", "loss", "cost")


@dataclass(frozen=True)
class Curve:
    """A cell's metric, a row a seed: `values` on the label counts `labels`; `areas` and `finals` over that range."""

    name: str
    seeds: tuple[int, ...]
    labels: Float[np.ndarray, " t"]
    values: Float[np.ndarray, "s t"]

    @property
    def mean(self) -> Float[np.ndarray, " t"]:
        return self.values.mean(axis=0)

    @property
    def finals(self) -> Float[np.ndarray, " s"]:
        return self.values[:, -1]

    @property
    def areas(self) -> Float[np.ndarray, " s"]:
        """The area under each seed's curve, divided by the range of labels: the curve's mean height."""
        return np.array([area_under_curve(self.labels.tolist(), row.tolist()) for row in self.values])


@dataclass(frozen=True)
class Difference:
    """`this - baseline`, paired by seed: its mean, and the p-value of a two-sided paired t-test (None where not tested).

    `p` is as the test gives it, `p_holm` corrected for all tests of the comparison.
    """

    n: int
    mean: float
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Against:
    """A cell compared with its baseline, at the last label count and in the area."""

    baseline: str
    final: Difference
    area: Difference
    verdict: str


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of `metric` is the better one (losses, calibration errors, seconds)."""
    parts = metric.split("/")
    if "recall" in parts[:2]:  # what follows is the name of a class, and may be anything
        return False
    return parts[-1] in LOWER_IS_BETTER or (len(parts) == 1 and metric.endswith("_s"))


def on_grid(runs: dict[str, dict[int, tuple[list[float], list[float]]]], low: float, high: float) -> dict[str, Curve]:
    """Curves by cell from (labels, values) by cell and seed, cut to `low`..`high` and put on one grid of label counts."""
    counts = {x for seeds in runs.values() for labels, _ in seeds.values() for x in labels if low <= x <= high}
    grid = np.array(sorted(counts | {low, high}), dtype=float)
    return {
        name: Curve(name, tuple(seeds), grid, np.stack([np.interp(grid, *points) for points in seeds.values()]))
        for name, seeds in runs.items()
    }


def band(
    values: Float[np.ndarray, "s t"], bootstrap: bool, n_draws: int = 2000
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Lower and upper edge: the 95 % percentile-bootstrap interval of the mean over seeds, or the lowest and highest seed."""
    if not bootstrap:
        return values.min(axis=0), values.max(axis=0)
    # whole curves are drawn, with a fixed stream: the same runs always give the same figure
    drawn = np.random.default_rng(0).integers(len(values), size=(n_draws, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    return low, high


def difference(this: Curve, baseline: Curve, what: str) -> Difference:
    """The paired difference of `finals` or `areas` over the common seeds, tested where there are at least three."""
    common = [seed for seed in this.seeds if seed in baseline.seeds]
    mine, theirs = (
        np.array([getattr(curve, what)[curve.seeds.index(seed)] for seed in common]) for curve in (this, baseline)
    )
    if not common:
        return Difference(0, math.nan)
    return Difference(len(common), float((mine - theirs).mean()), paired_t(mine, theirs))


def paired_t(a: Float[np.ndarray, " s"], b: Float[np.ndarray, " s"]) -> float | None:
    """Two-sided p-value of the paired t-test; None under three pairs, or where all differences are equal (no variance)."""
    from scipy.stats import ttest_rel

    # up to rounding: three equal steps of 1 / n_test would otherwise look like certainty
    if len(a) < MIN_SEEDS or np.ptp(a - b) < 1e-9:
        return None
    return float(ttest_rel(a, b).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m is multiplied by m - i + 1, kept in order, at most 1.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    corrected, floor = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = floor
    return corrected


def against(curves: dict[str, Curve], baselines: dict[str, str], lower_better: bool) -> dict[str, Against]:
    """Every cell of `baselines` compared with the one that stands there; one Holm correction over all the tests."""
    rows = {
        name: [difference(curves[name], curves[baseline], what) for what in ("finals", "areas")]
        for name, baseline in baselines.items()
    }
    tested = [
        (name, i)
        for name, pair in rows.items()
        for i in ((0,) if len(curves[name].labels) == 1 else (0, 1))  # at one label count the area is the end
        if pair[i].p is not None
    ]
    p_values = [p for name, i in tested if (p := rows[name][i].p) is not None]
    for (name, i), p in zip(tested, holm(p_values), strict=True):
        plain = rows[name][i]
        rows[name][i] = Difference(plain.n, plain.mean, plain.p, p)
    return {
        name: Against(baselines[name], final, area, verdict(final, area, lower_better))
        for name, (final, area) in rows.items()
    }


def verdict(final: Difference, area: Difference, lower_better: bool) -> str:
    """`better`, `worse` or `cannot tell`, at the 5 % level after correction, and where: at the end, in area, or both."""
    if final.n < MIN_SEEDS:
        return f"cannot tell ({final.n} common seed{'s' if final.n != 1 else ''}, needs {MIN_SEEDS})"
    if final.p is None and area.p is None:
        return "cannot tell (the difference is the same in all seeds)"
    signs = {}
    for where, test in (("end", final), ("area", area)):
        if test.p_holm is not None and test.p_holm < LEVEL:
            signs[where] = "better" if (test.mean < 0) == lower_better else "worse"
    if len(set(signs.values())) > 1:
        return f"{signs['end']} at the end, {signs['area']} in area"
    return f"{next(iter(signs.values()))} ({' and '.join(signs)})" if signs else "cannot tell"
