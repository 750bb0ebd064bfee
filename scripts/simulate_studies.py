"""Are the report's error rates, intervals and power what they say? Studies with known differences, through the report's own functions.

    python scripts/simulate_studies.py                     # 1,000 studies a cell of the table, a minute or two
    python scripts/simulate_studies.py --studies 200       # quicker and coarser

Prints a table; exits 1 where a level is not held: false verdicts over 5 % + 2 standard errors, or an interval or the 80 % power
off what it says by more than 3.7 standard errors (there are about a hundred of these, and all of them together should fail by
chance in one run of a hundred).

A study is random and up to four strategies on six label counts. All runs of a seed share its initial labels, and so their first
value and an offset of the whole curve; from the second count on each run has noise of its own that carries over from round to
round. Values are rounded to a test set of 2,000 images.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alframe.report.statistics.curves import Against, Curve, against
from alframe.report.statistics.paired import LEVEL, choose_test, mean_interval
from alframe.report.statistics.power import POWER, power_of, visible_effect
from alframe.report.statistics.targets import labels_needed, saved

LABELS = np.array([100.0, 150.0, 200.0, 250.0, 300.0, 350.0])
MEAN = 0.80 - 0.30 * np.exp(-(LABELS - 100) / 120)
GAIN = (LABELS - 100) / 250
"""What a strategy gains, as a share of its gain at the end: nothing yet at the initial labels."""
SEED_SD, RUN_SD, CARRIED = 0.012, 0.010, 0.6
N_TEST = 2000
SEEDS, STRATEGIES = (3, 5, 10), (2, 3, 4, 5)
MODERATE = 0.02
TARGET = float(MEAN[2])
MARGIN = 3.7

WEIGHTS = np.convolve(np.diff(LABELS), [0.5, 0.5]) / (LABELS[-1] - LABELS[0])
_CARRIED = CARRIED ** np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
SD_END = math.sqrt(2) * RUN_SD
SD_AREA = SD_END * math.sqrt(WEIGHTS[1:] @ _CARRIED @ WEIGHTS[1:])
"""True standard deviations of the paired differences, at the end and in area."""


@dataclass(frozen=True)
class Share:
    """How often something happened in `n` studies, and whether that is as stated (`wanted`)."""

    hits: int
    n: int
    wanted: float
    margin: float
    kind: str

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def is_held(self) -> bool:
        slack = self.margin * math.sqrt(self.wanted * (1 - self.wanted) / self.n)
        above, below = self.value <= self.wanted + slack, self.value >= self.wanted - slack
        return {"at most": above, "at least": below, "about": above and below}[self.kind]

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}" + ("" if self.is_held else " (!)")


def studies(
    n_studies: int, n_seeds: int, gains: Sequence[float], rng: np.random.Generator, heavy: bool = False
) -> Iterator[dict[str, Curve]]:
    """Studies of random and a strategy for each of `gains` (at the end). `heavy`: noise of Student's t with 4 degrees, same sd."""
    for _ in range(n_studies):
        values = _values(n_seeds, gains, rng, heavy)
        yield {_name(i): Curve(_name(i), tuple(range(n_seeds)), LABELS, rows) for i, rows in enumerate(values)}


def _values(n_seeds: int, gains: Sequence[float], rng: np.random.Generator, heavy: bool) -> np.ndarray:
    shape = (1 + len(gains), n_seeds, len(LABELS))
    fresh = rng.standard_t(4, shape) / math.sqrt(2) if heavy else rng.standard_normal(shape)
    noise = np.zeros(shape)  # 0 at the first count, which the runs of a seed share
    noise[:, :, 1] = fresh[:, :, 1]
    for t in range(2, len(LABELS)):
        noise[:, :, t] = CARRIED * noise[:, :, t - 1] + math.sqrt(1 - CARRIED**2) * fresh[:, :, t]
    of_seed = SEED_SD * rng.standard_normal((1, n_seeds, 1))
    gained = np.array([0.0, *gains])[:, None, None] * GAIN
    return np.round((MEAN + gained + of_seed + RUN_SD * noise) * N_TEST) / N_TEST


def _name(i: int) -> str:
    return f"strategy_{i}" if i else "random"


def compared(curves: dict[str, Curve]) -> dict[str, Against]:
    return against(curves, {name: "random" for name in curves if name != "random"}, lower_better=False)


def false_verdicts(n_studies: int, n_seeds: int, n_strategies: int, rng: np.random.Generator, heavy: bool) -> Share:
    """How often a study without any difference calls some strategy better or worse."""
    made = studies(n_studies, n_seeds, [0.0] * (n_strategies - 1), rng, heavy)
    wrong = sum(any(_says(one) for one in compared(curves).values()) for curves in made)
    return Share(wrong, n_studies, LEVEL, 2, "at most")


def real_difference(n_studies: int, n_seeds: int, n_strategies: int, rng: np.random.Generator) -> dict[str, Share]:
    """One strategy is better by just what the power statement calls visible at the end; the others are like random."""
    n_tests = 2 * (n_strategies - 1)
    visible = {"end": visible_effect(n_seeds, n_tests) * SD_END, "area": visible_effect(n_seeds, n_tests) * SD_AREA}
    gain = visible["end"]
    true_area = float(WEIGHTS @ (MEAN + gain * GAIN))
    hits = dict.fromkeys(("wrong", "end", "area", "height", "level", "holm", "power end", "power area"), 0)
    for curves in studies(n_studies, n_seeds, [gain] + [0.0] * (n_strategies - 2), rng):
        found = compared(curves)
        one = found.pop("strategy_1")
        hits["wrong"] += any(_says(other) for other in found.values())
        hits["end"] += _covers(one.final.interval, gain)
        hits["area"] += _covers(one.area.interval, gain * float(WEIGHTS @ GAIN))
        hits["height"] += _covers(mean_interval(curves["strategy_1"].areas), true_area)
        hits["level"] += one.final.p is not None and one.final.p * n_tests < LEVEL and one.final.mean > 0
        hits["holm"] += one.final.is_shown and one.final.mean > 0
        for power in power_of(found | {"strategy_1": one}):
            hits[f"power {power.where}"] += _covers(power.interval, visible[power.where])
    covered = {
        key: Share(hits[key], n_studies, 1 - LEVEL, MARGIN, "at least")
        for key in hits
        if key not in ("wrong", "level", "holm")
    }
    return covered | {
        "wrong": Share(hits["wrong"], n_studies, LEVEL, 2, "at most"),
        "level": Share(hits["level"], n_studies, POWER, MARGIN, "about"),
        "holm": Share(hits["holm"], n_studies, POWER, MARGIN, "at least"),
    }


def labels_saved(n_studies: int, n_seeds: int, truth: float, rng: np.random.Generator) -> Share:
    """How often the interval of the labels saved, where one is given, covers what is saved on average."""
    given = covered = 0
    for curves in studies(n_studies, n_seeds, [MODERATE], rng):
        found = saved(curves["strategy_1"], curves["random"], TARGET, lower_better=False)
        given += found.interval is not None
        covered += _covers(found.interval, truth)
    return Share(covered, max(given, 1), 1 - LEVEL, MARGIN, "at least")


def mean_saved(rng: np.random.Generator, n_seeds: int = 50_000) -> float:
    """The labels that a gain of `MODERATE` saves on average, from very many seeds."""
    random, better = (labels_needed(LABELS, rows, TARGET, False) for rows in _values(n_seeds, [MODERATE], rng, False))
    known = np.isfinite(random[:, 1]) & np.isfinite(better[:, 1]) & (random[:, 0] > 0) & (better[:, 0] > 0)
    return float((random - better)[known, 0].mean())


def rows_of(n_studies: int, seed: int = 0) -> Iterator[tuple[list[str], list[Share]]]:
    """The table's rows, and the shares in them."""
    truth = mean_saved(np.random.default_rng([seed, 99]))
    for n_seeds in SEEDS:
        for k in STRATEGIES:
            rng = np.random.default_rng([seed, n_seeds, k])
            null, heavy = (false_verdicts(n_studies, n_seeds, k, rng, heavy) for heavy in (False, True))
            real, labels = real_difference(n_studies, n_seeds, k, rng), labels_saved(n_studies, n_seeds, truth, rng)
            keys = ("wrong", "end", "area", "height", "level", "holm", "power end", "power area")
            shares = [null, heavy, *(real[key] for key in keys[:4]), labels, *(real[key] for key in keys[4:])]
            n_tests = 2 * (k - 1)
            shown = [str(share) if k > 2 or share is not real["wrong"] else "" for share in shares]
            yield [str(n_seeds), str(k), str(n_tests), choose_test(n_seeds, n_tests), *shown], shares


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Check the report's error rates, intervals and power by simulated studies."
    )
    parser.add_argument("--studies", type=int, default=1000, help="for each cell of the table (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    columns = [
        "seeds",
        "strategies",
        "tests",
        "test",
        "false: normal",
        "false: heavy tails",
        "false: beside a real one",
    ]
    columns += ["interval: end", "interval: area", "interval: mean area", "interval: labels saved"]
    columns += ["shown at its level", "shown after Holm", "visible: end", "visible: area"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns), flush=True)
    failed = 0
    for cells, shares in rows_of(arguments.studies, arguments.seed):
        print("| " + " | ".join(cells) + " |", flush=True)
        failed += sum(not share.is_held for share in shares)
    print(f"\n{failed} levels not held, marked (!)." if failed else "\nAll levels held.")
    return 1 if failed else 0


def _says(one: Against) -> bool:
    return "better" in one.verdict or "worse" in one.verdict


def _covers(interval: tuple[float, float] | None, truth: float) -> bool:
    return interval is not None and interval[0] <= truth <= interval[1]


if __name__ == "__main__":
    sys.exit(main())
