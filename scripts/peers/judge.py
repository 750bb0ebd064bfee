"""Are these picks a run of the rule? Naive float64 references, replayed along the picks of either side.

Two sides that part at a tie are both right, so picks are not compared with each other but with the rule: at each step the pick's
value must be within a rounding of the best that was left.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy import special, stats

TOLERANCE = 1e-6  # of the largest value at the first step
Arrays = Mapping[str, np.ndarray]


class Rule(Protocol):
    """`values()` [n] of each image now; `take(i)` picks one."""

    def values(self) -> np.ndarray: ...

    def take(self, position: int) -> None: ...


def broken_at(rule: Rule, picks: Sequence[int], *, skip: int = 0) -> int | None:
    """The first step whose pick was not among the best left, or None. The first `skip` picks are taken as they are.

    Raises ValueError for picks that are not distinct.
    """
    if len(set(picks)) < len(picks):
        raise ValueError(f"picked twice: {sorted({p for p in picks if list(picks).count(p) > 1})}")
    left: np.ndarray | None = None
    scale = 0.0
    for step, pick in enumerate(picks):
        values = np.asarray(rule.values(), dtype=float)
        left = np.ones(len(values), dtype=bool) if left is None else left
        scale = scale or float(np.abs(values[np.isfinite(values)]).max(initial=0))
        if step >= skip and values[left].max() - values[pick] > TOLERANCE * scale:
            return step
        left[pick] = False
        rule.take(pick)
    return None


class Top:
    """The highest `scores`; the order of preference is theirs."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = np.asarray(scores, dtype=float)

    def values(self) -> np.ndarray:
        return self.scores

    def take(self, position: int) -> None:
        pass


def probs(case: Arrays, name: str = "log_probs") -> np.ndarray:
    found = np.exp(case[name].astype(float))
    return found / found.sum(axis=-1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    return special.entr(p).sum(axis=-1)


def mean(case: Arrays) -> np.ndarray:
    return probs(case).mean(axis=1)


def least_confidence(case: Arrays) -> np.ndarray:
    return 1 - mean(case).max(axis=1)


def margin(case: Arrays) -> np.ndarray:
    return _margin(mean(case))


def _margin(p: np.ndarray) -> np.ndarray:
    first, second = np.sort(p, axis=1)[:, :-3:-1].T
    return 1 - (first - second)


def predictive_entropy(case: Arrays) -> np.ndarray:
    return entropy(mean(case))


def bald(case: Arrays) -> np.ndarray:
    return entropy(mean(case)) - entropy(probs(case)).mean(axis=1)


def mean_kl(case: Arrays) -> np.ndarray:
    p = probs(case)
    return special.rel_entr(p, p.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1)


def mean_std(case: Arrays) -> np.ndarray:
    return probs(case).std(axis=1).mean(axis=1)


def votes(case: Arrays) -> np.ndarray:
    """Share of the draws whose likeliest class is each class [n, c]."""
    log_probs = case["log_probs"]
    return np.eye(log_probs.shape[2])[log_probs.argmax(axis=2)].mean(axis=1)


def vote_entropy(case: Arrays) -> np.ndarray:
    return entropy(votes(case))


def variation_ratio(case: Arrays) -> np.ndarray:
    return 1 - votes(case).max(axis=1)


def epig(case: Arrays) -> np.ndarray:
    """Less than 1e-6 nats counts as none, as it does in float32."""
    p, target = probs(case), probs(case, "target_log_probs")
    found = np.zeros(len(p))
    for t in target:
        joint = p.swapaxes(1, 2) @ t / p.shape[1]  # [n, c, c]
        independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
        found += special.rel_entr(joint, independent).sum(axis=(1, 2))
    return np.where(found < 1e-6 * len(target), 0, found / len(target))


class BatchBald:
    """What an image adds to the information of the picked, with every joint label written out.

    k draws hold log k nats: once 1 % of that is left, or an image adds less than 1e-5 nats, any image will do.
    """

    def __init__(self, case: Arrays) -> None:
        self.p = probs(case)
        self.joint = np.ones((1, self.p.shape[1]))  # of the labels so far [m, k]
        self.known = 0.0

    def values(self) -> np.ndarray:
        found = np.zeros(len(self.p))
        if self.known >= 0.99 * np.log(self.p.shape[1]):
            return found
        for i, p in enumerate(self.p):
            joint = self.joint[:, None] * p.T[None]  # [m, c, k]
            found[i] = entropy(joint.mean(axis=2).ravel()) - special.entr(joint).sum(axis=(0, 1)).mean() - self.known
        return np.where(found < 1e-5, 0, found)

    def take(self, position: int) -> None:
        self.joint = (self.joint[:, None] * self.p[position].T[None]).reshape(-1, self.p.shape[1])
        self.known = entropy(self.joint.mean(axis=1)) - special.entr(self.joint).sum(axis=0).mean()


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(x[:, None].astype(float) - y[None].astype(float)).sum(axis=2)


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(float)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def embedding(case: Arrays, prefix: str = "") -> np.ndarray:
    """(p - e_ŷ) ⊗ [h; 1] for each image."""
    p = probs(case, prefix + "point_log_probs")
    gradient = p - np.eye(p.shape[1])[p.argmax(axis=1)]
    h = np.concatenate([case[prefix + "features"].astype(float), np.ones((len(p), 1))], axis=1)
    return (gradient[:, :, None] * h[:, None]).reshape(len(p), p.shape[1] * h.shape[1])


class CoreSet:
    """Distance to the nearest labelled or picked image; with none, minus the distance to the mean."""

    def __init__(self, points: np.ndarray, labeled: np.ndarray) -> None:
        self.points = points.astype(float)
        self.nearest = squared(self.points, labeled).min(axis=1) if len(labeled) else None

    def values(self) -> np.ndarray:
        if self.nearest is None:
            return -np.sqrt(squared(self.points, self.points.mean(axis=0, keepdims=True))[:, 0])
        return np.sqrt(self.nearest)

    def take(self, position: int) -> None:
        new = squared(self.points, self.points[[position]])[:, 0]
        self.nearest = new if self.nearest is None else np.minimum(self.nearest, new)


class Lcmd:
    """Squared distance within the cluster (of nearest centre) where they sum to most; 0 elsewhere. First without labels: the longest."""

    def __init__(self, points: np.ndarray, labeled: np.ndarray) -> None:
        self.points = points
        self.distances = squared(points, labeled) if len(labeled) else np.empty((len(points), 0))

    def values(self) -> np.ndarray:
        if not self.distances.shape[1]:
            return np.square(self.points).sum(axis=1)
        nearest = self.distances.min(axis=1)
        slack = TOLERANCE * nearest.max(initial=0)
        # A point between two centres may be counted with either; it is given to the earlier, as both sides do.
        of = (self.distances <= nearest[:, None] + 1e-12 * nearest.max(initial=0)).argmax(axis=1)
        sums = np.bincount(of, nearest, minlength=self.distances.shape[1])
        return np.where(sums[of] >= sums.max() - slack, nearest, 0)

    def take(self, position: int) -> None:
        self.distances = np.concatenate([self.distances, squared(self.points, self.points[[position]])], axis=1)


class Coverage:
    """What an image adds to the coverage of the pool: sum over the pool of (kernel - best kernel so far) where positive."""

    def __init__(self, kernel: np.ndarray, labeled: np.ndarray) -> None:
        self.kernel = kernel.astype(float)
        self.covered = labeled.max(axis=1, initial=0).astype(float)

    def values(self) -> np.ndarray:
        return np.maximum(self.kernel - self.covered[:, None], 0).sum(axis=0)

    def take(self, position: int) -> None:
        self.covered = np.maximum(self.covered, self.kernel[:, position])


def max_herding(case: Arrays, radius: float = 1.0) -> Coverage:
    x, labeled = unit(case["features"]), unit(case["labeled_features"])
    return Coverage(np.exp(-squared(x, x) / radius**2), np.exp(-squared(x, labeled) / radius**2))


def prob_cover(case: Arrays, radius: float) -> Coverage:
    x, labeled = case["features"], case["labeled_features"]
    return Coverage(squared(x, x) < radius**2, squared(x, labeled) < radius**2)


class Bait:
    """Fall of tr[M⁻¹ I] by each image: M = 1 + sum of x x^T over labelled and picked, I the mean of x x^T over the pool."""

    def __init__(self, case: Arrays) -> None:
        self.x = weighted(case)
        labeled = weighted(case, "labeled_")
        self.information = np.eye(self.x.shape[1]) + labeled.T @ labeled
        self.target = self.x.T @ self.x / len(self.x)

    def trace(self) -> float:
        return float(np.trace(np.linalg.solve(self.information, self.target)))

    def values(self) -> np.ndarray:
        solved = np.linalg.solve(self.information, self.x.T)  # [d, n]
        return np.einsum("dn,de,en->n", solved, self.target, solved) / (1 + np.einsum("dn,nd->n", solved, self.x))

    def take(self, position: int) -> None:
        self.information += np.outer(self.x[position], self.x[position])

    def best(self, size: int) -> set[int]:
        """Twice `size` forward, then back to `size`, each time by the trace itself."""
        picks: list[int] = []
        while len(picks) < min(2 * size, len(self.x)):
            values = self.values()
            values[picks] = -np.inf
            picks.append(int(values.argmax()))
            self.take(picks[-1])
        while len(picks) > size:
            traces = []
            for pick in picks:
                self.information -= np.outer(self.x[pick], self.x[pick])
                traces.append(self.trace())
                self.take(pick)
            dropped = picks.pop(int(np.argmin(traces)))
            self.information -= np.outer(self.x[dropped], self.x[dropped])
        return set(picks)


def weighted(case: Arrays, prefix: str = "") -> np.ndarray:
    """sqrt(p̂ (1 - p̂)) h, whose outer product is the binary Fisher information."""
    likeliest = probs(case, prefix + "point_log_probs").max(axis=1, initial=0)
    return np.sqrt(likeliest * (1 - likeliest))[:, None] * case[prefix + "features"].astype(float)


def typicality(case: Arrays, neighbours: int) -> list[int]:
    """The most typical image of each cluster without a labelled one, the largest cluster first. Clusters are given, sizes differ."""
    of = case["cluster"]
    picks = {}
    for cluster in set(of.tolist()) - set(range(len(case["labeled_features"]))):
        members = np.flatnonzero(of == cluster)
        x = case["features"][members]
        nearest = np.sort(np.sqrt(squared(x, x)), axis=1)[:, 1 : neighbours + 1]
        picks[len(members)] = int(members[nearest.mean(axis=1).argmin()])
    return [picks[size] for size in sorted(picks, reverse=True)]


def nearest_to_means(case: Arrays, weights: np.ndarray, normalize: bool = False) -> set[int]:
    """The image nearest to the weighted mean of each given cluster."""
    x = unit(case["features"]) if normalize else case["features"].astype(float)
    picks = set()
    for cluster in set(case["cluster"].tolist()):
        members = np.flatnonzero(case["cluster"] == cluster)
        centre = np.average(x[members], axis=0, weights=weights[members])
        picks.add(int(members[squared(x[members], centre[None])[:, 0].argmin()]))
    return picks


def second(first: np.ndarray, then: Sequence[np.ndarray]) -> np.ndarray:
    """Probability of each image to be the second pick: `then[i]` is its distribution when i was first."""
    return np.asarray(first) @ np.stack(list(then))


def badge(case: Arrays, *, uniform_first: bool) -> np.ndarray:
    """Of the second pick: by squared distance from the first, which is the longest gradient or any."""
    g = embedding(case)
    lengths = np.square(g).sum(axis=1)
    first = np.full(len(g), 1 / len(g)) if uniform_first else (lengths == lengths.max()).astype(float)
    distances = squared(g, g)
    return second(first / first.sum(), [row / row.sum() for row in distances])


def falcun(case: Arrays, gamma: float) -> np.ndarray:
    """Of the second pick, as the authors' code draws it: distances scaled over the images that are left, from the first pick on."""
    p = probs(case, "point_log_probs")
    u = _margin(p)
    return second(
        _weights(u + _scaled(u), gamma),
        [_falcun_then(p, u, i, gamma) for i in range(len(p))],
    )


def _falcun_then(p: np.ndarray, u: np.ndarray, first: int, gamma: float) -> np.ndarray:
    left = np.arange(len(p)) != first
    distance = np.minimum(u, np.abs(p - p[first]).sum(axis=1))
    found = np.zeros(len(p))
    found[left] = _weights(u[left] + _scaled(distance[left]), gamma)
    return found


def _scaled(x: np.ndarray) -> np.ndarray:
    spread = np.ptp(x)
    return (x - x.min()) / spread if spread else np.zeros_like(x)


def _weights(x: np.ndarray, power: float) -> np.ndarray:
    found = (x / x.max()) ** power
    return found / found.sum()


def stochastic(scores: np.ndarray, method: str, beta: float) -> np.ndarray:
    """Of the first pick."""
    if method == "softrank":
        weights = stats.rankdata(-scores) ** -beta
    else:
        weights = np.exp(beta * scores) if method == "softmax" else scores.clip(0) ** beta
    return weights / weights.sum()


def chance(counts: np.ndarray, expected: np.ndarray) -> float:
    """p of a chi-square test that the picks counted come from the distribution; rare images are counted together."""
    if counts[expected == 0].sum():
        return 0.0
    expected = expected * counts.sum()
    order = np.argsort(expected)
    rare = order[np.cumsum(expected[order]) < 5]
    rare = order[: len(rare) + 1]
    common = np.setdiff1d(order, rare)
    observed = np.append(counts[common], counts[rare].sum())
    return float(stats.chisquare(observed, np.append(expected[common], expected[rare].sum())).pvalue)


def chance_of_both(ours: np.ndarray, theirs: np.ndarray) -> float:
    """p of a chi-square test that two rows of counts come from one distribution."""
    table = np.stack([ours, theirs])
    table = table[:, table.sum(axis=0) > 0]
    return float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
