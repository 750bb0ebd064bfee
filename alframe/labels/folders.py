"""Labels from class folders: each goes into the ledger once."""

from collections.abc import Mapping, Sequence

from alframe.images import Data
from alframe.labels.consensus import FROM_FOLDER
from alframe.labels.pool import Pool
from alframe.types import Answer, Question

FOLDER = "folder"
"""The annotator of labels from class folders, in the ledger."""


def record_folder_labels(data: Data, pool: Pool) -> list[str]:
    """Record the class of each photo's folder if it has no label yet; returns a line about folders that contradict the ledger."""
    known = {line["index"]: line["label"] for line in pool.settled() if line["label"] is not None}
    recorded = {(line["index"], line["round"]) for line in pool.ledger.lines if line["annotator"] == FOLDER}
    contradicting = []
    for index, (label, round) in sorted(data.folder_labels.items()):
        if index not in known and (index, round) not in recorded:
            pool.add(Question(pool.ids[index], index, FROM_FOLDER, round, index), Answer(index, label, FOLDER))
        elif known.get(index, label) != label:
            contradicting.append(index)
    if not contradicting:
        return []
    n, first = len(contradicting), contradicting[0]
    name = data.pool.names[first] if data.pool.names else f"index {first}"
    return [
        f"{n} photo{'s are' if n > 1 else ' is'} in the folder of another class than in the ledger, "
        f"the first is {name}; the ledger counts"
    ]


def record_moved_photos(labels: Mapping[int, int], pool: Pool, questions: Sequence[Question]) -> None:
    """Record photos that were moved to a class folder as answers to their questions. `labels`: class of the folder, by index."""
    recorded = {
        (line["round"], line["index"]): line["label"] for line in pool.ledger.lines if line["annotator"] == FOLDER
    }
    for question in questions:
        label = labels.get(question.index)
        if label is not None and recorded.get((question.round, question.index)) != label:
            pool.add(question, Answer(question.index, label, FOLDER))
