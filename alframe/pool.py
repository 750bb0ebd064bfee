"""Which image was labelled when, by whom, with what answer: the append-only ledger and what follows from it."""

import json
import operator
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alframe.errors import RunFolderError
from alframe.storage import read_jsonl
from alframe.trainer.trainer import Examples
from alframe.types import Answer, Question

SYNC_S = 0.2  # a person's answer is on the disk before the next; an oracle's thousands share a sync


class Ledger:
    """`ledger.jsonl`: a line an answer, written before anything else learns of it, never rewritten.

    A torn last line (the process died while writing it) was never acknowledged: it is cut off, and the loop asks again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = read_jsonl(path, ("id", "index", "kind", "label", "round", "rank"))
        self._file = path.open("a", encoding="utf-8")
        self._synced = 0.0

    def append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()
        self.lines.append(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._file.close()


def _whole(label: Any) -> Any:
    """An int of any library as Python's own; what is no whole number stays as it is, to be refused."""
    try:
        return operator.index(label)
    except TypeError:
        return label


class Pool:
    """The state that the ledger implies. `bought` counts answers paid for, `usable` those with a label."""

    def __init__(self, ids: list[str], ledger: Ledger, n_classes: int, count_validation: bool = True) -> None:
        self.ids, self.ledger, self.n_classes, self.count_validation = ids, ledger, n_classes, count_validation
        self._asked = np.zeros(len(ids), dtype=bool)
        for line in ledger.lines:
            self._check(line)
            self._asked[line["index"]] = True

    def add(self, question: Question, answer: Answer) -> None:
        """Record an answer: ledger line first, memory second."""
        line = {
            "id": question.id,
            "index": question.index,
            "kind": question.kind,
            "label": None if answer.label is None else _whole(answer.label),
            "annotator": answer.annotator,
            "round": question.round,
            "rank": question.rank,
            "score": question.score,
            "time_s": round(answer.time_s, 3),
            **answer.extra,
        }
        self._check(line)
        self.ledger.append(line)
        self._asked[question.index] = True

    @property
    def bought(self) -> int:
        return sum(self.count_validation or line["kind"] != "validation" for line in self.ledger.lines)

    @property
    def usable(self) -> int:
        return sum(line["label"] is not None for line in self.ledger.lines)

    def answered(self, round: int) -> set[int]:
        """Dataset indices already answered in `round`."""
        return {line["index"] for line in self.ledger.lines if line["round"] == round}

    def unasked(self) -> np.ndarray:
        """Dataset indices that nobody was asked about, ascending: the pool that a strategy sees."""
        return np.flatnonzero(~self._asked)

    def training(self) -> Examples:
        return self._examples(lambda kind: kind != "validation")

    def validation(self) -> Examples:
        return self._examples(lambda kind: kind == "validation")

    def _examples(self, wanted: Any) -> Examples:
        """Usable answers in (round, rank) order, whatever the order in which they came."""
        lines = [line for line in self.ledger.lines if wanted(line["kind"]) and line["label"] is not None]
        lines.sort(key=lambda line: (line["round"], line["rank"]))
        rows = torch.tensor([line["index"] for line in lines], dtype=torch.int64)
        return Examples(rows, torch.tensor([line["label"] for line in lines], dtype=torch.int64))

    def _check(self, line: dict[str, Any]) -> None:
        index, label = line.get("index"), line.get("label")
        if not isinstance(index, int) or not 0 <= index < len(self.ids) or line.get("id") != self.ids[index]:
            raise RunFolderError(
                f"Expected answers about this dataset's images in {self.ledger.path}, got image {index} with id {line.get('id')}; "
                "the data has changed since, so give the old data back or use another run.name."
            )
        if label is not None and not (type(label) is int and 0 <= label < self.n_classes):
            raise RunFolderError(
                f"Expected whole labels from 0 to {self.n_classes - 1} in {self.ledger.path}, got {label!r} for image {index}; "
                "mend the annotator that answered so."
            )
        if self._asked[index]:
            raise RunFolderError(
                f"Expected one answer for each image in {self.ledger.path}, got a second one for image {index}."
            )
