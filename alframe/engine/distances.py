"""Squared distances, exactly in float64 or quickly in float32, and how many rows of something fit in a bound of bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from alframe.errors import StrategyError, expect

TILE_BYTES = 1 << 26  # larger tiles are no faster
_SAME = 1e-13  # closer than this share of the squared norms is equal: 3e-7 in length, a rounding of float32


def rows_within(max_bytes: int, bytes_per_row: int) -> int:
    """How many rows of `bytes_per_row` to work on at once: within `max_bytes`, and within a tile of 64 MB; at least 1."""
    return max(1, min(max_bytes, TILE_BYTES) // max(1, bytes_per_row))


def squared_distances(
    points: Sequence[Float[Tensor, "n _"]], centres: Sequence[Float[Tensor, "m _"]]
) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances in float64 of points given by factors: point i is the outer product of rows i of all factors.

    |x - y|² = |x|² + |y|² - 2 prod_f <x_f, y_f>, in float64 because this cancels between near neighbours far from the origin.
    """
    points = [f.double() for f in points]
    centres = [f.to(points[0]) for f in centres]
    products = points[0] @ centres[0].T
    for point_factor, centre_factor in zip(points[1:], centres[1:], strict=True):
        products *= point_factor @ centre_factor.T
    scale = norms(points).square()[:, None] + norms(centres).square()
    distances = products.mul_(-2).add_(scale)
    return distances.masked_fill_(distances <= scale.mul_(_SAME), 0)


def quick_squared_distances(points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances in float32, at half the cost; wrong by about 1e-6 of the squared norms, so centre the data first.

    Never negative. Reduced-precision products (TF32, bf16) are switched off inside `full_precision`, which callers wrap their loop in.
    """
    squares = points.square().sum(dim=1, keepdim=True)
    return torch.addmm(squares, points, centres.T, alpha=-2).add_(centres.square().sum(dim=1)).clamp_min_(0)


def mean_of(points: Float[Tensor, "n d"], max_bytes: int) -> Float[Tensor, " d"]:
    """Mean of the points, float32, summed in float64 a tile at a time (torch would make a float64 copy of them all)."""
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for rows in points.split(rows_within(max_bytes, 8 * points.shape[1])):
        total += rows.sum(dim=0, dtype=torch.float64)
    return (total / len(points)).float()


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 matrix products in float32, whatever the program has set for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def norms(factors: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, " n"]:
    """Length of each point: the product of its factors' lengths."""
    return torch.stack([torch.linalg.vector_norm(f, dim=1).double() for f in factors]).prod(dim=0)


def expect_finite(*factors: Float[Tensor, "n _"]) -> None:
    """Raise `StrategyError` that names the rows which are not finite."""
    for factor in factors:
        broken = (~factor.sum(dim=1).isfinite()).nonzero().squeeze(1)
        expect(
            len(broken) == 0,
            f"Expected finite features, got NaN or infinity for {len(broken)} of {len(factor)} images (the first: "
            f"{broken[:5].tolist()}); check the training loss and the pixels of these images.",
            StrategyError,
        )
