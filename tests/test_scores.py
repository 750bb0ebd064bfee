"""Every score against a loop in float64, at the corners where implementations go wrong."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from alframe import scores

DRAWS_AND_CLASSES = [(1, 2), (1, 10), (2, 2), (5, 3), (20, 10), (7, 100)]


def naive_entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def naive_mean(draws: list[list[float]]) -> list[float]:
    return [sum(column) / len(draws) for column in zip(*draws, strict=True)]


def naive_least_confidence(draws: list[list[float]]) -> float:
    return 1 - max(naive_mean(draws))


def naive_margin(draws: list[list[float]]) -> float:
    first, second = sorted(naive_mean(draws), reverse=True)[:2]
    return 1 - (first - second)


def naive_predictive_entropy(draws: list[list[float]]) -> float:
    return naive_entropy(naive_mean(draws))


def naive_mean_std(draws: list[list[float]]) -> float:
    def std(values: tuple[float, ...]) -> float:
        mean = sum(values) / len(values)
        return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))

    return sum(std(column) for column in zip(*draws, strict=True)) / len(draws[0])


def naive_variation_ratio(draws: list[list[float]]) -> float:
    votes = Counter(max(range(len(p)), key=p.__getitem__) for p in draws)
    second_key = naive_predictive_entropy(draws) / math.log(len(draws[0]))
    return 1 - max(votes.values()) / len(draws) + 0.01 / len(draws) * second_key


def naive_vote_entropy(draws: list[list[float]]) -> float:
    votes = Counter(max(range(len(p)), key=p.__getitem__) for p in draws)
    return naive_entropy([count / len(draws) for count in votes.values()])


def naive_mean_kl(draws: list[list[float]]) -> float:
    mean = naive_mean(draws)
    return sum(sum(x * math.log(x / m) for x, m in zip(p, mean, strict=True) if x > 0) for p in draws) / len(draws)


def naive_bald(draws: list[list[float]]) -> float:
    return naive_predictive_entropy(draws) - sum(naive_entropy(p) for p in draws) / len(draws)


NAIVE = {
    scores.least_confidence: naive_least_confidence,
    scores.margin: naive_margin,
    scores.entropy: naive_predictive_entropy,
    scores.mean_std: naive_mean_std,
    scores.variation_ratio: naive_variation_ratio,
    scores.vote_entropy: naive_vote_entropy,
    scores.mean_kl: naive_mean_kl,
    scores.bald: naive_bald,
}
LARGEST = {
    scores.least_confidence: lambda k, c: 1 - 1 / c,
    scores.margin: lambda k, c: 1,
    scores.entropy: lambda k, c: math.log(c),
    scores.mean_std: lambda k, c: 0.5 if k > 1 else 0,
    scores.variation_ratio: lambda k, c: 1 - 1 / min(c, k) + 0.01 / k,
    scores.vote_entropy: lambda k, c: math.log(min(c, k)),
    scores.mean_kl: lambda k, c: math.log(min(c, k)),
    scores.bald: lambda k, c: math.log(min(c, k)),
}
every_score = pytest.mark.parametrize("score", NAIVE, ids=lambda score: score.__name__)


def predictions(k: int, c: int, n: int = 24) -> Tensor:
    """Confident, vague, uniform and one-hot distributions (probabilities of exactly 0 and 1 among them)."""
    generator = torch.Generator().manual_seed(100 * k + c)
    sharpness = torch.logspace(-1, 2, n)[:, None, None]
    log_probs = (sharpness * torch.randn(n, k, c, generator=generator)).log_softmax(dim=-1)
    log_probs[0] = -math.log(c)
    one_hot = torch.randint(c, (2, k), generator=generator)
    one_hot[1] = one_hot[1, 0]  # the draws agree
    log_probs[1:3] = torch.nn.functional.one_hot(one_hot, c).float().log()
    return log_probs


@every_score
@pytest.mark.parametrize(("k", "c"), DRAWS_AND_CLASSES)
def test_a_score_equals_a_float64_loop_and_stays_in_its_range(score, k: int, c: int) -> None:
    log_probs = predictions(k, c)
    before = log_probs.clone()
    expected = [NAIVE[score](draws) for draws in log_probs.double().exp().tolist()]
    actual = score(log_probs)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=3e-6, rtol=1e-5)
    assert actual.min() >= -1e-6
    assert actual.max() <= LARGEST[score](k, c) + 2e-6
    assert torch.equal(log_probs, before)


@every_score
def test_a_score_does_not_depend_on_its_chunks(score, monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = predictions(5, 10)
    whole = score(log_probs)
    monkeypatch.setattr(scores, "_CHUNK_BYTES", 3 * 5 * 10 * 4)
    torch.testing.assert_close(score(log_probs), whole, rtol=1e-6, atol=1e-7)


@every_score
def test_a_score_of_no_images_is_empty(score) -> None:
    assert score(torch.empty(0, 4, 3)).shape == (0,)


@every_score
@pytest.mark.parametrize("k", [1, 4])
def test_nan_in_one_draw_makes_the_score_nan_and_leaves_the_others_alone(score, k: int) -> None:
    log_probs = predictions(k, 3)
    expected = score(log_probs)
    log_probs[5, -1] = torch.nan
    assert score(log_probs).isnan().nonzero().flatten().tolist() == [5]
    assert torch.equal(score(log_probs)[6:], expected[6:])


@pytest.mark.parametrize("score", [scores.entropy, scores.bald, scores.mean_kl], ids=lambda score: score.__name__)
def test_a_probability_of_zero_gives_no_nan(score) -> None:
    impossible = torch.tensor([[[0.0, -math.inf], [-math.inf, 0.0]]])
    assert score(impossible).item() == pytest.approx(math.log(2))


def test_bald_is_exactly_zero_for_one_draw_and_never_negative_for_draws_that_agree() -> None:
    one_draw = predictions(1, 10)
    assert torch.equal(scores.bald(one_draw), torch.zeros(len(one_draw)))
    agreeing = one_draw.expand(-1, 20, -1)
    assert scores.bald(agreeing).min() >= 0
    assert scores.bald(agreeing).max() < 2e-6


@pytest.mark.parametrize(("k", "c"), [(4, 10), (20, 10)])
def test_bald_reaches_its_upper_bound_when_sure_draws_disagree(k: int, c: int) -> None:
    votes = torch.arange(k) % c
    log_probs = torch.nn.functional.one_hot(votes, c).float().log()[None]
    assert scores.bald(log_probs).item() == pytest.approx(math.log(min(k, c)), abs=1e-5)


def test_entropy_is_of_the_mean_of_probabilities_not_of_log_probabilities() -> None:
    log_probs = torch.tensor([[[0.99, 0.01], [0.5, 0.5]]]).log()
    of_log_probs = log_probs.mean(dim=1).log_softmax(dim=-1).exp()
    wrong = torch.special.entr(of_log_probs).sum().item()
    assert scores.entropy(log_probs).item() == pytest.approx(naive_entropy([0.745, 0.255]), abs=1e-6)
    assert abs(scores.entropy(log_probs).item() - wrong) > 0.1


def test_margin_is_a_gap_of_probabilities_not_of_logits() -> None:
    two_way = torch.tensor([[[2.0, 1.0, -9.0]]]).log_softmax(dim=-1)  # logits 1 apart, probabilities 0.46
    three_way = torch.tensor([[[1.05, 0.0, 0.0]]]).log_softmax(dim=-1)  # logits 1.05 apart, probabilities 0.38
    assert scores.margin(three_way) > scores.margin(two_way)


def test_variation_ratio_orders_equal_votes_by_entropy_and_never_overtakes_a_vote() -> None:
    sure, unsure = [0.9, 0.05, 0.05], [0.4, 0.35, 0.25]
    other = [0.05, 0.9, 0.05]
    log_probs = torch.tensor([[sure] * 4 + [other], [unsure] * 4 + [other], [sure] * 3 + [other] * 2]).log()
    ratio = scores.variation_ratio(log_probs)
    assert ratio[0] < ratio[1] < ratio[2]
    torch.testing.assert_close(ratio, torch.tensor([0.2, 0.2, 0.4]), atol=0.01 / 5, rtol=0)


def votes_for(*classes: int, c: int) -> Tensor:
    """Draws that are all sure, in one image."""
    return torch.nn.functional.one_hot(torch.tensor(classes), c).float().log()


@pytest.mark.parametrize("c", [3, 10, 101])
def test_images_with_the_same_numbers_of_votes_tie_to_the_last_bit(c: int) -> None:
    """A sum over classes in another order ends in other bits, and so would hand ties to some class."""
    generator = torch.Generator().manual_seed(c)
    pattern = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    renamed = [
        torch.randperm(c, generator=generator)[pattern][torch.randperm(7, generator=generator)] for _ in range(300)
    ]
    log_probs = torch.stack([votes_for(*classes.tolist(), c=c) for classes in renamed])
    assert len(scores.vote_entropy(log_probs).unique()) == 1
    assert len(scores.vote_entropy(torch.cat([log_probs[:7], predictions(7, c)]))[:7].unique()) == 1


def test_vote_entropy_counts_votes_and_not_probabilities() -> None:
    narrow, wide = [0.51, 0.49], [0.99, 0.01]
    log_probs = torch.tensor([[narrow, narrow[::-1]], [wide, wide[::-1]], [narrow, wide]]).log()
    torch.testing.assert_close(scores.vote_entropy(log_probs), torch.tensor([math.log(2), math.log(2), 0.0]))


@pytest.mark.parametrize(("k", "c"), DRAWS_AND_CLASSES)
def test_mean_kl_is_bald(k: int, c: int) -> None:
    torch.testing.assert_close(scores.mean_kl(predictions(k, c)), scores.bald(predictions(k, c)), atol=3e-6, rtol=1e-5)


def test_mean_kl_is_exactly_zero_for_one_draw() -> None:
    assert torch.equal(scores.mean_kl(predictions(1, 10)), torch.zeros(24))


def test_mean_kl_survives_a_probability_that_exists_only_as_a_logarithm() -> None:
    log_probs = torch.tensor([[[0.0, -120.0], [0.0, -130.0]]])  # exp(-120) is 0 in float32
    assert scores.mean_kl(log_probs).item() == 0
