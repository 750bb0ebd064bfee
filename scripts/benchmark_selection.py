"""Seconds and extra memory of `select`, beside the plain rule that looks at every image again for each pick.

    python scripts/benchmark_selection.py                    # all cases, three repeats
    python scripts/benchmark_selection.py core_set --repeats 5

Ours and the plain rule are timed in turn, in one process; medians are printed. Memory is the high-water mark of the resident
set while ours selects, less the resident set before (Linux), in a fresh process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from alframe import scores
from alframe.strategy.badge import Badge
from alframe.strategy.base import Strategy
from alframe.strategy.core_set import CoreSet
from alframe.strategy.top_score import TopScore
from alframe.types import Prediction, Views

DATA = ("gaussian", "clustered", "low_rank")
SCORES = (scores.least_confidence, scores.margin, scores.entropy, scores.mean_std, scores.variation_ratio, scores.bald)


@dataclass(frozen=True)
class Case:
    """`prepare` makes the inputs; `ours` and `plain` are what is timed."""

    name: str
    size: str
    prepare: Callable[[], object]
    ours: Callable[[object], object]
    plain: Callable[[object], object] | None = None


def features(kind: str, n: int, d: int) -> Tensor:
    """Gaussian; 100 tight clusters; or a 4-dimensional sheet, where each pick shortens many distances and laziness helps least."""
    generator = torch.Generator().manual_seed(0)
    if kind == "clustered":
        centres = torch.randn(100, d, generator=generator)
        return centres[torch.randint(100, (n,), generator=generator)] + 0.3 * torch.randn(n, d, generator=generator)
    if kind == "low_rank":
        return (torch.randn(n, 4, generator=generator) @ torch.randn(4, d, generator=generator)).relu()
    return torch.randn(n, d, generator=generator)


def predictions(n: int, k: int, c: int) -> Tensor:
    logits = torch.randn(n, k, c, generator=torch.Generator().manual_seed(1))
    return logits.sub_(logits.logsumexp(dim=-1, keepdim=True))


def core_set_views(kind: str, n: int = 50_000, d: int = 512, n_labeled: int = 1000) -> Views:
    pool, labeled = features(kind, n + n_labeled, d).split([n, n_labeled])
    labels = torch.zeros(n_labeled, dtype=torch.int64)
    return Views(n=n, pool={"features": pool}, n_classes=10, labeled={"features": labeled}, labels=labels)


def badge_views(kind: str, n: int = 20_000, d: int = 512, c: int = 10) -> Views:
    log_probs = (3 * predictions(n, 1, c)).log_softmax(dim=-1)
    return Views(n=n, pool=Badge().summarize(Prediction(log_probs, features(kind, n, d), log_probs[:, 0])), n_classes=c)


def select(strategy: Strategy, views: Views, size: int) -> Tensor:
    return strategy.select(views, size, torch.Generator().manual_seed(0)).positions


def plain_core_set(views: Views, size: int) -> list[int]:
    """One matrix-vector product a pick, float32."""
    assert views.labeled is not None
    pool, picked = views.pool["features"], []
    norms = pool.square().sum(dim=1)
    nearest = torch.cat(
        [torch.cdist(rows, views.labeled["features"]).amin(dim=1).square() for rows in pool.split(4096)]
    )
    for _ in range(size):
        picked.append(int(nearest.argmax()))
        distances = norms + norms[picked[-1]] - 2 * (pool @ pool[picked[-1]])
        nearest = torch.minimum(nearest, distances)
        nearest[picked[-1]] = -1
    return picked


def plain_badge(views: Views, size: int) -> list[int]:
    """k-means++ with factored gradients, two matrix-vector products a pick, float32."""
    gradient, embedding = views.pool["gradient"], views.pool["features"]
    generator = torch.Generator().manual_seed(0)
    norms = gradient.square().sum(dim=1) * embedding.square().sum(dim=1)
    picked, nearest = [int(norms.argmax())], torch.full_like(norms, torch.inf)
    while len(picked) < size:
        last = picked[-1]
        products = (gradient @ gradient[last]) * (embedding @ embedding[last])
        nearest = torch.minimum(nearest, (norms + norms[last] - 2 * products).clamp_min(0))
        nearest[last] = 0
        picked.append(int(torch.multinomial(nearest, 1, generator=generator)))
    return picked


def top_score(score: scores.Score, log_probs: Tensor) -> Tensor:
    strategy = TopScore(score)
    summary = strategy.summarize(Prediction(log_probs, log_probs[:, 0, :1], log_probs[:, 0]))
    return select(strategy, Views(n=len(log_probs), pool=summary, n_classes=log_probs.shape[-1]), 1000)


def cases() -> list[Case]:
    found = []
    for kind in DATA:
        found.append(
            Case(
                f"core_set {kind}",
                "n 50,000 · d 512 · 1,000 labelled · q 1,000",
                lambda kind=kind: core_set_views(kind),
                lambda views: select(CoreSet(), views, 1000),
                lambda views: plain_core_set(views, 1000),
            )
        )
    for kind in DATA:
        found.append(
            Case(
                f"badge {kind}",
                "n 20,000 · d 512 · c 10 · q 1,000",
                lambda kind=kind: badge_views(kind),
                lambda views: select(Badge(), views, 1000),
                lambda views: plain_badge(views, 1000),
            )
        )
    for score in SCORES:
        k = 1 if score in (scores.least_confidence, scores.margin, scores.entropy) else 10
        found.append(
            Case(
                f"top_score {score.__name__}",
                f"n 1,000,000 · k {k} · c 10 · q 1,000",
                lambda k=k: predictions(1_000_000, k, 10),
                lambda log_probs, score=score: top_score(score, log_probs),
            )
        )
    return found


def seconds(work: Callable[[object], object], inputs: object) -> float:
    start = time.perf_counter()
    work(inputs)
    return time.perf_counter() - start


def extra_bytes(name: str) -> int:
    """Runs in a fresh process."""
    case = next(case for case in cases() if case.name == name)
    inputs = case.prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    case.ours(inputs)
    return resident("VmHWM") - before


def resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.repeats}")
    print(f"{'case':28}{'size':48}{'ours s':>9}{'plain s':>9}{'ratio':>7}{'extra MB':>10}")
    for case in cases():
        if options.only not in case.name:
            continue
        inputs = case.prepare()
        ours, plain = [], []
        for _ in range(options.repeats):
            ours.append(seconds(case.ours, inputs))
            if case.plain:
                plain.append(seconds(case.plain, inputs))
        del inputs
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            extra = fresh.submit(extra_bytes, case.name).result()
        our_s = statistics.median(ours)
        against = f"{statistics.median(plain):9.2f}{statistics.median(plain) / our_s:7.1f}" if plain else f"{'':16}"
        print(f"{case.name:28}{case.size:48}{our_s:9.3f}{against}{extra / 1e6:10.0f}", flush=True)


if __name__ == "__main__":
    main()
