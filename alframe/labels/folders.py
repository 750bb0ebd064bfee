"""Class folders that label photos: what they say goes into the ledger, once."""

from collections.abc import Mapping, Sequence

from alframe.images import Data
from alframe.labels.consensus import FROM_FOLDER
from alframe.labels.pool import Pool
from alframe.types import Answer, Question

FOLDER = "folder"
"""Who gave the labels of class folders, in the ledger."""


def record_folder_labels(data: Data, pool: Pool) -> list[str]:
    """Record the class that a photo's folder gives where nobody gave one; returns a line about folders that contradict the ledger."""
    known = {line["index"]: line["label"] for line in pool.settled() if line["label"] is not None}
    recorded = {(line["index"], line["round"]) for line in pool.ledger.lines if line["annotator"] == FOLDER}
    against = []
    for index, (label, round) in sorted(data.folder_labels.items()):
        if index not in known and (index, round) not in recorded:
            pool.add(Question(pool.ids[index], index, FROM_FOLDER, round, index), Answer(index, label, FOLDER))
        elif known.get(index, label) != label:
            against.append(index)
    if not against:
        return []
    name = data.pool.names[against[0]] if data.pool.names else f"index {against[0]}"
    return [
        f"{len(against)} photo{'s lie' if len(against) > 1 else ' lies'} in the folder of another class than the ledger has, "
        f"the first is {name}; the ledger counts"
    ]


def record_moved_photos(labels: Mapping[int, int], pool: Pool, questions: Sequence[Question]) -> None:
    """A photo that somebody moved to a class folder answers the question about it. `labels`: by index, the class of its folder now."""
    recorded = {
        (line["round"], line["index"]): line["label"] for line in pool.ledger.lines if line["annotator"] == FOLDER
    }
    for question in questions:
        label = labels.get(question.index)
        if label is not None and recorded.get((question.round, question.index)) != label:
            pool.add(question, Answer(question.index, label, FOLDER))
