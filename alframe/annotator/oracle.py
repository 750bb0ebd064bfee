"""The annotator of a study: it knows every label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alframe.annotator.base import Annotate, Annotator, Job
from alframe.errors import PoolError
from alframe.images import NO_CLASS
from alframe.types import Answer, Question


@dataclass(frozen=True)
class Oracle(Annotator):
    """Answers with the dataset's own labels, in order; no label for an image that shows none of the classes.

    Raises `PoolError` for an unlabelled image.
    """

    needs_labels: ClassVar[bool] = True
    signature: ClassVar[str] = "oracle"

    def start(self, job: Job) -> Annotate:
        labels = job.images.pool.labels

        def annotate(questions: Sequence[Question]) -> Iterator[Answer]:
            for question in questions:
                yield Answer(question.index, true_label(labels, question.index), self.signature)

        return annotate


def true_label(labels: np.ndarray, index: int) -> int | None:
    """The label of an image, or None if it shows none of the classes. Raises `PoolError` if it is unknown."""
    label = int(labels[index])
    if label == NO_CLASS:
        return None
    if label < 0:
        raise PoolError(
            f"Expected a known label for image {index}, got none; label a dataset with unlabelled images with annotator=queue."
        )
    return label
