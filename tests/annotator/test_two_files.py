"""A new annotator that asks people is two files, a class and a YAML: everything else knows it by what it declares."""

import json

import numpy as np
import pytest

from alframe.annotator.cli import main as queue_command
from alframe.cli import launch
from alframe.config.overrides import load
from alframe.errors import RunFolderError, Waiting
from alframe.record.read import read_config

CLASS = '''
"""People who answer in a file per image, named after it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alframe.annotator.base import Job
from alframe.annotator.people import AsksPeople, People
from alframe.errors import Waiting
from alframe.part import Change, anything
from alframe.types import Answer, Question


@dataclass(frozen=True, kw_only=True)
class Notes(AsksPeople):
    """Notes in RUN/notes; `paper` and `colour` leave results alone."""

    paper: str = "A6"
    colour: str = "yellow"

    place: ClassVar[str] = "notes"
    changeable_on_resume: ClassVar[Mapping[str, Change]] = {**AsksPeople.changeable_on_resume, "paper": anything}
    not_in_identity: ClassVar[frozenset[str]] = frozenset({"colour"})

    def desk(self, job: Job) -> "Pile":
        return Pile(self, job)


class Pile(People):
    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        self.place.mkdir(exist_ok=True)
        for question in self.missing(questions, self.anyone):
            note = self.place / f"{question.id}.txt"
            if note.exists():
                yield Answer(question.index, self.classes.index(note.read_text()), self.anyone)
        yield from self.close(questions)
        if left := self.left(questions):
            raise Waiting(f"Waiting for {len(left)} notes in {self.place}.")

    def to_do(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        if left := self.left(questions):
            yield len(left), str(self.place)
'''
LEAF = "_target_: mylab.Notes\npaper: A6\ncolour: yellow\nquorum: 1.0\nnew_classes: []\n"
TINY = [
    "dataset=arrays", "dataset.root=few.npz", "model.width=4", "trainer.epochs=1", "trainer.min_steps=4", "uncertainty=point",
    "strategy=margin", "budget.initial=8", "budget.query_size=2", "budget.rounds=1", "run.tensorboard=false", "progress=false",
    "threads=1", "device=cpu", "annotator=notes",
]  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(...)`: one launch in a lab with its own annotator."""
    (tmp_path / "mylab.py").write_text(CLASS)
    (tmp_path / "configs" / "annotator").mkdir(parents=True)
    (tmp_path / "configs" / "annotator" / "notes.yaml").write_text(LEAF)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "few.npz", images=pixels, labels=labels, classes=np.array(["good", "bad"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)

    def start(*overrides):
        from alframe.cli import execute

        plan = load([*TINY, *overrides], config_dir="configs")
        try:
            execute(plan)
        except Waiting:
            return plan.folder, False
        return plan.folder, True

    return start


def answer(folder):
    """The person: good and bad by turns."""
    for name in ("initial", "round_000"):
        path = folder / "queries" / f"{name}.json"
        for question in json.loads(path.read_text())["questions"] if path.exists() else ():
            (folder / "notes" / f"{question['id']}.txt").write_text(("good", "bad")[question["index"] % 2])


def test_it_is_chosen_asked_resumed_and_seen_by_the_queue_command(start, capsys):
    folder, finished = start()
    assert not finished
    assert queue_command(["status", str(folder)]) == 0
    assert f"open: 8 images, {folder / 'notes'}" in capsys.readouterr().out
    answer(folder)
    again, finished = start("annotator.paper=A4", "annotator.colour=blue", "annotator.quorum=0.5")
    assert (again, finished) == (folder, False), "what may change is no part of the folder's name"
    assert read_config(folder)["annotator"]["paper"] == "A4"
    assert "colour" not in read_config(folder)["annotator"]
    answer(folder)
    assert start()[1]
    assert {line["annotator"] for line in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())} == {
        "person"
    }


def test_its_answers_are_guarded_against_overwriting(start):
    folder, _ = start()
    start("run.overwrite=true")  # nobody has answered yet
    answer(folder)
    start()
    with pytest.raises(RunFolderError, match="without answers from people"):
        start("run.overwrite=true")
    (folder / "config.yaml").write_text("damaged: [")
    with pytest.raises(RunFolderError, match="without answers from people"):
        start("run.overwrite=true")


def test_files_of_the_queue_are_not_for_it(start, capsys):
    folder, _ = start()
    assert queue_command(["export", str(folder), "open.csv"]) == 1
    assert "whose answers are not in files" in capsys.readouterr().err


def test_from_python_it_needs_no_yaml(start):
    with pytest.raises(Waiting):
        launch(*TINY[:-1], "annotator._target_=mylab.Notes")
