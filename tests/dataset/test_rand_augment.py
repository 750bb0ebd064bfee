"""RandAugment: each operation against Pillow's or torchvision's, for each sample by itself, by the generator alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2.functional import InterpolationMode, affine

from alframe.dataset.augment import Augmentation
from alframe.dataset.rand_augment import MOVES, OPERATIONS, TONES, RandAugment, _cut, _operate
from alframe.errors import ConfigError

OF_PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(0.05 + 0.9 * s),
    "colour": lambda image, s: ImageEnhance.Color(image).enhance(0.05 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(0.05 + 0.9 * s),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "posterize": lambda image, s: ImageOps.posterize(image, 4 + int(4 * s)),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(0.05 + 0.9 * s),
    "solarize": lambda image, s: ImageOps.solarize(image, 256 - int(256 * s)),
}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 24, c: int = 3, h: int = 20, w: int = 26) -> torch.Tensor:
    """Smooth images with noise, of different brightness and range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w] / h
    tilt = rng.uniform(-1, 1, (n, c, 2))
    waves = tilt[..., :1, None] * y + tilt[..., 1:, None] * x + rng.normal(0, 0.05, (n, c, h, w))
    low, high = rng.integers(0, 90, (n, 1, 1, 1)), rng.integers(120, 256, (n, 1, 1, 1))
    unit = (waves - waves.min(axis=(1, 2, 3), keepdims=True)) / np.ptp(waves, axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy((low + unit * (high - low)).astype(np.uint8))


def one(name: str, images: torch.Tensor, strength: float, sign: float = 1.0) -> torch.Tensor:
    n = len(images)
    number = torch.full((n,), OPERATIONS.index(name))
    return _operate(images.float(), number, torch.full((n,), strength), torch.full((n,), sign)).to(torch.uint8)


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("name", TONES)
def test_tones_are_those_of_pillow(name, strength):
    images = batch()
    ours = one(name, images, strength).numpy().astype(int)
    for before, after in zip(images.numpy(), ours, strict=True):
        theirs = np.asarray(OF_PILLOW[name](Image.fromarray(before.transpose(1, 2, 0)), strength)).astype(int)
        assert (
            np.abs(after.transpose(1, 2, 0) - theirs).max() <= 2
        )  # Pillow cuts fractions off twice, where here is rounded


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_the_affine_ones_of_torchvision(name, strength, sign):
    images = batch(h=26)
    amount = strength * sign
    ours = one(name, images, strength, sign)
    told = {
        "rotate": {"angle": -30 * amount},
        "translate_x": {"translate": [-int(0.3 * amount * 26), 0]},
        "translate_y": {"translate": [0, -int(0.3 * amount * 26)]},
    }.get(name)
    if told is not None:
        given = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | told
        theirs = affine(images, interpolation=InterpolationMode.NEAREST, **given)
        assert (ours == theirs).float().mean() > 0.98  # a pixel between two may go to either
        return
    expected = torch.zeros_like(images)
    middle = 12.5
    for row in range(26):
        for column in range(26):
            x = column + (0.3 * amount * (row - middle) if name == "shear_x" else 0)
            y = row + (0.3 * amount * (column - middle) if name == "shear_y" else 0)
            x, y = round(x), round(y)
            if 0 <= x < 26 and 0 <= y < 26:
                expected[:, :, row, column] = images[:, :, y, x]
    assert (ours == expected).float().mean() > 0.98


def test_a_cut_is_a_grey_square_and_may_lie_partly_outside():
    images = torch.zeros(2, 1, 10, 12)
    cut = _cut(images, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), 0.4)
    assert cut.unique().tolist() == [0.0, 127.0]
    assert (cut != 0).sum(dim=(1, 2, 3)).tolist() == [16, 4]
    assert (cut[0, 0, 3:7, 4:8] == 127).all()


def test_every_sample_has_draws_of_its_own_and_the_generator_alone_decides():
    same = batch(1).expand(64, -1, -1, -1)
    augment = RandAugment()
    out = augment(same, stream(3))
    assert out.dtype == torch.uint8
    assert out.shape == same.shape
    assert len({sample.numpy().tobytes() for sample in out}) > 60
    assert torch.equal(out, augment(same, stream(3)))
    assert torch.equal(out[5:6], augment.apply(same[:1], augment.draw(64, stream(3))[5:6]))


def test_about_half_of_the_samples_get_nothing_but_flips_and_shifts():
    images = batch(2000)
    draws = RandAugment(operations=1, cutout=0.0).draw(2000, stream())
    plain = Augmentation(crop=4).apply(images, draws[:, :5])
    same = (RandAugment(operations=1, cutout=0.0).apply(images, draws) == plain).flatten(1).all(dim=1)
    assert 0.5 < same.float().mean() < 0.65  # and one in 14 of the others, the identity; some operations change little


def test_magnitude_is_the_range_of_strengths():
    images = batch(400)
    weak, strong = (RandAugment(operations=1, magnitude=m, cutout=0.0) for m in (2, 10))
    draws = weak.draw(400, stream())
    draws[:, 7] = (OPERATIONS.index("translate_x") + 0.5) / len(OPERATIONS)
    draws[:, 8] = 0.0
    draws[:, :5] = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.5])  # no flip, no shift
    distances = []
    for augment in (weak, strong):
        black = (augment.apply(images.clamp_min(1), draws) == 0).all(dim=1).all(dim=1).sum(dim=1)
        distances.append(black.unique().tolist())
    assert distances[0] == [0]  # 0.03 of 26 pixels
    assert distances[1] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_grey_images_keep_their_one_channel():
    assert RandAugment()(batch(c=1), stream()).shape == (24, 1, 20, 26)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"operations": 0}, "operations of at least 1, got 0"),
        ({"magnitude": 11}, "magnitude from 1 to 10, got 11"),
        ({"cutout": 1.5}, "cutout from 0 to 1, got 1.5"),
        ({"crop": -1}, "crop of at least 0 pixels, got -1"),
    ],
)
def test_values_out_of_range_are_told(options, told):
    with pytest.raises(ConfigError, match=told):
        RandAugment(**options)
