"""The mean distance to the nearest distinct neighbours against a naive version in float64."""

import math
import pickle

import numpy as np
import pytest
import torch
from tests_support import LargestTensor

from alframe.engine.neighbours import distinct_neighbour_distances
from alframe.errors import ConfigError, StrategyError
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.defect_first import DefectFirst
from alframe.strategy.mix import Mix
from alframe.strategy.random import Random
from alframe.types import PoolView


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(fixed: torch.Tensor, labeled: torch.Tensor | None = None, max_bytes: int = 1 << 30) -> PoolView:
    labeled = fixed[:0] if labeled is None else labeled
    return PoolView(len(fixed), {}, 2, fixed=fixed, fixed_labeled=labeled, max_bytes=max_bytes)


def scores(strategy: Anomaly, of: PoolView) -> torch.Tensor:
    return strategy.select(of, 1, seeded(0)).pool_scores


def naive(fixed: torch.Tensor, labeled: torch.Tensor, k: int, distance: str) -> list[float]:
    """Every pair written out in float64; copies are told by their numbers."""
    points = [tuple(row) for row in torch.cat([fixed, labeled]).double().tolist()]
    found = []
    for own in points[: len(fixed)]:
        others = [np.array(other) for other in set(points) if other != own]
        x = np.array(own)
        if distance == "cosine":
            cosines = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in others]
            distances = [math.sqrt(max(0.0, 2 - 2 * cosine)) for cosine in cosines]
        else:
            distances = [float(np.linalg.norm(x - y)) for y in others]
        nearest = sorted(distances)[:k]
        found.append(sum(nearest) / len(nearest))
    return found


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_labeled", [0, 20])
def test_the_score_is_that_of_all_pairs_written_out(k, distance, n_labeled):
    points = torch.randn(80, 6, generator=seeded(0)) + 2
    points[40:44] = points[3]  # copies in the pool
    points[75:] = points[5]  # and among what may be labelled
    fixed, labeled = points[:60], points[80 - n_labeled :]
    found = scores(Anomaly(k, distance), view(fixed, labeled))
    assert found.tolist() == pytest.approx(naive(fixed, labeled, k, distance), rel=1e-4)


def test_the_highest_come_first():
    fixed = torch.randn(60, 6, generator=seeded(0))
    found = Anomaly().select(view(fixed), 7, seeded(0))
    assert found.positions.tolist() == found.pool_scores.argsort(descending=True)[:7].tolist()
    assert found.score_name == "anomaly"


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("copies", [2, 6, 40])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_copies_do_not_hide_an_unusual_image(distance, copies, noise):
    """Forty copies leave no distinct neighbour among the first candidates."""
    fixed = torch.ones(100, 8) + 0.1 * torch.randn(100, 8, generator=seeded(0))
    fixed[-copies:] = torch.tensor([5.0, -5, 0, 0, 0, 0, 0, 0])
    fixed[-copies:] *= 1 + noise * torch.randn(copies, 8, generator=seeded(1))
    found = scores(Anomaly(distance=distance), view(fixed))
    assert set(found.topk(copies).indices.tolist()) == set(range(100 - copies, 100))
    alone = scores(Anomaly(distance=distance), view(fixed[: 101 - copies]))
    assert found[-1] == pytest.approx(float(alone[-1]), rel=1e-4)


def test_an_unusual_image_that_is_labelled_is_a_neighbour():
    fixed = torch.ones(50, 8) + 0.1 * torch.randn(50, 8, generator=seeded(0))
    fixed[-1] = torch.tensor([5.0, -5, 0, 0, 0, 0, 0, 0])
    before = scores(Anomaly(k=1), view(fixed))[-1]
    assert scores(Anomaly(k=1), view(fixed, fixed[-1:] + 0.1))[-1] < before / 4


def test_a_lone_image_has_a_score():
    assert scores(Anomaly(), view(torch.ones(1, 4))).tolist() == [0.0]


def test_features_are_told_where_they_are_no_numbers():
    fixed = torch.ones(5, 4)
    fixed[2, 1] = torch.nan
    with pytest.raises(StrategyError, match=r"finite features, got NaN or infinity for 1 of 5 images .*\[2\]"):
        scores(Anomaly(), view(fixed))


def test_a_large_pool_is_taken_in_pieces():
    fixed = torch.randn(3000, 16, generator=seeded(0))
    expected = distinct_neighbour_distances(fixed, 3000, 5, 1 << 30)
    with LargestTensor() as largest:
        found = distinct_neighbour_distances(fixed, 3000, 5, 1 << 20)
    assert torch.equal(found, expected)
    assert largest.nbytes <= 1 << 20


def test_fewer_than_one_neighbour_is_refused():
    with pytest.raises(ConfigError, match="k of at least 1, got 0"):
        Anomaly(k=0)


def test_patches_decide_where_they_are_asked_for():
    strategy = Anomaly(level="patch")
    assert (strategy.needs, Anomaly().needs) == ({"patch"}, {"fixed"})
    given = torch.rand(30, generator=seeded(0))
    found = strategy.select(PoolView(30, {}, 2, patch_scores=given), 4, seeded(0))
    assert found.positions.tolist() == given.argsort(descending=True)[:4].tolist()
    assert torch.equal(found.pool_scores, given)
    assert pickle.loads(pickle.dumps(strategy)).needs == {"patch"}


def test_wrappers_pass_on_that_patches_are_needed():
    patches = Anomaly(level="patch")
    mix = Mix([Random(), patches, Anomaly()], [1, 1, 1])
    assert mix.needs == {"patch", "fixed"}
    assert DefectFirst(patches, Random(), Random()).needs == {"patch"}
    given, fixed = torch.rand(30, generator=seeded(0)), torch.randn(30, 4, generator=seeded(1))
    view = PoolView(30, {}, 2, fixed=fixed, fixed_labeled=fixed[:0], patch_scores=given)
    found = mix.select(view, 9, seeded(0))
    left = given.clone()
    left[found.positions[:3]] = 0
    assert found.positions[3:6].tolist() == left.argsort(descending=True)[:3].tolist()
