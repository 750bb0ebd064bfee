"""The annotator: pushes a round's questions, takes in every answer the moment it is seen, and waits for the rest."""

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
from PIL.Image import Image

from alframe.annotator.base import Job
from alframe.annotator.label_studio.connection import Connection
from alframe.annotator.label_studio.interface import parse_annotation, prelabel
from alframe.annotator.label_studio.project import (
    LONGEST_TITLE,
    MODEL,
    PLACE,
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
from alframe.labels.consensus import CHECKS, vote
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout
from alframe.rng import generator
from alframe.types import Answer, Question

if TYPE_CHECKING:  # it needs httpx
    from alframe.annotator.label_studio.client import Client

SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")


@dataclass(frozen=True)
class Given:
    """What a person said of a task in the annotation of that number, and the seconds that it took."""

    task: Task
    annotation: int
    who: str
    meaning: ParsedAnswer
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LabelStudio(AsksPeople):
    """A project on the Label Studio server at `url`, called `project` (else by the run's folder); a task an image, a key a class.

    The token is read from the environment variable LABEL_STUDIO_API_KEY. Whoever has an account may answer, `per_image` people each
    image, under their e-mail address. `check_rate` in [0, 1]: images with a known answer hidden among each 1 of a round; answered by
    someone who has labelled the image before it is a repeat, by another it is gold. With `show_prediction` the page shows what the
    model thinks and has its class chosen already. `wait`: ask the server every `poll_s` seconds until the round is complete; else
    end, and re-running the same command resumes. The rest is described in `AsksPeople`.
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
            f"Expected annotator.check_rate in [0, 1], got {self.check_rate}; 0.1 adds one for each ten images.",
        )
        expect(
            importlib.util.find_spec("httpx") is not None,
            "Expected the package httpx for annotator=label_studio, got none; pip install 'alframe[label-studio]'.",
        )
        expect(
            self.url.startswith(("http://", "https://")) and "@" not in self.url,
            f"Expected annotator.url as http://HOST:PORT, without a name and a password, got '{self.url.rsplit('@', 1)[-1]}'.",
        )
        expect(
            self.project is None or 3 <= len(self.project) <= 50,
            f"Expected annotator.project of 3 to 50 characters, as Label Studio has it, got '{self.project}'.",
        )
        expect(self.poll_s > 0, f"Expected annotator.poll_s above 0, got {self.poll_s}; 5 asks every five seconds.")

    def check_rates(self) -> Mapping[str, float]:
        return {"gold": self.check_rate, "repeat": 0.0}

    def desk(self, job: Job) -> "ProjectDesk":
        return ProjectDesk(self, job)

    def has_answers(self, folder: Path) -> bool:
        """Answers may lie on a server that is not asked here, once there is a project."""
        is_used = Layout(folder).place(self.place).is_dir()
        return stored_project(folder) is not None or (is_used and super().has_answers(folder))


class ProjectDesk(People):
    """The project of a run with annotator=label_studio.

    What is on the server is always looked for before anything is made, so that a kill at any instant, here or there, makes no
    doubles. An answer is in the ledger as soon as it is seen. Until its round is complete it may be changed: both stay in the ledger,
    and the last counts. After that a change is reported and not taken over.
    """

    def __init__(self, options: LabelStudio, job: Job) -> None:
        super().__init__(options, job)
        expect(
            not any(name.startswith("$") for name in self.classes),
            "Expected classes that do not begin with '$', which means a variable to Label Studio, got one; rename it.",
        )
        self.url, self.title = options.url.rstrip("/"), options.project or title_of(self.folder)
        self.wait, self.poll_s = options.wait, options.poll_s
        self._names: dict[int | None, str] = {}
        self._told: set[str] = set()
        self._count = LiveCount()
        self._server = Connection(self.url, self._open, self._count.say, patient=self.wait)

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers that people have given on the server, and with `wait` those that they give from now on.

        Raises `ConfigError` where there is no server, no access, or no project any more, `Waiting` for what is open.
        """
        if not questions:
            return
        with self._count, closing(self._server):
            self._server.do(lambda: self._prepare(questions))
            while True:
                tasks, given = self._server.do(lambda: self._look(questions))
                yield from self._answers(given, questions)
                yield from self.close(questions)
                left, asked = len(self.left(questions)), self.n_asked(questions)
                if not left:
                    return
                self._server.do(partial(self._reopen, tasks, questions))
                where = f"answers of round {questions[0].round}, at {self._server.project.url}"
                if not self.wait:
                    raise Waiting(
                        f"Waiting for {left} of {asked} {where}: label them there, and run the same command again."
                    )
                self._count.show(asked - left, asked, where)
                time.sleep(self.poll_s)

    def to_do(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """How many images are open, and where; the server is not asked."""
        if left := self.left(questions):
            yield len(left), stored_project(self.folder) or self.url

    # -- the server ----------------------------------------------------------------------------------------------------

    def _open(self, client: "Client") -> Project:
        return open_project(client, self.folder, self.title, self.classes, self.rules.per_image, self._count.say)

    def _prepare(self, questions: Sequence[Question]) -> None:
        """Once a launch and round: of earlier rounds nobody is shown a task any more, and late answers are told."""
        self._draw_checks(questions)
        earlier = [task for task in self._server.project.tasks() if task.round < questions[0].round]
        for task in earlier:
            if task.touched:
                self._server.project.finish(task)
            else:
                self._server.project.remove(task)
        known = self._known()
        late = [
            f"{given.who} at {self._server.project.url}/data?task={given.task.id}"
            for given in self._given(earlier)
            if known.get((given.task.round, given.task.question, given.who)) != given.meaning
        ]
        if late:
            self._tell(
                f"{len(late)} answers came or changed after their round was complete, and are not taken over: {', '.join(late[:3])}"
                f"{' and others' if len(late) > 3 else ''}"
            )

    def _synchronize(self, questions: Sequence[Question]) -> list[Task]:
        """The tasks of the round. Those that are missing are made (again), doubles that nobody has begun are taken away."""
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

    def _look(self, questions: Sequence[Question]) -> tuple[list[Task], list[Given]]:
        """The tasks of the round, and what people said of them."""
        tasks = self._synchronize(questions)
        return tasks, list(self._given(tasks, tell=True))

    def _reopen(self, tasks: Sequence[Task], questions: Sequence[Question]) -> None:
        """The server counts annotations, we people who said something: one who submits twice, or nothing, is one too few."""
        left = {question.id for question in self.left(questions)}
        for task in tasks:
            if task.question in left:
                self._server.project.reopen(task)

    # -- questions out -------------------------------------------------------------------------------------------------

    def _push(self, shown: Sequence[Question], *, again: bool) -> None:
        """Pictures first, then the tasks, which name them."""
        uploaded, pictures = self._server.project.pictures(), {q.id: self._picture(q) for q in shown}
        fresh = [(name, read) for name, read in pictures.values() if name not in uploaded]
        if fresh:
            self._server.project.upload(fresh, self._count.say)
            uploaded = self._server.project.pictures()
        self._server.project.add([self._task(q, uploaded[pictures[q.id][0]]) for q in shown])
        which = "were missing on the server and are there again" if again else f"to label at {self._server.project.url}"
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
        """The name and content of what is shown: the dataset's own file if browsers know its kind, else a PNG of the decoded image."""
        assert self.data is not None, "only a run asks"
        file = self.data.original(question.index)
        if file is not None and file.suffix.lower() in SHOWN_BY_BROWSERS:
            return f"{question.id}{file.suffix.lower()}", file.read_bytes
        pixels = self.data.pool.pixels[question.index]
        expect(
            self.data.has_pictures,
            "Expected images for annotator=label_studio, got features, which nobody can look at.",
        )
        return f"{question.id}.png", lambda: _png(rgb(pixels))

    def _shown(self, questions: Sequence[Question]) -> list[Question]:
        """What must be on the server, in order: the open questions, and the checks hidden between them."""
        places = [(question.rank, 1, question) for question in self.left(questions)]
        places += [(place, 0, check) for check, _, place in self._checks(questions[0].round).values()]
        return [question for _, _, question in sorted(places, key=lambda item: item[:2])]

    # -- images with a known answer ------------------------------------------------------------------------------------

    def _checks_file(self, round: int) -> Path:
        return self.place / f"checks_{round:03d}.json"

    def _draw_checks(self, questions: Sequence[Question]) -> None:
        """What is hidden in a round is stored before anything of it is on the server."""
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
        """The hidden questions of a round by id, each with the class that is known and the rank it is shown before."""
        stored = read_json(self._checks_file(round), ("checks",)) or {"checks": []}
        return {q["id"]: (Question(**q), expected, place) for q, expected, place in stored["checks"]}

    def _about(self, check: Question, expected: int, who: str) -> tuple[Question, int]:
        """A check as a question to `who`: of the kind repeat where they have given the image a class before, else gold."""
        own = [line for line in self.ledger if line["index"] == check.index and line["annotator"] == who]
        earlier = [
            vote(line, self.classes) for line in own if line["round"] < check.round and line["kind"] not in CHECKS
        ]
        known = next((v for v in reversed(earlier) if isinstance(v, int)), None)
        return (check, expected) if known is None else (replace(check, kind="repeat"), known)

    # -- answers in ----------------------------------------------------------------------------------------------------

    def _answers(self, given: Sequence[Given], questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers that the ledger does not hold yet, in the order in which they were given."""
        round = questions[0].round
        known, checks = self._known(), self._checks(round)
        asked = {line["id"]: line["index"] for line in self.ledger if line["round"] == round}
        asked |= {question.id: question.index for question in questions}
        for one in given:
            name, content = one.task.question, one.meaning
            if known.get((round, name, one.who)) == content or name not in {**checks, **asked}:
                continue
            about, extra = None, {"annotation": one.annotation}
            if name in checks:
                about, expected = self._about(*checks[name][:2], one.who)
                extra["expected"] = expected
            index = asked[name] if about is None else about.index
            yield Answer(index, content.label, one.who, one.seconds, extra, content.answer, content.text, about)

    def _known(self) -> dict[tuple[int, str, str], ParsedAnswer]:
        """What each person said last, by round and image. A new class that has a number by now is that class."""
        known = {}
        for line in self.ledger:
            number = vote(line, self.classes)
            said = ParsedAnswer(line["label"], line.get("answer", ""), line.get("text", ""))
            known[line["round"], line["id"], line["annotator"]] = (
                ParsedAnswer(number) if isinstance(number, int) else said
            )
        return known

    def _given(self, tasks: Sequence[Task], *, tell: bool = False) -> Iterator[Given]:
        """The newest annotation of each person about each task's question, oldest first. `tell`: what makes no sense is told."""
        newest: dict[tuple[int, str, str], tuple[Task, Mapping[str, Any]]] = {}
        pairs = [(task, annotation) for task in tasks for annotation in task.annotations]
        seen = self._seen()
        for of, annotation in sorted(pairs, key=lambda pair: (pair[1]["updated_at"], pair[1]["id"])):
            known = seen.get((of.round, of.question, annotation["id"]))
            key = (of.round, of.question, known or self._name_of(annotation["completed_by"]))
            newest.pop(key, None)  # so that the newest stands last
            newest[key] = of, annotation
        for (_, _, who), (task, annotation) in newest.items():
            try:
                content = parse_annotation(annotation, self.classes)
            except DataError as error:
                if tell:
                    self._tell(f"{who} at {self._server.project.url}/data?task={task.id}: {error}")
                continue
            yield Given(task, annotation["id"], who, content, max(0.0, float(annotation.get("lead_time") or 0.0)))

    def _seen(self) -> dict[tuple[int, str, int], str]:
        """Who gave the annotations that are in the ledger, by round, image and number: an account that is closed since has no name."""
        lines = (line for line in self.ledger if "annotation" in line)
        return {(line["round"], line["id"], line["annotation"]): line["annotator"] for line in lines}

    def _name_of(self, user: int | None) -> str:
        if user not in self._names:
            self._names = {user: f"user {user}", **self._server.project.annotators()}
        return self._names[user]

    def _tell(self, line: str) -> None:
        """Say something once a launch."""
        if line not in self._told:
            self._told.add(line)
            self._count.say(line)


def title_of(folder: Path) -> str:
    """The study, the cell and the seed of a run's folder; of a long cell its end, by which cells differ."""
    study, cell, seed = ("", "", *folder.resolve().parts)[-3:]
    room = LONGEST_TITLE - len(study) - len(seed) - 2
    short = cell if len(cell) <= room else f"…{cell[len(cell) - max(0, room - 1) :]}"
    return f"{study}/{short}/{seed}"[:LONGEST_TITLE]


def _png(image: Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
