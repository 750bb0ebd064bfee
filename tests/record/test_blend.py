"""Maps over images: grey where nothing is found, coloured on one stated scale."""

import numpy as np
import pytest
from PIL import Image

from alframe.record.blend import COLOURS, LEAST, OPAQUE, blend, blended, scale_of


def test_what_is_below_the_scale_stays_the_grey_photo_and_the_rest_glows():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3)).astype(np.uint8))
    values = np.full((16, 24), -3.0)
    values[4, 5], values[8, 9] = 7.0, 2.0
    found = np.asarray(blend(image, values, (0, 4))).astype(float)
    grey = np.asarray(image.convert("L")).astype(float)
    hit = values > 0
    assert (found[~hit] == grey[~hit][:, None]).all()
    assert found[4, 5] == pytest.approx(
        (1 - OPAQUE) * grey[4, 5] + OPAQUE * COLOURS[-1], abs=1
    )  # above is the high end
    alpha = OPAQUE * 0.5**0.75
    assert found[8, 9] == pytest.approx((1 - alpha) * grey[8, 9] + alpha * COLOURS[2], abs=1)


def test_the_colours_grow_lighter_evenly():
    lightness = COLOURS @ [0.299, 0.587, 0.114]
    steps = np.diff(lightness)
    assert steps.min() > 0.5 * steps.max() > 0


def test_the_scale_ends_at_what_nine_of_ten_images_stay_below():
    maps = [np.array([[-1.0, k]]) for k in range(1, 12)]
    assert scale_of(maps) == (0.0, 10.0)
    low, high = scale_of(maps, distances=True)
    assert low == pytest.approx(np.quantile([*[-1] * 11, *range(1, 12)], 0.8))
    assert high == 10.0


def test_noise_does_not_glow_where_nothing_is_found():
    assert scale_of([np.full((2, 2), -1.0)]) == (0.0, LEAST)
    low, high = scale_of([np.ones((2, 2))], distances=True)
    assert high > low == 1.0


def test_a_sheet_has_the_aspect_of_the_images():
    images = np.zeros((2, 1, 20, 40), dtype=np.uint8)
    assert blended(images, np.ones((2, 3, 3)), (0, 1), 128).shape == (2, 3, 64, 128)
