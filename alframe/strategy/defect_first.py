"""For pools in which one photo in fifty shows a defect: find some, find more, then learn the border."""

from collections.abc import Sequence
from dataclasses import dataclass

from alframe.errors import expect
from alframe.strategy.base import Schedule, Strategy, declare_for, expect_at_least
from alframe.strategy.mix import Mix
from alframe.strategy.random import Random


@dataclass(frozen=True)
class DefectFirst(Schedule):
    """`unusual` and random images until both sides have `few_each` labels; `likely` and `uncertain` ones until the rarer side has `few`; then `uncertain`.

    The sides are defects and the rest; if nobody said which classes are defects, the two classes with the most labels.
    `share` is the part of a shared query that goes to `unusual`, and then to `likely`.
    Raises `ConfigError` for counts below 1, `few` below `few_each`, and a share outside (0, 1).
    """

    unusual: Schedule
    likely: Schedule
    uncertain: Schedule
    few_each: int = 1
    few: int = 20
    share: float = 0.5

    def __post_init__(self) -> None:
        expect_at_least(self, few_each=1, few=self.few_each)
        expect(0 < self.share < 1, f"Expected share between 0 and 1, got {self.share}; 0.5 is half and half.")
        declare_for(self, self.unusual, Random(), self.likely, self.uncertain)

    def at(self, round: int, n_labels: int, counts: Sequence[int], defects: Sequence[int] | None = None) -> Strategy:
        rarer = min(sides(counts, defects))
        unusual, likely, uncertain = (
            one.at(round, n_labels, counts, defects) for one in (self.unusual, self.likely, self.uncertain)
        )
        if rarer < self.few_each:
            return Mix([Random(), unusual], [1 - self.share, self.share])  # random first: a sample of all that is left
        return Mix([likely, uncertain], [self.share, 1 - self.share]) if rarer < self.few else uncertain


def sides(counts: Sequence[int], defects: Sequence[int] | None) -> tuple[int, int]:
    """Labels of defects and of the rest; without `defects` those of the two classes with the most labels."""
    if defects:
        found = sum(counts[c] for c in defects)
        return found, sum(counts) - found
    first, second = sorted([*counts, 0, 0], reverse=True)[:2]
    return second, first
