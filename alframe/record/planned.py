"""The stored result of a round before its questions are asked, and what is displayed afterwards."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from alframe.types import Question

MAX_NEAREST = 10
"""For this many queried images, the nearest labelled ones are displayed too."""
Line = dict[str, Any]
"""One line of the rounds: names and numbers."""


@dataclass
class Planned:
    """The `questions` and metrics of a round: stored before anyone is asked, and never recomputed.

    `line` is the round's line, to which the labelling time is added; `evaluation` is `Evaluation.as_dict()` of the test
    images, `held_out` that of the validation images, `pool_scores` a histogram (edges, counts), `remark` how few images the metrics rest on, if few, `n_classes` the number
    of outputs of the networks. The initial purchase has only questions.
    """

    questions: list[Question] = field(default_factory=list)
    line: Line = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    pool_scores: dict[str, list[float]] | None = None
    remark: str = ""
    n_classes: int | None = None
    held_out: dict[str, Any] | None = None

    @property
    def round(self) -> int:
        return int(self.line["round"])

    def to_json(self) -> str:
        stored = asdict(self)
        stored["questions"] = [
            {key: value for key, value in question.items() if value or key != "source"}
            for question in stored["questions"]
        ]
        return json.dumps(stored)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Planned":
        """Parse what `to_json` wrote. Format 1 has two more keys, and only the questions for the initial purchase."""
        questions = [Question(**question) for question in stored["questions"]]
        keys = ("line", "evaluation", "pool_scores", "remark", "n_classes", "held_out")
        rest = {key: stored[key] for key in keys if key in stored}
        return cls(questions, **rest)


@dataclass(frozen=True)
class Shown:
    """The queried images (uint8 [q, ch, h, w] in the questions' order; None for features), their answers, and the nearest
    labelled images of the first ones in rank order.
    """

    answers: list[int | None] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    images: np.ndarray | None = None
    nearest: np.ndarray | None = None
