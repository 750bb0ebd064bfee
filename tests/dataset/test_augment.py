"""Augmentation: per sample, by the generator alone, without labels."""

import inspect

import numpy as np
import pytest
import torch

from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 64, c: int = 3, h: int = 9, w: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=stream(7))


def all_variants(image: np.ndarray, flip: bool, vertical_flip: bool, crop: int) -> set[bytes]:
    """Every image that flips and reflected shifts of one image can give, by numpy's own padding."""
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    _, h, w = image.shape
    variants = set()
    for dy in range(2 * crop + 1):
        for dx in range(2 * crop + 1):
            cut = padded[:, dy : dy + h, dx : dx + w]
            for x in [cut, cut[:, :, ::-1]] if flip else [cut]:
                for y in [x, x[:, ::-1]] if vertical_flip else [x]:
                    variants.add(y.tobytes())
    return variants


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("vertical_flip", [False, True])
@pytest.mark.parametrize("crop", [0, 2])
def test_every_sample_is_a_flip_and_a_reflected_shift_of_itself(flip, vertical_flip, crop):
    images = batch()
    out = Augmentation(flip, vertical_flip, crop, 0.0)(images, stream())
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        assert after.tobytes() in all_variants(before, flip, vertical_flip, crop)


def test_all_flips_and_shifts_occur_and_about_equally_often():
    image = torch.arange(9 * 12, dtype=torch.uint8).view(1, 1, 9, 12)
    out = Augmentation(True, True, 1, 0.0)(image.expand(3600, 1, 9, 12), stream())
    _, counts = np.unique(out.flatten(1).numpy(), axis=0, return_counts=True)
    assert len(counts) == 36
    assert counts.min() > 50
    assert counts.max() < 170


def test_samples_are_drawn_apart():
    same = batch(1).expand(32, -1, -1, -1)
    out = Augmentation(True, True, 3, 0.3)(same, stream())
    assert len({sample.numpy().tobytes() for sample in out}) > 20


def test_the_generator_alone_decides():
    augmentation, images = Augmentation(True, True, 3, 0.3), batch()
    torch.manual_seed(1)
    first = augmentation(images, stream(3))
    torch.manual_seed(2)
    assert torch.equal(first, augmentation(images, stream(3)))
    assert not torch.equal(first, augmentation(images, stream(4)))


def test_one_sample_does_not_depend_on_the_others():
    augmentation, images = Augmentation(True, True, 3, 0.3), batch()
    changed = images.clone()
    changed[1:] = 0
    assert torch.equal(augmentation(images, stream())[0], augmentation(changed, stream())[0])


def test_switching_one_part_off_leaves_the_others_as_they_were():
    images = batch()
    shifted = Augmentation(False, False, 2, 0.0)(images, stream())
    both = Augmentation(False, False, 2, 0.2)(images, stream())
    factors = both.double().flatten(1).mean(1) / shifted.double().flatten(1).mean(1)
    alone = Augmentation(False, False, 0, 0.2)(images, stream())
    assert torch.allclose(factors, alone.double().flatten(1).mean(1) / images.double().flatten(1).mean(1), atol=0.01)


def test_brightness_multiplies_within_its_bounds_and_saturates():
    images = torch.tensor([100, 250], dtype=torch.uint8).repeat(500).view(500, 1, 1, 2)
    out = Augmentation(False, False, 0, 0.2)(images, stream()).flatten(1)
    assert out[:, 0].min() >= 80
    assert out[:, 0].max() <= 120
    assert out[:, 0].max() - out[:, 0].min() >= 35
    assert out[:, 1].max() == 255


def test_nothing_on_means_nothing_changed_and_the_input_is_never_written():
    images = batch()
    before = images.clone()
    assert torch.equal(Augmentation(False, False, 0, 0.0)(images, stream()), before)
    Augmentation(True, True, 3, 0.3)(images, stream())
    assert torch.equal(images, before)


def test_an_augmentation_sees_images_and_a_generator_only():
    assert list(inspect.signature(Augmentation().__call__).parameters) == ["images", "rng"]


@pytest.mark.parametrize(("options", "words"), [({"crop": -1}, "crop"), ({"brightness": 1.5}, "brightness")])
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Augmentation(**options)


def test_a_shift_wider_than_the_image_is_refused():
    with pytest.raises(ConfigError, match="smaller than the images, got 9 for 9x12"):
        Augmentation(crop=9)(batch(), stream())
