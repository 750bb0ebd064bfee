"""The annotator interface. A new annotator is a file with such a class and a YAML of the same name.

People do not answer at once. Their annotator (`people.AsksPeople`) yields the answers that have arrived; each is in the ledger
before the next is requested. Then it raises `Waiting` with what to do, and the process ends until the command is re-run.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from alframe.errors import RunFolderError
from alframe.images import Data
from alframe.labels.consensus import FROM_FOLDER, Rules
from alframe.part import Part
from alframe.record.read import read_ledger
from alframe.types import Answer, Question

Annotate = Callable[[Sequence[Question]], Iterator[Answer]]
"""Answers to the open questions of a round. A later answer may replace an earlier one of the same round.

Raises `Waiting` if people have not answered yet.
"""


@dataclass(frozen=True)
class Job:
    """The run that an annotator works for: the dataset's `classes`, seed, folder, and the growing list of all answers.

    `data` has the images and their true labels; it is None if a command reads a run folder without the data.
    """

    classes: tuple[str, ...]
    seed: int = 0
    folder: Path = field(default_factory=Path)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    data: Data | None = None

    @property
    def images(self) -> Data:
        """The data, which is always set when questions are asked."""
        assert self.data is not None, "only a run asks"
        return self.data


class Annotator(Part, ABC):
    """Answers questions one by one. Leaves are frozen dataclasses whose fields are their YAML keys."""

    needs_labels: ClassVar[bool] = False
    """Whether it answers with the dataset's own labels, and so only for labelled images."""

    signature: ClassVar[str | None] = None
    """The name under which a machine answers, in the ledger."""

    @abstractmethod
    def start(self, job: Job) -> Annotate:
        """Start working for a run; called once per launch. Raises `ConfigError` for options that do not fit the run."""

    def rules(self, classes: tuple[str, ...]) -> Rules:
        """How answers become labels, for the dataset's `classes`. By default there is one answer per image."""
        return Rules()

    def answered_elsewhere(self, folder: Path, data: Data) -> list[str]:
        """Of a run that begins in `folder`: a line for each other run in which people have answered about images of its `data`."""
        return []

    def has_answers(self, folder: Path) -> bool:
        """Whether people have answered anything in a run's folder, recorded or not, so that it must not be removed.

        A machine with a `signature` knows by it that others have answered as well.
        """
        return self.signature is not None and any_answer(folder, besides=self.signature)


def any_answer(folder: Path, besides: str | None = None) -> bool:
    """Whether the ledger has answers but those signed `besides` and the labels of class folders, which can be read again."""
    try:
        return any(line["kind"] != FROM_FOLDER and line.get("annotator") != besides for line in read_ledger(folder))
    except RunFolderError:
        return besides is None  # damaged: answers of people may be lost, those of a machine are given again
