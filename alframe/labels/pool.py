"""The labelled and the unlabelled images: the state derived from the ledger."""

import operator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from alframe.errors import PoolError, RunFolderError
from alframe.images import UNKNOWN
from alframe.labels.consensus import (
    CHECKS,
    COUNTS_FROM,
    NEW_CLASS,
    UNANSWERED,
    UNSURE,
    Rules,
    agreement,
    normalized_name,
    settle,
    settle_all,
    vote,
)
from alframe.labels.ledger import Answers
from alframe.labels.tally import tally
from alframe.types import RANDOM, Answer, Examples, Labelled, Question


class Pool:
    """The state derived from the ledger. `bought` counts labels paid for, `usable` images with a label or a soft label.

    The ledger contains every answer of every person; `rules` derive the label of an image from them.
    """

    def __init__(self, ids: list[str], ledger: Answers, n_classes: int, rules: Rules | None = None) -> None:
        self.ids, self.ledger, self.n_classes = ids, ledger, n_classes
        self.rules = rules or Rules()
        self.round: int | None = None
        """The round whose state this is, as far as corrections go; None: the latest."""
        self._answers: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
        self._corrections: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._asked = np.zeros(len(ids), dtype=bool)
        for line in ledger.lines:
            self._check(line)
            self._note(line)

    def add(self, question: Question, answer: Answer) -> None:
        """Record an answer: ledger line first, memory second."""
        label: Any = answer.label
        with suppress(TypeError):  # no integer of any library: it is None, or rejected below
            label = operator.index(label)
        line = {
            "id": question.id,
            "index": question.index,
            "kind": question.kind,
            "label": label,
            "annotator": answer.annotator,
            "round": question.round,
            "rank": question.rank,
            "score": question.score,
            **({"source": question.source} if question.source else {}),
            "time_s": round(answer.time_s, 3),
            **({"answer": answer.answer} if answer.answer else {}),
            **({"text": answer.text} if answer.text else {}),
            **answer.extra,
        }
        self._append(line)

    def correct(self, index: int, answer: Answer, counts_from: int) -> None:
        """Record that what was settled about an image is wrong: a line about the last question that was answered of it.

        It counts from the round `counts_from` on. Raises `PoolError` for an image that has not been answered.
        """
        settled = self.last_settled(index)
        if settled is None:
            raise PoolError(
                f"Expected an image that has been answered, got {self.ids[index]}, which has not; answer its question instead."
            )
        asked: dict[str, Any] = {
            key: settled[key] for key in ("id", "index", "kind", "round", "rank", "score", "source") if key in settled
        }
        given = {"label": answer.label, "annotator": answer.annotator, "time_s": round(answer.time_s, 3)}
        words = {key: value for key, value in (("answer", answer.answer), ("text", answer.text)) if value}
        self._append({**asked, **given, **words, COUNTS_FROM: counts_from})

    def last_settled(self, index: int) -> dict[str, Any] | None:
        """The settled line of the last question about an image that somebody answered."""
        lines = [line for line in self.settled() if line["index"] == index and line.get("answer") != UNANSWERED]
        return lines[-1] if lines else None

    def _append(self, line: dict[str, Any]) -> None:
        self._check(line)
        self.ledger.append(line)
        self._note(line)

    def grow(self, ids: list[str]) -> None:
        """Add images: `ids` starts with those known so far."""
        self._asked = np.append(self._asked, np.zeros(len(ids) - len(self.ids), dtype=bool))
        self.ids = ids

    @property
    def bought(self) -> int:
        return self.ledger.bought()

    @property
    def usable(self) -> int:
        return len(self._labelled())

    @property
    def counts(self) -> tuple[int, ...]:
        """Usable labels of training and validation, by class; soft labels have none."""
        return Labelled(self.training(), self.validation()).counts(self.n_classes)

    def answered(self, round: int) -> set[int]:
        """Dataset indices that need no more answers in `round`: enough people answered, and no class is still unnamed."""
        return {
            index
            for (of, index), lines in self._answers.items()
            if of == round and self._is_complete(lines) and self._settle(lines).get("answer") != NEW_CLASS
        }

    def unnamed(self, round: int) -> dict[str, list[int]]:
        """The images that people put into a class which the config does not name, by class name."""
        found: dict[str, list[int]] = {}
        spelling: dict[str, str] = {}
        for (of, index), lines in self._answers.items():
            settled = self._settle(lines) if of == round and self._is_complete(lines) else {}
            if settled.get("answer") == NEW_CLASS:
                name = spelling.setdefault(normalized_name(settled["text"]), settled["text"])  # the first spelling
                found.setdefault(name, []).append(index)
        return found

    def settled(self, round: int | None = None) -> list[dict[str, Any]]:
        """One line per answered question (of `round`, or of all) with the settled answer; in (round, rank) order."""
        counted = {
            question: line
            for question, lines in self._corrections.items()
            for line in lines
            if self.round is None or line[COUNTS_FROM] <= self.round
        }
        lines = [line for line in settle_all(self._answers, self.rules, counted) if round in (None, line["round"])]
        return sorted(lines, key=lambda line: (line["round"], line["rank"]))

    def agreement(self, round: int) -> dict[str, float]:
        """The agreement of people in `round` (`consensus.agreement`); empty if no image has two answers."""
        votes = [
            [v for v in (vote(line, self.rules.classes) for line in lines.values()) if v is not None]
            for (of, _), lines in self._answers.items()
            if of == round
        ]
        return {f"agreement/{name}": value for name, value in agreement(votes).items()}

    def people(self, round: int) -> dict[str, float]:
        """Each person's numbers in `round`, as `people/NAME/` with the names of `Work.numbers`; empty without people."""
        if not self.rules.people:
            return {}
        lines = (line for line in self.ledger.lines if line["round"] == round)
        return {
            f"people/{person}/{key}": value
            for person, work in tally(lines, self.rules.classes).items()
            for key, value in work.numbers.items()
        }

    def available(self) -> np.ndarray:
        """Dataset indices not asked about yet, or returned to the pool, ascending: the pool that a strategy sees."""
        if not self.rules.people:
            return np.flatnonzero(~self._asked)
        out, unsure = np.zeros(len(self.ids), dtype=bool), np.zeros(len(self.ids), dtype=int)
        for line in self.settled():
            if line.get("answer") == UNSURE and "soft_label" not in line:
                unsure[line["index"]] += 1
            elif line.get("answer") != UNANSWERED:
                out[line["index"]] = True
        return np.flatnonzero(~out & (unsure <= self.rules.ask_again))

    def training(self) -> Examples:
        return self._examples(validation=False)

    def validation(self) -> Examples:
        return self._examples(validation=True)

    def _examples(self, *, validation: bool) -> Examples:
        """Usable answers in (round, rank) order, independent of their order of arrival."""
        lines = [line for line in self._labelled() if (line["kind"] == "validation") is validation]
        rows = torch.tensor([line["index"] for line in lines], dtype=torch.int64)
        labels = torch.tensor(
            [UNKNOWN if line["label"] is None else line["label"] for line in lines], dtype=torch.int64
        )
        drawn = torch.tensor([line.get("source") == RANDOM for line in lines], dtype=torch.bool)
        soft = {place: line["soft_label"] for place, line in enumerate(lines) if "soft_label" in line}
        if not soft:
            return Examples(rows, labels, drawn=drawn)
        soft_labels = one_hot(labels.clamp_min(0), self.n_classes).float()
        soft_labels[list(soft)] = torch.tensor(list(soft.values()))
        return Examples(rows, labels, soft_labels, drawn)

    def _labelled(self) -> list[dict[str, Any]]:
        """The settled lines with a label or a soft label.

        Of an image that Dawid-Skene settled after it had returned to the pool, the later round counts.
        """
        return list(
            {
                line["index"]: line for line in self.settled() if line["label"] is not None or "soft_label" in line
            }.values()
        )

    def _note(self, line: dict[str, Any]) -> None:
        """Store an answer; a person's last answer to a question counts."""
        self._asked[line["index"]] = True
        if COUNTS_FROM in line:
            self._corrections.setdefault((line["round"], line["index"]), []).append(line)
        elif line["kind"] not in CHECKS:
            self._answers.setdefault((line["round"], line["index"]), {})[line["annotator"]] = line

    def _is_complete(self, lines: dict[str, dict[str, Any]]) -> bool:
        return len(lines) >= self.rules.per_image or any(line.get("answer") == UNANSWERED for line in lines.values())

    def _settle(self, lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return settle(list(lines.values()), self.rules)

    def _check(self, line: dict[str, Any]) -> None:
        index, label = line.get("index"), line.get("label")
        if not isinstance(index, int) or not 0 <= index < len(self.ids) or line.get("id") != self.ids[index]:
            raise RunFolderError(
                f"Expected answers about this dataset's images in {self.ledger.where}, got image {index} with id {line.get('id')}; "
                "the data has changed since then: restore the old data, or use another run.name."
            )
        if label is not None and not (type(label) is int and 0 <= label < self.n_classes):
            raise RunFolderError(
                f"Expected integer labels from 0 to {self.n_classes - 1} in {self.ledger.where}, got {label!r} for image {index}; "
                "fix the annotator that gave this answer."
            )
        if self._asked[index] and not self.rules.people and COUNTS_FROM not in line:
            raise RunFolderError(
                f"Expected one answer per image in {self.ledger.where}, got a second one for image {index}; fix the annotator."
            )
