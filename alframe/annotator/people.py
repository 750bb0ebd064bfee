"""Common part of all annotators that ask people: who is asked what, their answers, and when a round is complete."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from alframe.annotator.base import Annotate, Annotator, Job, any_answer
from alframe.errors import ConfigError, RunFolderError, expect
from alframe.images import Data
from alframe.labels.consensus import (
    CHECKS,
    COUNTS_FROM,
    FROM_FOLDER,
    UNANSWERED,
    Line,
    Rules,
    corrections,
    majority,
    normalized_name,
    vote,
)
from alframe.part import Change, anything, extended, locate
from alframe.record.layout import CONFIG, Layout, runs_below
from alframe.record.read import read_config, read_ledger, read_planned
from alframe.rng import generator
from alframe.types import Answer, Question

NOBODY = "nobody"


@dataclass(frozen=True, kw_only=True)
class AsksPeople(Annotator):
    """Options of every annotator that asks people. A subclass adds its own options, a `place` and a `desk`.

    Each image is labelled by `per_image` people, whose answers are combined by `aggregate`. A round closes once a share `quorum`
    in (0, 1] of its images is answered; the others return to the pool. An image that nobody was sure of (`unsure`) does so, too
    (again, `ask_again` times), or is trained on with a soft label (soft). `new_classes` are classes that people found.
    """

    per_image: int = 1
    aggregate: Literal["majority", "dawid_skene"] = "majority"
    unsure: Literal["again", "soft"] = "again"
    ask_again: int = 1
    new_classes: list[str] = field(default_factory=list)
    quorum: float = 1.0
    show_prediction: bool = True

    people: ClassVar[Sequence[str]] = ()
    """The people who share the images; empty if anyone may answer."""
    lean: ClassVar[float] = 0.7
    """With unsure=soft: the probability of the class in `unsure: NAME`; the other classes share the rest."""
    place: ClassVar[str]
    """The name of its subfolder in a run folder."""
    changeable_on_resume: ClassVar[Mapping[str, Change]] = {
        "new_classes": extended,
        "quorum": anything,
        "show_prediction": anything,
    }
    added_options: ClassVar[Mapping[str, Any]] = {"unsure": "again"}

    def __post_init__(self) -> None:
        expect(
            0 < self.quorum <= 1,
            f"Expected annotator.quorum above 0 and at most 1, got {self.quorum}; 1 waits for every answer.",
        )
        expect(
            self.ask_again >= 0,
            f"Expected annotator.ask_again >= 0, got {self.ask_again}; with 0 an unsure image is not asked about again.",
        )
        expect(
            self.per_image >= 1,
            f"Expected annotator.per_image >= 1, got {self.per_image}; with 2, two people label each image.",
        )

    def check_rates(self) -> Mapping[str, float]:
        """Check images per image of a person: gold (others know the answer) and repeat (the person answered before)."""
        return {}

    @abstractmethod
    def desk(self, job: Job) -> "People":
        """The desk that manages a run's questions until they are answered."""

    def start(self, job: Job) -> Annotate:
        return self.desk(job).annotate

    def rules(self, classes: tuple[str, ...]) -> Rules:
        every = (*classes, *self.new_classes)
        known = [normalized_name(name) for name in every]
        twice = sorted({name for name in self.new_classes if known.count(normalized_name(name)) > 1})
        expect(
            not twice,
            f"Expected different classes in annotator.new_classes that the dataset does not have, got {', '.join(twice)}; remove them.",
        )
        expect(
            self.unsure == "again" or 1 <= self.lean * len(every) < len(every),
            f"Expected annotator.lean from 1 / {len(every)} (the number of classes) to below 1, got {self.lean}; 0.7 is the default.",
        )
        found = tuple(self.new_classes)
        return Rules(True, self.per_image, self.ask_again, self.aggregate, every, found, self.unsure, self.lean)

    def answered_elsewhere(self, folder: Path, data: Data) -> list[str]:
        if not folder.name.startswith("seed="):
            return []  # begun from Python, in a folder of its own
        wanted, lines = set(data.pool.ids), []
        place = "" if data.root is None else f" 'dataset.root={data.root}'"
        studies = [path for path in sorted(folder.resolve().parents[2].iterdir()) if path.is_dir()]
        for other in (run for study in studies for run in runs_below(study)):
            try:
                if other == folder.resolve() or not isinstance(stored_annotator(read_config(other)), AsksPeople):
                    continue
                answered = {line["id"] for line in read_ledger(other) if line["kind"] != FROM_FOLDER} & wanted
            except RunFolderError:
                continue  # damaged, or begun by an older version: no run to go on with
            if answered:
                lines.append(
                    f"{other} has answers of people about {len(answered)} of these images; to go on with that run instead: "
                    f"alframe resume '{other}'{place}"
                )
        return lines

    def has_answers(self, folder: Path) -> bool:
        return any_answer(folder)


def stored_annotator(config: Mapping[str, Any]) -> Annotator:
    """The annotator of a stored config; nothing but a class of annotators is called. Raises `RunFolderError` if it cannot be built."""
    node = config.get("annotator")
    options = {key: value for key, value in node.items() if key != "_target_"} if isinstance(node, Mapping) else {}
    kind = locate(node.get("_target_")) if isinstance(node, Mapping) else None
    try:
        if isinstance(kind, type) and issubclass(kind, Annotator):
            return kind(**options)
        found = f"{node}"
    except (TypeError, ConfigError) as error:
        found = f"{node} ({str(error).splitlines()[0]})"
    raise RunFolderError(f"Expected an annotator in the run's {CONFIG}, got {found}; restore it from a backup.")


def people_answered(folder: Path) -> bool:
    """Whether people have answered anything in a run's folder, whichever annotator asked them.

    If its config does not say who was asked: whether any annotator has a place in the folder.
    """
    try:
        return stored_annotator(read_config(folder)).has_answers(folder)
    except RunFolderError:
        return bool(Layout(folder).places())


class People(ABC):
    """Tracks the questions that people answer, based on a ledger that others append to."""

    def __init__(self, options: AsksPeople, job: Job, anyone: str = "person") -> None:
        """`anyone`: the annotator name of answers if no names are configured."""
        self.rules = options.rules(job.classes)
        self.classes = self.rules.classes
        self.people, self.anyone, self.quorum = tuple(options.people) or (anyone,), anyone, options.quorum
        self.show_prediction, self.rates = options.show_prediction, options.check_rates()
        self.seed, self.folder, self.ledger, self.data = job.seed, job.folder, job.ledger, job.data
        self.place = Layout(job.folder).place(options.place)

    @abstractmethod
    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers that have arrived and are not in the ledger yet. Raises `Waiting` for the rest."""

    @abstractmethod
    def to_do(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """How many images are open, and where people find them."""

    def answers_by_question(self, round: int) -> dict[tuple[bool, int], dict[str, Line]]:
        """The last answer of each person to a question of `round`, by (whether it is a check, index)."""
        found: dict[tuple[bool, int], dict[str, Line]] = {}
        for line in self.ledger:
            if line["round"] == round and line["kind"] != FROM_FOLDER and COUNTS_FROM not in line:
                found.setdefault((line["kind"] in CHECKS, line["index"]), {})[line["annotator"]] = line
        return found

    def missing(self, questions: Sequence[Question], person: str) -> list[Question]:
        """The open `questions` that are assigned to `person` and not yet answered by them, in order."""
        n, answers = len(self.people), self.answers_by_question(questions[0].round) if questions else {}
        share = []
        for question in questions:
            answered = answers.get((False, question.index), {})
            assigned = {self.people[(question.rank + step) % n] for step in range(self.rules.per_image)}
            if person in assigned and person not in answered and len(answered) < self.rules.per_image:
                share.append(question)
        return share

    def left(self, questions: Sequence[Question]) -> list[Question]:
        """The `questions` that still need answers and were not closed by the quorum."""
        answers = self.answers_by_question(questions[0].round) if questions else {}
        by = {q.index: answers.get((False, q.index), {}) for q in questions}
        return [q for q in questions if len(by[q.index]) < self.rules.per_image and NOBODY not in by[q.index]]

    def n_asked(self, questions: Sequence[Question]) -> int:
        """Number of images in the round of the open `questions`, including the answered ones."""
        answered = {index for check, index in self.answers_by_question(questions[0].round) if not check}
        return len(answered | {q.index for q in questions})

    def close(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """An `unanswered` answer for each remaining image, once the quorum is reached; before that, nothing."""
        left = self.left(questions)
        if left and len(left) <= (1 - self.quorum) * self.n_asked(questions) + 1e-9:
            for question in left:
                yield Answer(question.index, None, NOBODY, answer=UNANSWERED)

    def checks(self, questions: Sequence[Question], person: str, n: int) -> list[tuple[Question, int]]:
        """Questions of kind gold and repeat for `person`, who gets `n` images this round, each with its known class.

        They depend on the seed, on earlier rounds and on what `questions` show: with `show_prediction` a check must show as
        much, and is never an image that is shown as the nearest one to another, which reveals its class.
        """
        if not questions or not any(self.rates.values()):
            return []
        round, earlier = questions[0].round, self._earlier(questions[0])
        revealed = {q.nearest["index"] for q in questions if q.nearest and self.show_prediction}
        drawn: list[tuple[Question, int]] = []
        corrected = corrections(self.ledger)
        earlier = [
            (q, lines) for q, lines in earlier if (q.round, q.index) not in corrected
        ]  # nobody's answer is the truth
        for kind in CHECKS:
            known = []
            taken = {q.index for q in (*questions, *(q for q, _ in drawn))}  # a file has one row per image
            for question, lines in earlier:
                votes = {name: vote(line, self.classes) for name, line in lines.items()}
                others = majority(v for name, v in votes.items() if name != person and v is not None)
                expected = votes.get(person) if kind == "repeat" else others
                if isinstance(expected, int) and question.index not in taken:
                    known.append((question, expected))
            left = int(self.rates[kind] * n + 0.5)
            stream = generator(self.seed, round, f"annotator/{kind}/{person}")
            for place in torch.randperm(len(known), generator=stream).tolist():
                question, expected = known[place]
                shows = {question.nearest["index"]} if question.nearest and self.show_prediction else set()
                if left and question.index not in revealed and not shows & {q.index for q, _ in drawn}:
                    drawn.append((Question(**{**vars(question), "kind": kind, "round": round}), expected))
                    revealed, left = revealed | shows, left - 1
        return drawn

    def _earlier(self, like: Question) -> list[tuple[Question, dict[str, Line]]]:
        """The answered questions of earlier rounds, with their answers."""
        found = []
        for round in range(like.round):
            planned = read_planned(self.folder, round - 1 if round else None) or {"questions": []}
            answers = self.answers_by_question(round)
            for question in (Question(**question) for question in planned["questions"]):
                lines = answers.get((False, question.index), {})
                shows_less = (question.probs is None and like.probs is not None) or (
                    question.nearest is None and like.nearest is not None
                )
                if lines and not (self.show_prediction and shows_less):  # it would give itself away as a check
                    found.append((question, lines))
        return found


def is_new(answer: Answer, recorded: Mapping[tuple[bool, int], Mapping[str, Line]]) -> bool:
    """Whether an answer differs from the person's last one in `recorded` (`People.answers_by_question`)."""
    line = recorded.get((answer.about is not None, answer.index), {}).get(answer.annotator)
    new = (answer.label, answer.answer, answer.text)
    return line is None or (line["label"], line.get("answer", ""), line.get("text", "")) != new


def predicted(question: Question, classes: Sequence[str]) -> Mapping[str, Any]:
    """The columns with the model's prediction for an image; only the reason if no model was involved."""
    if question.probs is None:
        return {"reason": question.reason}
    top = max(range(len(question.probs)), key=question.probs.__getitem__)
    return {
        "prediction": classes[top],
        "probability": f"{question.probs[top]:.3f}",
        "score": "" if question.score is None else f"{question.score:.4g}",
        "reason": question.reason,
    }
