"""The highest scores first, ties by the generator, and a user's own score function."""

import pickle
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from alframe import scores
from alframe.errors import ConfigError, StrategyError
from alframe.strategy.top_score import TopScore, highest
from alframe.types import PoolView, Prediction


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prediction(n: int = 50, k: int = 4, c: int = 5) -> Prediction:
    log_probs = torch.randn(n, k, c, generator=seeded(0)).log_softmax(dim=-1)
    return Prediction(log_probs, torch.zeros(n, 2), log_probs[:, 0])


def select(strategy: TopScore, summary: dict[str, Tensor], size: int, seed: int = 0):
    return strategy.select(PoolView(n=len(summary["score"]), pool=summary, n_classes=5), size, seeded(seed))


def first_class(log_probs: Tensor, power: float = 1.0) -> Tensor:
    return log_probs.exp().mean(dim=1)[:, 0] ** power


def test_the_highest_scores_come_first() -> None:
    strategy = TopScore(scores.entropy)
    summary = strategy.summarize(prediction())
    selection = select(strategy, summary, 10)
    assert selection.positions.tolist() == summary["score"].argsort(descending=True)[:10].tolist()
    assert torch.equal(selection.scores, summary["score"][selection.positions])
    assert torch.equal(selection.pool_scores, summary["score"])


def test_the_summary_keeps_one_float_per_image() -> None:
    summary = TopScore(scores.bald, min_draws=2).summarize(prediction(n=50, k=20))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in summary.items()} == {"score": ((50,), torch.float32)}


def test_equal_scores_are_picked_by_the_generator_and_not_by_position() -> None:
    ties = torch.cat([torch.full((40,), 0.5), torch.tensor([1.0])])
    picked = torch.stack([highest(ties, 5, seeded(seed)) for seed in range(400)])
    assert (picked[:, 0] == 40).all()
    counts = picked[:, 1:].flatten().bincount(minlength=41)[:40]
    assert counts.min() > 15  # 40 expected of each, deviation 6
    assert counts.max() < 70


def test_the_same_seed_breaks_ties_in_the_same_way() -> None:
    ties = torch.zeros(100)
    assert highest(ties, 7, seeded(3)).tolist() == highest(ties, 7, seeded(3)).tolist()
    assert highest(ties, 7, seeded(3)).tolist() != highest(ties, 7, seeded(4)).tolist()


def test_a_pool_of_nothing_but_ties_is_picked_without_repeats() -> None:
    assert sorted(highest(torch.zeros(30), 30, seeded(0)).tolist()) == list(range(30))


def test_an_own_score_function_needs_only_a_yaml() -> None:
    node = {
        "_target_": "alframe.strategy.top_score.TopScore",
        "score": {"_target_": "alframe.scores.margin", "_partial_": True},
        "min_draws": 1,
    }
    strategy = instantiate(node)
    assert strategy.name == "margin"
    assert select(strategy, strategy.summarize(prediction()), 3).score_name == "margin"


def test_a_score_with_options_keeps_its_name_and_its_options() -> None:
    strategy = TopScore(partial(first_class, power=-1.0))
    summary = strategy.summarize(prediction())
    selection = select(pickle.loads(pickle.dumps(strategy)), summary, 3)
    assert selection.score_name == "first_class"
    assert selection.positions[0] == first_class(prediction().log_probs).argmin()


def test_nan_scores_are_an_error_that_names_score_and_positions() -> None:
    strategy = TopScore(scores.margin)
    with pytest.raises(StrategyError, match=r"NaN from margin at 2 positions \(the first: \[1, 3\]\)"):
        select(strategy, {"score": torch.tensor([0.0, torch.nan, 1.0, torch.nan])}, 1)


def test_a_score_of_the_wrong_shape_is_an_error() -> None:
    def per_class(log_probs: Tensor) -> Tensor:
        return log_probs.mean(dim=1)

    with pytest.raises(StrategyError, match=r"one score for each of 50 images, got shape \(50, 5\) from per_class"):
        TopScore(per_class).summarize(prediction())


def test_fewer_than_one_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="min_draws of at least 1, got 0"):
        TopScore(scores.margin, min_draws=0)
