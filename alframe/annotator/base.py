"""Who labels. A new annotator is a file with a class like this and a YAML of the same name.

An annotator that is people (a spreadsheet, a labelling server) cannot answer at once. It then yields every answer that is there,
each of which is in the ledger before the next is asked for, and raises `Waiting` with one line that says what to do: the process
ends, and the same command asks again. Such annotators are `people.AsksPeople`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from alframe.images import Data
from alframe.labels.consensus import Rules
from alframe.part import Part
from alframe.types import Answer, Question

Annotate = Callable[[Sequence[Question]], Iterator[Answer]]
"""An answer to each of the questions: those of a round that are still open. An answer may change one of the same round.

Raises `Waiting` when nobody is at fault but people have not answered yet.
"""


@dataclass(frozen=True)
class Job:
    """The run that an annotator labels for: the dataset's `classes`, the run's seed and folder, and all answers so far, a list that
    grows. `data` has the images and their true labels; it is None where a command reads a run folder without them.
    """

    classes: tuple[str, ...]
    seed: int = 0
    folder: Path = field(default_factory=Path)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    data: Data | None = None

    @property
    def images(self) -> Data:
        """The data of a run, which are there when questions are asked."""
        assert self.data is not None, "only a run asks"
        return self.data


class Annotator(Part, ABC):
    """Answers questions one by one. Leaves are frozen dataclasses whose fields are their YAML keys."""

    needs_labels: ClassVar[bool] = False
    """Whether it answers with the dataset's own labels, so that it can answer for those images only that have one."""

    @abstractmethod
    def start(self, job: Job) -> Annotate:
        """Begin to work for a run; called once a launch. Raises `ConfigError` for options that do not fit the run."""

    def rules(self, classes: tuple[str, ...]) -> Rules:
        """How answers become labels, given the dataset's `classes`. By default there is one answer per image."""
        return Rules()

    def has_answers(self, folder: Path) -> bool:
        """Whether people have answered anything in a run's folder, recorded or not, so that it must not be removed."""
        return False
