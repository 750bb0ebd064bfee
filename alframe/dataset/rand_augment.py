"""RandAugment: random operations for each sample beside flips and shifts, for very few labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.v2.functional import autocontrast, equalize

from alframe.dataset.augment import Augmentation
from alframe.errors import expect

STEPS = 10  # number of strengths of an operation
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, of red, green and blue
_GREY = 127.0  # what a cut leaves


def _blend(images: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """0.05 + 0.9 `strength` of the images, the rest of `other`."""
    share = 0.05 + 0.9 * strength
    return (share * images + (1 - share) * other).round_().clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images
    return (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True).round_()


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Blended with the smoothed image, whose border is the image's own."""
    kernel = images.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    smooth = images.clone()
    inner = conv2d(images.flatten(0, 1)[:, None], kernel / 13).round_()
    smooth[..., 1:-1, 1:-1] = inner.view_as(images[..., 1:-1, 1:-1])
    return _blend(images, smooth, strength)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """To 4 to 8 bits."""
    step = 2 ** (4 - (4 * strength).floor())
    return (images / step).floor() * step


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Pixels from a threshold on are inverted."""
    return torch.where(images >= 256 - (256 * strength).floor(), 255 - images, images)


TONES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": lambda images, strength: autocontrast(images.to(torch.uint8)).float(),
    "brightness": lambda images, strength: _blend(images, torch.zeros_like(images), strength),
    "colour": lambda images, strength: _blend(images, _grey(images), strength),
    "contrast": lambda images, strength: _blend(images, _grey(images).mean((1, 2, 3), True).round_(), strength),
    "equalize": lambda images, strength: equalize(images.to(torch.uint8)).float(),
    "posterize": _posterize,
    "sharpness": _sharpness,
    "solarize": _solarize,
}
"""(whole numbers in [0, 255] as float [b, c, h, w], strengths [b, 1, 1, 1] in [0, 1]) -> such numbers."""
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (*TONES, *MOVES, "identity")


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """What `Augmentation` does, then `operations` drawn for each sample from `OPERATIONS`, each done with probability 1/2.

    `magnitude` in 1..10: the strength of an operation is v / 10, with v uniform on 1 to `magnitude` - 1 (always 1 for 1). Strength 1
    rotates by 30 degrees, shears by 0.3 and translates by 0.3 of the side, each either way (black comes in); brightness, colour,
    contrast and sharpness keep 0.05 + 0.9 strength of the image, so that low strengths are the strong ones there, as published.
    `cutout` in [0, 1]: the side of a grey square, as a share of the image's, which lies anywhere, partly outside too.
    Raises ConfigError for values outside these ranges, and as `Augmentation`. Source: Cubuk et al. 2020, arXiv:1909.13719, with the
    operations and ranges of FixMatch (Sohn et al. 2020, arXiv:2001.07685). Differs: rotations and shears are about the centre.
    """

    operations: int = 2
    magnitude: int = 10
    cutout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.operations >= 1, f"Expected augmentation.operations of at least 1, got {self.operations}.")
        expect(
            1 <= self.magnitude <= STEPS, f"Expected augmentation.magnitude from 1 to {STEPS}, got {self.magnitude}."
        )
        expect(0 <= self.cutout <= 1, f"Expected augmentation.cutout from 0 to 1, got {self.cutout}.")

    def draw(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """The random numbers of `n` transformations, on the CPU: 5 for `Augmentation`, 2 for the cutout, 4 per operation."""
        return torch.rand(n, 7 + 4 * self.operations, generator=rng)

    def apply(self, images: UInt8[Tensor, "b c h w"], draws: Float[Tensor, "b d"]) -> UInt8[Tensor, "b c h w"]:
        """Apply the transformation `draws` (on the CPU) to each image, in a new batch. Raises ConfigError as `Augmentation`."""
        pixels = super().apply(images, draws[:, :5]).float()
        for which, whether, step, side in (draws[:, at : at + 4].T for at in range(7, draws.shape[1], 4)):
            operation = torch.where(whether < 0.5, (which * len(OPERATIONS)).long(), OPERATIONS.index("identity"))
            strength = (1 + (step * max(1, self.magnitude - 1)).floor()) / STEPS
            pixels = _operate(pixels, operation, strength, torch.where(side < 0.5, -1.0, 1.0))
        if self.cutout:
            pixels = _cut(pixels, draws[:, 5:7].to(pixels.device), self.cutout)
        return pixels.to(torch.uint8)


def _operate(images: Tensor, operation: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Apply operation number `operation` of `OPERATIONS` to each image; numbers, strengths and signs [b] are on the CPU."""
    images = images.clone()
    for number, tone in enumerate(TONES.values()):
        rows = (operation == number).nonzero().squeeze(1)
        if len(rows):
            place = rows.to(images.device)
            images[place] = tone(images[place], strength[rows].to(images.device)[:, None, None, None])
    amount = [
        torch.where(operation == OPERATIONS.index(move), sign * strength, torch.zeros_like(strength)) for move in MOVES
    ]
    rows = torch.stack(amount).any(dim=0).nonzero().squeeze(1)
    if len(rows):
        place = rows.to(images.device)
        images[place] = _move(images[place], *(a[rows].to(images.device) for a in amount))
    return images


def _move(
    images: Tensor, rotate: Tensor, shear_x: Tensor, shear_y: Tensor, translate_x: Tensor, translate_y: Tensor
) -> Tensor:
    """Each output pixel is the nearest input pixel of where the move came from, black outside; amounts in [-1, 1]."""
    b, c, h, w = images.shape
    angle = rotate * (30 * math.pi / 180)
    y = torch.arange(h, device=images.device)[:, None] - (h - 1) / 2
    x = torch.arange(w, device=images.device) - (w - 1) / 2
    cos, sin, along_x, along_y = (a[:, None, None] for a in (angle.cos(), angle.sin(), 0.3 * shear_x, 0.3 * shear_y))
    left, up = ((0.3 * a * side).trunc()[:, None, None] for a, side in ((translate_x, w), (translate_y, h)))
    from_x = (cos * x - sin * y + along_x * y + left + (w - 1) / 2).round()
    from_y = (sin * x + cos * y + along_y * x + up + (h - 1) / 2).round()
    inside = (from_x >= 0) & (from_x < w) & (from_y >= 0) & (from_y < h)
    flat = (from_y.clamp(0, h - 1) * w + from_x.clamp(0, w - 1)).long().flatten(1)
    moved = images.flatten(2).gather(2, flat[:, None].expand(b, c, h * w)).view(b, c, h, w)
    return moved * inside[:, None]


def _cut(images: Tensor, centre: Float[Tensor, "b 2"], share: float) -> Tensor:
    """A grey square of `share` of the shorter side about `centre`, in [0, 1] of height and width."""
    h, w = images.shape[2:]
    half = share * min(h, w) / 2
    row = ((torch.arange(h, device=images.device) + 0.5) - centre[:, :1] * h).abs() < half
    column = ((torch.arange(w, device=images.device) + 0.5) - centre[:, 1:] * w).abs() < half
    return torch.where((row[:, :, None] & column[:, None, :])[:, None], _GREY, images)
