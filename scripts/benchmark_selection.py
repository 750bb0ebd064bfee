"""Seconds and extra memory of `select`, beside the plain rule and beside the same rule in other packages.

    python scripts/benchmark_selection.py                                # ours against the plain rules, three repeats
    python scripts/benchmark_selection.py --peers                        # and against other packages, in environments it makes
    python scripts/benchmark_selection.py core_set --repeats 5 --peers   # some cases

Ours, the plain rule and the peers are run in turn; medians are printed, and how many times longer the others take. A peer is run
`--peer-repeats` times, within `--limit` seconds and `--memory` GB of address space: what does not end within them is `none`. Extra memory is the
high-water mark of the resident set while a rule selects, less the resident set before (Linux), ours in a fresh process.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np
import torch
from measure import extra_bytes, interleaved
from peers.client import Peer, PeerError
from peers.environment import Unavailable
from torch import Tensor

from alframe import scores
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.badge import Badge
from alframe.strategy.base import Strategy
from alframe.strategy.batch_bald import BatchBald
from alframe.strategy.core_set import CoreSet
from alframe.strategy.max_herding import MaxHerding
from alframe.strategy.prob_cover import ProbCover
from alframe.strategy.top_score import TopScore
from alframe.strategy.typiclust import TypiClust
from alframe.strategy.uherding import UHerding
from alframe.types import PoolView, Prediction

DATA = ("gaussian", "clustered", "low_rank")
SCORES = (
    scores.least_confidence,
    scores.margin,
    scores.entropy,
    scores.mean_std,
    scores.variation_ratio,
    scores.vote_entropy,
    scores.mean_kl,
    scores.bald,
)


@dataclass(frozen=True)
class Rival:
    """The same rule in another package: an adapter of `scripts/peers/adapters` and its options."""

    package: str
    rule: str
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`view` makes what `strategy` selects `q` images from; `plain` is the rule as one would write it down."""

    name: str
    size: str
    strategy: Strategy
    view: Callable[[], PoolView]
    q: int
    plain: Callable[[PoolView, int], object] | None = None
    rivals: tuple[Rival, ...] = ()


def features(kind: str, n: int, d: int) -> Tensor:
    """Gaussian; 100 tight clusters; or a 4-dimensional sheet, where each pick shortens many distances and laziness helps least."""
    generator = torch.Generator().manual_seed(0)
    if kind == "clustered":
        centres = torch.randn(100, d, generator=generator)
        return centres[torch.randint(100, (n,), generator=generator)] + 0.3 * torch.randn(n, d, generator=generator)
    if kind == "low_rank":
        return (torch.randn(n, 4, generator=generator) @ torch.randn(4, d, generator=generator)).relu()
    return torch.randn(n, d, generator=generator)


def predictions(n: int, k: int, c: int, scale: float = 1.0) -> Tensor:
    logits = scale * torch.randn(n, k, c, generator=torch.Generator().manual_seed(1))
    return logits.sub_(logits.logsumexp(dim=-1, keepdim=True))


def covering(strategy: Strategy, kind: str, n: int = 50_000, d: int = 512, n_labeled: int = 1000) -> PoolView:
    """Features of a pool and of labelled images, and ten classes' probabilities."""
    pool, labeled = features(kind, n + n_labeled, d).split([n, n_labeled])
    log_probs = predictions(n + n_labeled, 1, 10, scale=3)
    return PoolView(
        n=n,
        pool=strategy.summarize(Prediction(log_probs[:n], pool, log_probs[:n, 0])),
        n_classes=10,
        labeled=strategy.summarize(Prediction(log_probs[n:], labeled, log_probs[n:, 0])),
        labels=torch.arange(n_labeled) % 10,
        held_out={},
    )


def badge_views(kind: str, n: int = 20_000, d: int = 512, c: int = 10) -> PoolView:
    log_probs = predictions(n, 1, c, scale=3)
    return PoolView(
        n=n, pool=Badge().summarize(Prediction(log_probs, features(kind, n, d), log_probs[:, 0])), n_classes=c
    )


def draws_views(strategy: Strategy, n: int, k: int, c: int, scale: float = 1.0) -> PoolView:
    """Predictions that share their mean over the draws in part, so that BALD varies from image to image."""
    log_probs = (predictions(n, 1, c, scale) + predictions(n, k, c, scale / 2)).log_softmax(dim=-1)
    pool = strategy.summarize(Prediction(log_probs, log_probs[:, 0, :1], log_probs[:, 0]))
    return PoolView(n=n, pool=pool, n_classes=c)


def fixed_view(n: int, d: int = 512, n_labeled: int = 1000) -> PoolView:
    fixed, labeled = features("clustered", n + n_labeled, d).split([n, n_labeled])
    return PoolView(n=n, pool={}, n_classes=2, fixed=fixed, fixed_labeled=labeled)


def plain_anomaly(view: PoolView, size: int) -> list[int]:
    """All pairs at once, float32; copies are neighbours."""
    assert view.fixed is not None
    assert view.fixed_labeled is not None
    points = torch.nn.functional.normalize(torch.cat([view.fixed, view.fixed_labeled]))
    distances = torch.cdist(points[: view.n], points)
    distances.fill_diagonal_(torch.inf)
    return distances.topk(5, largest=False).values.mean(dim=1).topk(size).indices.tolist()


def plain_core_set(view: PoolView, size: int) -> list[int]:
    """One matrix-vector product a pick, float32, on a transposed copy (row-major, such a product runs on one thread)."""
    assert view.labeled is not None
    pool, picked = view.pool["features"], []
    columns = pool.T.contiguous()
    norms = pool.square().sum(dim=1)
    nearest = torch.cat([torch.cdist(rows, view.labeled["features"]).amin(dim=1).square() for rows in pool.split(4096)])
    for _ in range(size):
        picked.append(int(nearest.argmax()))
        distances = norms + norms[picked[-1]] - 2 * (pool[picked[-1]] @ columns)
        nearest = torch.minimum(nearest, distances)
        nearest[picked[-1]] = -1
    return picked


def plain_badge(view: PoolView, size: int) -> list[int]:
    """k-means++ with factored gradients, two matrix-vector products a pick, float32."""
    gradient, embedding = view.pool["gradient"], view.pool["features"]
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


def arrays(view: PoolView, rule: str) -> dict[str, np.ndarray]:
    """What a peer is told: the case's features and probabilities as plain arrays."""
    if rule == "batch_bald":
        return {"log_probs": view.pool["log_probs"].numpy()}
    if rule == "badge":
        given = view.pool["gradient"]
        largest = given.argmin(dim=1, keepdim=True)  # p - 1 at the predicted class
        probs = given + torch.zeros_like(given).scatter(1, largest, 1)
        log_probs = probs.clamp_min(1e-30).log()
        hidden, n_labeled = view.pool["features"][:, :-1], 0
        labeled = hidden[:n_labeled]
    else:
        assert view.labeled is not None
        hidden, labeled = view.pool["features"], view.labeled["features"]
        log_probs = predictions(len(hidden), 1, 10, scale=3)[:, 0]
    return {
        "features": hidden.numpy(),
        "labeled_features": labeled.numpy(),
        "labels": (torch.arange(len(labeled)) % 10).numpy(),
        "log_probs": log_probs[:, None].numpy(),
        "point_log_probs": log_probs.numpy(),
    }


def select(case: Case, view: PoolView) -> object:
    return case.strategy.select(view, case.q, torch.Generator().manual_seed(0))


def cases() -> list[Case]:
    found = []
    for kind in DATA:
        for q in (100, 1000):
            rivals = (Rival("scikit-activeml", "core_set"), Rival("bmdal-reg", "core_set"))
            found.append(
                Case(
                    f"core_set {kind}",
                    f"n 50,000 · d 512 · 1,000 labelled · q {q:,}",
                    CoreSet(),
                    lambda kind=kind: covering(CoreSet(), kind),
                    q,
                    plain_core_set,
                    rivals if kind == "gaussian" else (),
                )
            )
    for kind in DATA:
        for q in (100, 1000):
            rivals = (Rival("scikit-activeml", "badge"), Rival("bmdal-reg", "badge"), Rival("small-text", "badge"))
            found.append(
                Case(
                    f"badge {kind}",
                    f"n 20,000 · d 512 · c 10 · q {q:,}",
                    Badge(),
                    lambda kind=kind: badge_views(kind),
                    q,
                    plain_badge,
                    rivals if kind == "gaussian" and q == 100 else (),
                )
            )
    batch_bald = BatchBald()
    configurations = {"configurations": batch_bald.max_configurations}
    found.append(
        Case(
            "batch_bald",
            f"n 5,000 · k 100 · c 10 · q 10 · {batch_bald.max_configurations:,} configurations",
            batch_bald,
            lambda: draws_views(batch_bald, 5_000, 100, 10, scale=2),
            10,
            None,
            (Rival("batchbald-redux", "batch_bald", configurations),),
        )
    )
    for strategy, rivals in (
        (TypiClust(), (Rival("scikit-activeml", "typiclust"), Rival("faiss-cpu", "typiclust"))),
        (ProbCover(), (Rival("scikit-activeml", "prob_cover", {"n_classes": 10}),)),
        (MaxHerding(), (Rival("scikit-activeml", "max_herding"),)),
        (UHerding(), ()),
    ):
        name = {TypiClust: "typiclust", ProbCover: "prob_cover", MaxHerding: "max_herding", UHerding: "uherding"}
        layouts = [("gaussian", 50_000, 0, rivals), ("gaussian", 50_000, 1000, rivals), ("clustered", 50_000, 1000, ())]
        if isinstance(strategy, ProbCover | MaxHerding):  # a size at which a matrix of all pairs fits
            layouts.append(("gaussian", 10_000, 1000, rivals))
        for kind, n, m, others in layouts:
            found.append(
                Case(
                    f"{name[type(strategy)]} {kind}{'' if m else ', nothing labelled'}{'' if n == 50_000 else ', small'}",
                    f"n {n:,} · d 512 · {m:,} labelled · q 100",
                    strategy,
                    lambda strategy=strategy, kind=kind, n=n, m=m: covering(strategy, kind, n, n_labeled=m),
                    100,
                    None,
                    others,
                )
            )
    for n in (10_000, 50_000):
        found.append(
            Case(
                "anomaly" if n == 50_000 else "anomaly, small",
                f"n {n:,} · d 512 · 1,000 labelled · q 100",
                Anomaly(),
                lambda n=n: fixed_view(n),
                100,
                plain_anomaly if n == 10_000 else None,  # all pairs at once are 10 GB for the larger
            )
        )
    for score in SCORES:
        k = 1 if score in (scores.least_confidence, scores.margin, scores.entropy) else 10
        found.append(
            Case(
                f"top_score {score.__name__}",
                f"n 1,000,000 · k {k} · c 10 · q 1,000",
                TopScore(score),
                lambda score=score, k=k: draws_views(TopScore(score), 1_000_000, k, 10),
                1000,
            )
        )
    return found


def measure_memory(name: str, q: int) -> int:
    """Runs in a fresh process."""
    warnings.simplefilter("ignore")
    case = next(case for case in cases() if (case.name, case.q) == (name, q))
    view = case.view()
    return extra_bytes(lambda: select(case, view))


def ask(rival: Rival, case: Case, view: PoolView, options: argparse.Namespace) -> tuple[str, float | None]:
    """A line about a rival, and its median seconds."""
    try:
        with Peer(rival.package, limit_s=options.limit, address_space=int(options.memory * 1e9)) as peer:
            path = peer.store(arrays(view, rival.rule))
            answers = [peer.ask(rival.rule, path, case.q, seed, rival.options) for seed in range(options.peer_repeats)]
    except (PeerError, Unavailable) as error:
        return f"none ({error})", None
    seconds = statistics.median(answer.seconds for answer in answers)
    return f"{seconds:.2f} s, {max(answer.extra_bytes for answer in answers) / 1e6:,.0f} MB", seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="other packages too (installs them on first use)")
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("--limit", type=float, default=400, help="seconds that a peer may take (400)")
    parser.add_argument("--memory", type=float, default=20, help="GB of address space that a peer may take (20)")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only in case.name]
    if not chosen:
        parser.error(f"expected part of a case's name, got '{options.only}'; without it all cases run")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.repeats}\n")
    print("| rule and data | size | ours | extra memory | plain | times ours | another package | times ours |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in chosen:
        view = case.view()
        works: dict[str, Callable[[], object]] = {"ours": lambda case=case, view=view: select(case, view)}
        if case.plain:
            works["plain"] = lambda case=case, view=view: case.plain(view, case.q)
        taken = interleaved(works, options.repeats)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            extra = fresh.submit(measure_memory, case.name, case.q).result()
        ours = taken["ours"]
        plain = f"{taken['plain']:.2f} s | {taken['plain'] / ours:.1f}" if case.plain else " | "
        row = f"| {case.name} | {case.size} | {ours:.3f} s | {extra / 1e6:.0f} MB | {plain} |"
        for rival in (case.rivals if options.peers else ()) or (None,):
            if rival is None:
                print(f"{row} | |", flush=True)
                continue
            said, seconds = ask(rival, case, view, options)
            print(f"{row} {rival.package}: {said} | {'' if seconds is None else f'{seconds / ours:.1f}'} |", flush=True)
            row = "| | | | | | |"


if __name__ == "__main__":
    main()
