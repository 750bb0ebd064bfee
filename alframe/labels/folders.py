"""Labels from class folders: each goes into the ledger once."""

from collections.abc import Mapping, Sequence

from alframe.images import Data
from alframe.labels.consensus import FROM_FOLDER
from alframe.labels.pool import Pool
from alframe.types import Answer, Question

FOLDER = "folder"
"""The annotator of labels from class folders, in the ledger."""


def record_folder_labels(data: Data, pool: Pool) -> list[str]:
    """Record the class of each photo's folder: as its label, or as a correction if it has another one and was moved since.

    Returns a line about corrections, and one about folders that contradict what the ledger says for another reason.
    """
    known = {line["index"]: line["label"] for line in pool.settled() if line["label"] is not None}
    said = {line["index"]: line["label"] for line in pool.ledger.lines if line["annotator"] == FOLDER}
    recorded = {(line["index"], line["round"]) for line in pool.ledger.lines if line["annotator"] == FOLDER}
    corrected, contradicting = [], []
    for index, (label, round) in sorted(data.folder_labels.items()):
        if index not in known and (index, round) not in recorded:
            pool.add(Question(pool.ids[index], index, FROM_FOLDER, round, index), Answer(index, label, FOLDER))
        elif known.get(index, label) != label and said.get(index) != label:
            pool.correct(index, Answer(index, label, FOLDER), round)
            corrected.append(index)
        elif known.get(index, label) != label:
            contradicting.append(index)
    notes = []
    if corrected:
        notes.append(
            f"{_photos(data, corrected)} been moved to the folder of another class: their labels are corrected from now on"
        )
    if contradicting:
        notes.append(
            f"{_photos(data, contradicting)} been corrected to another class than that of the folder they lie in; the ledger counts"
        )
    return notes


def _photos(data: Data, indices: Sequence[int]) -> str:
    """'3 photos (the first is a/1.png) have'"""
    n, first = len(indices), indices[0]
    name = data.pool.names[first] if data.pool.names else f"index {first}"
    return f"{n} photos (the first is {name}) have" if n > 1 else f"1 photo ({name}) has"


def record_moved_photos(labels: Mapping[int, int], pool: Pool, questions: Sequence[Question]) -> None:
    """Record photos that were moved to a class folder as answers to their questions. `labels`: class of the folder, by index."""
    recorded = {
        (line["round"], line["index"]): line["label"] for line in pool.ledger.lines if line["annotator"] == FOLDER
    }
    for question in questions:
        label = labels.get(question.index)
        if label is not None and recorded.get((question.round, question.index)) != label:
            pool.add(question, Answer(question.index, label, FOLDER))
