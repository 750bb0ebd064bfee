"""What a pool into which photos come adds to the loop: they are taken in before a round, and their folders may answer for people."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alframe.annotator.base import Annotator, knows_labels
from alframe.consensus import GIVEN
from alframe.dataset.growing import Growing
from alframe.dataset.history import HISTORY
from alframe.errors import Waiting, expect
from alframe.experiment import Experiment
from alframe.images import Data
from alframe.pool import Pool
from alframe.types import Answer, Question

FOLDER = "folder"
"""Who gave the labels of class folders, in the ledger."""


def photos_of(dataset: Any, folder: Path, *, mend: bool = True) -> Growing | None:
    """The pool's history of the run in `folder`; None where the dataset is fixed, and in a run that began with a fixed one."""
    is_new = getattr(dataset, "grows", False) and not (folder / "provenance.json").exists()
    return dataset.growing(folder, mend=mend) if is_new or (folder / HISTORY).exists() else None


def check_people(annotator: Callable[..., Annotator]) -> None:
    """Raise ConfigError for an annotator that answers with the dataset's labels: photos have none."""
    expect(
        not knows_labels(annotator),
        "Expected people to label unlabelled photos, got an annotator that answers with the dataset's own labels; "
        "use annotator=queue or annotator=label_studio, or take the folder of unlabelled photos away.",
    )


def candidates(data: Data, pool: Pool) -> np.ndarray:
    """Dataset indices that a round may ask about, ascending: nobody was asked, and the file is still there."""
    unasked = pool.unasked()
    return unasked[~np.isin(unasked, list(data.gone))] if data.gone else unasked


def give(data: Data, pool: Pool) -> list[str]:
    """The classes that folders give, each once in the ledger, where nobody gave one; and in a line that they contradict it."""
    known = {line["index"]: line["label"] for line in pool.settled() if line["label"] is not None}
    said = {(line["index"], line["round"]) for line in pool.ledger.lines if line["annotator"] == FOLDER}
    against = []
    for index, (label, round) in sorted(data.given.items()):
        if index not in known and (index, round) not in said:
            pool.add(Question(pool.ids[index], index, GIVEN, round, index), Answer(index, label, FOLDER))
        elif known.get(index, label) != label:
            against.append(index)
    if not against:
        return []
    name = data.pool.names[against[0]] if data.pool.names else f"index {against[0]}"
    return [
        f"{len(against)} photo{'s lie' if len(against) > 1 else ' lies'} in the folder of another class than the ledger has, the first is {name}; "
        "the ledger counts"
    ]


def add_answers_of_folders(photos: Growing | None, pool: Pool, questions: Sequence[Question]) -> None:
    """A photo that somebody moved to a class folder is an answer to the question about it, which is recorded once."""
    if photos is None or not questions:
        return
    labels = photos.labels_now()
    said = {(line["round"], line["index"]): line["label"] for line in pool.ledger.lines if line["annotator"] == FOLDER}
    for question in questions:
        label = labels.get(question.index)
        if label is not None and said.get((question.round, question.index)) != label:
            pool.add(question, Answer(question.index, label, FOLDER))


def with_arrivals(
    e: Experiment, pool: Pool, rounds: Sequence[dict[str, Any]], say: Callable[[str], None]
) -> Experiment:
    """The experiment with the photos that the round after `rounds` is to know, whose folders' labels are in the ledger.

    Raises Waiting where there is no photo left to ask about, and nothing was learned since the last round.
    """
    photos, round = e.photos, len(rounds)
    if photos is None:
        return e
    for again in (False, True):
        if photos.take_in(round, again=again):
            e = replace(e, data=photos.data())
            pool.grow(e.data.pool.ids)
        for note in (*photos.told(), *give(e.data, pool)):
            say(note)
        learned = pool.bought - (rounds[-1]["labels"] if rounds else 0)
        if learned or len(candidates(e.data, pool)) or round >= e.budget.rounds:
            return e
    raise Waiting(
        f"Waiting for photos: every one that is in {photos.photos.path} was asked about; put new ones into "
        f"{photos.photos.unlabelled}/ and run the same command again."
    )
