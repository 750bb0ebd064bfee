import numpy as np
import pytest

from alframe.budget import Budget, draw_initial
from alframe.errors import ConfigError, PoolError
from alframe.rng import generator

LABELS = np.array([0] * 80 + [1] * 15 + [2] * 5)


def initial(how: str, size: int = 20, seed: int = 0) -> np.ndarray:
    return draw_initial(LABELS, np.arange(100), size, how, 3, generator(seed, 0, "initial"))


def lines(*values: float, key: str = "validation/accuracy") -> list[dict]:
    return [{"round": i, "labels": 10 * i, key: value, "fit_s": 10.0} for i, value in enumerate(values)]


@pytest.mark.parametrize("how", ["random", "balanced", "stratified"])
def test_the_initial_set_is_distinct_seeded_and_of_its_size(how):
    chosen = initial(how)
    assert len(set(chosen.tolist())) == 20
    assert np.array_equal(chosen, initial(how))
    assert not np.array_equal(chosen, initial(how, seed=1))


def test_a_balanced_initial_set_is_as_equal_as_the_classes_allow():
    assert np.bincount(LABELS[initial("balanced", 21)]).tolist() == [8, 8, 5]
    assert np.bincount(LABELS[initial("balanced", 12)]).tolist() == [4, 4, 4]


def test_a_stratified_initial_set_keeps_the_shares_of_the_classes():
    assert np.bincount(LABELS[initial("stratified", 20)]).tolist() == [16, 3, 1]


def test_unknown_labels_can_only_be_drawn_at_random():
    unknown = np.full(10, -1)
    assert len(draw_initial(unknown, np.arange(10), 4, "random", 2, generator(0, 0, "initial"))) == 4
    with pytest.raises(PoolError, match="budget.initial_set=random"):
        draw_initial(unknown, np.arange(10), 4, "balanced", 2, generator(0, 0, "initial"))


def test_query_sizes_are_fixed_geometric_or_listed():
    assert [Budget(query_size=10).size(r) for r in range(3)] == [10, 10, 10]
    assert [Budget(query_size=10, growth=2.0).size(r) for r in range(4)] == [10, 20, 40, 80]
    assert [Budget(query_size=[5, 50, 7], rounds=3).size(r) for r in range(3)] == [5, 50, 7]


def test_a_number_of_validation_images_is_drawn_once_with_the_initial_ones():
    free = Budget(initial=20, query_size=10, rounds=2, validation=1024, count_validation=False)
    assert free.split(20, initial=True) == (20, 1024)
    assert free.split(10) == (10, 0)
    assert free.n_images(9999) == 1064
    assert Budget(initial=50, validation=10).split(50, initial=True) == (40, 10)
    everything = Budget(initial="all", rounds=0, validation=100, count_validation=False)
    assert everything.initial_size(1000) == 900
    assert everything.n_images(1000) == 1000


def test_validation_counts_as_bought_unless_told_otherwise():
    assert Budget(validation=0.2).split(10) == (8, 2)
    assert Budget(validation=0.2, count_validation=False).split(10) == (10, 2)
    assert Budget(initial=100, query_size=10, rounds=5, validation=0.2).n_images(999) == 150
    assert Budget(initial=100, query_size=10, rounds=5, validation=0.2, count_validation=False).n_images(999) == 180


def test_all_buys_the_whole_pool_and_leaves_nothing_to_ask():
    budget = Budget(initial="all", rounds=0)
    assert budget.initial_size(70) == budget.n_images(70) == 70
    budget.check(70)
    free = Budget(initial="all", rounds=0, validation=0.4, count_validation=False)
    assert free.n_images(70) <= 70
    with pytest.raises(ConfigError, match="budget.rounds=0"):
        Budget(initial="all", rounds=1)


def test_a_budget_larger_than_the_pool_is_refused_with_both_numbers():
    Budget(initial=100, query_size=10, rounds=5).check(150)
    with pytest.raises(PoolError, match=r"149 images, got 150"):
        Budget(initial=100, query_size=10, rounds=5).check(149)


@pytest.mark.parametrize(
    "options",
    [
        {"initial": -1},
        {"query_size": 0},
        {"query_size": []},
        {"query_size": [1, 2], "rounds": 3},
        {"growth": 0.0},
        {"validation": 1.0},
        {"validation": 2.5},
        {"validation": 100},
        {"initial": 20, "validation": 20},
        {"rounds": -1},
        {"stop_at": 0.9},
        {"plateau": 2},
        {"plateau": 0, "validation": 0.2},
        {"max_hours": 0.0},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=r"Expected .*budget|Expected one size for each"):
        Budget(**options)


def test_the_budget_is_spent_after_the_last_round():
    budget = Budget(rounds=2)
    assert budget.stop_reason(lines(0.1, 0.2)) is None
    assert budget.stop_reason(lines(0.1, 0.2, 0.3)) == "budget spent"


def test_reaching_the_value_stops():
    budget = Budget(rounds=9, validation=0.2, stop_at=0.9)
    assert budget.stop_reason(lines(0.95, 0.89)) is None
    assert "reached 0.9" in budget.stop_reason(lines(0.5, 0.9))


def test_a_plateau_stops_and_an_improvement_does_not():
    budget = Budget(rounds=9, validation=0.2, plateau=2, min_improvement=0.01)
    assert budget.stop_reason(lines(0.5, 0.6)) is None
    assert budget.stop_reason(lines(0.5, 0.6, 0.7)) is None
    assert budget.stop_reason(lines(0.5, 0.6, 0.605)) is None
    assert "plateau" in budget.stop_reason(lines(0.5, 0.6, 0.605, 0.6))


def test_the_clock_stops():
    assert Budget(rounds=9, max_hours=0.01).stop_reason(lines(0.1, 0.2, 0.3, 0.4)) == "0.01 hours used"
    assert Budget(rounds=9, max_hours=0.01).stop_reason(lines(0.1, 0.2, 0.3)) is None
