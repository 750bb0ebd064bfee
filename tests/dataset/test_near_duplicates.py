"""Planted copies are found, look-alikes are not; the search agrees with one that compares every pair."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from alframe.dataset import near_duplicates
from alframe.dataset.defects import Defects
from alframe.dataset.near_duplicates import closest, duplicates_of, find_duplicates, thumbnails
from alframe.images import Data, ImageSet


def photos(n: int, seed: int = 0, size: int = 48, channels: int = 3) -> np.ndarray:
    """Smooth random pictures, each its own."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, channels, 6, 6), dtype=np.uint8)
    large = torch.nn.functional.interpolate(torch.from_numpy(small).float(), (size, size), mode="bicubic")
    return large.clamp(0, 255).byte().numpy()


def data(pool: np.ndarray, test: np.ndarray, names: bool = False) -> Data:
    def images(pixels: np.ndarray, what: str) -> ImageSet:
        told = tuple(f"{what}/{i}.png" for i in range(len(pixels))) if names else None
        return ImageSet(pixels, np.zeros(len(pixels), dtype=np.int64), ("a", "b"), names=told)

    return Data("photos", images(pool, "pool"), images(test, "test"))


def jpeg(image: np.ndarray) -> np.ndarray:
    encoded = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(encoded, "JPEG", quality=70)
    return np.asarray(Image.open(io.BytesIO(encoded.getvalue()))).transpose(2, 0, 1)


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.7 + 10).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.mean(axis=0, keepdims=True).astype(np.uint8), 3, axis=0)


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [jpeg, darker, grey, noisy])
def test_a_changed_copy_is_found_with_its_original(change):
    pool, test = photos(300), photos(40, seed=1)
    test[7], test[23] = change(pool[100]), change(pool[299])
    found = find_duplicates(data(pool, test, names=True))
    assert (found.exact, found.near, found.looked_at) == (0, 2, 40)
    assert {(t, p) for t, p, _ in found.examples} == {("test/7.png", "pool/100.png"), ("test/23.png", "pool/299.png")}
    assert "0 test images have an exact copy in the pool, and 2 a near copy (test and pool image" in str(found)


def test_pixel_by_pixel_is_told_apart_from_nearly():
    pool, test = photos(50), photos(20, seed=1)
    test[0], test[1] = pool[3], jpeg(pool[4])
    found = find_duplicates(data(pool, test))
    assert (found.exact, found.near) == (1, 1)
    assert found.examples[0][:2] == ("index 1", "index 4")


@pytest.mark.parametrize("size", [32, 64])
def test_drawn_surfaces_look_alike_and_are_nobodys_copy(size, tmp_path):
    found = find_duplicates(Defects(pool_size=1500, test_size=600, size=size).load(tmp_path))
    assert (found.exact, found.near) == (0, 0)


def test_a_defect_on_the_same_surface_is_a_near_duplicate():
    """The same part photographed again with a scratch: its pool copy tells what the test image looks like."""
    pool, test = photos(200), photos(10, seed=1)
    test[5] = pool[50]
    test[5, :, 20:22, 10:30] = 255
    assert find_duplicates(data(pool, test)).examples[0][:2] == ("index 5", "index 50")


def test_plain_and_blank_images_are_not_all_equal():
    rng = np.random.default_rng(0)
    flat = (rng.integers(60, 200, (120, 1, 1, 1)) + rng.integers(0, 3, (120, 3, 40, 40))).astype(np.uint8)
    found = find_duplicates(data(flat[:100], flat[100:]))
    assert (found.exact, found.near) == (0, 0)
    blank = np.full((30, 3, 40, 40), 90, dtype=np.uint8)
    assert find_duplicates(data(blank, blank[:5])).exact == 5


def test_a_shape_that_all_images_share_is_no_copy():
    """Digits and clothes: one outline on black, drawn a little differently each time."""
    outline = np.zeros((28, 28))
    outline[4:24, 12:16] = 200
    rng = np.random.default_rng(0)
    drawn = [
        np.roll(outline, rng.integers(-1, 2), 1) * rng.uniform(0.8, 1) + rng.uniform(0, 40, (28, 28))
        for _ in range(220)
    ]
    pixels = np.stack(drawn)[:, None].astype(np.uint8)
    assert find_duplicates(data(pixels[:200], pixels[200:])).near == 0


def test_a_copy_is_found_though_the_pool_has_a_few_of_it():
    pool, test = photos(100), photos(5, seed=1)
    pool[10], pool[20] = jpeg(pool[30]), darker(pool[30])
    test[2] = noisy(pool[30])
    assert find_duplicates(data(pool, test)).near == 1


def naive(test: torch.Tensor, pool: torch.Tensor) -> list[float]:
    """Every pair, in float64, an image at a time."""
    found = []
    for t in test.double():
        coarse = lambda x: x.view(8, 4, 8, 4).mean(dim=(1, 3)).flatten()  # noqa: E731
        correlations = [float(torch.corrcoef(torch.stack([coarse(t), coarse(p)]))[0, 1]) for p in pool.double()]
        nearest = sorted(range(len(pool)), key=lambda i: -correlations[i])[:10]
        scaled = lambda x: (x - x.mean()) / (x - x.mean()).abs().mean()  # noqa: E731
        apart = [float((scaled(t) - scaled(pool[i].double())).abs().mean()) for i in nearest]
        usual = sorted(apart)[(len(apart) - 1) // 2]
        copy = min(apart) <= 0.03 or (min(apart) <= 0.25 and min(apart) <= 0.3 * usual)
        found.append(min(apart) if correlations[nearest[0]] >= 0.97 and copy else float("inf"))
    return found


def test_the_search_agrees_with_every_pair_compared():
    pool, test = photos(80), photos(30, seed=1)
    for i in range(10):
        test[i] = [jpeg, darker, grey, noisy][i % 4](pool[7 * i])
    test[10:14] = (pool[10:14] * 0.5 + test[10:14] * 0.5).astype(np.uint8)  # half a copy
    small, large = thumbnails(test), thumbnails(pool)
    distance, at = closest(small, large)
    assert distance.tolist() == pytest.approx(naive(small, large), rel=1e-3)
    assert at[:10].tolist() == [7 * i for i in range(10)]


@pytest.mark.parametrize(("size", "channels"), [(20, 1), (28, 3), (32, 1), (100, 3)])
def test_thumbnails_are_grey_means(size, channels):
    pixels = photos(4, size=size, channels=channels)
    small = thumbnails(pixels).view(4, 32, 32)
    for row, column in ((0, 0), (5, 17), (31, 31)):
        below = (
            slice(row * size // 32, -(-(row + 1) * size // 32)),
            slice(column * size // 32, -(-(column + 1) * size // 32)),
        )
        expected = pixels[2].astype(float)[:, below[0], below[1]].mean()
        assert float(small[2, row, column]) == pytest.approx(expected, abs=0.51)


def test_found_once_and_kept_by_the_content(tmp_path, monkeypatch):
    pool, test = photos(40), photos(10, seed=1)
    test[0] = jpeg(pool[5])
    first = duplicates_of(data(pool, test), tmp_path)
    monkeypatch.setattr(near_duplicates, "find_duplicates", lambda _: pytest.fail("searched again"))
    assert duplicates_of(data(pool, test), tmp_path) == first
    monkeypatch.undo()
    assert duplicates_of(data(pool, photos(10, seed=1)), tmp_path).near == 0
    for file in tmp_path.glob("near_duplicates-*.json"):
        file.write_text("{torn")
    assert duplicates_of(data(pool, test), tmp_path) == first


def test_features_are_not_searched(tmp_path):
    features = ImageSet(np.zeros((5, 3), dtype=np.float32), np.zeros(5, dtype=np.int64), ("a", "b"))
    assert duplicates_of(Data("features", features, features), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_too_many_pairs_look_at_a_part_of_the_test_images(monkeypatch):
    pool, test = photos(40), photos(20, seed=1)
    test[0], test[1] = jpeg(pool[3]), jpeg(pool[4])
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 400)
    found = find_duplicates(data(pool, test))
    assert (found.looked_at, found.near) == (10, 1)


def test_a_pool_of_one_image_is_compared():
    pool, test = photos(1), photos(3, seed=1)
    test[1] = darker(pool[0])
    assert find_duplicates(data(pool, test)).near == 1
