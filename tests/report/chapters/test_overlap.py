"""Jaccard indices against naive counts."""

import math

import numpy as np
import pytest

from alframe.report.chapters.purchases import jaccard, jaccard_by_chance, overlap


def bought_of(answers, kind="query", first_round=1):
    """Ledger lines from (index, label) by round."""
    return [
        {"index": index, "label": label, "kind": kind, "round": first_round + r, "rank": rank}
        for r, asked in enumerate(answers)
        for rank, (index, label) in enumerate(asked)
    ]


def test_overlap_is_the_mean_jaccard_index_over_the_common_seeds():
    sets = {"a": {0: {1, 2, 3}, 1: {4, 5}, 7: {9}}, "b": {0: {2, 3, 4}, 1: {4, 5}}, "c": {2: {1}}}
    bought = {
        name: {seed: bought_of([[(i, 0) for i in images]]) for seed, images in seeds.items()}
        for name, seeds in sets.items()
    }
    found = overlap(bought)
    assert found[0, 1] == found[1, 0] == pytest.approx((2 / 4 + 1) / 2)
    assert np.isnan(found[0, 2])
    assert np.diag(found) == pytest.approx(1)


def test_the_initial_images_do_not_count_as_overlap():
    first = bought_of([[(1, 0), (2, 0)]], kind="initial", first_round=0)
    bought = {"a": {0: first + bought_of([[(3, 0)]])}, "b": {0: first + bought_of([[(4, 0)]])}}
    assert overlap(bought)[0, 1] == 0


def test_jaccard_of_nothing_is_unknown():
    assert math.isnan(jaccard(set(), set()))
    assert jaccard({1}, set()) == 0


def test_overlap_by_chance_is_what_random_draws_have():
    rng = np.random.default_rng(0)
    drawn = [
        jaccard(set(rng.choice(200, 40, replace=False).tolist()), set(rng.choice(200, 60, replace=False).tolist()))
        for _ in range(2000)
    ]
    assert jaccard_by_chance(40, 60, 200) == pytest.approx(np.mean(drawn), rel=0.03)
