"""Shape legend, and the values that pass between packages.

b batch · n pool · k posterior draws · c classes · d features · q query size
position: a row of a summary.   index: a row of the dataset.   The two are never mixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

RANDOM = "random"
"""The source of a question about an image that was drawn at random."""
SPENT = "budget spent"
"""Why a run stops that has done all its rounds."""
Summary = dict[str, Tensor]
"""What a strategy keeps of each image: named tensors with axis 0 = sample."""


@dataclass(frozen=True)
class Examples:
    """Rows of `Pixels` with their labels (int64, both on the CPU).

    `soft_labels`, float32 [n, c], are set if any image has class probabilities instead of a class (its label is -1).
    Training then uses them; most rows are one-hot. `drawn` (bool [n]) marks the images that were drawn at random, which
    alone say how common the classes are; None: not known.
    """

    rows: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None
    drawn: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def truth(self) -> Tensor:
        """The target of `cross_entropy`: soft labels if there are any, else labels."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def certain(self) -> "Examples":
        """The examples that have a class, without soft labels."""
        known = self.labels >= 0
        return self if self.soft_labels is None else Examples(self.rows[known], self.labels[known])

    def drawn_counts(self, n_classes: int) -> Tensor:
        """Images of each class [n_classes] among those drawn at random."""
        known = self.labels >= 0
        drawn = known & (torch.zeros_like(known) if self.drawn is None else self.drawn)
        return torch.bincount(self.labels[drawn], minlength=n_classes)

    @property
    def n_soft(self) -> int:
        """How many examples have a soft label that is not one-hot."""
        return 0 if self.soft_labels is None else int((self.soft_labels.max(dim=1).values < 1).sum())


@dataclass(frozen=True)
class Labelled:
    """The labelled images: those for training, and those kept for validation."""

    training: Examples
    validation: Examples

    def counts(self, n_classes: int) -> tuple[int, ...]:
        """How many labels there are of each class, in training and validation together; soft labels have no class."""
        labels = torch.cat([self.training.certain.labels, self.validation.certain.labels])
        return tuple(labels.bincount(minlength=n_classes).tolist())

    @property
    def n_seen(self) -> int:
        """How many classes the network is trained on: with fewer than two it has nothing to say about an image."""
        return len(self.training.certain.labels.unique())


@dataclass(frozen=True)
class Prediction:
    """A posterior's prediction for a batch. Log-probabilities are float32 in nats and normalised over the last axis.

    Draws are consistent: draw j is the same function for every image of a round (one dropout mask, one member).
    `features` and `point_log_probs` come from ONE deterministic network (dropout off, member 0).
    """

    log_probs: Float[Tensor, "b k c"]
    features: Float[Tensor, "b d"]
    point_log_probs: Float[Tensor, "b c"]

    @property
    def mean_log_probs(self) -> Float[Tensor, "b c"]:
        """Log of the posterior mean of the probabilities."""
        return self.log_probs.logsumexp(dim=1) - math.log(self.log_probs.shape[1])


@dataclass(frozen=True)
class PoolView:
    """Everything that `Strategy.select` may use. It never sees a label of the pool, a loader or a config.

    `pool` is the summary of the `n` unlabelled images (empty if the strategy needs no pool pass). The rest is set only if
    the strategy's `needs` names it: `labeled` (summary of the labelled images, with `labels`), `target` (summary of a
    target set), `held_out` (summary of the validation images, with `held_out_labels`), `head` (features -> logits), and
    `fixed` (features of the `n` images that no training changes, with `fixed_labeled`, those of all labelled images), and for
    "patch" `patch_scores` (how far patches of each of the `n` images are from those of other images).

    Always set in a run: `counts`, the labels so far by class, and `defects`, the numbers of the classes that are defects
    (None: nobody said).
    `max_bytes` bounds the extra memory that `select` may use beside its inputs.
    """

    n: int
    pool: Summary
    n_classes: int
    labeled: Summary | None = None
    labels: Int[Tensor, " m"] | None = None
    target: Summary | None = None
    held_out: Summary | None = None
    held_out_labels: Int[Tensor, " v"] | None = None
    head: Callable[[Tensor], Tensor] | None = None
    fixed: Float[Tensor, "n d"] | None = None
    fixed_labeled: Float[Tensor, "m d"] | None = None
    patch_scores: Float[Tensor, " n"] | None = None
    counts: tuple[int, ...] = ()
    defects: tuple[int, ...] | None = None
    max_bytes: int = 1 << 30


@dataclass(frozen=True)
class Selection:
    """What `select` returns: `q` distinct positions in order of preference, each with a score.

    `score_name` names the score. `pool_scores` (all `n`) is set if the rule scores every image; it feeds a histogram.
    `sources` is set by a mix of strategies: the name of the one that picked each position.
    """

    positions: Int[Tensor, " q"]
    scores: Float[Tensor, " q"]
    score_name: str
    pool_scores: Float[Tensor, " n"] | None = None
    sources: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """One image to be labelled. `kind` is initial, query or validation; `rank` its position in the round's order.

    `source` names the strategy that picked the image, if several share the query. `probs` is None and there is no `nearest`
    while the network has seen fewer than two classes.
    `nearest` is the most similar labelled image by the network's features, if any: `id`, `index`, `name` (its file, or
    ""), `label` (class number) and `similarity` in [-1, 1].
    """

    id: str
    index: int
    kind: str
    round: int
    rank: int
    score: float | None = None
    score_name: str = ""
    probs: list[float] | None = None
    reason: str = ""
    nearest: dict[str, Any] | None = None
    source: str = ""


@dataclass(frozen=True)
class Answer:
    """An annotator's answer to one question; `label` is None if there is no label.

    `answer` then holds a person's reason: unsure, skip, bad_image, or new_class with the name in `text`. `about` is set
    for questions that check the annotator (kind gold or repeat), which the loop did not ask.
    """

    index: int
    label: int | None
    annotator: str
    time_s: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    answer: str = ""
    text: str = ""
    about: Question | None = None
