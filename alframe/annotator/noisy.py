"""An annotator with a known error rate, for studies of label noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alframe.annotator.base import Annotate, Annotator, Job
from alframe.annotator.oracle import true_label
from alframe.errors import expect
from alframe.rng import generator
from alframe.types import Answer, Question


@dataclass(frozen=True)
class Noisy(Annotator):
    """Answers y with probability T[true, y]; an image that shows none of the classes gets no label.

    T is `confusion` (rows sum to 1), or symmetric: 1 - `rate` on the diagonal, with `rate` spread evenly over the other
    classes. The draw depends only on (seed, round, image), so an interrupted round gets the same answers again.
    """

    rate: float = 0.1
    confusion: list[list[float]] | None = None

    needs_labels: ClassVar[bool] = True
    signature: ClassVar[str] = "noisy"

    def __post_init__(self) -> None:
        expect(0 <= self.rate <= 1, f"Expected annotator.rate in [0, 1], got {self.rate}.")

    def start(self, job: Job) -> Annotate:
        labels, transition = job.images.pool.labels, self.transition(job.classes)

        def annotate(questions: Sequence[Question]) -> Iterator[Answer]:
            for question in questions:
                label = true_label(labels, question.index)
                if label is not None:
                    stream = generator(job.seed, question.round, f"annotator/{question.index}")
                    label = int(torch.multinomial(transition[label], 1, generator=stream))
                yield Answer(question.index, label, self.signature)

        return annotate

    def transition(self, classes: tuple[str, ...]) -> Tensor:
        """T, float64 [c, c]. Raises `ConfigError` for a confusion that does not fit these classes."""
        c = len(classes)
        if self.confusion is None:
            matrix = torch.full((c, c), self.rate / max(c - 1, 1), dtype=torch.float64)
            return matrix.fill_diagonal_(1 - self.rate)
        shape = [len(row) for row in self.confusion]
        expect(
            shape == [c] * c,
            f"Expected annotator.confusion with {c} rows of {c} numbers (the classes are {', '.join(classes)}), got rows of {shape}.",
        )
        matrix = torch.tensor(self.confusion, dtype=torch.float64)
        sums = matrix.sum(dim=1)
        expect(
            bool((matrix >= 0).all() and (sums - 1).abs().max() < 1e-6),
            f"Expected every row of annotator.confusion to be probabilities that sum to 1, got sums {[round(s, 4) for s in sums.tolist()]}.",
        )
        return matrix
