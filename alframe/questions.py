"""The questions: the initial purchase, and each query with the prediction and the reason shown for every image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from alframe.budget import draw_initial
from alframe.engine.distances import full_precision
from alframe.experiment import Experiment
from alframe.images import ImageSet
from alframe.labels.pool import Pool
from alframe.learner import POOL, Learner
from alframe.names import printable
from alframe.query import Picked
from alframe.record.planned import Planned
from alframe.rng import generator
from alframe.types import RANDOM, Labelled, Question


def initial_purchase(experiment: Experiment, pool: Pool, candidates: np.ndarray) -> Planned:
    """The first images to label. They depend only on dataset, budget and seed, so compared runs share them.

    Labels from class folders count towards them.
    """
    images, budget = experiment.data.pool, experiment.budget
    n_chosen, n_validation = budget.split(budget.initial_size(len(images)), initial=True)
    n_chosen, n_validation = at_most(len(candidates), max(0, n_chosen - pool.usable), n_validation)
    stream = generator(experiment.seed, 0, "initial")
    chosen = draw_initial(images.labels, candidates, n_chosen, budget.initial_set, images.n_classes, stream)
    rest = np.setdiff1d(candidates, chosen)
    drawn = draw_initial(images.labels, rest, n_validation, "random", images.n_classes, stream)
    source = "" if budget.initial_set == "balanced" else RANDOM
    ranked = [("initial", int(index), source) for index in chosen]
    ranked += [("validation", int(index), RANDOM) for index in drawn]
    return Planned(
        [Question(images.ids[index], index, kind, 0, rank, source=of) for rank, (kind, index, of) in enumerate(ranked)]
    )


def at_most(n: int, n_chosen: int, n_validation: int) -> tuple[int, int]:
    """A purchase limited to a pool of `n` images; a growing pool may have fewer than the budget."""
    return min(n_chosen, n), min(n_validation, n - min(n_chosen, n))


def questions_for(
    experiment: Experiment, learner: Learner, picked: Picked, candidates: Tensor, n_validation: int, labelled: Labelled
) -> list[Question]:
    """The query in order of preference, then random images for validation, each with the model's prediction.

    A network that has seen fewer than two classes has nothing to say: no prediction, and nothing about similar images.
    """
    images, round = experiment.data.pool, learner.round
    rest = np.setdiff1d(candidates.numpy(), picked.indices)
    stream = generator(experiment.seed, round, "validation")
    drawn = rest[torch.randperm(len(rest), generator=stream)[:n_validation].numpy()]
    indices = [*picked.indices, *drawn.tolist()]
    every_probs: Sequence[Tensor | None] = [None] * len(indices)
    every_nearest: Sequence[dict[str, Any] | None] = [None] * len(indices)
    if labelled.n_seen >= 2:
        every_probs = list(learner.mean_log_probs(POOL, torch.tensor(indices, dtype=torch.int64)).exp())
        every_nearest = nearest_of(learner, images, indices, labelled)
    questions = []
    for rank, (index, probs, nearest) in enumerate(zip(indices, every_probs, every_nearest, strict=True)):
        by_strategy = rank < len(picked.indices)
        score = picked.scores[rank] if by_strategy else None
        source = RANDOM if not by_strategy else picked.sources[rank] if picked.sources else ""
        score_name = (source or picked.score_name) if by_strategy else ""
        questions.append(
            Question(
                id=images.ids[index],
                index=index,
                kind="query" if by_strategy else "validation",
                round=round + 1,
                rank=rank,
                score=score,
                score_name=score_name,
                probs=None if probs is None else [round_to(value) for value in probs.tolist()],
                reason=reason(probs, images.classes, why(score_name, score), nearest),
                nearest=nearest,
                source=source,
            )
        )
    return questions


def round_to(value: float) -> float:
    """Six decimals are precise enough to show and keep the stored questions small."""
    return round(value, 6)


def nearest_labelled(
    learner: Learner, queried: Int[Tensor, " q"], labelled: Int[Tensor, " m"]
) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """For each of `queried`, the position of the most similar image in `labelled` (m >= 1) and its similarity; on the CPU.

    The similarity, in [-1, 1], is the cosine between the features of this round's deterministic network, in float32; the
    first of equals wins. One pass over both, in q (d + batch size) numbers of memory: the labelled images are streamed.
    """
    points = _directions(torch.cat(list(learner.features(POOL, queried))))
    best = torch.full((len(queried),), -torch.inf, device=points.device)
    place = torch.zeros(len(queried), dtype=torch.int64, device=points.device)
    passed = 0
    for features in learner.features(POOL, labelled):
        with full_precision():
            similarity, column = (points @ _directions(features).T).max(dim=1)
        closer = similarity > best
        best = torch.where(closer, similarity, best)
        place = torch.where(closer, column + passed, place)
        passed += len(features)
    return place.cpu(), best.clamp(-1, 1).cpu()


def _directions(features: Tensor) -> Tensor:
    return normalize(features, dim=1)


def nearest_of(
    learner: Learner, images: ImageSet, queried: Sequence[int], labelled: Labelled
) -> list[dict[str, Any] | None]:
    """`Question.nearest` of each of `queried` (indices), among the labelled images with a class; None if there are none."""
    known = labelled.training.certain, labelled.validation.certain
    rows, labels = torch.cat([one.rows for one in known]), torch.cat([one.labels for one in known])
    if not len(rows) or not len(queried):
        return [None] * len(queried)
    places, similarities = nearest_labelled(learner, torch.tensor(queried, dtype=torch.int64), rows)
    found: list[dict[str, Any] | None] = []
    for index, label, similarity in zip(
        rows[places].tolist(), labels[places].tolist(), similarities.tolist(), strict=True
    ):
        name = images.names[index] if images.names is not None else ""
        found.append(
            {"id": images.ids[index], "index": index, "name": name, "label": label, "similarity": round(similarity, 4)}
        )
    return found


def why(score_name: str, score: float | None) -> str:
    """Why an image was picked, in a few words: what its strategy scores, and its score (None: it is for validation)."""
    if score is None:
        return "random, for validation"
    return score_name if score_name == RANDOM else f"{score_name} {score:.3g}"  # a random draw's number tells nothing


def reason(probs: Float[Tensor, " c"] | None, classes: Sequence[str], why: str, nearest: dict[str, Any] | None) -> str:
    """One line: the two most likely classes with probabilities, why the image was picked, and its nearest labelled image.

    Without `probs` and `nearest` only why it was picked.
    """
    parts = [why, *([f"most like {shown(nearest, classes)}"] if nearest else [])]
    if probs is not None:
        top = probs.topk(min(2, len(probs)))
        ranked = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        parts = [", ".join(f"{classes[c]} {p:.2f}" for p, c in ranked), *parts]
    return "; ".join(parts)


def shown(nearest: dict[str, Any], classes: Sequence[str]) -> str:
    """`Question.nearest` as text: file or id, class, and similarity."""
    return f"{printable(nearest['name'] or nearest['id'])} ({classes[nearest['label']]}, similarity {nearest['similarity']:.2f})"
