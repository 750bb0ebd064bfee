"""What a network is: `embed`, then `head`. A new one is a file with such a class and a YAML with `_partial_: true`."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


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
