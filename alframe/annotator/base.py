"""Who labels. A new one is a file with a class like this and a YAML of the same name.

An annotator that is people (a spreadsheet, a labelling server) cannot answer at once. `annotate` then yields every answer that is
there, each of which is in the ledger before the next is asked for, and raises `Waiting` with one line that says what to do: the
process ends, and the same command asks again. Its `rules` say how several answers become one.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from alframe.types import Answer, Question


@runtime_checkable
class Annotator(Protocol):
    """Answers questions one by one; each answer is in the ledger before the next is asked for.

    Of what the loop has, it hands the constructor what that names: `labels` (the pool's true ones, int64 [n]), `classes`, `seed`,
    `data` (`Data`, with the images), `folder` (the run's) and `ledger` (all answers so far, a list that grows).
    An attribute `rules` (`consensus.Rules`) says how answers become labels; without one there is one answer an image.
    """

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """An answer to each of `questions`: those of a round that are still open. An answer may change one of the same round.

        Raises `Waiting` when nobody is at fault but people have not answered yet.
        """
        ...


def knows_labels(factory: Callable[..., Annotator]) -> bool:
    """Whether an annotator is told the pool's true labels, so that it can answer for those images only that have one."""
    return "labels" in inspect.signature(factory).parameters


def make_annotator(factory: Callable[..., Annotator], **available: Any) -> Annotator:
    """Call `factory` with those of `available` that it names: an annotator for people has no use for the labels."""
    named = inspect.signature(factory).parameters
    return factory(**{key: value for key, value in available.items() if key in named})
