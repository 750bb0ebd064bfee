"""What every annotator that is people has in common: who is asked what, what they said so far, and when a round is complete."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from alframe.consensus import CHECKS, GIVEN, UNANSWERED, Line, Rules, majority, same_name, vote
from alframe.errors import expect
from alframe.images import Data
from alframe.rng import generator
from alframe.storage import read_json
from alframe.types import Answer, Question

NOBODY = "nobody"


class People:
    """The bookkeeping of questions that people answer, over a ledger that others append to.

    `people` are the names of those who are asked; empty: whoever comes, one share of the work, under the name `name`; None: whoever
    comes, under names of their own. Each image is given to `per_image` of them in turn. `quorum` in (0, 1] is the share of a round's
    images that must be answered before it is closed; the others go back into the pool. `gold_rate` and `repeat_rate` in [0, 1]: how
    many images with a known answer are hidden among each 1 that a person gets, from those that others answered (the majority of the
    others is right) and from the person's own. `unsure` says what becomes of an image that nobody was sure of: it
    goes back into the pool (again, `ask_again` times), or is learnt from with a soft target (soft), in which `lean` in
    [1 / classes, 1) is the probability of the class in `unsure: NAME`.
    """

    def __init__(
        self,
        *,
        classes: tuple[str, ...],
        seed: int,
        folder: Path,
        ledger: list[dict[str, Any]],
        new_classes: list[str],
        people: list[str] | None,
        per_image: int,
        aggregate: Literal["majority", "dawid_skene"],
        ask_again: int,
        quorum: float,
        gold_rate: float,
        repeat_rate: float,
        name: str = "person",
        unsure: Literal["again", "soft"] = "again",
        lean: float = 0.7,
    ) -> None:
        n_people = max(1, per_image if people is None else len(people))
        people = people or []
        expect(
            0 < quorum <= 1, f"Expected annotator.quorum above 0 and at most 1, got {quorum}; 1 waits for every answer."
        )
        expect(
            ask_again >= 0, f"Expected annotator.ask_again >= 0, got {ask_again}; 0 leaves out what nobody was sure of."
        )
        expect(
            1 <= per_image <= n_people,
            f"Expected annotator.per_image from 1 to the number of annotator.people ({n_people}), got {per_image}; "
            "name as many people as an image needs, as in annotator.people=[anna,bob].",
        )
        expect(
            len({same_name(p) for p in people}) == len(people)
            and all(p.strip() == p and p.isprintable() and p and "/" not in p for p in people),
            f"Expected different names in annotator.people, without '/' and blanks at the ends, got {people}.",
        )
        for key, rate in (("gold_rate", gold_rate), ("repeat_rate", repeat_rate)):
            expect(0 <= rate <= 1, f"Expected annotator.{key} in [0, 1], got {rate}; 0.1 adds one for each ten images.")
        known = [same_name(c) for c in (*classes, *new_classes)]
        twice = sorted({c for c in new_classes if known.count(same_name(c)) > 1})
        expect(
            not twice,
            f"Expected classes in annotator.new_classes that the dataset has not, each once, got {', '.join(twice)}.",
        )
        self.classes = (*classes, *new_classes)
        expect(
            unsure == "again" or 1 <= lean * len(self.classes) < len(self.classes),
            f"Expected annotator.lean from 1 / {len(self.classes)}, by the number of classes, to below 1, got {lean}; 0.7 is the default.",
        )
        self.rules = Rules(True, per_image, ask_again, aggregate, self.classes, tuple(new_classes), unsure, lean)
        self.people, self.name, self.quorum = tuple(people) or (name,), name, quorum
        self.rates = {"gold": gold_rate, "repeat": repeat_rate}
        self.seed, self.folder, self.ledger = seed, folder, ledger

    # -- what was said -------------------------------------------------------------------------------------------------

    def said(self, round: int) -> dict[tuple[bool, int], dict[str, Line]]:
        """The last answer of each person to a question of `round`, by (whether it is a check, index)."""
        found: dict[tuple[bool, int], dict[str, Line]] = {}
        for line in self.ledger:
            if line["round"] == round and line["kind"] != GIVEN:
                found.setdefault((line["kind"] in CHECKS, line["index"]), {})[line["annotator"]] = line
        return found

    def missing(self, questions: Sequence[Question], person: str) -> list[Question]:
        """Those of the open `questions` that are `person`'s to answer and have no answer of theirs, in order."""
        n, said = len(self.people), self.said(questions[0].round) if questions else {}
        share = []
        for question in questions:
            of = said.get((False, question.index), {})
            turn = {self.people[(question.rank + step) % n] for step in range(self.rules.per_image)}
            if person in turn and person not in of and len(of) < self.rules.per_image:
                share.append(question)
        return share

    # -- when a round is complete --------------------------------------------------------------------------------------

    def left(self, questions: Sequence[Question]) -> list[Question]:
        """Those of `questions` that fewer people have answered than an image needs, and that were not closed without."""
        said = self.said(questions[0].round) if questions else {}
        by = {q.index: said.get((False, q.index), {}) for q in questions}
        return [q for q in questions if len(by[q.index]) < self.rules.per_image and NOBODY not in by[q.index]]

    def n_asked(self, questions: Sequence[Question]) -> int:
        """Images of the round of the open `questions`, those with all their answers too."""
        answered = {index for check, index in self.said(questions[0].round) if not check}
        return len(answered | {q.index for q in questions})

    def close(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """For each image that is left over, a line that says so; nothing while the quorum is not reached."""
        left = self.left(questions)
        if left and len(left) <= (1 - self.quorum) * self.n_asked(questions) + 1e-9:
            for question in left:
                yield Answer(question.index, None, NOBODY, answer=UNANSWERED)

    # -- questions with a known answer ---------------------------------------------------------------------------------

    def checks(
        self, questions: Sequence[Question], person: str, n: int, *, with_prediction: bool
    ) -> list[tuple[Question, int]]:
        """Questions of kind gold and repeat for `person`, who gets `n` images this round, each with the class that is known.

        They depend on the seed, on earlier rounds and on what `questions` show. `with_prediction`: where the new ones come with one
        and with a nearest image, so must these; and none is an image that is shown as nearest to another, which tells its class.
        """
        if not questions or not any(self.rates.values()):
            return []
        round, earlier = questions[0].round, self._earlier(questions[0], with_prediction)
        told = {q.nearest["index"] for q in questions if q.nearest and with_prediction}
        drawn: list[tuple[Question, int]] = []
        for kind in CHECKS:
            known = []
            taken = {q.index for q in (*questions, *(q for q, _ in drawn))}  # a file has one row for an image
            for question, lines in earlier:
                said = {name: vote(line, self.classes) for name, line in lines.items()}
                others = majority(v for name, v in said.items() if name != person and v is not None)
                expected = said.get(person) if kind == "repeat" else others
                if isinstance(expected, int) and question.index not in taken:
                    known.append((question, expected))
            left = int(self.rates[kind] * n + 0.5)
            stream = generator(self.seed, round, f"annotator/{kind}/{person}")
            for place in torch.randperm(len(known), generator=stream).tolist():
                question, expected = known[place]
                shows = {question.nearest["index"]} if question.nearest and with_prediction else set()
                if left and question.index not in told and not shows & {q.index for q, _ in drawn}:
                    drawn.append((Question(**{**vars(question), "kind": kind, "round": round}), expected))
                    told, left = told | shows, left - 1
        return drawn

    def _earlier(self, like: Question, with_prediction: bool) -> list[tuple[Question, dict[str, Line]]]:
        """The answered questions of earlier rounds with what was said of them."""
        found = []
        for round in range(like.round):
            name = f"round_{round - 1:03d}" if round else "initial"
            stage = read_json(self.folder / "queries" / f"{name}.json", ("questions",)) or {"questions": []}
            said = self.said(round)
            for question in (Question(**question) for question in stage["questions"]):
                lines = said.get((False, question.index), {})
                if lines and not (with_prediction and _shows_less(question, like)):
                    found.append((question, lines))
        return found


def _shows_less(question: Question, like: Question) -> bool:
    """Whether `question` has less of the model to show than `like`, by which people could tell that it is another kind."""
    return (question.probs is None and like.probs is not None) or (
        question.nearest is None and like.nearest is not None
    )


def is_new(answer: Answer, said: Mapping[tuple[bool, int], Mapping[str, Line]]) -> bool:
    """Whether `said` (`People.said`) does not hold this answer as the last of its person about the image."""
    line = said.get((answer.about is not None, answer.index), {}).get(answer.annotator)
    given = (answer.label, answer.answer, answer.text)
    return line is None or (line["label"], line.get("answer", ""), line.get("text", "")) != given


def original(data: Data, index: int) -> Path | None:
    """The file that image `index` of the pool came from, if it came from one that is still there, and no other photo by its name."""
    if data.root is None or data.pool.names is None:
        return None
    file = Path(data.root) / data.pool.names[index]
    return file if shows(file, data, index) else None


def shows(file: Path, data: Data, index: int) -> bool:
    """Whether `file` is there and, where photos come in, has the size and time with which image `index` of the pool was read."""
    if not file.is_file() or not data.files:
        return file.is_file()
    stat = file.stat()
    return (stat.st_size, stat.st_mtime_ns) == data.files[index]


def predicted(question: Question, classes: Sequence[str]) -> Mapping[str, Any]:
    """The columns of what the model thinks of an image; empty where it was asked of no model."""
    if question.probs is None:
        return {"reason": question.reason}
    top = max(range(len(question.probs)), key=question.probs.__getitem__)
    return {
        "prediction": classes[top],
        "probability": f"{question.probs[top]:.3f}",
        "score": "" if question.score is None else f"{question.score:.4g}",
        "reason": question.reason,
    }
