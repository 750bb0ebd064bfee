"""The annotator of a study: it knows every label."""

from collections.abc import Iterator, Sequence

import numpy as np

from alframe.errors import PoolError
from alframe.images import NO_CLASS
from alframe.types import Answer, Question


class Oracle:
    """Answers with the dataset's own labels (`labels`: int64 [n])."""

    def __init__(self, *, labels: np.ndarray) -> None:
        self.labels = labels

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yields an answer to each question, in order; no label for an image that shows none of the classes.

        Raises `PoolError` for an image whose label nobody knows.
        """
        for question in questions:
            yield Answer(question.index, true_label(self.labels, question.index), "oracle")


def true_label(labels: np.ndarray, index: int) -> int | None:
    """The label of an image, or None if it shows none of the classes. Raises `PoolError` if it is unknown."""
    label = int(labels[index])
    if label == NO_CLASS:
        return None
    if label < 0:
        raise PoolError(
            f"Expected a known label for image {index}, got none; a dataset with unlabelled images needs people to label it."
        )
    return label
