"""One row of the table: a strategy here, its counterpart there, the cases, and how to tell whether both follow the rule."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from alframe.strategy.base import Strategy
from peers import judge
from peers.cases import Case, arrays, ours, smaller
from peers.client import Arrays, Peer, PeerError

SEEDS = range(600)  # for rules that draw
SURE = 1e-4  # a p below this is a difference

cached_arrays = lru_cache(maxsize=512)(arrays)


@dataclass(frozen=True)
class Verdict:
    """`word` is one of agrees, differs, differs by definition, cannot run."""

    word: str
    detail: str
    ours_is_wrong: bool = False


@dataclass(frozen=True)
class Row(ABC):
    """`strategy` (with `name` in the table) against the peer's `function`, which the adapter knows as `counterpart`.

    `note` says what the peer does where it differs. With `definition`, a difference is one of definition.
    """

    name: str
    strategy: Strategy
    counterpart: str
    function: str
    note: str = ""
    definition: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def judge(self, peer: Peer) -> Verdict:
        """Run all cases."""

    def differs(self, detail: str, *, ours_is_wrong: bool = False) -> Verdict:
        word = "differs by definition" if self.definition and not ours_is_wrong else "differs"
        return Verdict(word, detail, ours_is_wrong)

    def ours(self, case: Arrays, size: int, seed: int = 0) -> list[int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ours(self.strategy, case, size, seed).positions.tolist()


@dataclass(frozen=True)
class Outcome:
    """What both sides picked for one case, and the step at which either left the rule (or what it raised)."""

    case: Case
    ours: list[int]
    theirs: list[int]
    ours_broke: str | None
    theirs_broke: str | None
    error: str | None = None

    @cached_property
    def same(self) -> bool:
        return not self.error and (self.ours == self.theirs or not (self.ours_broke or self.theirs_broke))

    def __str__(self) -> str:
        blame = f"the peer {self.theirs_broke}" if self.theirs_broke else "the peer follows the rule"
        if self.ours_broke:
            blame += f", alframe {self.ours_broke}"
        return f"{self.case}: alframe {shown(self.ours)}, peer {shown(self.theirs)} ({blame})"


def shown(picks: Sequence[int]) -> str:
    return " ".join(map(str, picks[:10])) + (" ..." if len(picks) > 10 else "")


def rounded(p: float) -> str:
    """Nobody needs more than the order of a small p, which changes with every library."""
    return f"= {p:.2g}" if p >= 1e-12 else "< 1e-12"


@dataclass(frozen=True)
class Deterministic(Row):
    """Both sides' picks are replayed along a float64 reference of the rule.

    With `start` (what the peer's first pick is) the first pick differs by definition, and the others are judged after it.
    """

    rule: Callable[[Arrays], judge.Rule] = field(kw_only=True)
    cases: tuple[Case, ...] = field(kw_only=True)
    ordered: bool = True
    start: str = ""
    fits: Callable[[Case], bool] = lambda case: True

    def judge(self, peer: Peer) -> Verdict:
        outcomes = [self.compare(peer, case) for case in self.cases]
        ran = [outcome for outcome in outcomes if not outcome.error]
        failed = [outcome for outcome in outcomes if outcome.error]
        if not ran:
            smallest = self.smallest(peer, failed[0], lambda outcome: outcome.error is not None)
            return Verdict("cannot run", f"{len(failed)} cases; {smallest.case}: {smallest.error}")
        beside = ""
        if failed:
            smallest = self.smallest(peer, failed[0], lambda outcome: outcome.error is not None)
            beside = f"; cannot run {len(failed)} of {len(outcomes)} cases, {smallest.case}: {smallest.error}"
        different = [outcome for outcome in ran if not outcome.same]
        if not different and self.start:
            return Verdict(
                "differs by definition", f"first pick: {self.start}; agrees from there, {len(ran)} cases{beside}"
            )
        if not different:
            return Verdict("agrees", f"{len(ran)} cases{beside}")
        wrong = next((outcome for outcome in different if outcome.ours_broke and not outcome.theirs_broke), None)
        first = wrong or different[0]
        smallest = self.smallest(
            peer, first, lambda o: not o.error and not o.same and bool(o.ours_broke) == bool(wrong)
        )
        return self.differs(
            f"{len(different)} of {len(ran)} cases; {smallest}{beside}", ours_is_wrong=wrong is not None
        )

    def compare(self, peer: Peer, case: Case) -> Outcome:
        found = cached_arrays(case)
        mine = self.ours(found, case.q)
        try:
            theirs = peer.ask(self.counterpart, found, case.q, options=self.options, measure=False).positions.tolist()
        except PeerError as error:
            return Outcome(case, mine, [], None, None, str(error))
        return Outcome(case, mine, theirs, self.broken(found, case, mine), self.broken(found, case, theirs))

    def broken(self, found: Arrays, case: Case, picks: list[int]) -> str | None:
        if len(picks) != case.q or not all(0 <= pick < case.n for pick in picks):
            return f"answers with {len(set(picks))} of {case.q} images"
        if len(set(picks)) < len(picks):
            return f"picks {next(pick for pick in picks if picks.count(pick) > 1)} twice"
        if case.q == case.n:
            return None  # everything is picked; some peers give it in no order
        rule = self.rule(found)
        if not self.ordered:
            picks = sorted(picks, key=lambda pick: -rule.values()[pick])
        step = judge.broken_at(rule, picks, skip=bool(self.start))
        return None if step is None else f"leaves the rule at pick {step + 1}"

    def smallest(self, peer: Peer, outcome: Outcome, wanted: Callable[[Outcome], bool]) -> Outcome:
        for case in smaller(outcome.case):
            if self.fits(case) and wanted(found := self.compare(peer, case)):
                return found
        return outcome


@dataclass(frozen=True)
class Given(Row):
    """`expected` are the picks of the whole batch, a set or in order.

    Also for rules on k-means, with pools divided so plainly that any k-means finds the same clusters.
    """

    expected: Callable[[Arrays], set[int] | list[int]] = field(kw_only=True)
    cases: tuple[tuple[Arrays, int], ...] = field(kw_only=True)

    def judge(self, peer: Peer) -> Verdict:
        mine_missed, theirs_missed, line = 0, 0, ""
        for seed, (case, size) in enumerate(self.cases):
            expected = self.expected(case)
            mine = self.ours(case, size, seed)
            try:
                theirs = peer.ask(self.counterpart, case, size, seed, self.options, measure=False).positions.tolist()
            except PeerError as error:
                return Verdict("cannot run", str(error))
            kind = type(expected)
            mine_missed += kind(mine) != expected
            theirs_missed += kind(theirs) != expected
            if not line and (kind(mine) != expected or kind(theirs) != expected):
                n = len(case["features"])
                line = f"n={n} q={size} seed={seed}: alframe {shown(mine)}, peer {shown(theirs)}, rule {shown(list(expected))}"
        if not line:
            return Verdict("agrees", f"{len(self.cases)} cases, the whole batch")
        return self.differs(
            f"off the rule in {theirs_missed} of {len(self.cases)} cases (alframe {mine_missed}); {line}",
            ours_is_wrong=mine_missed > 0 and theirs_missed == 0,
        )


@dataclass(frozen=True)
class Chance(Row):
    """Rules that draw: how often each image is pick number `which` over 600 seeds, by a chi-square test.

    Against `expected`, its exact probability, or with None against each other over the whole batch.
    """

    case: Arrays = field(kw_only=True)
    size: int = field(kw_only=True)
    which: int = 0
    expected: Callable[[Arrays], np.ndarray] | None = None

    def judge(self, peer: Peer) -> Verdict:
        n = len(self.case["features"])
        mine = [self.ours(self.case, self.size, seed) for seed in SEEDS]
        try:
            answers = peer.ask_often(self.counterpart, self.case, self.size, SEEDS, self.options)
        except PeerError as error:
            return Verdict("cannot run", str(error))
        theirs = [answer.positions.tolist() for answer in answers]
        repeated = sum(len(set(picks)) < len(picks) for picks in theirs)
        if repeated:
            return self.differs(f"an image twice in {repeated} of {len(theirs)} batches")
        if self.expected is None:
            p = judge.chance_of_both(*(np.bincount(np.concatenate(picks), minlength=n) for picks in (mine, theirs)))
            found = f"{len(mine)} seeds, n={n} q={self.size}: how often each is picked, p {rounded(p)}"
            return Verdict("agrees", found) if p > SURE else self.differs(found)
        expected = self.expected(self.case)
        p_mine, p_theirs = (
            judge.chance(np.bincount([pick[self.which] for pick in picks], minlength=n), expected)
            for picks in (mine, theirs)
        )
        found = (
            f"{len(mine)} seeds, n={n} q={self.size}: pick {self.which + 1} against its exact probabilities, "
            f"p {rounded(p_theirs)} (alframe's {rounded(p_mine)})"
        )
        if min(p_mine, p_theirs) > SURE:
            return Verdict("agrees", found)
        if len(set(map(tuple, theirs))) == 1:
            found += f"; the peer picks {shown(theirs[0])} whatever the seed"
        return self.differs(found, ours_is_wrong=p_mine <= SURE < p_theirs)
