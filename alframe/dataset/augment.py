"""Augmentation of uint8 batches with a separate draw per sample, in a few tensor operations on the images' device."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from alframe.errors import expect


@dataclass(frozen=True)
class Augmentation:
    """Random flips, shifts and brightness, drawn separately per sample.

    `flip` (left-right) and `vertical_flip`: with probability 1/2. `crop`: a shift of up to this many pixels each way, with
    reflection at the border. `brightness`: a factor in [1 - brightness, 1 + brightness]. Disabling one does not change the draws
    of the others. Raises ConfigError for a `crop` below 0 or not smaller than the image, or a `brightness` outside [0, 1].
    """

    flip: bool = True
    vertical_flip: bool = False
    crop: int = 4
    brightness: float = 0.0

    def __post_init__(self) -> None:
        expect(self.crop >= 0, f"Expected augmentation.crop of at least 0 pixels, got {self.crop}.")
        expect(0 <= self.brightness <= 1, f"Expected augmentation.brightness from 0 to 1, got {self.brightness}.")

    def __call__(self, images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
        """A new uint8 batch of the same shape and device; `rng` is a CPU generator. Sees no label."""
        return self.apply(images, self.draw(len(images), rng))

    def draw(self, n: int, rng: torch.Generator) -> Float[Tensor, "n 5"]:
        """The random numbers of `n` transformations, on the CPU."""
        return torch.rand(n, 5, generator=rng)

    def apply(self, images: UInt8[Tensor, "b c h w"], draws: Float[Tensor, "b 5"]) -> UInt8[Tensor, "b c h w"]:
        """Apply the transformation `draws` to each image, in a new batch. Raises ConfigError if `crop` is too large."""
        b, c, h, w = images.shape
        expect(
            self.crop < min(h, w),
            f"Expected augmentation.crop smaller than the images, got {self.crop} for {h}x{w}; lower dataset.augmentation.crop.",
        )
        if images.is_cuda:
            draws = draws.pin_memory()
        flip_x, flip_y, shift_x, shift_y, light = draws.to(images.device, non_blocking=True).T
        if self.flip or self.vertical_flip or self.crop:
            cols = self._lookup(w, shift_x, flip_x < 0.5 if self.flip else None)
            rows = self._lookup(h, shift_y, flip_y < 0.5 if self.vertical_flip else None)
            flat = (rows[:, :, None] * w + cols[:, None, :]).flatten(1)
            images = images.flatten(2).gather(2, flat[:, None, :].expand(b, c, h * w)).view(b, c, h, w)
        if self.brightness:
            factor = 1 + self.brightness * (2 * light - 1)
            images = (images * factor[:, None, None, None]).round_().clamp_(0, 255).to(torch.uint8)
        return images

    def _lookup(self, size: int, shift: Float[Tensor, " b"], flipped: Tensor | None) -> Int[Tensor, "b s"]:
        """For each output row (or column) the input row it is read from: shifted, reflected at the border, then flipped."""
        offset = (shift * (2 * self.crop + 1)).long() - self.crop
        source = (torch.arange(size, device=shift.device) + offset[:, None]).abs()
        source = size - 1 - (size - 1 - source).abs()
        return source if flipped is None else torch.where(flipped[:, None], size - 1 - source, source)


PHOTO = Augmentation(flip=True, vertical_flip=False, crop=4, brightness=0.0)  # scenes have an up and a down
SURFACE = Augmentation(flip=True, vertical_flip=True, crop=4, brightness=0.1)  # parts and materials have neither
DIGIT = Augmentation(flip=False, vertical_flip=False, crop=2, brightness=0.0)  # a mirrored 2 is no 2
