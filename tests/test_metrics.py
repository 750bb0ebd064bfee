"""Every number against scikit-learn or a naive float64 loop."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)

from alframe.errors import ConfigError, DataError, TrainingError
from alframe.metrics import N_BINS, Costs, area_under_curve, evaluate, recall_at_false_alarms


def predictions(n: int, c: int, seed: int = 0, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(c, (n,), generator=generator)
    logits = torch.randn(n, c, generator=generator) * sharpness
    logits[torch.arange(n), labels] += sharpness / 2
    return logits.log_softmax(dim=1), labels


def naive_ece(log_probs: torch.Tensor, labels: torch.Tensor) -> float:
    truth = labels.tolist()
    rows = [[math.exp(value) for value in row] for row in log_probs.double().tolist()]
    ece = 0.0
    for m in range(1, N_BINS + 1):
        inside = [i for i, row in enumerate(rows) if (m - 1) / N_BINS < max(row) <= m / N_BINS]
        if inside:
            accuracy = sum(rows[i].index(max(rows[i])) == truth[i] for i in inside) / len(inside)
            confidence = sum(max(rows[i]) for i in inside) / len(inside)
            ece += len(inside) / len(rows) * abs(accuracy - confidence)
    return ece


@pytest.mark.parametrize("c", [2, 3, 10])
def test_metrics_agree_with_scikit_learn(c):
    log_probs, labels = predictions(400, c)
    classes = [f"class {k}" for k in range(c)]
    result = evaluate(log_probs, labels, classes)
    truth, guess, probs = labels.numpy(), log_probs.argmax(1).numpy(), log_probs.double().exp().numpy()
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert result.metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert result.metrics["nll"] == pytest.approx(log_loss(truth, probs / probs.sum(1, keepdims=True)), rel=1e-6)
    assert result.metrics["ece"] == pytest.approx(naive_ece(log_probs, labels), rel=1e-9)
    assert np.array_equal(result.confusion.numpy(), confusion_matrix(truth, guess))
    for name, recall in zip(classes, recall_score(truth, guess, average=None), strict=True):
        assert result.metrics[f"recall/{name}"] == pytest.approx(recall)


def test_two_classes_have_auroc_and_average_precision_of_class_1():
    log_probs, labels = predictions(300, 2, sharpness=1.0)
    result = evaluate(log_probs, labels, ["good", "defective"])
    scores = log_probs[:, 1].double().exp().numpy()
    assert result.metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result.metrics["auprc"] == pytest.approx(average_precision_score(labels, scores))
    assert result.metrics["auroc"] != pytest.approx(result.metrics["auprc"])


def naive_recall(scores, labels, percent: int) -> float:
    """Every threshold tried, infinity too: an image is called positive at or above it."""
    defects, good = sum(labels), len(labels) - sum(labels)
    best = 0.0
    for threshold in [*set(scores), math.inf]:
        alarms = sum(s >= threshold for s, y in zip(scores, labels, strict=True) if not y)
        if alarms <= percent * good / 100 + 1e-9:
            hits = sum(s >= threshold for s, y in zip(scores, labels, strict=True) if y)
            best = max(best, hits / defects)
    return best


@pytest.mark.parametrize("levels", [3, 20, 10_000])
@pytest.mark.parametrize("percent", [0, 1, 5, 100])
def test_recall_at_false_alarms_agrees_with_every_threshold_tried(levels, percent):
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(260, generator=generator) < 0.3).long()
        scores = ((torch.randn(260, generator=generator) + labels) * levels / 6).round().double()
        ours = recall_at_false_alarms(scores, labels, percent)
        assert ours == pytest.approx(naive_recall(scores.tolist(), labels.tolist(), percent))


def test_one_false_alarm_in_a_hundred_is_one_percent():
    scores = torch.arange(102, dtype=torch.float64)
    labels = torch.zeros(102, dtype=torch.int64)
    labels[[101, 99]] = 1  # one good image lies between the two defects
    assert recall_at_false_alarms(scores, labels, 1) == 1.0
    labels[0] = 1  # now one of 99 is more than 1 %
    assert recall_at_false_alarms(scores, labels, 1) == pytest.approx(1 / 3)


def test_a_tie_at_the_top_is_not_divided():
    scores, labels = torch.zeros(40, dtype=torch.float64), torch.arange(40) % 2
    assert recall_at_false_alarms(scores, labels, 5) == 0.0


def test_two_classes_have_recall_at_few_false_alarms_and_cost():
    log_probs, labels = predictions(300, 2, sharpness=1.0)
    metrics = evaluate(log_probs, labels, ["good", "defective"]).metrics
    odds = (log_probs[:, 1] - log_probs[:, 0]).double().tolist()
    for percent in (1, 5):
        assert metrics[f"recall_at_fpr_{percent}"] == pytest.approx(naive_recall(odds, labels.tolist(), percent))
    assert 0 < metrics["recall_at_fpr_1"] < metrics["recall_at_fpr_5"] < 1


@pytest.mark.parametrize(("miss", "false_alarm"), [(10.0, 1.0), (1.0, 1.0), (2.5, 40.0)])
def test_cost_agrees_with_a_decision_for_each_image(miss, false_alarm):
    log_probs, labels = predictions(300, 2, sharpness=1.0)
    total = 0.0
    for p, truth in zip(log_probs[:, 1].double().exp().tolist(), labels.tolist(), strict=True):
        said = int(p >= false_alarm / (false_alarm + miss))
        total += miss * (truth == 1 and said == 0) + false_alarm * (truth == 0 and said == 1)
    found = evaluate(log_probs, labels, ["good", "defective"], Costs(miss, false_alarm)).metrics["cost"]
    assert found == pytest.approx(total / 300)


def test_cost_of_right_probabilities_is_least_at_its_threshold():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(20_000, generator=generator, dtype=torch.float64)
    labels = (torch.rand(20_000, generator=generator, dtype=torch.float64) < p).long()
    log_probs = torch.stack([1 - p, p], dim=1).log()
    cost = evaluate(log_probs, labels, ["good", "defective"]).metrics["cost"]
    for threshold in (0.02, 0.2, 0.5):  # Bayes' is 1 / 11
        alarm = p >= threshold
        assert cost < float(10 * (~alarm & (labels == 1)).sum() + (alarm & (labels == 0)).sum()) / 20_000


def test_cost_needs_no_image_of_either_class():
    log_probs = torch.tensor([[0.99, 0.01], [0.5, 0.5]]).log()
    assert evaluate(log_probs, torch.tensor([0, 0]), ["a", "b"]).metrics["cost"] == 0.5
    assert evaluate(log_probs, torch.tensor([1, 1]), ["a", "b"]).metrics["cost"] == 5.0


def test_cost_survives_probabilities_that_round_to_one():
    log_probs = torch.tensor([[0.0, 300.0], [300.0, 0.0]]).log_softmax(1)
    assert evaluate(log_probs, torch.tensor([1, 0]), ["a", "b"]).metrics["cost"] == 0.0


@pytest.mark.parametrize("costs", [{"miss": 0.0}, {"false_alarm": -1.0}, {"miss": math.inf}, {"miss": math.nan}])
def test_costs_are_above_zero(costs):
    with pytest.raises(ConfigError, match=f"Expected costs.{next(iter(costs))} > 0, got"):
        Costs(**costs)


def test_tied_scores_count_half():
    log_probs = torch.tensor([0.3, 0.3, 0.3, 0.9]).log()
    log_probs = torch.stack([torch.log1p(-log_probs.exp()), log_probs], dim=1)
    labels = torch.tensor([0, 1, 0, 1])
    assert evaluate(log_probs, labels, ["a", "b"]).metrics["auroc"] == pytest.approx(0.75)


def test_ranking_survives_probabilities_that_round_to_one():
    logits = torch.tensor([[0.0, 150.0], [0.0, 200.0], [0.0, 250.0], [0.0, 300.0]])
    labels = torch.tensor([0, 0, 1, 1])
    metrics = evaluate(logits.log_softmax(1), labels, ["a", "b"]).metrics
    assert metrics["auroc"] == 1.0
    assert metrics["auprc"] == 1.0


def test_more_than_two_classes_have_no_auroc():
    metrics = evaluate(*predictions(50, 3), ["a", "b", "c"]).metrics
    assert not {"auroc", "recall_at_fpr_1", "recall_at_fpr_5", "cost"} & metrics.keys()


def test_a_class_without_images_is_left_out_of_the_mean_recall():
    log_probs, _ = predictions(100, 3)
    labels = torch.arange(100) % 2
    result = evaluate(log_probs, labels, ["a", "b", "absent"])
    assert "recall/absent" not in result.metrics
    both = [result.metrics["recall/a"], result.metrics["recall/b"]]
    assert result.metrics["balanced_accuracy"] == pytest.approx(sum(both) / 2)
    assert result.confusion.shape == (3, 3)
    assert result.confusion[2].sum() == 0


def test_auroc_is_left_out_where_only_one_class_is_present():
    log_probs, _ = predictions(20, 2)
    metrics = evaluate(log_probs, torch.ones(20, dtype=torch.int64), ["a", "b"]).metrics
    assert not {"auroc", "auprc", "recall_at_fpr_1", "recall/a"} & metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


def test_reliability_bins_hold_every_image_and_empty_ones_are_none():
    log_probs, labels = predictions(500, 2)
    bins = evaluate(log_probs, labels, ["a", "b"]).reliability
    assert sum(bins.count) == 500
    assert len(bins.count) == N_BINS
    assert [value is None for value in bins.confidence] == [n == 0 for n in bins.count]
    assert bins.count[:7] == [0] * 7  # with two classes the top probability is over a half
    weighted = sum(n * accuracy for n, accuracy in zip(bins.count, bins.accuracy, strict=True) if n)
    assert weighted / 500 == pytest.approx(float((log_probs.argmax(1) == labels).double().mean()))


def test_certainty_shares_the_last_bin():
    log_probs = torch.tensor([[0.0, -200.0], [math.log(0.98), math.log(0.02)]])
    bins = evaluate(log_probs, torch.tensor([1, 0]), ["a", "b"]).reliability
    assert bins.count[-1] == 2
    assert bins.accuracy[-1] == 0.5


def test_one_class_is_all_right():
    result = evaluate(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), ["only"])
    assert result.metrics["accuracy"] == 1.0
    assert result.confusion.tolist() == [[3]]


def test_as_dict_goes_through_json():
    result = evaluate(*predictions(60, 3), ("a", "b", "c"))
    stored = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert stored["confusion"] == result.confusion.tolist()
    assert stored["classes"] == ["a", "b", "c"]
    assert stored["reliability"]["count"] == result.reliability.count
    json.dumps(result.metrics, allow_nan=False)


def test_half_precision_predictions_are_measured_in_double():
    log_probs, labels = predictions(200, 3)
    exact, rough = (evaluate(lp, labels, ["a", "b", "c"]).metrics for lp in (log_probs, log_probs.bfloat16()))
    assert rough["nll"] == pytest.approx(exact["nll"], rel=0.01)


@pytest.mark.parametrize(
    ("log_probs", "labels", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "at least one image"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"labels in 0\.\.1 .* got \[2\]"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), r"got \[-1\]"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), "2 classes, got 2 and 3"),
    ],
)
def test_what_cannot_be_measured_is_an_error(log_probs, labels, message):
    with pytest.raises(DataError, match=message):
        evaluate(log_probs, labels, ["a", "b"])


def test_nan_is_an_error_rather_than_class_0():
    log_probs, labels = predictions(10, 2)
    log_probs[3] = math.nan
    with pytest.raises(TrainingError, match="got NaN for 1 of 10 images"):
        evaluate(log_probs, labels, ["a", "b"])


def test_area_is_the_mean_height_of_the_curve():
    assert area_under_curve([100, 200], [0.4, 0.6]) == pytest.approx(0.5)
    assert area_under_curve([0, 10, 110], [0.0, 1.0, 1.0]) == pytest.approx((5 + 100) / 110)
    rng = np.random.default_rng(0)
    labels, values = np.cumsum(rng.integers(1, 50, 12)), rng.random(12)
    fine = np.linspace(labels[0], labels[-1], 200_001)
    assert area_under_curve(labels.tolist(), values.tolist()) == pytest.approx(
        np.interp(fine, labels, values).mean(), abs=1e-4
    )


def test_area_of_a_flat_curve_is_its_height_whatever_the_steps():
    assert area_under_curve([5, 6, 100], [0.7, 0.7, 0.7]) == pytest.approx(0.7)


def test_area_of_one_label_count_is_the_last_value():
    assert area_under_curve([50], [0.3]) == 0.3
    assert area_under_curve([50, 50], [0.3, 0.4]) == 0.4


@pytest.mark.parametrize(("labels", "values"), [([], []), ([1, 2], [0.1]), ([2, 1], [0.1, 0.2])])
def test_area_of_no_curve_is_an_error(labels, values):
    with pytest.raises(DataError, match="Expected"):
        area_under_curve(labels, values)


@pytest.mark.parametrize(("c", "normal"), [(2, (1,)), (2, (0,)), (3, (0,)), (3, (1,)), (4, (1, 3)), (6, (4,))])
def test_metrics_of_defects_agree_with_scikit_learn_on_the_probability_of_any_defect(c, normal):
    log_probs, labels = predictions(400, c, sharpness=1.0)
    found = evaluate(log_probs, labels, [f"class {k}" for k in range(c)], Costs(20.0, 2.0), normal)
    defects = [k for k in range(c) if k not in normal]
    truth, p = np.isin(labels.numpy(), defects), log_probs.double().exp().numpy()[:, defects].sum(1)
    assert found.defects == tuple(defects)
    assert found.metrics["auroc"] == pytest.approx(roc_auc_score(truth, p))
    assert found.metrics["auprc"] == pytest.approx(average_precision_score(truth, p))
    alarm = p * 20 >= (1 - p) * 2
    assert found.metrics["cost"] == pytest.approx((20 * (truth & ~alarm).sum() + 2 * (~truth & alarm).sum()) / 400)
    cuts = [(~truth & (p >= t)).mean() / (~truth).mean() <= 0.05 and (truth & (p >= t)).sum() / truth.sum() for t in p]
    assert found.metrics["recall_at_fpr_5"] == pytest.approx(max(cuts))


def test_class_1_as_the_defect_gives_the_same_numbers_bit_for_bit_as_before_it_could_be_named():
    log_probs, labels = predictions(300, 2)
    assert (
        evaluate(log_probs, labels, ["a", "b"], normal=(0,)).metrics == evaluate(log_probs, labels, ["a", "b"]).metrics
    )
    swapped = evaluate(log_probs.flip(1), 1 - labels, ["b", "a"], normal=(1,)).metrics
    assert {k: v for k, v in swapped.items() if "/" not in k} == pytest.approx(
        {k: v for k, v in evaluate(log_probs, labels, ["a", "b"]).metrics.items() if "/" not in k}
    )


@pytest.mark.parametrize(
    ("labels", "c", "normal", "said"),
    [
        ([0, 0, 0, 1], 2, None, "from 4 images, 1 of them a defect: read with care"),
        ([0] * 40, 2, None, "from 40 images, none of them a defect: read with care"),
        ([0] * 40 + [1] * 4, 2, (1,), ""),
        ([0] * 40 + [1] * 4, 2, (0,), "from 44 images, 4 of them defects: read with care"),
        ([0, 1, 2], 3, None, "from 3 images: read with care"),
        ([0] * 20, 3, None, ""),
    ],
)
def test_metrics_from_few_images_or_few_defects_carry_a_remark(labels, c, normal, said):
    uniform = torch.zeros(len(labels), c).log_softmax(1)
    assert evaluate(uniform, torch.tensor(labels), list("abc"[:c]), normal=normal).caution == said
