"""Metrics on labelled images: accuracy, calibration, ranking. None of them affects what is queried."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from alframe.area import area_under_curve
from alframe.errors import DataError, TrainingError, expect

__all__ = ["Costs", "Evaluation", "Reliability", "area_under_curve", "evaluate"]

N_BINS = 15
FALSE_ALARM_PERCENTS = (1, 5)
FEW_IMAGES, FEW_DEFECTS = 20, 5
"""A metric from fewer is printed with a remark."""
MAX_MISTAKES = 64


@dataclass(frozen=True)
class Costs:
    """Costs of a missed defect (predicted as normal) and of a false alarm, in any common unit, above 0."""

    miss: float = 10.0
    false_alarm: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("miss", self.miss), ("false_alarm", self.false_alarm)):
            expect(
                0 < value < math.inf, f"Expected costs.{name} > 0, got {value}; only their ratio moves the threshold."
            )


@dataclass(frozen=True)
class Reliability:
    """Calibration by bins of the top probability: bin m of N = `N_BINS` contains the images in ((m - 1)/N, m/N].

    `confidence` and `accuracy` are the means per bin in [0, 1], None for an empty bin; `count` the images per bin.
    """

    confidence: list[float | None]
    accuracy: list[float | None]
    count: list[int]


class Mistake(NamedTuple):
    """An image with another class than the predicted one: its row, both classes, and the prediction's probability."""

    row: int
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: numbers by name, the confusion matrix (rows = truth, columns = prediction), the bins.

    `defects`: the classes that count as defects, or None if there are no metrics of defects. `mistakes`: the wrongly predicted
    images, the surest predictions first, at most `MAX_MISTAKES`.
    """

    metrics: dict[str, float]
    confusion: Int[Tensor, "c c"]
    reliability: Reliability
    classes: tuple[str, ...]
    defects: tuple[int, ...] | None = None
    mistakes: tuple[Mistake, ...] = ()

    @property
    def caution(self) -> str:
        """How few images the metrics rest on, if there are fewer than 20, or fewer than 5 defects; else empty."""
        n = int(self.confusion.sum())
        n_defects = n if self.defects is None else int(self.confusion[list(self.defects)].sum())
        if n >= FEW_IMAGES and n_defects >= FEW_DEFECTS:
            return ""
        images = f"{n} image{'s' * (n != 1)}"
        shown = f"{n_defects or 'none'} of them {'a defect' if n_defects <= 1 else 'defects'}"
        return f"from {images}{'' if self.defects is None else f', {shown}'}: read with care"

    def as_dict(self, name: Callable[[int], str] = str) -> dict[str, Any]:
        """Everything but `metrics` as JSON values: confusion, reliability, classes, mistakes. `name` gives that of an image by its row."""
        bins = {name: list(getattr(self.reliability, name)) for name in ("confidence", "accuracy", "count")}
        return {
            "confusion": self.confusion.tolist(),
            "reliability": bins,
            "classes": list(self.classes),
            "mistakes": [
                {"image": name(row), "label": label, "predicted": predicted, "probability": round(p, 4)}
                for row, label, predicted, p in self.mistakes
            ],
        }


def evaluate(
    log_probs: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    classes: list[str] | tuple[str, ...],
    costs: Costs | None = None,
    normal: tuple[int, ...] | None = None,
) -> Evaluation:
    """Compare predictions with the truth. The metrics, with units and ranges:

    - `accuracy`, in [0, 1]; `recall/<class>`, in [0, 1], for each class that is present in `labels`;
    - `balanced_accuracy`, in [0, 1]: the mean of those recalls;
    - `nll`, in nats, >= 0: the mean of -log p(label);
    - `ece`, in [0, 1]: sum over the bins of (count / n) |accuracy - confidence| (`Reliability` has the bins);

    and the metrics of defects: of all classes but the `normal` ones, of class 1 if these are unknown and there are two
    classes, else none. p(defect) is the sum over the defect classes:

    - with normal images and defects present: `auroc` and `auprc` (average precision), in [0, 1], defects positive.
      Images are ranked by log odds, so that probabilities that round to 1 still have an order;
    - likewise `recall_at_fpr_1` and `recall_at_fpr_5`, in [0, 1]: the highest recall of defects over all thresholds with
      a false-positive rate of at most 1 % (5 %). Equal scores are never split; nothing is interpolated;
    - `cost`, in the unit of `costs` (default: 10 per miss, 1 per false alarm), from 0 to the larger of the two: the mean
      cost per image. A defect is predicted if p(defect) >= false_alarm / (false_alarm + miss), which is optimal for
      calibrated probabilities.

    Raises `DataError` for no images, a label outside the classes, or shapes that do not fit; `TrainingError` for NaN.
    Source: ECE as in Guo et al. 2017, arXiv:1706.04599, with 15 bins; the threshold of `cost` is Bayes' rule for unequal
    costs (Elkan 2001, The foundations of cost-sensitive learning).
    """
    log_probs, labels = log_probs.detach().to("cpu", torch.float64), labels.detach().to("cpu", torch.int64)
    _check(log_probs, labels, classes)
    n_classes = len(classes)
    log_confidence, predicted = log_probs.max(dim=1)
    confusion = (labels * n_classes + predicted).bincount(minlength=n_classes**2).view(n_classes, n_classes)
    present = confusion.sum(dim=1).nonzero()[:, 0].tolist()
    recalls = {c: float(confusion[c, c] / confusion[c].sum()) for c in present}
    reliability, ece = _calibration(log_confidence.exp().clamp(max=1), predicted == labels)
    metrics = {
        "accuracy": float((predicted == labels).double().mean()),
        "balanced_accuracy": sum(recalls.values()) / len(recalls),
        "nll": float(-log_probs.gather(1, labels[:, None]).mean()),
        "ece": ece,
    }
    normal = (0,) if normal is None and n_classes == 2 else normal
    defects = None if normal is None else tuple(c for c in range(n_classes) if c not in normal)
    if normal is not None and defects is not None:
        pair = torch.stack([_log_sum(log_probs, normal), _log_sum(log_probs, defects)], dim=1)
        is_defect = torch.isin(labels, torch.tensor(defects)).long()
        metrics["cost"] = mean_cost(pair, is_defect, costs or Costs())
        if 0 < is_defect.sum() < len(labels):
            log_odds = pair[:, 1] - pair[:, 0]
            metrics["auroc"], metrics["auprc"] = areas(log_odds, is_defect)
            for percent in FALSE_ALARM_PERCENTS:
                metrics[f"recall_at_fpr_{percent}"] = recall_at_false_alarms(log_odds, is_defect, percent)
    metrics |= {f"recall/{classes[c]}": recall for c, recall in recalls.items()}
    wrong = (predicted != labels).nonzero()[:, 0]
    worst = wrong[log_confidence[wrong].argsort(descending=True, stable=True)][:MAX_MISTAKES]
    columns = (worst, labels[worst], predicted[worst], log_confidence[worst].exp())
    mistakes = tuple(map(Mistake, *(column.tolist() for column in columns)))
    return Evaluation(metrics, confusion, reliability, tuple(classes), defects, mistakes)


def _log_sum(log_probs: Float[Tensor, "n c"], some: tuple[int, ...]) -> Float[Tensor, " n"]:
    """The log-probability of any of `some` classes; that of a single class is returned as it is."""
    return log_probs[:, some[0]] if len(some) == 1 else log_probs[:, list(some)].logsumexp(dim=1)


def recall_at_false_alarms(scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], percent: int) -> float:
    """The highest recall of class 1, in [0, 1], over thresholds with at most `percent` of class 0 predicted positive.

    0 if even the highest score belongs to too many images of class 0. Both classes must be present.
    """
    hits, alarms = _predicted_positive(scores, labels)
    allowed = 100 * alarms <= percent * alarms[-1]  # in integers, so that 1 of 100 is exactly 1 %
    return float((hits * allowed).max() / hits[-1])


def areas(scores: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> tuple[float, float]:
    """AUROC (by trapezoids) and average precision, in [0, 1] and computed in float32. Both classes must be present."""
    hits, alarms = _predicted_positive(scores, labels)
    precision, recall = hits / (hits + alarms), functional.pad(hits, (1, 0)) / hits[-1]
    auroc = torch.trapezoid(recall, functional.pad(alarms, (1, 0)) / alarms[-1])
    return float(auroc), float((recall.diff() * precision).flip(0).sum())


def _predicted_positive(scores: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """How many of class 1 and of class 0 are above each threshold, the highest threshold first; none splits equal scores."""
    scores, order = scores.sort(descending=True)
    ends = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])
    return labels[order].cumsum(0)[ends], (1 - labels[order]).cumsum(0)[ends]


def mean_cost(log_probs: Float[Tensor, "n 2"], labels: Int[Tensor, " n"], costs: Costs) -> float:
    """Mean cost per image if class 1 is predicted wherever its expected cost is at most that of class 0."""
    # p1 * miss >= p0 * false_alarm, in logarithms, so that probabilities that round to 0 or 1 still compare
    alarm = log_probs[:, 1] + math.log(costs.miss) >= log_probs[:, 0] + math.log(costs.false_alarm)
    misses, false_alarms = (~alarm & (labels == 1)).sum(), (alarm & (labels == 0)).sum()
    return float(costs.miss * misses + costs.false_alarm * false_alarms) / len(labels)


def _check(log_probs: Float[Tensor, "n c"], labels: Int[Tensor, " m"], classes: Sequence[str]) -> None:
    n, c = log_probs.shape
    expect(n > 0, "Expected at least one image to evaluate on, got 0; give the dataset a test set.", DataError)
    expect(
        n == len(labels) and c == len(classes),
        f"Expected predictions for {len(labels)} images and {len(classes)} classes, got {n} and {c}; "
        "predict the same images that the labels belong to.",
        DataError,
    )
    wrong = labels[(labels < 0) | (labels >= c)]
    expect(
        len(wrong) == 0,
        f"Expected labels in 0..{c - 1} ({c} classes), got {wrong[:1].tolist()}; check the dataset's labels.",
        DataError,
    )
    n_nan = int(log_probs.isnan().any(dim=1).sum())
    expect(
        n_nan == 0,
        f"Expected log-probabilities that are numbers, got NaN for {n_nan} of {n} images; "
        "the network has diverged: lower trainer.lr.",
        TrainingError,
    )


def _calibration(confidence: Float[Tensor, " n"], correct: Shaped[Tensor, " n"]) -> tuple[Reliability, float]:
    # bins closed on the right, so that a saturated confidence of exactly 1 shares the last bin with 0.99
    bins = (confidence * N_BINS).ceil().long().clamp(1, N_BINS) - 1
    count = torch.bincount(bins, minlength=N_BINS)
    summed_confidence = torch.bincount(bins, weights=confidence, minlength=N_BINS)
    summed_correct = torch.bincount(bins, weights=correct.double(), minlength=N_BINS)
    ece = float((summed_correct - summed_confidence).abs().sum() / len(confidence))

    def means(summed: Tensor) -> list[float | None]:
        return [float(total / n) if n else None for total, n in zip(summed, count, strict=True)]

    return Reliability(means(summed_confidence), means(summed_correct), count.tolist()), ece
