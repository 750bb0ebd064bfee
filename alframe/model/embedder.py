"""A frozen trunk on images: whole or in tiles, as they are or averaged over flips and turns."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

OVERLAP = 0.25  # share of a tile's side that its neighbour sees too, so that a defect of up to this size is whole in one of them


class Box(NamedTuple):
    """A tile's place in its image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """A mirroring of [..., h, w] along the axes `flipped`, after height and width were `exchanged`."""

    exchanged: bool
    flipped: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.transpose(-2, -1) if self.exchanged else x
        return x.flip(self.flipped) if self.flipped else x

    def undo(self, x: Tensor) -> Tensor:
        """What lies where, as in the image before the view: of a map [..., h, w]."""
        x = x.flip(self.flipped) if self.flipped else x
        return x.transpose(-2, -1) if self.exchanged else x


FLIPS = tuple(View(False, axes) for axes in ((), (-1,), (-2,), (-2, -1)))
VIEWS = {"none": FLIPS[:1], "flips": FLIPS, "turns": (*FLIPS, *(View(True, view.flipped) for view in FLIPS))}
"""By `model.average_over`; the turns are the eight rotations and mirrorings of a square."""


class Embedder(nn.Module):
    """A frozen `trunk` on images: raw pixels [b, 1 or 3, h, w] from 0 to 255 to features [b, d], resized and scaled on the way.

    Of an image cut into `tiles` (rows, columns), each resized to `size`: the largest over the tiles of each tile's feature,
    which is the mean over the `views`. One tile of all images at a time goes through the trunk; in an exported graph
    all of them do at once, so `n_passes` times as many.
    """

    def __init__(
        self,
        trunk: nn.Module,
        size: tuple[int, int] | None,
        tiles: tuple[int, int] = (1, 1),
        views: tuple[View, ...] = VIEWS["none"],
    ) -> None:
        super().__init__()
        self.trunk, self.size, self.tiles, self.views = trunk, size, tiles, views

    @property
    def n_passes(self) -> int:
        """How often an image, or a part of it, goes through the trunk."""
        return math.prod(self.tiles) * len(self.views)

    def boxes(self, height: int, width: int) -> list[Box]:
        """The tiles of an image, row by row."""
        (tops, h), (lefts, w) = spans(height, self.tiles[0]), spans(width, self.tiles[1])
        return [Box(top, left, h, w) for top in tops for left in lefts]

    def crop(self, pixels: Tensor, box: Box) -> Float[Tensor, "b 3 h w"]:
        """The pixels in a box as the trunk takes them, before any view."""
        x = pixels[..., box.top : box.top + box.height, box.left : box.left + box.width].float()
        if self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        return x.expand(-1, 3, -1, -1)

    def forward(self, pixels: Tensor) -> Tensor:
        inputs = self.inputs(pixels)
        if self.n_passes == 1:
            return self.trunk(next(inputs))
        if torch.compiler.is_exporting():  # or the graph would hold the trunk as often as it is run
            features = self.trunk(torch.cat(list(inputs)))
        else:
            features = torch.cat([self.trunk(x) for x in inputs])
        return features.unflatten(0, (math.prod(self.tiles), len(self.views), -1)).mean(dim=1).amax(dim=0)

    def inputs(self, pixels: Tensor) -> Iterator[Tensor]:
        """What goes through the trunk: every view of the first tile, then of the next."""
        for box in self.boxes(*pixels.shape[-2:]):
            x = self.crop(pixels, box)
            for view in self.views:
                yield view(x).contiguous(memory_format=torch.channels_last)


def spans(length: int, n: int) -> tuple[list[int], int]:
    """Where `n` pieces of `length` pixels start, evenly from end to end, and how long each is: neighbours share about `OVERLAP`."""
    piece = math.ceil(length / (n - (n - 1) * OVERLAP))
    return [round(i * (length - piece) / max(1, n - 1)) for i in range(n)], piece
