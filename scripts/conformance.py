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
from importlib import metadata
from pathlib import Path

import numpy as np
from peers import judge
from peers.cases import KINDS, Case, arrays, blobs, grid
from peers.client import Arrays, Peer
from peers.environment import PACKAGES, Unavailable
from peers.rows import Chance, Deterministic, Given, Row, Verdict

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

POINT = grid(KINDS, draws=(1,), labeled=(0,))
DRAWS = grid(KINDS, draws=(2, 10), labeled=(0,))
NO_LABELS = grid(KINDS, draws=(1,), labeled=(0,))
LABELS = grid(KINDS, draws=(1,), labeled=(1, 20))
SOME_LABELS = tuple(grid(KINDS, draws=(1,), labeled=(0, 20)))
JOINT = 5_000  # joint labels that the reference writes out
RADIUS = 1.5  # of the balls: about a third of the distance between two images of the cases
A_FEW = arrays(Case(n=9, q=2, c=4, k=6, seed=1))  # for rules that draw


def unsure(case: Arrays) -> Arrays:
    """The case with logits a fifth as large: all images are uncertain, so that it shows whether numbers are scaled to [0, 1]."""
    log_probs = case["point_log_probs"] / 5
    return {**case, "point_log_probs": log_probs - np.log(np.exp(log_probs).sum(axis=1, keepdims=True))}


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
    options: dict[str, bool] | None = None,
) -> Row:
    """A row for the images with the highest score."""
    return Deterministic(
        name,
        strategy or TopScore(getattr(scores, name)),
        counterpart or name,
        function,
        note,
        definition,
        options or {},
        rule=lambda case: judge.Top(reference(case)),
        cases=tuple(cases or (DRAWS if draws else POINT)),
        ordered=ordered,
    )


def batch_bald(function: str, note: str = "", *, configurations: int = JOINT) -> Row:
    """Only where the joint labels are few enough to be written out."""
    cases = grid(KINDS, draws=(2, 10), labeled=(0,), max_joint=JOINT)
    return Deterministic(
        "batch_bald",
        BatchBald(),
        "batch_bald",
        function,
        note,
        options={"configurations": configurations},
        rule=judge.BatchBald,
        cases=tuple(case for case in cases if case.n <= 40),
        fits=lambda case: case.c ** (case.q - 1) <= JOINT,
    )


def core_set(function: str, note: str = "", *, normalize: bool = False, options: dict[str, bool] | None = None) -> Row:
    x = judge.unit if normalize else np.asarray
    return Deterministic(
        "core_set" + (" (unit length)" if normalize else ""),
        CoreSet(normalize=normalize),
        "core_set",
        function,
        note,
        options=options or {},
        rule=lambda case: judge.CoreSet(x(case["features"]), x(case["labeled_features"])),
        cases=tuple(LABELS),
    )


def first_core_set(function: str, start: str, note: str) -> Row:
    """Nothing labelled: the paper does not say where to start."""
    return Deterministic(
        "core_set, nothing labelled",
        CoreSet(),
        "core_set",
        function,
        note,
        rule=lambda case: judge.CoreSet(case["features"], case["labeled_features"]),
        cases=tuple(case for case in NO_LABELS if case.q < case.n),
        start=start,
    )


def random_rows(function: str, note: str = "") -> Row:
    n = len(A_FEW["features"])
    return Chance(
        "random", Random(), "random", function, note, case=A_FEW, size=1, expected=lambda _: np.full(n, 1 / n)
    )


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
    many = arrays(Case(n=40, q=4, c=4, seed=1))
    return [
        scored("least_confidence", "UncertaintySampling('least_confident')", judge.least_confidence),
        scored("margin", "UncertaintySampling('margin_sampling')", judge.margin),
        scored("entropy", "UncertaintySampling('entropy')", judge.predictive_entropy),
        scored("vote_entropy", "QueryByCommittee('vote_entropy')", judge.vote_entropy, draws=True),
        scored("variation_ratio", "QueryByCommittee('variation_ratios')", judge.variation_ratio, draws=True),
        scored("mean_kl", "QueryByCommittee('KL_divergence')", judge.mean_kl, draws=True),
        scored("bald", "GreedyBALD", judge.bald, draws=True),
        batch_bald(
            f"BatchBALD(n_MC_samples={JOINT})",
            "Where several images have the highest utility, `batch_bald` picks one of them, works out the next step for it and marks "
            "it as taken from then on; `query` then draws the batch once more from the utilities of every step, with a random state "
            "of its own. At a tie it may draw another one than was marked, and the same one again at the next step.",
        ),
        core_set("CoreSet"),
        first_core_set(
            "CoreSet",
            "any image",
            "With nothing labelled all utilities of the first step are 0, and the first pick is any image; alframe starts at the image "
            "nearest to the mean, so that its answer does not depend on a seed.",
        ),
        badge(
            "Badge (a column of ones appended)",
            "Before the first pick `_d_2` holds the squared norm of each gradient, which is its squared distance to the origin; after "
            "it, the minimum of that and of the distance to the pick. The origin stays a centre for the whole batch, so images with "
            "short gradients (the confident ones) are drawn less than D² sampling draws them. The gradient of the bias is left out "
            "unless the embedding has a column of ones, which is appended here.",
        ),
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
            cases=SOME_LABELS,
        ),
        Deterministic(
            "max_herding",
            MaxHerding(),
            "max_herding",
            "MaxHerding(gamma=1)",
            rule=judge.max_herding,
            cases=SOME_LABELS,
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
            "drop_query, head with a bias",
            DropQuery(normalize=False),
            "drop_query",
            "DropQuery(n_dropout_samples=3)",
            "Features are set to 0, and those that stay are not scaled by 1 / (1 - rate), which dropout layers do. Without a bias this "
            "changes no prediction; with one, the bias counts four times as much at a rate of 0.75.",
            definition=True,
            case={**many, "bias": 2 * np.arange(4, dtype=np.float32)},
            size=4,
        ),
        Chance(
            "falcun",
            Falcun(),
            "falcun",
            "Falcun",
            "The distances of the first step are not scaled to [0, 1]; later ones are scaled over all images, the picked included, and "
            "the scaled ones are kept and compared with the next, unscaled, distances. The authors' code (`distance_unc_norm`) scales at "
            "every step, over the images that are left, and keeps the unscaled ones, as alframe does. It shows where no image is certain; "
            "the pool here has logits a fifth as large as the others.",
            case=unsure(A_FEW),
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
        scored(
            "mean_std",
            "Variance",
            judge.mean_std,
            draws=True,
            definition=True,
            note="The variance over the draws, averaged over classes, where mean_std averages the standard deviation: the two order "
            "images differently as soon as there are more than two classes.",
        ),
        batch_bald(
            "BatchBALD(num_draw=500)",
            "The loop runs `num_samples` times after the image with the highest BALD has been picked, so one image too many is in the "
            "batch, and `get_ranks` orders them by their value at their own step. That value lacks the conditional entropies of those "
            "picked before and so grows from step to step: the first pick, which is the most informative image, comes last and drops "
            "out. (Labels are sampled from the first step on, where alframe writes them out while they are few.)",
            configurations=500,
        ),
        scored(
            "epig", "EPIG", judge.epig, draws=True, strategy=Epig(), cases=[c for c in DRAWS if c.c < 100 or c.n < 300]
        ),
        sampled("power", "PowerSampling(BALD, temperature=0.5)"),
        sampled("softmax", "GibbsSampling(BALD, temperature=0.5)"),
        sampled("softrank", "RankBasedSampling(BALD, temperature=0.5)"),
        random_rows("Random"),
    ]


def batchbald_redux() -> list[Row]:
    nan = (
        "An entropy is the sum of log p · exp(log p), which is NaN for a probability of exactly 0 (one-hot predictions, or the logarithm "
        "of a soft-max that underflows). NaN counts as the largest value, so such images are picked first. All failing cases have zero "
        "probabilities; in the others the picks agree."
    )
    return [
        scored("bald", "get_bald_batch", judge.bald, draws=True, note=nan),
        batch_bald(f"get_batchbald_batch(num_samples={JOINT})", nan),
    ]


def bmdal_reg() -> list[Row]:
    return [
        core_set("maxdist, TP mode"),
        first_core_set(
            "maxdist, P mode",
            "the longest features",
            "With nothing selected yet, `get_next_idx` answers with the image of the largest norm; alframe starts at the image nearest "
            "to the mean.",
        ),
        Deterministic(
            "lcmd",
            Lcmd(),
            "lcmd",
            "lcmd on last-layer gradients",
            "An image that is equally far from two centres stays with the earlier one here. The peer compares rounded distances with <, "
            "so that rounding decides which cluster the image counts for, and with it which cluster is the largest. It takes pools with "
            "many equal distances.",
            rule=lambda case: judge.Lcmd(judge.embedding(case), judge.embedding(case, "labeled_")),
            cases=(
                Case(12, 6, 3, kind="ties", seed=8),
                *grid(KINDS, draws=(1,), labeled=(0, 20)),
            ),  # the first: found by search
        ),
        Deterministic(
            "bait, forward only",
            Bait(oversample=1.0),
            "bait",
            "bait (float64, sigma=1), P mode",
            options={"backward": False},
            rule=judge.Bait,
            cases=tuple(NO_LABELS),
        ),
        Deterministic(
            "bait, forward only, with labels",
            Bait(oversample=1.0),
            "bait",
            "bait (float64, sigma=1), TP mode",
            "The Fisher information to be learnt about is that of pool and training set together (`feature_cov_matrix`), where alframe "
            "takes the pool's. The paper's objective is the error on the distribution of the data; both are estimates of it.",
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
        random_rows(
            "random",
            "Each call makes a new `torch.Generator` and does not seed it, and a new one always has the same default seed: every call on a "
            "pool of n images returns the same ones, whatever was seeded outside.",
        ),
    ]


def modal_python() -> list[Row]:
    softmax = (
        "`get_predictions` applies the soft-max to `prediction[mask]`, a flat list of all numbers of all images, instead of to each image. "
        "Probabilities of an image then do not sum to 1, and an image with larger logits gets larger ones. Only logits that are already "
        "normalised for each image come out right, up to a common factor."
    )
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
            note="The largest Kullback-Leibler divergence of a member from the mean, where mean_kl averages them.",
        ),
        scored("bald", "mc_dropout_bald, log-probabilities as logits", judge.bald, draws=True),
        scored("bald", "mc_dropout_bald, any logits", judge.bald, draws=True, options={"offsets": True}, note=softmax),
        scored("mean_std", "mc_dropout_mean_st, log-probabilities as logits", judge.mean_std, draws=True),
        scored(
            "mean_std",
            "mc_dropout_mean_st, any logits",
            judge.mean_std,
            draws=True,
            options={"offsets": True},
            note="As mc_dropout_bald.",
        ),
        scored(
            "entropy",
            "mc_dropout_max_entropy",
            judge.predictive_entropy,
            counterpart="dropout_entropy",
            draws=True,
            note="The mean over the draws of the entropy of each draw (expected entropy), not the entropy of the mean: an image on which "
            "confident draws contradict each other comes last. (Log-probabilities as logits, to leave the soft-max out of it.)",
        ),
        scored(
            "variation_ratio",
            "mc_dropout_max_variationRatios",
            judge.variation_ratio,
            draws=True,
            note="One minus the largest mean probability, which is least confidence; votes are not counted. (Log-probabilities as logits.)",
        ),
    ]
    return [replace(row, ordered=False) for row in rows]  # type: ignore[call-arg]


def small_text() -> list[Row]:
    return [
        scored("least_confidence", "LeastConfidence", judge.least_confidence, ordered=False),
        scored("margin", "BreakingTies", judge.margin, ordered=False),
        scored("entropy", "PredictionEntropy", judge.predictive_entropy, ordered=False),
        scored("bald", "BALD", judge.bald, draws=True, ordered=False),
        core_set("GreedyCoreset('euclidean', normalize=False)"),
        core_set("GreedyCoreset('euclidean', normalize=True)", normalize=True, options={"normalize": True}),
        first_core_set(
            "GreedyCoreset('euclidean', normalize=False)",
            "none",
            "Asks for the distances to an empty set of labelled images, which scikit-learn refuses.",
        ),
        badge(
            "BADGE",
            "`scale[proba_argmax] = ...` is meant to subtract the one-hot vector of the predicted class and writes the same numbers back: "
            "what is clustered is p ⊗ h, and with two classes h alone; the bias is left out. The lengths of the embeddings are then handed "
            "over to scikit-learn as `x_squared_norms` without being squared, which makes its distances wrong, and its k-means++ keeps the "
            "best of several candidates at each step, where BADGE draws one.",
            first="sample",
        ),
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


def versions() -> list[str]:
    """Of what both sides compute with."""
    found = [f"{name} {metadata.version(name)}" for name in ("alframe", "torch", "numpy", "scipy", "scikit-learn")]
    return [f"Python {platform.python_version()}", *found]


def page(results: dict[str, list[tuple[Row, Verdict]]], only: str | None) -> str:
    """The document: how to read it, what agrees, and a paragraph on each difference."""
    command = "python scripts/conformance.py" + (f" --only {only}" if only else "") + " --write docs/conformance.md"
    lines = [
        "# Conformance: the same pools, asked of other packages",
        "",
        f"`{command}` on {date.today()}, with {', '.join(versions())}.",
        "",
        *HOW_TO_READ.strip().splitlines(),
    ]
    for name, rows in results.items():
        package = PACKAGES[name]
        installed = f" Installed {package.why}." if package.why else ""
        words = [verdict.word for _, verdict in rows]
        counts = ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)
        lines += ["", f"## {name} {package.version}", "", f"{counts}.{installed}", ""]
        lines += ["| strategy | the peer's | verdict | cases, or the smallest failing one |", "|---|---|---|---|"]
        for row, verdict in rows:
            word = f"**{verdict.word}**" if verdict.word in ("differs", "cannot run") else verdict.word
            word += " (alframe off the rule)" if verdict.ours_is_wrong else ""
            lines.append(f"| {row.name} | `{row.function}` | {word} | {verdict.detail.replace('|', '/')} |")
        noted = [row for row, verdict in rows if verdict.word != "agrees" and row.note]
        lines += [line for row in noted for line in ("", f"**{row.name}, `{row.function}`.** {row.note}")]
    return "\n".join([*lines, "", *WITHOUT.strip().splitlines(), ""])


WORDS = ("agrees", "differs", "differs by definition", "cannot run")

HOW_TO_READ = """
alframe and six packages from PyPI are asked for the same batches. Each peer runs in its own process and environment. A model is not trained:
an object that answers with given numbers stands in its place, so what is compared is the peer's own selection code. Options are set alike on
both sides.

**A case** is a small pool and a number of picks: n images, c classes, k posterior draws, m labelled images, q picks, with features, probabilities
and a linear head from a seeded generator. Pools have 12, 40 or 300 images and are of five kinds: *gaussian*, *duplicates* (every image three
times), *ties* (rounded features and logits), *zeros* (every third feature vector is zero), *one_hot* (every probability is 0 or 1). There are 2, 5
or 100 classes; 1, or 2 and 10, draws; 0, 1 or 20 labelled images; 1, 4 or 10 picks, or the whole pool of 40. `batch_bald` has the cases of up to 40
images whose joint labels can be written out (at most 5,000), `epig` leaves out 300 images with 100 classes, and bait with its backward steps has ten
pools of 40 images of its own. For a difference, smaller cases of the same kind (from 3 images) are tried in
order of size, and the first that fails is shown.

**The verdicts**

- **agrees**: on every case the picks are the same, or both sides follow the rule and part at a tie only.
- **differs**: on some case one side leaves the rule; the smallest such case is shown, with the side that did.
- **differs by definition**: each side does what it says, and they say different things.
- **cannot run**: the peer raised on every case, or could not be installed.

**How they are found**

- *Deterministic rules.* The picks of both sides are replayed along a plain float64 version of the rule: at each step the pick must be worth as
  much as the best that was left, within 1e-6 of the largest value. It is a third implementation, by the authors of alframe.
- *Rules that draw.* How often each image is picked over 600 seeds on one pool, against its exact probability or, for drop_query, against each other:
  a chi-square p below 1e-4 is a difference. Small differences in probability go unseen.
- *Rules on k-means* (typiclust, clue). Two implementations of k-means do not find the same clusters, so picks on ordinary data are not comparable.
  The pools here (93 and 148 images) have clusters so far apart that any k-means finds them; what is compared is the pick rule, given the clusters.

Below each table a paragraph says what the peer does where it differs, as read in the source of the version named. Most of
these paragraphs were checked by writing out what they say and finding that the peer's picks follow it.
"""

WITHOUT = """
## Not compared

alfa_mix, cluster_margin, dcom and uherding have no counterpart in these packages, nor has the wrapper switch; candidates (a random part of the
pool) has one in scikit-activeml and small-text, which is not compared. Nor are bait with the full Fisher information, lcmd with a sketch, and
batch_bald where joint labels are too many to be written out and are sampled on both sides. The radius of prob_cover and the number of neighbours of
typiclust are given to both sides; the peer's defaults differ (a grid of radii; 5 neighbours).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="folder for the peers' environments")
    parser.add_argument("--only", choices=list(ROWS), help="one peer")
    parser.add_argument("--write", type=Path, help="write the tables to this file")
    options = parser.parse_args()
    results = {name: run(name, options.venv) for name in ROWS if options.only in (None, name)}
    if options.write:
        options.write.write_text(page(results, options.only), encoding="utf-8")


if __name__ == "__main__":
    main()
