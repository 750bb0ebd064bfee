"""FALCUN against a float64 loop with the same draws, and the distribution of its picks."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare
from tests_support import LargestTensor
from torch import Tensor

from alframe.errors import ConfigError
from alframe.strategy.falcun import Falcun
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilities(n: int, c: int, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    return (sharpness * torch.randn(n, c, generator=seeded(seed))).softmax(dim=1)


def summary(probs: Tensor) -> dict[str, Tensor]:
    log_probs = probs.log()
    return Falcun().summarize(Prediction(log_probs[:, None], torch.zeros(len(probs), 1), log_probs))


def select(probs: Tensor, size: int, gamma: float = 10.0, generator: torch.Generator | None = None) -> Selection:
    view = PoolView(n=len(probs), pool=summary(probs), n_classes=probs.shape[1])
    return Falcun(gamma).select(view, size, generator or seeded(0))


def naive_relevance(probs: list[list[float]], picked: list[int]) -> dict[int, float]:
    """u + d̃ of the images not picked yet, from the definitions."""
    likeliest = [sorted(p, reverse=True)[:2] for p in probs]
    u = [1 - (first - second) for first, second in likeliest]
    left = [i for i in range(len(probs)) if i not in picked]
    d = {
        i: min([u[i]] + [sum(abs(a - b) for a, b in zip(probs[i], probs[j], strict=True)) for j in picked])
        for i in left
    }
    lowest, highest = min(d.values()), max(d.values())
    return {i: u[i] + ((d[i] - lowest) / (highest - lowest) if highest > lowest else 0) for i in left}


def naive_weights(probs: list[list[float]], picked: list[int], gamma: float) -> dict[int, float]:
    relevance = naive_relevance(probs, picked)
    if max(relevance.values()) == 0:
        return dict.fromkeys(relevance, 1.0)
    return {i: r**gamma for i, r in relevance.items()}


def naive_picks(probs: Tensor, size: int, gamma: float, generator: torch.Generator) -> tuple[list[int], list[float]]:
    rows = summary(probs)["probs"].double().tolist()
    picked: list[int] = []
    scores: list[float] = []
    for place in torch.rand(size, dtype=torch.float64, generator=generator).tolist():
        weights = naive_weights(rows, picked, gamma)
        threshold, total = place * sum(weights.values()), 0.0
        passed = []
        for i, weight in weights.items():
            total += weight
            if total > threshold:
                passed.append(i)
        scores.append(naive_relevance(rows, picked)[passed[0]])
        picked.append(passed[0])
    return picked, scores


@pytest.mark.parametrize("c", [2, 5, 100])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 10.0])
@pytest.mark.parametrize(("n", "size"), [(60, 1), (60, 12), (25, 25)])
def test_the_picks_are_those_of_the_naive_loop_with_the_same_draws(c: int, gamma: float, n: int, size: int) -> None:
    probs = probabilities(n, c)
    for seed in range(3):
        positions, scores = naive_picks(probs, size, gamma, seeded(seed))
        selection = select(probs, size, gamma, seeded(seed))
        assert selection.positions.tolist() == positions
        torch.testing.assert_close(selection.scores, torch.tensor(scores), atol=1e-5, rtol=1e-5)
    assert selection.score_name == "relevance"


@pytest.mark.parametrize("size", [6, 20])
def test_duplicates_are_no_trouble_for_the_naive_loop_either(size: int) -> None:
    probs = probabilities(5, 3).repeat(4, 1)
    positions, _ = naive_picks(probs, size, 3.0, seeded(1))
    selection = select(probs, size, 3.0, seeded(1))
    assert selection.positions.tolist() == positions
    assert len(set(positions)) == size


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_pairs_of_picks_have_the_probabilities_of_the_formula(gamma: float) -> None:
    probs = probabilities(5, 3, seed=3, sharpness=1.0)
    rows = probs.double().tolist()
    generator, n_trials, counts = seeded(0), 1500, Counter()
    for _ in range(n_trials):
        counts[tuple(select(probs, 2, gamma, generator).positions.tolist())] += 1
    expected = {}
    for pair in permutations(range(5), 2):
        first, second = naive_weights(rows, [], gamma), naive_weights(rows, [pair[0]], gamma)
        expected[pair] = first[pair[0]] / sum(first.values()) * second[pair[1]] / sum(second.values())
    often = [pair for pair in expected if n_trials * expected[pair] >= 5]
    rest = n_trials * sum(p for pair, p in expected.items() if pair not in often)
    observed = [counts[pair] for pair in often]
    weights = [n_trials * expected[pair] for pair in often]
    if rest > 0.5:
        observed.append(n_trials - sum(observed))
        weights.append(rest)
    else:
        weights = [w * sum(observed) / sum(weights) for w in weights]
    assert chisquare(observed, weights).pvalue > 1e-3


def test_a_large_power_takes_the_most_relevant_image_and_does_not_overflow() -> None:
    probs = probabilities(200, 4)
    rows = summary(probs)["probs"].double().tolist()
    picked: list[int] = []
    for position in select(probs, 10, gamma=1e6).positions.tolist():
        relevance = naive_relevance(rows, picked)
        assert relevance[position] >= max(relevance.values()) - 1e-5
        picked.append(position)


def test_a_power_of_nought_is_uniform_even_where_nothing_is_relevant() -> None:
    probs = torch.cat([torch.eye(3).repeat(3, 1), torch.full((1, 3), 1 / 3)])
    generator, counts = seeded(0), torch.zeros(10)
    for _ in range(800):
        counts[select(probs, 1, 0.0, generator).positions] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_certain_images_are_drawn_uniformly_with_score_0_once_nothing_else_is_left() -> None:
    probs = torch.cat([torch.eye(4).repeat(5, 1), torch.tensor([[0.5, 0.5, 0.0, 0.0]])])
    generator, counts = seeded(0), torch.zeros(20)
    for _ in range(400):
        selection = select(probs, 4, 10.0, generator)
        assert selection.positions[0] == 20
        assert selection.scores.tolist() == [2.0, 0.0, 0.0, 0.0]
        counts[selection.positions[1:]] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert sorted(select(probs, 21).positions.tolist()) == list(range(21))


def test_uncertain_images_that_equal_a_pick_are_still_weighed_by_uncertainty() -> None:
    probs = torch.tensor([[0.5, 0.5]] * 10 + [[0.9, 0.1]] * 10)
    selection = select(probs, 20)
    assert (selection.scores > 0).all()
    assert (selection.positions[-8:] >= 10).all()  # where no distance is left, 0.2^10 as likely as the others


def test_distance_takes_over_from_uncertainty() -> None:
    """Many near-copies of the most uncertain image, and one less uncertain elsewhere: a batch has both."""
    copies = torch.tensor([[0.5, 0.5, 0.0]]) + 1e-3 * torch.randn(50, 1, generator=seeded(0)) * torch.tensor(
        [1.0, -1.0, 0]
    )
    probs = torch.cat([copies, torch.tensor([[0.0, 0.4, 0.6]])])
    both = sum(50 in select(probs, 3, 10.0, seeded(seed)).positions.tolist() for seed in range(50))
    assert both >= 40


def test_the_distance_is_l1_in_probability_space_and_scaled_anew_after_each_pick() -> None:
    probs = probabilities(30, 4, seed=5)
    selection = select(probs, 30, 2.0)
    rows = summary(probs)["probs"].double().tolist()
    for i, position in enumerate(selection.positions.tolist()):
        relevance = naive_relevance(rows, selection.positions[:i].tolist())
        assert abs(relevance[position] - float(selection.scores[i])) < 1e-4


def test_the_end_of_the_unit_interval_draws_the_last_image_that_may_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    probs = torch.cat([probabilities(9, 3), torch.eye(3)[:1]])  # the last has no weight
    almost_one = torch.tensor(1 - 2**-53, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda size, **_: almost_one.repeat(size))
    positions = select(probs, 10, 1.0).positions.tolist()
    assert positions[0] == 8
    assert sorted(positions) == list(range(10))


def test_the_probabilities_are_the_point_networks_and_not_the_posterior_means() -> None:
    point = torch.tensor([[0.7, 0.2, 0.1]]).log()
    draws = torch.randn(1, 6, 3, generator=seeded(0)).log_softmax(dim=2)
    kept = Falcun().summarize(Prediction(draws, torch.zeros(1, 1), point))
    torch.testing.assert_close(kept["probs"], torch.tensor([[0.7, 0.2, 0.1]]))
    torch.testing.assert_close(kept["margin"], torch.tensor([0.5]))


def test_no_copy_of_the_probabilities_is_made() -> None:
    pool = summary(probabilities(2000, 100))
    with LargestTensor() as largest:
        Falcun().select(PoolView(n=2000, pool=pool, n_classes=100), 20, seeded(0))
    assert largest.nbytes <= 8 * 2000


@pytest.mark.parametrize("gamma", [-1.0, float("inf"), float("nan")])
def test_a_power_out_of_range_is_an_error(gamma: float) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        Falcun(gamma)
