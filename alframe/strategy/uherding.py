"""Cover what the network is unsure of: like MaxHerding with few labels, like uncertainty sampling with many."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import full_precision, mean_of, quick_squared_distances, rows_within
from alframe.scores import margin
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.strategy.max_herding import herd
from alframe.types import PoolView, Prediction, Selection, Summary

_TEMPERATURES = torch.logspace(-1, 1, 49, dtype=torch.float64)  # 1 is the one in the middle
_BINS = 15
_COPIES = 0.01  # of the mean feature length: labelled images closer than this are copies, and say nothing of the scale


@dataclass(frozen=True)
class UHerding(Strategy):
    """Greedy maximisation of mean_i U_i max_{s in labelled or picked} exp(-|h_i - h_s|²/radius²) over the pool.

    U = 1 - (p_(1) - p_(2)) is the margin score of softmax(log p / temperature), with the temperature of the smallest calibration
    error on the validation images; the temperature is 1 where none were bought. The radius is the smallest distance between two
    labelled images, which shrinks as labels grow. p and h are those of the deterministic network. Without labels it is `max_herding`: U = 1 and
    radius 1, the radius also where all labelled images are copies of one. The score is what the image added to the mean when it was
    picked. Where nothing uncertain is left to cover, the rest are picked with U = 1, then at random, with score 0.
    Deterministic up to `max_points` images; above it the mean is estimated on that many, drawn at random.
    Source: Bae, Oliveira & Sutherland 2025, arXiv:2412.20644. Differs: the temperature comes from the validation images and the
    network as it is, where the authors train another on part of the labels; near-copies do not set the radius; lazy.
    """

    normalize: bool = True
    max_points: int = 5000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled", "held_out"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect_at_least(self, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        features = features_of(prediction, self.normalize)
        return {"features": features, "log_probs": prediction.point_log_probs}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        radius, weights = 1.0, None
        if view.labeled is not None and len(view.labeled["features"]):
            temperature = 1.0
            if view.held_out is not None and view.held_out_labels is not None and len(view.held_out_labels):
                temperature = calibrated_temperature(view.held_out["log_probs"], view.held_out_labels)
            rows = rows_within(view.max_bytes, 16 * view.n_classes)
            weights = torch.cat(
                [
                    margin((some / temperature).log_softmax(dim=1)[:, None])
                    for some in view.pool["log_probs"].split(rows)
                ]
            )
            radius = smallest_distance(view.labeled["features"], view.max_bytes) or 1.0
        return herd(view, radius, weights, self.max_points, size, generator)


def calibrated_temperature(log_probs: Float[Tensor, "v c"], labels: Int[Tensor, " v"]) -> float:
    """Temperature in [0.1, 10] at which softmax(log p / temperature) has the smallest expected calibration error; of equals the nearest to 1.

    ECE = sum over 15 bins of confidence of (share of the images) |accuracy - mean confidence|.
    Source: Guo et al. 2017, arXiv:1706.04599. Differs: a grid of 49 temperatures, evenly spaced in their logarithm.
    """
    right = log_probs.argmax(dim=1) == labels.to(log_probs.device)
    best, smallest = 1.0, math.inf
    for temperature in _TEMPERATURES[_TEMPERATURES.log().abs().argsort(stable=True)].tolist():
        confidence = (log_probs.double() / temperature).softmax(dim=1).amax(dim=1)
        bins = (confidence * _BINS).long().clamp_max_(_BINS - 1)
        gaps = torch.zeros(_BINS, dtype=torch.float64, device=bins.device)
        error = float(gaps.index_add_(0, bins, right.double() - confidence).abs().sum()) / len(right)
        if error < smallest - 1e-12:
            best, smallest = temperature, error
    return best


def smallest_distance(features: Float[Tensor, "m d"], max_bytes: int) -> float:
    """Smallest distance between two of these images that are no copies; 0 if there are none.

    Copies are closer than a hundredth of the mean distance from the centre of all.
    """
    centred = features.float() - mean_of(features, max_bytes)
    copies = (_COPIES * float(centred.norm(dim=1).double().mean())) ** 2
    smallest = math.inf
    with full_precision():
        for rows in centred.split(rows_within(max_bytes, 8 * len(centred))):
            distances = quick_squared_distances(rows, centred)
            smallest = min(smallest, float(distances.masked_fill_(distances <= copies, math.inf).min()))
    return math.sqrt(smallest) if smallest < math.inf else 0.0
