"""mix: shares in whole images, no overlap, and each strategy sees what it would see alone. defect_first: which mix when."""

import math
from dataclasses import replace

import pytest
import torch

from alframe import scores
from alframe.config.overrides import load
from alframe.errors import ConfigError
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.base import Schedule
from alframe.strategy.candidates import Candidates
from alframe.strategy.core_set import CoreSet
from alframe.strategy.defect_first import DefectFirst, sides
from alframe.strategy.epig import Epig
from alframe.strategy.mix import Mix, split
from alframe.strategy.most_likely import MostLikely
from alframe.strategy.random import Random
from alframe.strategy.stochastic import Stochastic
from alframe.strategy.switch import Switch
from alframe.strategy.top_score import TopScore
from alframe.types import PoolView, Prediction

N, M, C, D = 60, 10, 3, 6
FEATURES = torch.randn(N + M, D, generator=torch.Generator().manual_seed(0))
LOG_PROBS = torch.randn(N + M, 2, C, generator=torch.Generator().manual_seed(1)).log_softmax(dim=-1)
MARGIN, ENTROPY, BALD = TopScore(scores.margin), TopScore(scores.entropy), TopScore(scores.bald, min_draws=2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(strategy, rows=range(N)) -> PoolView:
    def summary(rows):
        rows = torch.tensor(list(rows), dtype=torch.int64)
        return strategy.summarize(Prediction(LOG_PROBS[rows], FEATURES[rows], LOG_PROBS[rows, 0]))

    return PoolView(
        len(rows),
        summary(rows),
        C,
        labeled=summary(range(N, N + M)),
        labels=torch.arange(M) % C,
        fixed=FEATURES[torch.tensor(list(rows))],
        fixed_labeled=FEATURES[N:],
        counts=(7, 2, 1),
    )


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (10, [0.5, 0.5]),
        (7, [0.5, 0.5]),
        (1, [0.5, 0.5]),
        (1, [0.8, 0.2]),
        (10, [1, 1, 1]),
        (3, [1 / 3, 1 / 3, 1 / 3]),
        (10, [0.66, 0.17, 0.17]),
        (5, [8, 1, 1]),
        (100, [0.7, 0.2, 0.1]),
    ],
)
def test_shares_are_rounded_to_whole_images_so_that_their_mean_is_exact(size, shares):
    quotas = [size * share / sum(shares) for share in shares]
    stream = seeded(0)
    drawn = torch.tensor([split(size, shares, stream) for _ in range(4000)])
    assert (drawn.sum(dim=1) == size).all()
    for counts, quota in zip(drawn.T.tolist(), quotas, strict=True):
        assert {*counts} <= {math.floor(quota + 1e-9), math.ceil(quota - 1e-9)}
        assert sum(counts) / len(counts) == pytest.approx(quota, abs=0.03)


def test_whole_shares_draw_nothing():
    stream = seeded(0)
    assert split(100, [0.7, 0.2, 0.1], stream) == [70, 20, 10]
    assert split(3, [1 / 3, 1 / 3, 1 / 3], stream) == [1, 1, 1]
    assert torch.equal(stream.get_state(), seeded(0).get_state())


@pytest.mark.parametrize("size", [1, 9, N])
def test_each_picks_from_what_those_before_it_left_as_if_it_were_alone(size):
    """Written out: a new view of the images that are left, for each strategy by itself."""
    strategies, shares = [MARGIN, CoreSet(), Anomaly(k=3), MostLikely()], [3, 3, 2, 1]
    found = Mix(strategies, shares).select(view(Mix(strategies, shares)), size, seeded(0))
    left, positions, given, sources = list(range(N)), [], [], []
    stream = seeded(0)
    for strategy, count in zip(strategies, split(size, shares, stream), strict=True):
        if count:
            alone = strategy.select(view(strategy, left), count, stream)
            chosen = [left[position] for position in alone.positions.tolist()]
            positions, given = positions + chosen, given + alone.scores.tolist()
            sources += [strategy.name] * count
            left = [position for position in left if position not in chosen]
    assert found.positions.tolist() == positions
    assert found.scores.tolist() == pytest.approx(given, rel=1e-5)
    assert list(found.sources) == sources
    assert len(set(positions)) == size


def test_the_same_strategy_twice_is_the_strategy():
    found = Mix([ENTROPY, ENTROPY], [0.3, 0.7]).select(view(Mix([ENTROPY, ENTROPY], [1, 1])), 12, seeded(0))
    alone = ENTROPY.select(view(ENTROPY), 12, seeded(0))
    assert found.positions.tolist() == alone.positions.tolist()


def test_a_mix_in_a_mix_names_the_strategy_that_picked():
    mix = Mix({"a": Mix([ENTROPY, Random()], [0.5, 0.5]), "b": Stochastic(scores.bald)}, [0.5, 0.5])
    found = mix.select(view(mix), 8, seeded(0))
    assert found.sources == ("entropy",) * 2 + ("random",) * 2 + ("power_bald",) * 4


def test_the_share_of_random_is_uniform_over_what_is_left():
    mix, counts = Mix([ENTROPY, Random()], [0.5, 0.5]), torch.zeros(N)
    first = set(ENTROPY.select(view(ENTROPY), 10, seeded(0)).positions.tolist())
    for seed in range(200):
        found = mix.select(view(mix), 20, seeded(seed))
        counts[found.positions[10:]] += 1
    assert {position for position in range(N) if counts[position] == 0} == first
    assert counts[counts > 0].min() > 20  # 40 expected, deviation 5.7
    assert counts.max() < 65


def test_candidates_in_a_mix_are_a_part_of_what_is_left():
    mix = Mix([Random(), Candidates(ENTROPY, size=5)], [0.5, 0.5])
    found = mix.select(view(mix), 10, seeded(0))
    assert len(set(found.positions.tolist())) == 10
    best = ENTROPY.select(view(ENTROPY), 10, seeded(0)).positions.tolist()
    assert not set(found.positions[5:].tolist()) <= set(best)


def test_it_declares_what_its_parts_need():
    assert Mix([CoreSet(), Anomaly()], [1, 1]).needs == {"labeled", "fixed"}
    assert Mix([MARGIN, BALD], [1, 1]).min_draws == 2
    assert not Mix([Random(), Anomaly()], [1, 1]).needs_pool_pass
    assert not Mix([Random(), Anomaly()], [1, 1]).needs_network
    assert Mix([Random(), MARGIN], [1, 1]).needs_pool_pass
    assert Mix([Random(), MARGIN], [1, 1]).needs_network
    assert replace(Mix([MARGIN], [1]), strategies=[CoreSet()]).needs == {"labeled"}


def test_a_part_is_shown_nothing_that_it_does_not_need():
    seen = []

    class Curious(Random):
        def select(self, view, size, generator):
            seen.append(view)
            return super().select(view, size, generator)

    mix = Mix([Curious(), CoreSet()], [1, 1])
    mix.select(view(mix), 4, seeded(0))
    assert (seen[0].pool, seen[0].labeled, seen[0].labels, seen[0].fixed, seen[0].fixed_labeled) == ({},) + (None,) * 4


@pytest.mark.parametrize(
    ("strategies", "shares", "told"),
    [
        ([MARGIN], [0.5, 0.5], "one share for each of 1 strategies, at least one, got 2"),
        ([], [], "one share for each of 0 strategies"),
        ([MARGIN, BALD], [1.0, 0.0], r"shares above 0, got \[1.0, 0.0\]"),
        ([MARGIN, BALD], [1.0, float("nan")], "shares above 0"),
        ([MARGIN, Switch(MARGIN, BALD, rounds=1)], [1, 1], "inside a mix, got Switch; put the mix inside the switch"),
    ],
)
def test_what_cannot_be_mixed_is_told(strategies, shares, told):
    with pytest.raises(ConfigError, match=told):
        Mix(strategies, shares)


def test_names_are_those_of_the_leaves():
    named = [Random(), Anomaly(), MostLikely(), CoreSet(), Epig(), MARGIN, Candidates(BALD), Stochastic(scores.margin)]
    assert [one.name for one in named] == [
        "random", "anomaly", "most_likely", "core_set", "epig", "margin", "bald", "power_margin",
    ]  # fmt: skip


# -- defect_first ------------------------------------------------------------------------------------------------------

FIRST = DefectFirst(Anomaly(), MostLikely(), MARGIN, few_each=3)
UNUSUAL, LIKELY = Mix([Random(), Anomaly()], [0.5, 0.5]), Mix([MostLikely(), MARGIN], [0.5, 0.5])


@pytest.mark.parametrize(
    ("counts", "defects", "expected"),
    [
        ((), None, UNUSUAL),
        ((0, 0), None, UNUSUAL),
        ((40, 2), None, UNUSUAL),
        ((40, 3), None, LIKELY),
        ((3, 40), None, LIKELY),
        ((40, 19), None, LIKELY),
        ((40, 20), None, MARGIN),
        ((40, 2, 1), (1, 2), LIKELY),
        ((40, 2, 1), None, UNUSUAL),
        ((0, 30, 30), (1, 2), UNUSUAL),  # no good part yet
        ((25, 12, 8), (1, 2), MARGIN),
        ((25, 25, 0), None, MARGIN),  # a third class that nobody has met is no reason to wait
    ],
)
def test_the_rarer_side_decides(counts, defects, expected):
    assert FIRST.at(3, sum(counts), counts, defects) == expected


def test_sides():
    assert sides((5, 1, 2), (1, 2)) == (3, 5)
    assert sides((5, 1, 2), None) == (2, 5)
    assert sides((7,), None) == (0, 7)


def test_it_declares_what_any_of_its_parts_needs():
    assert isinstance(FIRST, Schedule)
    assert FIRST.needs == {"fixed"}
    assert DefectFirst(CoreSet(), MostLikely(), BALD).needs == {"labeled"}
    assert DefectFirst(CoreSet(), MostLikely(), BALD).min_draws == 2


def test_its_parts_may_be_schedules():
    schedule = DefectFirst(Anomaly(), MostLikely(), Switch(MARGIN, ENTROPY, rounds=5))
    assert [schedule.at(round, 99, (50, 49)) for round in (4, 5)] == [MARGIN, ENTROPY]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"few_each": 0}, "few_each of at least 1, got 0"),
        ({"few_each": 3, "few": 2}, "few of at least 3, got 2"),
        ({"share": 1.0}, "share between 0 and 1, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_told(options, told):
    with pytest.raises(ConfigError, match=told):
        replace(FIRST, **options)


# -- configs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["strategy=mix", "strategy@strategy.strategies.first=most_likely", "strategy.shares=[3,1]"], "MostLikely("),
        (["strategy=mix", "+strategy@strategy.strategies.third=margin", "strategy.shares=[0.5,0.25,0.25]"], "margin"),
        (["strategy=defect_first", "strategy@strategy.uncertain=bald", "uncertainty=mc_dropout"], "bald"),
        (["strategy=defect_first", "strategy@strategy.unusual=core_set"], "CoreSet("),
        (["strategy=candidates", "strategy@strategy.strategy=mix"], "Mix("),
    ],
)
def test_its_parts_are_selected_by_config_path(words, part):
    assert part in repr(load(words).parts["strategy"])
    assert part not in repr(load([words[0]]).parts["strategy"])


def test_a_share_for_each_is_asked_for_before_any_data_are_read():
    with pytest.raises(ConfigError, match="one share for each of 2 strategies, at least one, got 1; give as many"):
        load(["strategy=mix", "strategy.shares=[1.0]"])
