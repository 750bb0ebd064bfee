"""Lazy greedy against a loop that asks for every gain at every pick."""

import pytest
import torch
from torch import Tensor

from alframe.engine import lazy_greedy as module
from alframe.engine.lazy_greedy import lazy_greedy


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Coverage:
    """Facility location: an image gains sum_j max(0, similarity to j - best similarity of j to the picked)."""

    def __init__(self, similarities: Tensor) -> None:
        self.similarities = similarities
        self.covered = torch.zeros(similarities.shape[1], dtype=torch.float64)
        self.n_asked = 0

    def gains(self, positions: Tensor) -> Tensor:
        self.n_asked += len(positions)
        return (self.similarities[positions] - self.covered).clamp_min(0).sum(dim=1)

    def tighten(self, positions: Tensor) -> Tensor:
        return self.similarities[positions].sub(self.covered).clamp_min(0).sqrt().sum(dim=1)  # above, as all is below 1

    def take(self, position: int) -> None:
        self.covered = torch.maximum(self.covered, self.similarities[position])


def similarities(n: int, m: int = 60) -> Tensor:
    points = torch.randn(n, 3, generator=seeded(n), dtype=torch.float64)
    return (-(points[:, None] - torch.randn(m, 3, generator=seeded(m), dtype=torch.float64)).square().sum(dim=2)).exp()


def plain_greedy(objective: Coverage, n: int, size: int, at_least: float = 0.0) -> tuple[list[int], list[float]]:
    picked: list[int] = []
    scores: list[float] = []
    while len(picked) < size:
        gains = objective.gains(torch.arange(n))
        gains[picked] = -torch.inf
        if float(gains.max()) <= at_least:
            break
        picked.append(int(gains.argmax()))
        scores.append(float(gains.max()))
        objective.take(picked[-1])
    return picked, scores


@pytest.fixture(params=[(8, 256), (1, 2)], ids=["wide", "narrow"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_BLOCK", request.param[0])
    monkeypatch.setattr(module, "_LARGEST_BLOCK", request.param[1])


@pytest.mark.parametrize("tightened", [False, True])
@pytest.mark.parametrize(("n", "size"), [(500, 1), (500, 80), (30, 30), (1, 1)])
def test_picks_and_gains_are_those_of_plain_greedy(blocks: None, n: int, size: int, tightened: bool) -> None:
    expected, gains = plain_greedy(Coverage(similarities(n)), n, size)
    lazy = Coverage(similarities(n))
    bounds = similarities(n).sum(dim=1)
    tighten = lazy.tighten if tightened else None
    picked, scores = lazy_greedy(bounds, lazy.gains, lazy.take, size, seeded(0), tighten=tighten)
    assert picked == expected
    assert scores == pytest.approx(gains)


def test_bounds_of_infinity_are_allowed(blocks: None) -> None:
    expected, _ = plain_greedy(Coverage(similarities(300)), 300, 20)
    lazy = Coverage(similarities(300))
    assert lazy_greedy(torch.full((300,), torch.inf), lazy.gains, lazy.take, 20, seeded(0))[0] == expected


def test_it_asks_for_few_gains() -> None:
    n, size = 3000, 40
    lazy = Coverage(similarities(n))
    lazy_greedy(similarities(n).sum(dim=1), lazy.gains, lazy.take, size, seeded(0))
    assert lazy.n_asked < n * size / 10


def test_what_a_tightened_bound_rules_out_is_not_asked_for() -> None:
    gains = torch.tensor([1.0, 0.1, 0.2, 0.3]).double().repeat(100)
    asked: list[int] = []

    def ask(positions: Tensor) -> Tensor:
        asked.extend(positions.tolist())
        return gains[positions]

    _, scores = lazy_greedy(torch.full((400,), 2.0), ask, lambda _: None, 1, seeded(0), tighten=lambda p: gains[p])
    assert scores == [1.0]
    assert all(gains[position] == 1 for position in asked)


def test_it_stops_where_nothing_is_gained() -> None:
    objective = Coverage(torch.eye(5, 40, dtype=torch.float64).repeat(8, 1))  # eight copies of five images
    picked, scores = lazy_greedy(torch.ones(40), objective.gains, objective.take, 40, seeded(0))
    assert sorted(position % 5 for position in picked) == list(range(5))
    assert scores == [1.0] * 5


def test_it_stops_at_the_least_gain_that_counts() -> None:
    expected, gains = plain_greedy(Coverage(similarities(200)), 200, 200, at_least=0.5)
    lazy = Coverage(similarities(200))
    bounds = similarities(200).sum(dim=1)
    assert lazy_greedy(bounds, lazy.gains, lazy.take, 200, seeded(0), at_least=0.5)[0] == expected
    assert 0 < len(expected) < 200
    assert min(gains) > 0.5


def test_it_stops_when_taking_says_so() -> None:
    taken: list[int] = []

    def take(position: int) -> bool:
        taken.append(position)
        return len(taken) == 3

    picked, _ = lazy_greedy(torch.ones(50), lambda p: torch.ones(len(p)), take, 50, seeded(0))
    assert picked == taken
    assert len(picked) == 3


def test_what_may_not_be_picked_is_not_even_asked_for() -> None:
    bounds = torch.ones(20)
    bounds[::2] = -torch.inf

    def gains(positions: Tensor) -> Tensor:
        assert (positions % 2 == 1).all()
        return torch.ones(len(positions))

    picked, _ = lazy_greedy(bounds, gains, lambda _: None, 20, seeded(0))
    assert sorted(picked) == list(range(1, 20, 2))


def test_equal_gains_are_picked_by_the_generator_and_not_by_position() -> None:
    def first(seed: int) -> int:
        return lazy_greedy(torch.ones(30), lambda p: torch.ones(len(p)), lambda _: None, 1, seeded(seed))[0][0]

    firsts = torch.tensor([first(seed) for seed in range(600)]).bincount(minlength=30)
    assert firsts.min() > 3  # 20 expected of each, deviation 4.4
    assert firsts.max() < 40
    assert first(5) == first(5)
