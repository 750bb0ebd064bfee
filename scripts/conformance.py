"""Do other people's packages pick the same images? The same small cases through each, strategy by strategy.

    python scripts/conformance.py                              # all peers; prints the tables
    python scripts/conformance.py --only baal
    python scripts/conformance.py --write docs/conformance.md

Each peer lives in an environment of its own, made on first use (--venv says where; the cache folder by default).
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from alframe import scores
from alframe.strategy.badge import Badge
from alframe.strategy.bait import Bait
from alframe.strategy.base import Strategy
from alframe.strategy.batch_bald import BatchBald
from alframe.strategy.clue import Clue
from alframe.strategy.core_set import CoreSet
from alframe.strategy.drop_query import DropQuery
from alframe.strategy.epig import Epig
from alframe.strategy.falcun import Falcun
from alframe.strategy.lcmd import Lcmd
from alframe.strategy.max_herding import MaxHerding
from alframe.strategy.prob_cover import ProbCover
from alframe.strategy.random import Random
from alframe.strategy.stochastic import Stochastic
from alframe.strategy.top_score import TopScore
from alframe.strategy.typiclust import TypiClust
from peers import judge
from peers.cases import KINDS, Case, arrays, blobs, grid
from peers.client import Arrays, Peer
from peers.environment import PACKAGES, Unavailable
from peers.rows import Chance, Deterministic, Given, Row, Verdict

POINT = grid(KINDS, draws=(1,), labeled=(0,))
DRAWS = grid(KINDS, draws=(2, 10), labeled=(0,))
NO_LABELS = grid(KINDS, draws=(1,), labeled=(0,))
LABELS = grid(KINDS, draws=(1,), labeled=(1, 20))
SMOOTH = ("gaussian", "duplicates", "zeros")
JOINT = 5_000  # joint labels that the reference writes out
RADIUS = 1.5  # of the balls: about a third of the distance between two images of the cases
A_FEW = arrays(Case(n=9, q=2, c=4, k=6, seed=1))  # for rules that draw


def scored(
    name: str,
    function: str,
    reference: Callable[[Arrays], np.ndarray],
    *,
    counterpart: str = "",
    draws: bool = False,
    ordered: bool = True,
    note: str = "",
    definition: bool = False,
    cases: list[Case] | None = None,
    strategy: Strategy | None = None,
) -> Row:
    """A row for the images with the highest score."""
    return Deterministic(
        name,
        strategy or TopScore(getattr(scores, name)),
        counterpart or name,
        function,
        note,
        definition,
        rule=lambda case: judge.Top(reference(case)),
        cases=tuple(cases or (DRAWS if draws else POINT)),
        ordered=ordered,
    )


def batch_bald(function: str, note: str = "", **options: int) -> Row:
    cases = grid(KINDS, draws=(2, 10), labeled=(0,), max_joint=JOINT)
    return Deterministic(
        "batch_bald",
        BatchBald(),
        "batch_bald",
        function,
        note,
        options=options,
        rule=judge.BatchBald,
        cases=tuple(case for case in cases if case.n <= 40),
        fits=lambda case: case.c ** (case.q - 1) <= JOINT,
    )


def core_set(function: str, note: str = "", *, normalize: bool = False, **options: object) -> Row:
    x = judge.unit if normalize else np.asarray
    return Deterministic(
        "core_set" + (" (unit length)" if normalize else ""),
        CoreSet(normalize=normalize),
        "core_set",
        function,
        note,
        options=dict(options),
        rule=lambda case: judge.CoreSet(x(case["features"]), x(case["labeled_features"])),
        cases=tuple(LABELS),
    )


def first_core_set(function: str, note: str) -> Row:
    """Nothing labelled: only what follows the first pick is judged, and the first pick said to differ by definition."""
    return Deterministic(
        "core_set, nothing labelled",
        CoreSet(),
        "core_set",
        function,
        note,
        definition=True,
        rule=lambda case: judge.CoreSet(case["features"], case["labeled_features"]),
        cases=tuple(NO_LABELS),
    )


def random_rows(function: str) -> Row:
    n = len(A_FEW["features"])
    return Chance("random", Random(), "random", function, case=A_FEW, size=1, expected=lambda _: np.full(n, 1 / n))


def badge(function: str, note: str = "", *, first: str = "norm") -> Row:
    return Chance(
        "badge" + ("" if first == "norm" else f" (first: {first})"),
        Badge(first),  # type: ignore[arg-type]
        "badge",
        function,
        note,
        case=A_FEW,
        size=2,
        which=1,
        expected=lambda case: judge.badge(case, uniform_first=first == "sample"),
    )


def sampled(method: str, function: str, note: str = "", *, beta: float = 2.0, definition: bool = False) -> Row:
    return Chance(
        f"{method}_bald",
        Stochastic(scores.bald, method, beta),  # type: ignore[arg-type]
        f"{method}_bald",
        function,
        note,
        definition,
        options={"temperature": 1 / beta},
        case=A_FEW,
        size=2,
        expected=lambda case: judge.stochastic(judge.bald(case), method, beta),
    )


def clustered(n_clusters: int, n_labeled: int, *, sizes_from: int = 8) -> tuple[tuple[Arrays, int], ...]:
    """Ten pools of far clusters of different sizes; as many to pick as clusters hold no label."""
    sizes = tuple(sizes_from + 3 * i for i in range(n_clusters))
    return tuple((blobs(sizes, n_labeled, 4, seed), n_clusters - n_labeled) for seed in range(10))


def scikit_activeml() -> list[Row]:
    unbiased = {**A_FEW, "bias": np.zeros_like(A_FEW["bias"])}
    many = arrays(Case(n=40, q=4, c=4, seed=1))
    return [
        scored("least_confidence", "UncertaintySampling('least_confident')", judge.least_confidence),
        scored("margin", "UncertaintySampling('margin_sampling')", judge.margin),
        scored("entropy", "UncertaintySampling('entropy')", judge.predictive_entropy),
        scored("vote_entropy", "QueryByCommittee('vote_entropy')", judge.vote_entropy, draws=True),
        scored("variation_ratio", "QueryByCommittee('variation_ratios')", judge.variation_ratio, draws=True),
        scored("mean_kl", "QueryByCommittee('KL_divergence')", judge.mean_kl, draws=True),
        scored("bald", "GreedyBALD", judge.bald, draws=True),
        batch_bald("BatchBALD(n_MC_samples=5000)", configurations=JOINT),
        core_set("CoreSet"),
        first_core_set("CoreSet", ""),
        badge("Badge"),
        Given(
            "typiclust",
            TypiClust(normalize=False),
            "typiclust",
            "TypiClust(k=20)",
            expected=lambda case: judge.typicality(case, 20),
            cases=clustered(8, 3),
        ),
        Deterministic(
            "prob_cover",
            ProbCover(radius=RADIUS, normalize=False),
            "prob_cover",
            f"ProbCover(deltas=[{RADIUS}])",
            options={"radius": RADIUS},
            rule=lambda case: judge.prob_cover(case, RADIUS),
            cases=tuple(NO_LABELS + LABELS),
        ),
        Deterministic(
            "max_herding",
            MaxHerding(),
            "max_herding",
            "MaxHerding(gamma=1)",
            rule=judge.max_herding,
            cases=tuple(NO_LABELS + LABELS),
        ),
        Given(
            "clue",
            Clue(),
            "clue",
            "Clue(method='entropy')",
            expected=lambda case: judge.nearest_to_means(case, judge.predictive_entropy(case)),
            cases=clustered(6, 0),
        ),
        Chance(
            "drop_query, head without bias",
            DropQuery(normalize=False),
            "drop_query",
            "DropQuery(n_dropout_samples=3)",
            case={**many, "bias": np.zeros_like(many["bias"])},
            size=4,
        ),
        Chance(
            "falcun",
            Falcun(),
            "falcun",
            "Falcun",
            case=unbiased,
            size=2,
            which=1,
            expected=lambda case: judge.falcun(case, 10),
        ),
        random_rows("RandomSampling"),
    ]


def baal() -> list[Row]:
    return [
        scored("least_confidence", "Certainty", judge.least_confidence),
        scored("margin", "Margin", judge.margin),
        scored("entropy", "Entropy", judge.predictive_entropy),
        scored("bald", "BALD", judge.bald, draws=True),
        scored("mean_std", "Variance", judge.mean_std, draws=True, definition=True),
        batch_bald("BatchBALD(num_draw=500)", configurations=500),
        scored("epig", "EPIG", judge.epig, draws=True, strategy=Epig()),
        sampled("power", "PowerSampling(BALD, temperature=0.5)"),
        sampled("softmax", "GibbsSampling(BALD, temperature=0.5)"),
        sampled("softrank", "RankBasedSampling(BALD, temperature=0.5)"),
        random_rows("Random"),
    ]


def batchbald_redux() -> list[Row]:
    return [
        scored("bald", "get_bald_batch", judge.bald, draws=True),
        batch_bald("get_batchbald_batch(num_samples=5000)", configurations=JOINT),
    ]


def bmdal_reg() -> list[Row]:
    return [
        core_set("maxdist, TP mode"),
        first_core_set("maxdist, P mode", ""),
        Deterministic(
            "lcmd",
            Lcmd(),
            "lcmd",
            "lcmd on last-layer gradients",
            rule=lambda case: judge.Lcmd(judge.embedding(case), judge.embedding(case, "labeled_")),
            cases=tuple(grid(KINDS, draws=(1,), labeled=(0, 20))),
        ),
        Deterministic(
            "bait, forward only",
            Bait(oversample=1),
            "bait",
            "bait (float64, sigma=1), P mode",
            options={"backward": False},
            rule=judge.Bait,
            cases=tuple(NO_LABELS),
        ),
        Deterministic(
            "bait, forward only, with labels",
            Bait(oversample=1),
            "bait",
            "bait (float64, sigma=1), TP mode",
            definition=True,
            options={"backward": False},
            rule=judge.Bait,
            cases=tuple(LABELS),
        ),
        Given(
            "bait, forward and backward",
            Bait(),
            "bait",
            "bait (float64, sigma=1), P mode",
            expected=lambda case: judge.Bait(case).best(4),
            cases=tuple((arrays(Case(40, 4, c, 1, seed=seed)), 4) for c in (2, 5) for seed in range(5)),
        ),
        badge("kmeanspp on last-layer gradients", first="sample"),
        random_rows("random"),
    ]


def modal_python() -> list[Row]:
    rows = [
        scored("least_confidence", "uncertainty_sampling", judge.least_confidence, ordered=False),
        scored("margin", "margin_sampling", judge.margin, ordered=False),
        scored("entropy", "entropy_sampling", judge.predictive_entropy, ordered=False),
        scored("vote_entropy", "vote_entropy_sampling", judge.vote_entropy, draws=True),
        scored(
            "entropy",
            "consensus_entropy_sampling",
            judge.predictive_entropy,
            counterpart="consensus_entropy",
            draws=True,
        ),
        scored(
            "mean_kl",
            "max_disagreement_sampling",
            judge.mean_kl,
            counterpart="max_disagreement",
            draws=True,
            definition=True,
        ),
        scored("bald", "mc_dropout_bald", judge.bald, draws=True),
        scored("mean_std", "mc_dropout_mean_st", judge.mean_std, draws=True),
        scored(
            "entropy", "mc_dropout_max_entropy", judge.predictive_entropy, counterpart="dropout_entropy", draws=True
        ),
        scored("variation_ratio", "mc_dropout_max_variationRatios", judge.variation_ratio, draws=True),
    ]
    return [replace(row, ordered=False) for row in rows]  # type: ignore[call-arg]


def small_text() -> list[Row]:
    return [
        scored("least_confidence", "LeastConfidence", judge.least_confidence, ordered=False),
        scored("margin", "BreakingTies", judge.margin, ordered=False),
        scored("entropy", "PredictionEntropy", judge.predictive_entropy, ordered=False),
        scored("bald", "BALD", judge.bald, draws=True, ordered=False),
        core_set("GreedyCoreset('euclidean', normalize=False)", normalize=False),
        core_set("GreedyCoreset('euclidean', normalize=True)", normalize=True),
        first_core_set("GreedyCoreset('euclidean', normalize=False)", ""),
        badge("BADGE", first="sample"),
        random_rows("RandomSampling"),
    ]


ROWS: dict[str, Callable[[], list[Row]]] = {
    "scikit-activeml": scikit_activeml,
    "baal": baal,
    "batchbald-redux": batchbald_redux,
    "bmdal-reg": bmdal_reg,
    "modAL-python": modal_python,
    "small-text": small_text,
}


def run(name: str, root: Path | None) -> list[tuple[Row, Verdict]]:
    """Every row of a peer, printed as it comes."""
    rows = ROWS[name]()
    try:
        peer = Peer(name, root)
    except Unavailable as error:
        return [(row, Verdict("cannot run", str(error))) for row in rows]
    found = []
    with peer:
        for row in rows:
            start = time.perf_counter()
            verdict = row.judge(peer)
            found.append((row, verdict))
            flag = " !! alframe" if verdict.ours_is_wrong else ""
            print(
                f"{name:16}{row.name:32}{row.function:46}{verdict.word}{flag}: {verdict.detail} "
                f"[{time.perf_counter() - start:.1f} s]",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="folder for the peers' environments")
    parser.add_argument("--only", choices=list(ROWS), help="one peer")
    parser.add_argument("--write", type=Path, help="write the tables to this file")
    options = parser.parse_args()
    results = {name: run(name, options.venv) for name in ROWS if options.only in (None, name)}
    if options.write:
        options.write.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
