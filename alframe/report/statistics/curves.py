"""Learning curves of a cell over its seeds, and how they compare with a baseline's. Plain numpy and scipy; no files.

Everything is computed over the range of label counts that all runs of a comparison have, on the sorted union of their
counts; a run that was not evaluated at one of them is interpolated linearly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from alframe.area import area_under_curve
from alframe.report.statistics.paired import MIN_SEEDS, Difference, compare_paired

Points = dict[str, dict[int, tuple[list[float], list[float]]]]
"""Label counts and values of each run, by cell and seed."""
BOOTSTRAP_SEEDS = 5
"""From this many seeds on the band is a bootstrap interval, below it the lowest to the highest seed."""
LOWER_IS_BETTER = ("nll", "ece", "loss", "cost")


@dataclass(frozen=True)
class Curve:
    """A cell's metric, one row per seed: `values` at the label counts `labels`; `areas` and `finals` over that range."""

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
class Against:
    """A cell compared with its baseline, at the last label count and in the area."""

    baseline: str
    final: Difference
    area: Difference
    verdict: str


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of `metric` is the better one (losses, calibration errors, seconds)."""
    parts = metric.split("/")
    if "recall" in parts[:2]:  # what follows is a class name, and may be anything
        return False
    return parts[-1] in LOWER_IS_BETTER or (len(parts) == 1 and metric.endswith("_s"))


def common_range(runs: Points) -> tuple[float, float]:
    """The first and the last label count that all runs have; if the first is above the last, they share none."""
    every = [labels for seeds in runs.values() for labels, _ in seeds.values()]
    return max(labels[0] for labels in every), min(labels[-1] for labels in every)


def on_grid(runs: Points, low: float, high: float) -> dict[str, Curve]:
    """Curves by cell from (labels, values) by cell and seed, cut to `low`..`high` and put on one grid of label counts."""
    counts = {x for seeds in runs.values() for labels, _ in seeds.values() for x in labels if low <= x <= high}
    grid = np.array(sorted(counts | {low, high}), dtype=float)
    return {
        name: Curve(name, tuple(seeds), grid, np.stack([np.interp(grid, *points) for points in seeds.values()]))
        for name, seeds in runs.items()
    }


def thinned(curve: Curve, most: int) -> Curve:
    """The same curve at no more than `most` label counts, with the first and the last."""
    kept = np.unique(np.linspace(0, len(curve.labels) - 1, most).round().astype(int))
    return Curve(curve.name, curve.seeds, curve.labels[kept], curve.values[:, kept])


def band(
    values: Float[np.ndarray, "s t"], bootstrap: bool, n_draws: int = 2000
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Lower and upper edge: the 95 % percentile-bootstrap interval of the mean over seeds, or the lowest and highest seed."""
    if not bootstrap:
        return values.min(axis=0), values.max(axis=0)
    # whole curves are resampled from a fixed stream: the same runs always give the same figure
    drawn = np.random.default_rng(0).integers(len(values), size=(n_draws, len(values)))
    weights = (drawn[:, :, None] == np.arange(len(values))).mean(axis=1)
    edges = np.empty((2, values.shape[1]))
    for i in range(0, values.shape[1], 1024):  # at most 16 MB for any number of label counts
        edges[:, i : i + 1024] = np.percentile(weights @ values[:, i : i + 1024], [2.5, 97.5], axis=0)
    return edges[0], edges[1]


def by_seed(curves: Mapping[str, Curve], what: str) -> Float[np.ndarray, "k s *t"]:
    """`finals`, `areas` or `values` of every curve by seed, over the seeds of all; NaN where a curve lacks a seed."""
    every = sorted({seed for curve in curves.values() for seed in curve.seeds})
    table = np.full((len(curves), len(every), *getattr(next(iter(curves.values())), what).shape[1:]), np.nan)
    for row, curve in zip(table, curves.values(), strict=True):
        row[np.searchsorted(every, curve.seeds)] = getattr(curve, what)
    return table


def against(curves: dict[str, Curve], baselines: dict[str, str], lower_better: bool) -> dict[str, Against]:
    """Every cell of `baselines` compared with its baseline; one Holm correction over all tests."""
    if not baselines:
        return {}
    place = {name: i for i, name in enumerate(curves)}
    these, those = [place[name] for name in baselines], [place[name] for name in baselines.values()]
    found = differences(curves, these, those)
    return {
        name: Against(baseline, final, area, verdict(final, area, lower_better))
        for (name, baseline), (final, area) in zip(baselines.items(), found, strict=True)
    }


def differences(
    curves: Mapping[str, Curve], these: Sequence[int], those: Sequence[int]
) -> list[tuple[Difference, Difference]]:
    """The paired differences of `these` curves from `those`, by place, at the end and in area: one family of tests.

    With one label count the area equals the end and is not tested again.
    """
    ends, areas = (table[these] - table[those] for table in (by_seed(curves, "finals"), by_seed(curves, "areas")))
    if len(next(iter(curves.values())).labels) == 1:
        return [(end, replace(end, p_holm=None)) for end in compare_paired(ends)]
    found = compare_paired(np.concatenate([ends, areas]))
    return list(zip(found[: len(ends)], found[len(ends) :], strict=True))


def verdict(final: Difference, area: Difference, lower_better: bool) -> str:
    """`better`, `worse` or `inconclusive`, at the 5 % level after correction, and where: at the end, in area, or both."""
    if final.n < MIN_SEEDS:
        return f"inconclusive ({final.n} common seed{'s' if final.n != 1 else ''}, needs {MIN_SEEDS})"
    if final.p is None and area.p is None:
        return "inconclusive (the difference is the same in all seeds)"
    signs = {}
    for where, test in (("end", final), ("area", area)):
        if test.is_shown:
            signs[where] = "better" if (test.mean < 0) == lower_better else "worse"
    if len(set(signs.values())) > 1:
        return f"{signs['end']} at the end, {signs['area']} in area"
    return f"{next(iter(signs.values()))} ({' and '.join(signs)})" if signs else "inconclusive"
