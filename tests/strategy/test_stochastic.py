"""Draws without replacement in proportion to the score: the distribution itself, and the traps of other implementations."""

import itertools
import math
from functools import partial

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from alframe import scores
from alframe.errors import ConfigError, StrategyError
from alframe.strategy.stochastic import Method, Stochastic, sample
from alframe.types import PoolView, Prediction, Selection

POOL = torch.tensor([0.5, 1.8, 0.8, 0.3, 1.0])
TRIALS = 1500


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(values: Tensor, method: Method, beta: float) -> list[float]:
    """From the paper's table, in plain floats."""
    if method == "softrank":
        ranks = (-values).argsort().argsort() + 1
        return [rank**-beta for rank in ranks.tolist()]
    return [value**beta if method == "power" else math.exp(beta * value) for value in values.double().tolist()]


def ordered_pairs(w: list[float]) -> dict[tuple[int, int], float]:
    total = sum(w)
    pairs = itertools.permutations(range(len(w)), 2)
    return {(i, j): w[i] / total * w[j] / (total - w[i]) for i, j in pairs}


def drawn_pairs(values: Tensor, method: Method, beta: float) -> list[tuple[int, int]]:
    generator = seeded(1)
    return [tuple(sample(values, 2, method, beta, generator).tolist()) for _ in range(TRIALS)]


def fits(pairs: list[tuple[int, int]], w: list[float]) -> bool:
    """Whether first picks and ordered pairs look like draws with weights `w`, at the level of 0.1 %."""
    expected = ordered_pairs(w)
    counts = [pairs.count(pair) for pair in expected]
    firsts = [sum(first == i for first, _ in pairs) for i in range(len(w))]
    of_firsts = [TRIALS * x / sum(w) for x in w]
    of_pairs = [TRIALS * p for p in expected.values()]
    return chisquare(counts, of_pairs).pvalue > 1e-3 and chisquare(firsts, of_firsts).pvalue > 1e-3


def select(values: Tensor, size: int, seed: int = 0, **options: object) -> Selection:
    strategy = Stochastic(scores.margin, **options)
    return strategy.select(PoolView(n=len(values), pool={"score": values}, n_classes=3), size, seeded(seed))


@pytest.mark.parametrize("method", ["power", "softmax", "softrank"])
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_first_picks_and_ordered_pairs_have_the_probabilities_of_the_paper(method: Method, beta: float) -> None:
    pairs = drawn_pairs(POOL, method, beta)
    assert fits(pairs, weights(POOL, method, beta))
    assert not fits(pairs, weights(POOL, method, 1 / beta))  # a temperature, the inverse, is another distribution


@pytest.mark.parametrize("method", ["power", "softmax", "softrank"])
def test_a_beta_of_zero_is_uniform_and_a_large_one_the_top(method: Method) -> None:
    assert fits(drawn_pairs(POOL, method, 0.0), [1.0] * len(POOL))
    assert fits(drawn_pairs(POOL * 0, method, 0.0), [1.0] * len(POOL))
    assert sample(POOL, 5, method, 1e4, seeded(0)).tolist() == POOL.argsort(descending=True).tolist()


def test_power_is_indifferent_to_the_unit_of_the_score_and_softmax_is_not() -> None:
    assert sample(POOL, 5, "power", 1.0, seeded(0)).tolist() == sample(1e-6 * POOL, 5, "power", 1.0, seeded(0)).tolist()
    assert not fits(drawn_pairs(4 * POOL, "softmax", 1.0), weights(POOL, "softmax", 1.0))


def test_softrank_sees_the_order_alone_and_equal_scores_share_their_ranks() -> None:
    assert fits(drawn_pairs(POOL.exp() - 3, "softrank", 1.0), weights(POOL, "softrank", 1.0))
    ties = drawn_pairs(torch.ones(5), "softrank", 2.0)
    assert fits(ties, [1.0] * 5)


def test_a_power_of_a_score_of_zero_comes_last_and_is_uniform_among_its_likes() -> None:
    values = torch.tensor([0.0, 3.0, -1.0, 1e-30, 0.0])
    picks = [sample(values, 5, "power", 1.0, seeded(seed)).tolist() for seed in range(600)]
    assert all(set(pick[:2]) == {1, 3} for pick in picks)  # an epsilon of 1e-8 would let the zeros overtake 1e-30
    orders = [tuple(pick[2:]) for pick in picks]
    assert chisquare([orders.count(order) for order in itertools.permutations((0, 2, 4))]).pvalue > 1e-3


@pytest.mark.parametrize("method", ["power", "softmax", "softrank"])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_pool_of_zeros_or_duplicates_is_drawn_without_repeats(method: Method, n: int) -> None:
    for value in (0.0, 0.3, -2.0):
        selection = select(torch.full((n,), value), n, method=method)
        assert sorted(selection.positions.tolist()) == list(range(n))
        assert selection.scores.isfinite().all()


def test_scores_are_the_plain_ones_and_carry_their_name() -> None:
    selection = select(POOL, 3)
    assert selection.score_name == "margin"
    assert torch.equal(selection.pool_scores, POOL)
    assert torch.equal(selection.scores, POOL[selection.positions])


def test_it_takes_any_score_with_its_options() -> None:
    def class_share(log_probs: Tensor, of: int) -> Tensor:
        return log_probs.exp().mean(dim=1)[:, of]

    log_probs = torch.randn(40, 3, 4, generator=seeded(2)).log_softmax(dim=-1)
    strategy = Stochastic(partial(class_share, of=2), beta=1e4)
    summary = strategy.summarize(Prediction(log_probs, torch.zeros(40, 2), log_probs[:, 0]))
    selection = strategy.select(PoolView(n=40, pool=summary, n_classes=4), 5, seeded(0))
    assert selection.score_name == "class_share"
    assert selection.positions.tolist() == class_share(log_probs, of=2).topk(5).indices.tolist()


class CountOperations(TorchDispatchMode):
    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["power", "softmax", "softrank"])
def test_a_larger_query_takes_no_more_passes_over_the_pool(method: Method) -> None:
    values = torch.rand(2000, generator=seeded(3))
    with CountOperations() as few:
        sample(values, 2, method, 1.0, seeded(0))
    with CountOperations() as many:
        assert len(set(sample(values, 1500, method, 1.0, seeded(0)).tolist())) == 1500
    assert many.n < few.n + 5


def test_nan_scores_are_an_error_that_names_score_and_positions() -> None:
    with pytest.raises(StrategyError, match=r"NaN from margin at 1 positions \(the first: \[1\]\)"):
        select(torch.tensor([0.0, torch.nan, 1.0]), 1)


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan])
def test_a_beta_out_of_range_is_an_error(beta: float) -> None:
    with pytest.raises(ConfigError, match="Expected beta from 0"):
        Stochastic(scores.bald, beta=beta)


def test_fewer_than_one_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="min_draws of at least 1, got 0"):
        Stochastic(scores.margin, min_draws=0)
