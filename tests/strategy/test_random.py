"""Uniform, without replacement, and another choice for another generator."""

import torch
from scipy.stats import chisquare

from alframe.strategy.random import Random
from alframe.types import PoolView


def pick(n: int, size: int, generator: torch.Generator) -> list[int]:
    return Random().select(PoolView(n=n, pool={}, n_classes=2), size, generator).positions.tolist()


def test_every_image_is_as_likely_as_any_other() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(12)
    for _ in range(1200):
        counts[pick(12, 3, generator)] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_rounds_that_share_a_generator_pick_differently() -> None:
    generator = torch.Generator().manual_seed(0)
    assert pick(1000, 20, generator) != pick(1000, 20, generator)


def test_nothing_is_picked_twice() -> None:
    assert sorted(pick(40, 40, torch.Generator().manual_seed(1))) == list(range(40))


def test_the_pool_is_not_read() -> None:
    assert Random.needs_pool_pass is False


def test_the_score_is_the_draw_that_decided() -> None:
    view = PoolView(n=30, pool={}, n_classes=2)
    selection = Random().select(view, 30, torch.Generator().manual_seed(2))
    assert torch.equal(selection.scores, selection.scores.sort(descending=True).values)
    assert selection.scores.min() >= 0
    assert selection.scores.max() < 1
