"""Features of tiles and of mirrored images, against loops that cut, turn and resize one image at a time."""

from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError
from alframe.images import FixedAugmentation, ImageSet, by_arrival
from alframe.model.embedder import VIEWS, Box, Embedder, spans
from alframe.model.frozen import Frozen

CPU = torch.device("cpu")


def make_images(n: int = 5, channels: int = 1, side: int = 40) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, channels, side, side + 8), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, ("good", "bad"))


def resnet(weights: str, **options) -> Frozen:
    return Frozen(**{"trunk": "resnet18", "weights": weights, "input_size": 32, "batch_size": 2, **options})


def cached(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir() if path.suffix in (".npy", ".json")}


def rotations(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]


NAIVE = {
    "none": lambda x: [x],
    "flips": lambda x: [x, x.flip(3), x.flip(2), torch.rot90(x, 2, (2, 3))],
    "turns": rotations,
}


def naive(trunk, pixels: np.ndarray, boxes, size, average_over: str) -> np.ndarray:
    rows = []
    for image in torch.from_numpy(pixels).float():
        of_tiles = []
        for top, left, h, w in boxes:
            x = image[None, :, top : top + h, left : left + w]
            x = x if size is None else F.interpolate(x, size=size, mode="bilinear", antialias=True)
            with torch.no_grad():
                of_tiles.append(
                    np.mean([trunk(y.repeat(1, 3, 1, 1))[0].numpy() for y in NAIVE[average_over](x)], axis=0)
                )
        rows.append(np.max(of_tiles, axis=0))
    return np.stack(rows)


@pytest.mark.parametrize("average_over", [*NAIVE])
@pytest.mark.parametrize(
    ("tiles", "size", "boxes"),
    [
        (None, 32, [(0, 0, 88, 96)]),
        ([1, 1], [40, 40], [(0, 0, 88, 96)]),
        (2, 32, [(0, 0, 51, 55), (0, 41, 51, 55), (37, 0, 51, 55), (37, 41, 51, 55)]),
        ([1, 2], [32, 48], [(0, 0, 88, 55), (0, 41, 88, 55)]),
        ([2, 1], None, [(0, 0, 51, 96), (37, 0, 51, 96)]),
    ],
)
def test_features_are_the_largest_over_tiles_of_the_mean_over_views(
    weights, tmp_path, tiles, size, boxes, average_over
):
    images = make_images(n=3, side=88)
    if average_over == "turns" and size in (None, [32, 48]):
        with pytest.raises(ConfigError, match=r"square input of the trunk for model\.average_over=turns"):
            resnet(weights, tiles=tiles, input_size=size, average_over=average_over).prepare(images, tmp_path, CPU)
        return
    frozen = resnet(weights, tiles=tiles, input_size=size, average_over=average_over)
    expected = naive(frozen.embedder().trunk, images.pixels, boxes, frozen.size, average_over)
    np.testing.assert_allclose(frozen.prepare(images, tmp_path, CPU).pixels, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="the extra efficientnet-lite0 is not installed"
)
def test_tiles_and_turns_of_the_layers_of_lite0(tmp_path):
    images = make_images(n=1, channels=3, side=72)
    square = replace(images, pixels=np.ascontiguousarray(images.pixels[..., :72]))
    frozen = Frozen(tiles=2, input_size=None, average_over="turns", pooling="layers")
    boxes = [(top, left, 42, 42) for top in (0, 30) for left in (0, 30)]

    def one(x):  # three channels already
        return frozen.embedder().trunk(x[:, :3])

    expected = naive(one, square.pixels, boxes, None, "turns")
    found = frozen.prepare(square, tmp_path, CPU).pixels
    assert found.shape == (1, 2224)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("length", [32, 97, 512, 1001])
def test_tiles_cover_the_image_and_neighbours_share_a_quarter(length, n):
    starts, piece = spans(length, n)
    assert (starts[0], starts[-1] + piece) == (0, length)
    shared = [before + piece - after for before, after in pairwise(starts)]
    assert all(abs(overlap - piece / 4) <= 2 for overlap in shared)
    assert n > 1 or piece == length


def test_boxes_are_row_by_row():
    embedder = Embedder(torch.nn.Identity(), None, (2, 3))
    assert embedder.boxes(70, 100)[:4] == [
        Box(0, 0, 40, 40),
        Box(0, 30, 40, 40),
        Box(0, 60, 40, 40),
        Box(30, 0, 40, 40),
    ]
    assert embedder.n_passes == 6


def test_views_are_all_different_and_undone():
    x = torch.arange(12).view(1, 3, 4)
    for views in VIEWS.values():
        assert len({str(view(x).tolist()) for view in views}) == len(views)
        for view in views:
            assert torch.equal(view.undo(view(x)), x)


@pytest.mark.parametrize("average_over", ["flips", "turns"])
def test_a_mirrored_image_has_the_same_averaged_features(weights, tmp_path, average_over):
    images = make_images(n=2, side=64)
    frozen = resnet(weights, average_over=average_over)
    plain = frozen.prepare(images, tmp_path, CPU).pixels
    turned = [images.pixels[..., ::-1], images.pixels[..., ::-1, :]]
    turned += [images.pixels.swapaxes(2, 3)] if average_over == "turns" else []
    for pixels in turned:
        of_turned = frozen.prepare(replace(images, pixels=np.ascontiguousarray(pixels)), tmp_path, CPU).pixels
        np.testing.assert_allclose(of_turned, plain, rtol=1e-4, atol=1e-4)


def test_augmented_images_are_cut_after_the_augmentation(weights, tmp_path):
    images, augment = make_images(side=64), Augmentation(crop=2)
    view = FixedAugmentation(augment, augment.draw(1, torch.Generator().manual_seed(0))[0])
    frozen = resnet(weights, tiles=2, average_over="flips")
    transformed = replace(images, pixels=view(torch.from_numpy(images.pixels)).numpy())
    expected = frozen.prepare(transformed, tmp_path / "other", CPU).pixels
    np.testing.assert_array_equal(frozen.prepare(images, tmp_path, CPU, view).pixels, expected)


def test_no_more_tiles_than_a_batch_go_through_the_trunk_at_once(weights):
    passed = []

    class Counted(torch.nn.Module):
        def forward(self, x):
            passed.append(len(x))
            return x.mean((2, 3))

    features = Embedder(Counted(), (32, 32), (2, 3), VIEWS["flips"])(torch.zeros(5, 1, 80, 80))
    assert passed == [5] * 24
    assert features.shape == (5, 3)


def test_one_tile_and_no_view_have_the_file_of_before(weights, tmp_path):
    resnet(weights).prepare(make_images(side=64), tmp_path, CPU)
    before = cached(tmp_path)
    resnet(weights, tiles=1, average_over="none").prepare(make_images(side=64), tmp_path, CPU)
    assert cached(tmp_path) == before
    for options in ({"tiles": 2}, {"tiles": [1, 2]}, {"average_over": "flips"}, {"average_over": "turns"}):
        resnet(weights, **options).prepare(make_images(side=64), tmp_path, CPU)
    assert len(cached(tmp_path)) == 5 * len(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiles": 0}, r"model\.tiles to be a number of at least 1"),
        ({"tiles": [2]}, r"model\.tiles"),
        ({"tiles": [2, 0]}, r"model\.tiles"),
        ({"tiles": 2, "freeze_until": 3}, r"model\.tiles=null and model\.average_over=none with model\.freeze_until"),
        ({"average_over": "flips", "freeze_until": 0}, r"got None and flips; set model\.freeze_until=null"),
        ({"average_over": "turns", "input_size": [32, 48]}, r"got \(32, 48\) pixels; use flips"),
    ],
)
def test_tiles_and_views_that_cannot_be_are_errors_before_any_image_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        Frozen(**options)


def test_tiles_of_a_few_pixels_are_an_error(weights, tmp_path):
    with pytest.raises(
        ConfigError, match=r"at least 32 x 32 pixels, got 16 x 20 from images of 40 x 48 with model\.tiles=\[3, "
    ):
        resnet(weights, tiles=[3, 3]).prepare(make_images(), tmp_path, CPU)


def nothing_is_computed(monkeypatch) -> None:
    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(Frozen, "_compute", fail)


def test_other_labels_and_class_names_keep_the_features_and_other_pixels_do_not(weights, tmp_path, monkeypatch):
    images, frozen = make_images(), resnet(weights)
    features = frozen.prepare(images, tmp_path, CPU).pixels
    changed = replace(images, labels=1 - images.labels, classes=("ok", "scratched", "new"), names=None, groups=None)
    other = images.pixels.copy()
    other[0, 0, 0, 0] ^= 1
    assert changed.content_hash != images.content_hash
    nothing_is_computed(monkeypatch)
    again = frozen.prepare(changed, tmp_path, CPU)
    np.testing.assert_array_equal(again.pixels, features)
    assert again.classes == changed.classes
    for pixels in (other, images.pixels[::-1], images.pixels.reshape(5, 1, 48, 40)):
        with pytest.raises(AssertionError, match="computed again"):
            frozen.prepare(replace(images, pixels=np.ascontiguousarray(pixels)), tmp_path, CPU)


def test_features_of_earlier_arrivals_are_kept_when_they_are_relabelled(weights, tmp_path, monkeypatch):
    images, frozen = make_images(n=6), resnet(weights)
    first = by_arrival(images.rows(0, 4), (4,), lambda some: frozen.prepare(some, tmp_path, CPU))
    grown = replace(images, labels=np.full(6, -1), classes=("a", "b", "c"))
    whole = by_arrival(grown, (4, 6), lambda some: frozen.prepare(some, tmp_path, CPU))
    assert len(list(tmp_path.glob("*.npy"))) == 2
    np.testing.assert_array_equal(whole.pixels[:4], first.pixels)
    nothing_is_computed(monkeypatch)
    by_arrival(grown, (4, 6), lambda some: frozen.prepare(some, tmp_path, CPU))
