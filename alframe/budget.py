"""How many labels are bought, when, and when to stop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from alframe.errors import PoolError, expect
from alframe.images import UNKNOWN
from alframe.part import Change, Part, anything
from alframe.types import SPENT


@dataclass(frozen=True)
class Budget(Part):
    """`initial` labels, then `rounds` queries of `query_size` (multiplied by `growth` each round, or a list of sizes).

    `initial` is "all" for the full-data reference; labels that came with the photos count towards it.
    `validation` is the share of every purchase that is drawn at random and kept for validation. From 2 on it is a number
    of images, drawn once with the initial ones. They are random because queried images are a biased sample. They count as
    bought; with `count_validation: false` they come on top for free, as in most published tables.
    Stopping rules use validation data or the clock, never test data: `stop_at` (value of `metric` reached), `plateau`
    (rounds without an improvement of more than `min_improvement`), `max_hours` (training, pool passes and labelling).
    """

    initial: int | Literal["all"] = 100
    initial_set: Literal["random", "balanced", "stratified"] = "random"
    query_size: int | list[int] = 10
    growth: float = 1.0
    rounds: int = 5
    validation: float | int = 0.0
    count_validation: bool = True
    metric: Literal["validation/accuracy", "validation/balanced_accuracy", "validation/auroc", "validation/auprc"] = (
        "validation/accuracy"
    )
    stop_at: float | None = None
    plateau: int | None = None
    min_improvement: float = 0.0
    max_hours: float | None = None

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"rounds": anything}

    def __post_init__(self) -> None:
        expect(self.initial == "all" or self.initial >= 0, f"Expected budget.initial >= 0, got {self.initial}.")
        expect(self.rounds >= 0, f"Expected budget.rounds >= 0, got {self.rounds}.")
        expect(
            self.initial != "all" or self.rounds == 0,
            f"Expected budget.rounds=0 with budget.initial=all (nothing is left to query), got {self.rounds}.",
        )
        sizes = self.query_size if isinstance(self.query_size, list) else [self.query_size]
        expect(bool(sizes) and min(sizes) >= 1, f"Expected every budget.query_size >= 1, got {self.query_size}.")
        expect(
            not isinstance(self.query_size, list) or len(self.query_size) >= self.rounds,
            f"Expected one size for each of the {self.rounds} rounds in budget.query_size, got {self.query_size}; "
            "lengthen the list or lower budget.rounds.",
        )
        expect(self.growth > 0, f"Expected budget.growth > 0, got {self.growth}; 2 doubles the query each round.")
        expect(
            0 <= self.validation < 1 or (self.validation >= 2 and self.validation == int(self.validation)),
            f"Expected budget.validation in [0, 1) as a share of each purchase, or an integer >= 2 as a number of images, got {self.validation}.",
        )
        expect(
            not (self.validation >= 1 and self.count_validation)
            or self.initial == "all"
            or self.validation < max(self.initial, 1),
            f"Expected budget.validation below budget.initial ({self.initial}), which it is taken from, got {self.validation}; "
            "raise budget.initial, or set budget.count_validation=false so that these images are free.",
        )
        expect(
            self.plateau is None or self.plateau >= 1,
            f"Expected budget.plateau >= 1 round or null, got {self.plateau}.",
        )
        expect(
            self.max_hours is None or self.max_hours > 0,
            f"Expected budget.max_hours > 0 or null, got {self.max_hours}.",
        )
        expect(
            (self.stop_at is None and self.plateau is None) or self.validation > 0,
            "Expected budget.validation > 0 with budget.stop_at or budget.plateau (both use validation data), got 0; try 0.2.",
        )

    def size(self, round: int) -> int:
        """Labels bought after round `round` (0-based), including validation images if they count."""
        if isinstance(self.query_size, list):
            return self.query_size[round]
        return max(1, int(self.query_size * self.growth**round + 0.5))

    def split(self, size: int, initial: bool = False) -> tuple[int, int]:
        """(n_chosen, n_validation) for a purchase of `size`; `initial` for the first purchase."""
        if self.validation >= 1:
            n_validation = int(self.validation) if initial else 0
        elif self.count_validation:
            n_validation = int(size * self.validation + 0.5)
        else:
            n_validation = math.ceil(size * self.validation)
        return (size - n_validation if self.count_validation else size), n_validation

    def initial_size(self, n_pool: int) -> int:
        """Labels bought before the first training. "all" is the whole pool minus any free validation images."""
        if self.initial != "all":
            return self.initial
        if self.count_validation:
            return n_pool
        return n_pool - int(self.validation) if self.validation >= 1 else int(n_pool / (1 + self.validation))

    def n_images(self, n_pool: int) -> int:
        """Number of images queried over the whole run."""
        first = sum(self.split(self.initial_size(n_pool), initial=True))
        return first + sum(sum(self.split(self.size(r))) for r in range(self.rounds))

    def check(self, n_pool: int) -> None:
        """Raise `PoolError` if the pool is smaller than the budget."""
        if self.n_images(n_pool) > n_pool:
            fitting = [
                rounds for rounds in range(self.rounds) if replace(self, rounds=rounds).n_images(n_pool) <= n_pool
            ]
            fit = f"budget.rounds={fitting[-1]} fits" if fitting else "lower budget.initial"
            raise PoolError(
                f"Expected a budget within the pool of {n_pool} images, got {self.n_images(n_pool)} "
                f"(budget.initial={self.initial}, then {self.rounds} rounds of {self.query_size}); lower one of them: {fit}."
            )

    def stop_reason(self, lines: Sequence[dict[str, Any]]) -> str | None:
        """Why the run stops after the last of `lines` (the round lines so far), or None."""
        if len(lines) > self.rounds:
            return SPENT
        values = [line[self.metric] for line in lines if self.metric in line]
        if self.stop_at is not None and values and values[-1] >= self.stop_at:
            return f"{self.metric} reached {self.stop_at}"
        if self.plateau is not None and len(values) > self.plateau:
            before, since = max(values[: -self.plateau]), max(values[-self.plateau :])
            if since <= before + self.min_improvement:
                return f"{self.metric} on a plateau for {self.plateau} rounds"
        seconds = sum(value for line in lines for key, value in line.items() if key.endswith("_s"))
        if self.max_hours is not None and seconds >= 3600 * self.max_hours:
            return f"{self.max_hours} hours used"
        return None


def draw_initial(
    labels: np.ndarray, candidates: np.ndarray, size: int, how: str, n_classes: int, generator: torch.Generator
) -> np.ndarray:
    """`size` of `candidates` (dataset indices), in random order: the initial set. It depends on the arguments alone.

    random: uniform. stratified: class proportions as in the pool. balanced: as equal as the class sizes allow. The last
    two read the pool's labels, which only a study has, and skip images that show none of the classes. They raise
    `PoolError` if labels are unknown or if fewer than `size` images belong to the classes.
    """
    shuffled = candidates[torch.randperm(len(candidates), generator=generator).numpy()]
    if how == "random":
        return shuffled[:size]
    if (labels[candidates] == UNKNOWN).any():
        raise PoolError(
            f"Expected known labels for budget.initial_set={how}, got unlabelled images; use budget.initial_set=random."
        )
    queues = [shuffled[labels[shuffled] == c] for c in range(n_classes)]
    if sum(map(len, queues)) < size:
        raise PoolError(
            f"Expected budget.initial of at most {sum(map(len, queues))} (the images that show a class) with budget.initial_set={how}, "
            f"got {size}; lower it, or use budget.initial_set=random."
        )
    quota = _quota([len(queue) for queue in queues], size, balanced=how == "balanced")
    chosen = np.concatenate([queue[:n] for queue, n in zip(queues, quota, strict=True)])
    return chosen[torch.randperm(len(chosen), generator=generator).numpy()]


def _quota(counts: list[int], size: int, *, balanced: bool) -> list[int]:
    """How many of each class: one at a time to the class furthest below its share that has images left."""
    shares = [float(count > 0) if balanced else count for count in counts]
    quota = [0] * len(counts)
    for _ in range(size):
        open_classes = [c for c in range(len(counts)) if quota[c] < counts[c]]
        quota[min(open_classes, key=lambda c: ((quota[c] + 1) / shares[c], c))] += 1
    return quota
