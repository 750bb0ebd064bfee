"""Nearest other points against full float64 differences, with duplicates, far from the origin, and in little memory."""

import pytest
import torch
from torch import Tensor

from alframe.engine.neighbours import nearest_distances
from alframe.errors import StrategyError


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive(points: Tensor, k: int) -> Tensor:
    """Sorted distances by differences, the point itself left out by its position."""
    distances = (points.double()[:, None] - points.double()).square().sum(dim=2).sqrt()
    others = distances[~torch.eye(len(points), dtype=torch.bool)].reshape(len(points), -1)
    return others.sort(dim=1).values[:, :k].float()


@pytest.mark.parametrize(("n", "d", "k"), [(200, 8, 20), (50, 3, 1), (30, 64, 29), (12, 2, 50), (2, 5, 3)])
def test_they_are_the_distances_of_full_rows(n: int, d: int, k: int) -> None:
    points = normal(n, d)
    torch.testing.assert_close(nearest_distances(points, k, 1 << 30), naive(points, k))


def test_a_point_is_left_out_by_identity_so_that_its_duplicates_are_neighbours() -> None:
    points = normal(20, 4).repeat_interleave(3, dim=0)
    distances = nearest_distances(points, 4, 1 << 30)
    torch.testing.assert_close(distances, naive(points, 4))
    assert torch.equal(distances[:, :2], torch.zeros(60, 2))
    assert (distances[:, 2:] > 0).all()


def test_a_point_alone_has_no_neighbours() -> None:
    assert nearest_distances(torch.ones(1, 3), 20, 1 << 30).shape == (1, 0)


def test_near_neighbours_far_from_the_origin_are_told_apart() -> None:
    points = 1000 + normal(100, 16)
    torch.testing.assert_close(nearest_distances(points, 5, 1 << 30), naive(points, 5), rtol=1e-4, atol=0)


def test_near_neighbours_in_a_wide_set_are_told_apart() -> None:
    points = torch.cat([normal(8, 16) * 1e-2 + 100 * c for c in (-1.0, 0.5, 2.0)])
    distances = nearest_distances(points, 5, 1 << 30)
    torch.testing.assert_close(distances, naive(points, 5), rtol=1e-4, atol=0)

    # The product that finds the candidates is too rough to give their distances.
    squares = points.square().sum(dim=1)
    rough = (squares[:, None] + squares - 2 * points @ points.T).clamp_min(0).sqrt()
    exact = (points.double()[:, None] - points.double()).norm(dim=2)
    near = (exact > 0) & (exact < 1)
    assert ((rough - exact).abs() > 0.1 * exact)[near].any()


def test_memory_and_the_precision_set_for_products_change_nothing() -> None:
    points = normal(300, 20)
    expected = nearest_distances(points, 7, 1 << 30)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.testing.assert_close(nearest_distances(points, 7, 1 << 12), expected, rtol=2e-6, atol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_points_that_are_not_finite_are_an_error() -> None:
    points = normal(10, 2)
    points[3, 0] = torch.inf
    with pytest.raises(StrategyError, match="1 of 10 images"):
        nearest_distances(points, 2, 1 << 30)
