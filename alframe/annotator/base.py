"""Who labels. A new one is a file with a class like this and a YAML of the same name."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from alframe.types import Answer, Question


@runtime_checkable
class Annotator(Protocol):
    """Answers questions one by one; each answer is in the ledger before the next is asked for.

    Of `labels` (the pool's true ones, int64 [n]), `classes` and `seed`, the loop hands the constructor those that it names.
    """

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]: ...


def make_annotator(factory: Callable[..., Annotator], **available: Any) -> Annotator:
    """Call `factory` with those of `available` that it names: an annotator for people has no use for the labels."""
    named = inspect.signature(factory).parameters
    return factory(**{key: value for key, value in available.items() if key in named})
