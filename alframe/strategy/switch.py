"""One strategy while there are few labels, another afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass

from alframe.errors import expect
from alframe.strategy.base import Schedule, Strategy, declare_for


@dataclass(frozen=True)
class Switch(Schedule):
    """`first` for the first `rounds` queries, or until `labels` labels have been bought; from then on `then`.

    Either part may be a switch itself. What the later part needs (posterior draws) must be there from the start. Raises
    `ConfigError` unless exactly one of the two counts is given and positive.
    Source: Doucet et al. 2024 switch from TypiClust to margin so (TCM, `strategy=tcm`).
    """

    first: Schedule
    then: Schedule
    rounds: int | None = None
    labels: int | None = None

    def __post_init__(self) -> None:
        given = {name: count for name in ("rounds", "labels") if (count := getattr(self, name)) is not None}
        expect(len(given) > 0, "Expected rounds or labels to say when to switch, got neither; set one of them.")
        expect(len(given) == 1, f"Expected one of rounds and labels, got both ({given}); set one of them to null.")
        for name, count in given.items():
            expect(count >= 1, f"Expected {name} of at least 1, got {count}; raise it.")
        declare_for(self, self.first, self.then)

    def at(self, round: int, n_labels: int, counts: Sequence[int], defects: Sequence[int] | None = None) -> Strategy:
        early = round < self.rounds if self.rounds is not None else n_labels < (self.labels or 0)
        return (self.first if early else self.then).at(round, n_labels, counts, defects)
