from pathlib import Path

import numpy as np
import pytest

from alframe.dataset.shift.imbalance import Imbalance, RareClass, class_sizes
from alframe.errors import ConfigError
from alframe.images import NO_CLASS, ImageSet

HERE = Path()  # a cache that is not used


def pool(counts, extra=0) -> ImageSet:
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(extra, NO_CLASS)])
    labels = np.random.default_rng(0).permutation(labels)
    pixels = np.arange(len(labels), dtype=np.int64).view(np.uint8).reshape(-1, 1, 2, 4)
    return ImageSet(pixels, labels, tuple(f"class {c}" for c in range(len(counts))))


def counts(images: ImageSet) -> list[int]:
    return [int(np.sum(images.labels == c)) for c in range(images.n_classes)]


def test_a_long_tail_has_the_counts_of_the_published_code(tmp_path):
    # Cui et al.: int(n_max * factor ** (c / (C - 1))) with factor = 1 / ratio
    published = [int(5000 * 0.02 ** (c / 9)) for c in range(10)]
    assert counts(Imbalance(ratio=50.0).pool(pool([5000] * 10), tmp_path)) == published
    assert published[-1] == 100


def test_a_step_halves_the_classes_and_gives_an_odd_one_to_the_frequent(tmp_path):
    assert counts(Imbalance(profile="step", ratio=10.0).pool(pool([200] * 4), tmp_path)) == [200, 200, 20, 20]
    assert counts(Imbalance(profile="step", ratio=10.0).pool(pool([200] * 3), tmp_path)) == [200, 200, 20]


def test_unequal_pools_get_the_shares_as_far_as_they_reach(tmp_path):
    assert counts(Imbalance(profile="step", ratio=2.0).pool(pool([100, 30]), tmp_path)) == [60, 30]


def test_the_kept_images_are_in_their_old_order_and_those_without_a_class_stay(tmp_path):
    before = pool([50, 50], extra=7)
    after = Imbalance(ratio=5.0).pool(before, tmp_path)
    numbers = after.pixels.reshape(len(after), -1).view(np.int64)[:, 0]
    assert (np.diff(numbers) > 0).all()
    assert (before.labels[numbers] == after.labels).all()
    assert (after.labels == NO_CLASS).sum() == 7


def test_a_rare_class_has_its_share_and_the_others_keep_their_proportions(tmp_path):
    assert counts(RareClass(share=0.02).pool(pool([980, 200]), tmp_path)) == [980, 20]
    assert counts(RareClass(share=0.2, name="class 0").pool(pool([500, 400, 200]), tmp_path)) == [150, 400, 200]
    assert counts(RareClass(share=0.5).pool(pool([900, 30, 90]), tmp_path)) == [87, 2, 90]
    both = RareClass(share=0.25, name=["class 1", "class 2"])
    assert counts(both.pool(pool([300, 300, 100]), tmp_path)) == [300, 75, 25]


def test_sizes_are_the_largest_that_keep_the_proportions():
    rng = np.random.default_rng(0)
    for _ in range(200):
        have, factors = rng.integers(1, 500, 4), rng.random(4) + 0.01
        sizes = class_sizes(have, factors)
        naive = max(scale for scale in np.concatenate([have / factors]) if (scale * factors <= have + 1e-6).all())
        assert (sizes <= have).all()
        assert np.abs(sizes - naive * factors).max() <= 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Imbalance(ratio=0.02), "shift.ratio of at least 1 .*, got 0.02; write its reciprocal, 50"),
        (lambda: Imbalance(ratio=-1.0), "shift.ratio of at least 1"),
        (lambda: RareClass(share=0.0), "shift.share between 0 and 1"),
        (lambda: RareClass(name="clas 1").pool(pool([9, 9]), HERE), "did you mean 'class 1'"),
        (lambda: RareClass(name="zebra").pool(pool([9, 9]), HERE), "the classes are class 0, class 1"),
        (lambda: RareClass(share=0.01).pool(pool([9, 9]), HERE), "none of class 1 with shift.share=0.01"),
        (lambda: Imbalance(ratio=100.0).pool(pool([9, 9]), HERE), "none of class 1 with shift.ratio=100.0"),
        (lambda: RareClass().pool(pool([9]), HERE), "images of class 0 and of other classes"),
    ],
)
def test_a_mistake_is_one_line(make, told):
    with pytest.raises(ConfigError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)
