"""Small pools that every strategy and every peer is asked about, and how alframe is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection

KINDS = ("gaussian", "duplicates", "ties", "zeros", "one_hot")
_N_TARGETS = 16


@dataclass(frozen=True, order=True)
class Case:
    """n images, q to pick, c classes, k draws, m labelled; `kind` says how features and probabilities lie. Ordered by size."""

    n: int
    q: int
    c: int = 2
    k: int = 1
    m: int = 0
    kind: str = "gaussian"
    seed: int = 0
    d: int = 5

    def __str__(self) -> str:
        return f"{self.kind}, n={self.n} c={self.c} k={self.k} m={self.m} q={self.q} seed={self.seed}"


def grid(kinds: tuple[str, ...], draws: tuple[int, ...], labeled: tuple[int, ...], *, max_joint: int = 0) -> list[Case]:
    """All sizes for the kinds, smallest first; with `max_joint` only those with c^(q-1) joint labels up to it."""
    found = [
        Case(n, q, c, k, m, kind, seed)
        for n, q, n_seeds in ((12, 1, 2), (12, 4, 2), (40, 10, 1), (40, 40, 1), (300, 10, 1))
        for c in (2, 5, 100)
        for k in draws
        for m in labeled
        for kind in kinds
        for seed in range(n_seeds)
    ]
    return sorted(case for case in found if not max_joint or case.c ** (case.q - 1) <= max_joint)


def smaller(case: Case) -> list[Case]:
    """Cases of the same kind to look for a smaller failure in, the smallest first."""
    return sorted(
        replace(case, n=n, q=q, c=c, k=k, m=m, seed=seed)
        for n in (3, 4, 5, 6, 8, 10, 12)
        for q in (1, 2, 3, 6)
        for c in sorted({2, 3, case.c})
        for k in sorted({min(case.k, 2), case.k})
        for m in sorted({min(case.m, 2), case.m})
        for seed in range(10)
        if q < n < case.n or (n == case.n and q < case.q)
    )


def arrays(case: Case) -> dict[str, np.ndarray]:
    """The case as arrays: features and log-probabilities (float32) of pool, labelled images and targets, and a linear head.

    The deterministic network's log-probabilities are those of the head; each draw adds noise to its logits.
    """
    rng = np.random.default_rng([case.n, case.c, case.k, case.m, case.seed])
    features = _features(case, rng, case.n)
    labeled, target = _features(case, rng, case.m), _features(case, rng, _N_TARGETS)
    weight = rng.normal(size=(case.c, case.d)).astype(np.float32)
    bias = (0.1 * rng.normal(size=case.c)).astype(np.float32)
    found = {"features": features, "labeled_features": labeled, "target_features": target}
    found |= {"weight": weight, "bias": bias, "labels": rng.integers(case.c, size=case.m)}
    for name, points in (("", features), ("labeled_", labeled), ("target_", target)):
        logits = points @ weight.T + bias
        noise = rng.normal(size=(len(points), case.k, case.c)) * (case.k > 1)
        if case.kind == "duplicates":
            noise = noise[_copies(len(points))]
        if case.kind == "ties":
            logits, noise = logits.round(), noise.round()
        draws = logits[:, None] + noise
        if case.kind == "one_hot":
            logits, draws = _certain(logits), _certain(draws)
        found[f"{name}point_log_probs"] = _normalized(logits)
        found[f"{name}log_probs"] = _normalized(draws)
    return found


def blobs(sizes: tuple[int, ...], n_labeled: int, c: int, seed: int, d: int = 8) -> dict[str, np.ndarray]:
    """A pool of far clusters of the given sizes, the first `n_labeled` of which hold one labelled image each.

    So far apart (100 times their width) that k-means of as many clusters finds them whatever it starts from: what is left to
    compare is the pick rule.
    """
    rng = np.random.default_rng(seed)
    centres = 100 * rng.normal(size=(len(sizes), d))
    of = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    case = Case(len(of), 1, c, 1, n_labeled, seed=seed, d=d)
    found = arrays(case)
    features = (centres[of] + rng.normal(size=(len(of), d))).astype(np.float32)
    labeled = (centres[:n_labeled] + rng.normal(size=(n_labeled, d))).astype(np.float32)
    logits = rng.normal(size=(len(of), c))  # of their own: the far features would make all of them certain
    log_probs = _normalized(logits)
    return found | {
        "features": features,
        "labeled_features": labeled,
        "point_log_probs": log_probs,
        "log_probs": log_probs[:, None],
        "cluster": of,
    }


def view(strategy: Strategy, case: Mapping[str, np.ndarray]) -> PoolView:
    """What `strategy` may look at."""
    weight, bias = torch.from_numpy(case["weight"]), torch.from_numpy(case["bias"])

    def head(features: Tensor) -> Tensor:
        return features @ weight.T + bias

    def summary(prefix: str) -> dict[str, Tensor]:
        names = ("log_probs", "features", "point_log_probs")
        return strategy.summarize(Prediction(*(torch.from_numpy(case[prefix + name]) for name in names)))

    return PoolView(
        n=len(case["features"]),
        pool=summary(""),
        n_classes=len(bias),
        labeled=summary("labeled_"),
        labels=torch.from_numpy(case["labels"]),
        target=summary("target_"),
        head=head,
    )


def ours(strategy: Strategy, case: Mapping[str, np.ndarray], size: int, seed: int = 0) -> Selection:
    """What alframe picks."""
    return strategy.select(view(strategy, case), size, torch.Generator().manual_seed(seed))


def _features(case: Case, rng: np.random.Generator, n: int) -> np.ndarray:
    found = rng.normal(size=(n, case.d))
    if case.kind == "duplicates":
        found = found[_copies(n)]
    elif case.kind == "ties":
        found = found.round()
    elif case.kind == "zeros":
        found[::3] = 0
    return found.astype(np.float32)


def _copies(n: int) -> np.ndarray:
    """Row i copies row i mod a third of n: three of each, far from one another in position."""
    return np.arange(n) % max(1, n // 3)


def _certain(logits: np.ndarray) -> np.ndarray:
    return np.where(logits == logits.max(axis=-1, keepdims=True), 0, -np.inf)


def _normalized(logits: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf) if logits.size else logits
        return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
