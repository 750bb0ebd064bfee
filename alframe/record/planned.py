"""What a round settled on before anyone was asked, and what is shown of it afterwards."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from alframe.types import Question

MAX_NEAREST = 10
"""Of so many queried images the nearest labelled ones are shown too."""
Line = dict[str, Any]
"""One line of the rounds: names and numbers."""


@dataclass
class Planned:
    """The `questions` of a round, and with them what was measured: stored before anyone is asked, and never computed again.

    `line` is the round's line, to which the seconds of labelling are added; `evaluation` is `Evaluation.as_dict()` of the test
    images, `pool_scores` a histogram (edges, counts). The initial purchase has questions alone.
    """

    questions: list[Question] = field(default_factory=list)
    line: Line = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    pool_scores: dict[str, list[float]] | None = None

    @property
    def round(self) -> int:
        return int(self.line["round"])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Planned":
        """What `to_json` wrote. Folders of format 1 have two more keys, and of the initial purchase only the questions."""
        questions = [Question(**question) for question in stored["questions"]]
        rest = {key: stored[key] for key in ("line", "evaluation", "pool_scores") if key in stored}
        return cls(questions, **rest)


@dataclass(frozen=True)
class Shown:
    """The queried images (uint8 [q, ch, h, w], in the questions' order; None for a dataset of features), their answers, and the
    labelled images that are most like the first of them in rank order.
    """

    answers: list[int | None] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    images: np.ndarray | None = None
    nearest: np.ndarray | None = None
