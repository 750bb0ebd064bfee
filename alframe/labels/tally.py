"""Statistics per person: images, seconds per image, accuracy on checks, and agreement with the others."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from alframe.labels.consensus import CHECKS, COUNTS_FROM, UNANSWERED, Line, Vote, vote


@dataclass(frozen=True)
class Work:
    """Counts of one person, which can be summed over rounds and runs. Only the last answer for an image counts."""

    images: int = 0
    timed: int = 0
    time_s: float = 0.0
    gold_right: int = 0
    gold: int = 0
    repeat_right: int = 0
    repeat: int = 0
    agreed: float = 0.0
    shared: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def checks(self) -> dict[str, tuple[int, int]]:
        """(correct, total) answers to checks, by kind (gold, repeat), where there are any."""
        checks = {"gold": (self.gold_right, self.gold), "repeat": (self.repeat_right, self.repeat)}
        return {kind: (right, of) for kind, (right, of) in checks.items() if of}

    @property
    def numbers(self) -> dict[str, float]:
        """`images` answered; `seconds` per image (with checks), if measured; and rates in [0, 1], if available.

        `gold` and `repeat`: correct answers on hidden images answered before by others and by the person. `agreement`: the
        share of the others' votes that are the same, averaged over images with other votes.
        """
        rates = {"seconds": (self.time_s, self.timed), **self.checks, "agreement": (self.agreed, self.shared)}
        return {"images": self.images} | {name: total / n for name, (total, n) in rates.items() if n}


def tally(lines: Iterable[Line], classes: Sequence[str] = ()) -> dict[str, Work]:
    """The work of each person in `lines` of one ledger, in order of their first answers."""
    last: dict[tuple[str, bool, int, int], Line] = {}
    for line in lines:
        if line.get("answer") != UNANSWERED and COUNTS_FROM not in line:
            check = line["kind"] in CHECKS
            last[str(line.get("annotator")), check, line["round"], line["index"]] = line
    found: dict[str, Work] = {}
    votes: dict[tuple[int, int], dict[str, Vote]] = {}
    for (person, check, round, index), line in last.items():
        time_s = line.get("time_s")
        seconds = float(time_s) if isinstance(time_s, int | float) and time_s > 0 else 0.0
        work = Work(timed=int(seconds > 0), time_s=seconds)
        if check:
            right = int(line["label"] == line.get("expected"))
            gold = line["kind"] == "gold"
            work += Work(gold_right=right * gold, gold=int(gold), repeat_right=right * (not gold), repeat=int(not gold))
        else:
            work += Work(images=1)
            if (own := vote(line, classes)) is not None:
                votes.setdefault((round, index), {})[person] = own
        found[person] = found.get(person, Work()) + work
    for item in votes.values():
        for person, own in item.items() if len(item) > 1 else ():
            same = sum(other == own for other in item.values()) - 1
            found[person] += Work(agreed=same / (len(item) - 1), shared=1)
    return found


def accuracy(ledger: Iterable[Line]) -> dict[str, dict[str, tuple[int, int]]]:
    """(correct, total) answers to checks, by person and kind (gold, repeat)."""
    return {person: work.checks for person, work in tally(ledger).items() if work.checks}
