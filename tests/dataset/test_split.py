"""Splits: fixed by their seed, in proportion, nothing lost."""

import numpy as np
import pytest

from alframe.dataset.elpv import Elpv
from alframe.dataset.split import stratified_split, subsample
from alframe.errors import ConfigError
from alframe.images import ImageSet

STRATA = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 7], [600, 300, 90, 10]))


def image_set(labels: np.ndarray) -> ImageSet:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return ImageSet(pixels, labels.astype(np.int64), tuple("abcdefgh"))


def test_a_split_covers_everything_once():
    rest, part = stratified_split(STRATA, 0.25, 0)
    assert sorted([*rest, *part]) == list(range(1000))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.333, 0.5, 0.9])
def test_each_stratum_is_in_proportion(share):
    _, part = stratified_split(STRATA, share, 0)
    assert len(part) == round(share * 1000)
    for stratum, n in zip(*np.unique(STRATA, return_counts=True), strict=True):
        assert abs((STRATA[part] == stratum).sum() - share * n) <= 1


def test_small_strata_are_in_both_and_single_images_in_the_rest():
    strata = np.array([0] * 100 + [1] * 2 + [2])
    rest, part = stratified_split(strata, 0.1, 0)
    assert len(part) == 10
    assert set(strata[rest]) == {0, 1, 2}
    assert set(strata[part]) == {0, 1}


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_side_is_ever_empty(share):
    rest, part = stratified_split(np.array([0, 0, 0, 1, 1]), share, 0)
    assert len(rest) >= 1
    assert len(part) >= 1
    assert len(rest) + len(part) == 5


def test_a_part_larger_than_proportion_allows_still_has_the_asked_size():
    strata = np.arange(10)  # every stratum has one image, which would rather stay in the rest
    _, part = stratified_split(strata, 0.4, 0)
    assert len(part) == 4


def test_the_seed_alone_decides():
    assert all(map(np.array_equal, stratified_split(STRATA, 0.25, 1), stratified_split(STRATA, 0.25, 1)))
    assert not np.array_equal(stratified_split(STRATA, 0.25, 1)[1], stratified_split(STRATA, 0.25, 2)[1])


def test_within_a_stratum_every_image_is_as_likely():
    counts = np.zeros(40)
    for seed in range(400):
        counts[stratified_split(np.repeat([0, 1], 20), 0.25, seed)[1]] += 1
    assert counts.sum() == 4000
    assert counts.min() > 60  # 100 expected, deviation 8.7
    assert counts.max() < 140


@pytest.mark.parametrize("n", [1, 3, 4, 50, 999, 1000])
def test_a_subsample_has_its_size_and_all_strata_it_has_room_for(n):
    chosen = subsample(STRATA, n, 0)
    assert len(set(chosen)) == n
    assert len(set(STRATA[chosen])) == min(n, 4)


def test_dividing_keeps_so_many_images_of_each_side():
    images = image_set(np.arange(200) % 4)
    pool, test = Elpv(pool_size=40, test_size=12).divide(images, images.labels, 0.5)
    assert (len(pool), len(test)) == (40, 12)
    assert np.bincount(pool.labels)[:4].tolist() == [10] * 4
    assert not set(pool.pixels[:, 0, 0, 0]) & set(test.pixels[:, 0, 0, 0])


def test_the_test_images_do_not_depend_on_the_size_of_the_pool():
    images = image_set(np.arange(200) % 4)
    few = Elpv(pool_size=40).divide(images, images.labels, 0.5)[1]
    all_ = Elpv().divide(images, images.labels, 0.5)[1]
    assert few.ids == all_.ids


def test_more_images_than_there_are_is_an_error_that_names_the_option():
    images = image_set(np.arange(20) % 4)
    with pytest.raises(ConfigError, match=r"dataset.pool_size of at most 20 .*got 21"):
        Elpv(pool_size=21).limit(images, images)


@pytest.mark.parametrize(
    "sizes", [{"size": 0}, {"test_share": 0.0}, {"test_share": 1.0}, {"pool_size": 0}, {"test_size": -1}]
)
def test_sizes_out_of_range_are_refused_by_name(sizes):
    with pytest.raises(ConfigError, match=f"dataset.{next(iter(sizes))}"):
        Elpv(**sizes)
