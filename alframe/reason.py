"""Why an image is asked about, in words for the person who labels it: what the network thinks, and what it is reminded of."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from alframe.engine.distances import full_precision
from alframe.images import ImageSet
from alframe.learner import POOL, Learner
from alframe.trainer.trainer import Examples


def nearest_labelled(
    learner: Learner, queried: Int[Tensor, " q"], labelled: Int[Tensor, " m"]
) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """For each of `queried` the place of the most similar image in `labelled` (m >= 1), and how similar it is, in [-1, 1]; on the CPU.

    The similarity is the cosine between the features that the deterministic network of this round has of the two, in float32; of
    equals the first counts. One pass over both, and q (d + batch size) numbers of memory: the labelled images stream by.
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
    learner: Learner, images: ImageSet, queried: Sequence[int], known: Sequence[Examples]
) -> list[dict[str, Any] | None]:
    """`Question.nearest` of each of `queried` (indices), among the images of `known` that have a class; None where none has."""
    rows, labels = (
        torch.cat(parts) for parts in zip(*((e.certain.rows, e.certain.labels) for e in known), strict=True)
    )
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


def reason(probs: Float[Tensor, " c"], classes: Sequence[str], why: str, nearest: dict[str, Any] | None) -> str:
    """One line: the two likeliest classes with their probabilities, why this image was picked, and the nearest labelled one."""
    top = probs.topk(min(2, len(probs)))
    likely = ", ".join(f"{classes[c]} {p:.2f}" for p, c in zip(top.values.tolist(), top.indices.tolist(), strict=True))
    return "; ".join([likely, why, *([f"most like {shown(nearest, classes)}"] if nearest else [])])


def shown(nearest: dict[str, Any], classes: Sequence[str]) -> str:
    """`Question.nearest` in words: its file or id, its class, and how similar it is."""
    return f"{nearest['name'] or nearest['id']} ({classes[nearest['label']]}, similarity {nearest['similarity']:.2f})"
