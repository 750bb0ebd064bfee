import numpy as np
import pytest

from alframe.dataset.shift import base
from alframe.dataset.shift.duplicates import Duplicates
from alframe.errors import ConfigError
from alframe.images import ImageSet


def grey(n=40, channels=1, low=100, high=156) -> ImageSet:
    """Far from black and white, where noise would be cut off."""
    pixels = np.random.default_rng(0).integers(low, high, (n, channels, 16, 16)).astype(np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, ("a", "b"))


def test_copies_without_noise_are_exact_and_in_order(tmp_path):
    pool = grey()
    repeated = Duplicates(copies=3, noise=0.0).pool(pool, tmp_path)
    np.testing.assert_array_equal(repeated.pixels, np.concatenate([pool.pixels] * 3))
    np.testing.assert_array_equal(repeated.labels, np.concatenate([pool.labels] * 3))
    assert repeated.ids[0].rsplit("-")[0] == repeated.ids[40].rsplit("-")[0]
    assert len(set(repeated.ids)) == 120


def test_noise_is_in_deviations_of_the_channel_and_on_every_copy(tmp_path):
    pool = grey(200, channels=3)
    pool.pixels[:, 1] = 90 + pool.pixels[:, 1] % 76  # another deviation
    repeated = Duplicates(copies=2, noise=0.2).pool(pool, tmp_path)
    deviation = pool.pixels.astype(float).std(axis=(0, 2, 3))
    added = repeated.pixels.astype(float) - np.concatenate([pool.pixels] * 2)
    for copy in np.split(added, 2):
        assert np.abs(copy.mean()) < 0.05
        # rounding adds 1/12 to the variance
        np.testing.assert_allclose(copy.std(axis=(0, 2, 3)), np.sqrt((0.2 * deviation) ** 2 + 1 / 12), rtol=0.02)
    assert np.abs(np.corrcoef(added[:200].ravel(), added[200:].ravel())[0, 1]) < 0.02


def test_noise_is_cut_off_at_black(tmp_path):
    dark = ImageSet(np.zeros((20, 1, 8, 8), np.uint8), np.zeros(20, np.int64), ("a",))
    dark.pixels[:, :, 4] = 255
    repeated = Duplicates(copies=1, noise=0.1).pool(dark, tmp_path)
    ground = repeated.pixels[:, :, :4]
    assert 0.4 < (ground == 0).mean() < 0.6
    assert ground.max() < 80


def test_many_pixels_are_mapped_from_the_cache_and_are_the_same(tmp_path, monkeypatch):
    pool, made = grey(), Duplicates()
    small = made.pool(pool, tmp_path)
    monkeypatch.setattr(base, "IN_MEMORY_BYTES", 100)
    large = made.pool(pool, tmp_path)
    assert isinstance(large.pixels, np.memmap)
    assert not isinstance(small.pixels, np.memmap)
    assert large.content_hash == small.content_hash
    other = made.pool(grey(high=150), tmp_path)
    assert other.content_hash != large.content_hash  # another pool has another folder
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize(
    ("options", "told"), [({"copies": 0}, "shift.copies of at least 1"), ({"noise": -0.1}, "shift.noise of at least 0")]
)
def test_a_mistake_is_one_line(options, told):
    with pytest.raises(ConfigError, match=told):
        Duplicates(**options)
