"""candidates and switch: what they hand on, and what they decide."""

from dataclasses import replace

import pytest
import torch

from alframe import scores
from alframe.errors import ConfigError
from alframe.strategy.badge import Badge
from alframe.strategy.candidates import Candidates
from alframe.strategy.core_set import CoreSet
from alframe.strategy.random import Random
from alframe.strategy.switch import Switch
from alframe.strategy.top_score import TopScore

MARGIN, BALD = TopScore(scores.margin), TopScore(scores.bald, min_draws=2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_candidates_are_a_uniform_part_of_the_pool_without_repeats() -> None:
    counts = torch.zeros(50)
    generator = seeded(0)
    for _ in range(400):
        drawn = Candidates(MARGIN, size=10).subset(50, 3, generator)
        assert len(drawn.unique()) == 10
        counts[drawn] += 1
    assert counts.min() > 45  # 80 expected, deviation 8
    assert counts.max() < 115


def test_the_same_seed_draws_the_same_candidates() -> None:
    first = Candidates(MARGIN, size=10).subset(50, 3, seeded(1))
    assert torch.equal(first, Candidates(BALD, size=10).subset(50, 3, seeded(1)))
    assert not torch.equal(first, Candidates(MARGIN, size=10).subset(50, 3, seeded(2)))


def test_a_small_pool_is_used_whole_and_a_large_query_gets_enough_candidates() -> None:
    assert Candidates(MARGIN, size=50).subset(50, 3, seeded(0)) is None
    assert len(Candidates(MARGIN, size=10).subset(50, 30, seeded(0))) == 30


def test_candidates_of_candidates_are_positions_of_the_whole_pool() -> None:
    drawn = Candidates(Candidates(MARGIN, size=5), size=20).subset(1000, 3, seeded(0))
    assert len(drawn) == 5
    assert drawn.max() > 20


def test_wrappers_declare_what_their_parts_need() -> None:
    assert Candidates(CoreSet()).needs == {"labeled"}
    assert Candidates(BALD).min_draws == 2
    assert not Candidates(Random()).needs_pool_pass
    both = Switch(CoreSet(), BALD, rounds=1)
    assert (both.needs, both.min_draws) == ({"labeled"}, 2)
    assert MARGIN.needs == frozenset()


def test_a_switch_by_rounds_counts_queries() -> None:
    switch = Switch(Badge(), MARGIN, rounds=2)
    assert [switch.at(round, 10**6, ()) for round in range(4)] == [Badge(), Badge(), MARGIN, MARGIN]


def test_a_switch_by_labels_looks_at_what_was_bought() -> None:
    switch = Switch(Badge(), MARGIN, labels=100)
    assert [switch.at(50, labels, ()) for labels in (0, 99, 100, 101)] == [Badge(), Badge(), MARGIN, MARGIN]


def test_switches_nest() -> None:
    switch = Switch(Random(), Switch(Badge(), MARGIN, rounds=5), rounds=2)
    assert [switch.at(round, 0, ()) for round in (0, 1, 2, 4, 5)] == [Random(), Random(), Badge(), Badge(), MARGIN]


def test_candidates_inside_a_switch_narrow_only_in_their_rounds() -> None:
    switch = Switch(Candidates(MARGIN, size=10), MARGIN, rounds=1)
    assert len(switch.at(0, 0, ()).subset(50, 3, seeded(0))) == 10
    assert switch.at(1, 0, ()).subset(50, 3, seeded(0)) is None


@pytest.mark.parametrize(
    ("rounds", "labels", "told"),
    [
        (None, None, "got neither; set one of them"),
        (3, 3, "got both .*; set one of them to null"),
        (0, None, "rounds of at least 1, got 0"),
        (None, 0, "labels of at least 1, got 0"),
    ],
)
def test_a_switch_takes_exactly_one_count(rounds: int | None, labels: int | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Switch(Random(), MARGIN, rounds=rounds, labels=labels)


def test_bad_candidates_are_told() -> None:
    with pytest.raises(ConfigError, match=r"size of at least 1, got 0"):
        Candidates(MARGIN, size=0)
    with pytest.raises(
        ConfigError, match=r"a strategy inside candidates, got Switch; put candidates inside the switch"
    ):
        Candidates(Switch(Random(), MARGIN, rounds=1))


def test_a_changed_copy_declares_anew() -> None:
    assert replace(Candidates(MARGIN), strategy=CoreSet()).needs == {"labeled"}
