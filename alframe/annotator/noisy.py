"""An annotator who errs at a known rate, for studies of label noise."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from alframe.annotator.oracle import true_label
from alframe.errors import expect
from alframe.rng import generator
from alframe.types import Answer, Question


class Noisy:
    """Answers y with probability T[true, y]; an image that shows none of the classes is recognised as such and gets no label.

    T is `confusion` (rows sum to 1), or symmetric: 1 - `rate` on the diagonal and `rate` spread evenly over the other classes.
    The draw depends on (seed, round, image) alone, so an interrupted round is answered the same again.
    """

    def __init__(
        self,
        *,
        labels: np.ndarray,
        classes: tuple[str, ...],
        seed: int,
        rate: float = 0.1,
        confusion: list[list[float]] | None = None,
    ) -> None:
        c = len(classes)
        expect(0 <= rate <= 1, f"Expected annotator.rate in [0, 1], got {rate}.")
        spread = rate / max(c - 1, 1)
        matrix = torch.full((c, c), spread, dtype=torch.float64)
        matrix.fill_diagonal_(1 - rate)
        if confusion is not None:
            shape = [len(row) for row in confusion]
            expect(
                shape == [c] * c,
                f"Expected annotator.confusion with {c} rows of {c} numbers (the classes are {', '.join(classes)}), got rows of {shape}.",
            )
            matrix = torch.tensor(confusion, dtype=torch.float64)
            sums = matrix.sum(dim=1)
            expect(
                bool((matrix >= 0).all() and (sums - 1).abs().max() < 1e-6),
                f"Expected every row of annotator.confusion to be probabilities that sum to 1, got sums {[round(s, 4) for s in sums.tolist()]}.",
            )
        self.labels, self.seed, self.transition = labels, seed, matrix

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            label = true_label(self.labels, question.index)
            if label is None:
                yield Answer(question.index, None, "noisy")
                continue
            row = self.transition[label]
            stream = generator(self.seed, question.round, f"annotator/{question.index}")
            yield Answer(question.index, int(torch.multinomial(row, 1, generator=stream)), "noisy")
