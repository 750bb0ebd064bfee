"""The annotator: uploads a round's questions, records every answer as soon as it arrives, and waits for the rest."""

import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from alframe.annotator.base import Job
from alframe.annotator.label_studio.interface import parse_annotation, prelabel
from alframe.annotator.label_studio.project import (
    LONGEST_TITLE,
    MODEL,
    PLACE,
    Connection,
    Project,
    Task,
    open_project,
    stored_project,
)
from alframe.annotator.people import AsksPeople, People
from alframe.annotator.words import ParsedAnswer
from alframe.console import LiveCount
from alframe.errors import DataError, Waiting, expect
from alframe.images import rgb
from alframe.labels.consensus import CHECKS, COUNTS_FROM, vote
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout
from alframe.rng import generator
from alframe.types import Answer, Question

if TYPE_CHECKING:  # it needs httpx
    from alframe.annotator.label_studio.client import Client

SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")


@dataclass(frozen=True)
class Annotation:
    """A person's annotation of a task: its number on the server, the parsed answer, and the seconds it took."""

    task: Task
    id: int
    annotator: str
    parsed: ParsedAnswer
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LabelStudio(AsksPeople):
    """A project on the Label Studio server at `url`, named `project` (default: the run's folder); one task per image.

    The token is in the environment variable LABEL_STUDIO_API_KEY. Anyone with an account may answer; answers carry their e-mail
    address. `check_rate` in [0, 1] is the number of hidden check images per image of a round: a repeat for someone who labelled
    that image before, gold for anyone else. With `wait` the server is polled every `poll_s` seconds until the round is complete;
    otherwise the process ends, and re-running the same command resumes. The other options are described in `AsksPeople`.
    """

    url: str = "http://localhost:8080"
    project: str | None = None
    check_rate: float = 0.0
    wait: bool = True
    poll_s: float = 5.0

    place: ClassVar[str] = PLACE
    not_in_identity: ClassVar[frozenset[str]] = frozenset({"url", "project", "wait", "poll_s"})

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(
            0 <= self.check_rate <= 1,
            f"Expected annotator.check_rate in [0, 1], got {self.check_rate}; 0.1 adds one per ten images.",
        )
        expect(
            importlib.util.find_spec("httpx") is not None,
            "Expected the package httpx for annotator=label_studio, got none; pip install 'alframe[label-studio]'.",
        )
        expect(
            self.url.startswith(("http://", "https://")) and "@" not in self.url,
            f"Expected annotator.url as http://HOST:PORT, without user name and password, got '{self.url.rsplit('@', 1)[-1]}'.",
        )
        expect(
            self.project is None or 3 <= len(self.project) <= 50,
            f"Expected annotator.project of 3 to 50 characters, the limits of Label Studio, got '{self.project}'.",
        )
        expect(self.poll_s > 0, f"Expected annotator.poll_s above 0, got {self.poll_s}; 5 polls every five seconds.")

    def check_rates(self) -> Mapping[str, float]:
        return {"gold": self.check_rate, "repeat": 0.0}

    def desk(self, job: Job) -> "ProjectDesk":
        return ProjectDesk(self, job)

    def has_answers(self, folder: Path) -> bool:
        """True once there is a project: its server may have answers, and is not contacted here."""
        is_used = Layout(folder).place(self.place).is_dir()
        return stored_project(folder) is not None or (is_used and super().has_answers(folder))


class ProjectDesk(People):
    """The project of a run with annotator=label_studio.

    Tasks on the server are looked up before new ones are created, so that a kill at any instant, here or there, creates no
    duplicates. An answer can be changed until its round is complete; later changes are reported and ignored.
    """

    def __init__(self, options: LabelStudio, job: Job) -> None:
        super().__init__(options, job)
        expect(
            not any(name.startswith("$") for name in self.classes),
            "Expected classes that do not start with '$', which marks a variable in Label Studio, got one; rename it.",
        )
        self.url, self.title = options.url.rstrip("/"), options.project or title_of(self.folder)
        self.wait, self.poll_s = options.wait, options.poll_s
        self._names: dict[int | None, str] = {}
        self._reported: set[str] = set()
        self._count = LiveCount()
        self._server = Connection(self.url, self._open, self._count.say, patient=self.wait)

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers on the server; with `wait`, also those that arrive from now on.

        Raises `ConfigError` if the server, the access or the project is missing, and `Waiting` for open questions.
        """
        if not questions:
            return
        with self._count, closing(self._server):
            self._server.do(lambda: self._prepare(questions))
            while True:
                tasks, annotations = self._server.do(lambda: self._poll(questions))
                yield from self._answers(annotations, questions)
                yield from self.close(questions)
                left, asked = len(self.left(questions)), self.n_asked(questions)
                if not left:
                    return
                self._server.do(partial(self._reopen, tasks, questions))
                where = f"answers of round {questions[0].round}, at {self._server.project.url}"
                if not self.wait:
                    raise Waiting(
                        f"Waiting for {left} of {asked} {where}: label them there, and re-run the same command."
                    )
                self._count.show(asked - left, asked, where)
                time.sleep(self.poll_s)

    def to_do(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """How many images are open, and where; the server is not contacted."""
        if left := self.left(questions):
            yield len(left), stored_project(self.folder) or self.url

    def _open(self, client: "Client") -> Project:
        return open_project(client, self.folder, self.title, self.classes, self.rules.per_image, self._count.say)

    def _prepare(self, questions: Sequence[Question]) -> None:
        """Once per launch and round: hide the tasks of earlier rounds, and report late answers."""
        self._draw_checks(questions)
        earlier = [task for task in self._server.project.tasks() if task.round < questions[0].round]
        for task in earlier:
            if task.touched:
                self._server.project.finish(task)
            else:
                self._server.project.remove(task)
        known = self._known()
        late = [
            f"{one.annotator} at {self._server.project.url}/data?task={one.task.id}"
            for one in self._annotations(earlier)
            if known.get((one.task.round, one.task.question, one.annotator)) != one.parsed
        ]
        if late:
            self._report_once(
                f"{len(late)} answers came or changed after their round was complete and are ignored: {', '.join(late[:3])}"
                f"{' and others' if len(late) > 3 else ''}; correct labels with alframe queue import {self.folder} FILE --correct"
            )

    def _synchronize(self, questions: Sequence[Question]) -> list[Task]:
        """The tasks of the round. Missing ones are created (again), and duplicates that nobody has started are deleted."""
        round = questions[0].round
        tasks = self._server.project.tasks(round)
        there = {task.question for task in tasks}
        if missing := [question for question in self._shown(questions) if question.id not in there]:
            self._push(missing, again=bool(tasks))
            tasks = self._server.project.tasks(round)
        kept: dict[str, Task] = {}
        for task in sorted(tasks, key=lambda task: not task.touched):
            if kept.setdefault(task.question, task) is not task and not task.touched:
                self._server.project.remove(task)
        return tasks

    def _poll(self, questions: Sequence[Question]) -> tuple[list[Task], list[Annotation]]:
        """The tasks of the round, and their annotations."""
        tasks = self._synchronize(questions)
        return tasks, list(self._annotations(tasks, report=True))

    def _reopen(self, tasks: Sequence[Task], questions: Sequence[Question]) -> None:
        """Reopen tasks that the server closed too early: it counts annotations, while we count people with a valid answer."""
        left = {question.id for question in self.left(questions)}
        for task in tasks:
            if task.question in left:
                self._server.project.reopen(task)

    def _push(self, shown: Sequence[Question], *, again: bool) -> None:
        """Upload the pictures, then create the tasks that refer to them."""
        uploaded, pictures = self._server.project.pictures(), {q.id: self._picture(q) for q in shown}
        fresh = [(name, read) for name, read in pictures.values() if name not in uploaded]
        if fresh:
            self._server.project.upload(fresh, self._count.say)
            uploaded = self._server.project.pictures()
        self._server.project.add([self._task(q, uploaded[pictures[q.id][0]]) for q in shown])
        which = "were missing on the server and were restored" if again else f"to label at {self._server.project.url}"
        self._count.say(f"round {shown[0].round}: {len(shown)} images {which}")

    def _task(self, question: Question, address: str) -> dict[str, Any]:
        shown = {"reason": question.reason if self.show_prediction else ""}
        task: dict[str, Any] = {"data": {"image": address, "id": question.id, "round": question.round, **shown}}
        if self.show_prediction:
            task["data"]["score"] = question.score
            if question.probs is not None:
                top = max(range(len(question.probs)), key=question.probs.__getitem__)
                guess = {"model_version": MODEL, "score": question.probs[top], "result": prelabel(self.classes[top])}
                task["predictions"] = [guess]
        return task

    def _picture(self, question: Question) -> tuple[str, Callable[[], bytes]]:
        """Name and content of the picture: the dataset's own file if browsers support its format, else a PNG."""
        assert self.data is not None, "only a run asks"
        file = self.data.original(question.index)
        if file is not None and file.suffix.lower() in SHOWN_BY_BROWSERS:
            return f"{question.id}{file.suffix.lower()}", file.read_bytes
        pixels = self.data.pool.pixels[question.index]
        expect(
            self.data.has_pictures,
            "Expected images for annotator=label_studio, got features, which cannot be shown; use a dataset of images.",
        )

        def png() -> bytes:
            content = io.BytesIO()
            rgb(pixels).save(content, "PNG")
            return content.getvalue()

        return f"{question.id}.png", png

    def _shown(self, questions: Sequence[Question]) -> list[Question]:
        """What must be on the server, in order: the open questions, with hidden checks in between."""
        places = [(question.rank, 1, question) for question in self.left(questions)]
        places += [(place, 0, check) for check, _, place in self._checks(questions[0].round).values()]
        return [question for _, _, question in sorted(places, key=lambda item: item[:2])]

    def _checks_file(self, round: int) -> Path:
        return self.place / f"checks_{round:03d}.json"

    def _draw_checks(self, questions: Sequence[Question]) -> None:
        """Draw and store the hidden checks of a round before any of its tasks is created."""
        round = questions[0].round
        if self._checks_file(round).exists() or not any(self.rates.values()):
            return
        asked = {question.id for question in questions}
        drawn = self.checks(questions, self.anyone, len(questions))
        stream = generator(self.seed, round, "annotator/order")
        stored = [
            [vars(check), expected, int(torch.randint(len(questions) + 1, (1,), generator=stream))]
            for check, expected in drawn
            if check.id not in asked
        ]
        write_atomically(self._checks_file(round), json.dumps({"checks": stored}))

    def _checks(self, round: int) -> dict[str, tuple[Question, int, int]]:
        """The hidden checks of a round by id, each with its known class and the rank that it is shown before."""
        stored = read_json(self._checks_file(round), ("checks",)) or {"checks": []}
        return {q["id"]: (Question(**q), expected, place) for q, expected, place in stored["checks"]}

    def _about(self, check: Question, expected: int, who: str) -> tuple[Question, int]:
        """A check as a question to `who`: kind repeat if they have labelled the image before, else gold."""
        own = [line for line in self.ledger if line["index"] == check.index and line["annotator"] == who]
        earlier = [
            vote(line, self.classes) for line in own if line["round"] < check.round and line["kind"] not in CHECKS
        ]
        known = next((v for v in reversed(earlier) if isinstance(v, int)), None)
        return (check, expected) if known is None else (replace(check, kind="repeat"), known)

    def _answers(self, annotations: Sequence[Annotation], questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers that are not in the ledger yet, in order of annotation."""
        round = questions[0].round
        known, checks = self._known(), self._checks(round)
        asked = {line["id"]: line["index"] for line in self.ledger if line["round"] == round}
        asked |= {question.id: question.index for question in questions}
        for one in annotations:
            name, parsed, who = one.task.question, one.parsed, one.annotator
            if known.get((round, name, who)) == parsed or name not in {**checks, **asked}:
                continue
            about, extra = None, {"annotation": one.id}
            if name in checks:
                about, expected = self._about(*checks[name][:2], who)
                extra["expected"] = expected
            index = asked[name] if about is None else about.index
            yield Answer(index, parsed.label, who, one.seconds, extra, parsed.answer, parsed.text, about)

    def _known(self) -> dict[tuple[int, str, str], ParsedAnswer]:
        """The last recorded answer by round, image and person. A new class that the config names now is that class."""
        known = {}
        for line in (line for line in self.ledger if COUNTS_FROM not in line):
            number = vote(line, self.classes)
            last = ParsedAnswer(line["label"], line.get("answer", ""), line.get("text", ""))
            known[line["round"], line["id"], line["annotator"]] = (
                ParsedAnswer(number) if isinstance(number, int) else last
            )
        return known

    def _annotations(self, tasks: Sequence[Task], *, report: bool = False) -> Iterator[Annotation]:
        """Each person's newest annotation per question, oldest first. With `report`, invalid ones are reported."""
        newest: dict[tuple[int, str, str], tuple[Task, Mapping[str, Any]]] = {}
        pairs = [(task, annotation) for task in tasks for annotation in task.annotations]
        # The name under which each annotation is recorded, since closed accounts lose theirs.
        lines = [line for line in self.ledger if "annotation" in line]
        seen = {(line["round"], line["id"], line["annotation"]): line["annotator"] for line in lines}
        for of, annotation in sorted(pairs, key=lambda pair: (pair[1]["updated_at"], pair[1]["id"])):
            known = seen.get((of.round, of.question, annotation["id"]))
            key = (of.round, of.question, known or self._name_of(annotation["completed_by"]))
            newest.pop(key, None)  # so that the newest comes last
            newest[key] = of, annotation
        for (_, _, who), (task, annotation) in newest.items():
            try:
                parsed = parse_annotation(annotation, self.classes)
            except DataError as error:
                if report:
                    self._report_once(f"{who} at {self._server.project.url}/data?task={task.id}: {error}")
                continue
            yield Annotation(task, annotation["id"], who, parsed, max(0.0, float(annotation.get("lead_time") or 0.0)))

    def _name_of(self, user: int | None) -> str:
        if user not in self._names:
            self._names = {user: f"user {user}", **self._server.project.annotators()}
        return self._names[user]

    def _report_once(self, line: str) -> None:
        """Print a line once per launch."""
        if line not in self._reported:
            self._reported.add(line)
            self._count.say(line)


def title_of(folder: Path) -> str:
    """The study, the cell and the seed of a run's folder; a long cell is cut at the front, because cells differ at the end."""
    study, cell, seed = ("", "", *folder.resolve().parts)[-3:]
    room = LONGEST_TITLE - len(study) - len(seed) - 2
    short = cell if len(cell) <= room else f"…{cell[len(cell) - max(0, room - 1) :]}"
    return f"{study}/{short}/{seed}"[:LONGEST_TITLE]
