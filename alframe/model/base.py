"""The network interface: `embed`, then `head`; and how networks are built. A new network is a file with such a class and a YAML with `_partial_: true`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alframe.images import ImageSet
from alframe.model.pooled import Averaged, Pooled
from alframe.part import Part

Transform = Callable[[Tensor], Tensor]
"""A transformation of uint8 images [b, c, h, w]."""
Build = Callable[[tuple[int, ...], int], nn.Module]
"""`build(shape, n_classes)`: an untrained network."""
Pools = Callable[[Tensor], Averaged | None]
"""Raw images [b, c, h, w] to features before they are pooled over the image; None if they are not pooled."""


class Network(nn.Module, ABC):
    """A classifier in two parts. Its constructor takes `shape` (channels, height, width) and `n_classes` first.

    Stochastic layers (`nn.Dropout` and its kin) are modules, so that a posterior can find them and fix their masks.
    """

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Normalised float images [b, ...] to features [b, d]."""

    @abstractmethod
    def head(self, h: Tensor) -> Tensor:
        """Features [b, d] to logits [b, c], dropout before the last layer included."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))

    def pooled(self, x: Tensor) -> Pooled | None:
        """What `embed` pools over the image, if `head` is affine in eval mode, so that evidence has a place; else None."""
        return None

    @classmethod
    def untrained(cls, shape: tuple[int, ...], n_classes: int, **options: Any) -> Self:
        """The network for a complete state dict: no weights are read or downloaded."""
        return cls(shape, n_classes, **options)


class Model(Part, ABC):
    """Builds the networks of a run. A network class is itself a model (`model_of`)."""

    on_features: ClassVar[bool] = False
    """Whether networks are trained on the output of `prepare`, computed once, instead of the images."""
    scales_images: ClassVar[bool] = False
    """Whether networks take pixels from 0 to 255 and normalise them themselves."""

    is_linear: bool = False
    """Whether, in every round, its networks are one linear layer `classifier` on the output of `prepare`."""

    @abstractmethod
    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """An untrained network for samples of `shape`."""

    def check(self, shape: tuple[int, ...], n_classes: int) -> None:
        """Raise ConfigError if it is known already that no network can be built for samples of `shape`."""
        return None

    def at(self, round: int) -> "Model":
        """The model that `round` trains."""
        return self

    def prepare(
        self, images: ImageSet, cache: Path, device: torch.device, transform: Transform | None = None
    ) -> ImageSet:
        """The images as `on_features` networks see them, after a `transform` of the pixels if one is given."""
        return images

    def pools(self, device: torch.device) -> Pools | None:
        """What `prepare` pools over the image, if the networks are affine in its output; else None."""
        return None
