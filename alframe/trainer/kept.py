"""Weights that are kept beside the trained ones."""

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Best:
    """The weights with the best validation accuracy so far (ties: lowest loss), and how long ago that was."""

    accuracy: float | None

    def __init__(self) -> None:
        self.step, self.misses, self.accuracy = 0, 0, None
        self.weights: dict[str, Tensor] | None = None
        self._key = (-1.0, 0.0)

    def update(self, step: int, accuracy: float, loss: float, network: nn.Module) -> None:
        if (accuracy, -loss) > self._key:
            self._key, self.step, self.misses, self.accuracy = (accuracy, -loss), step, 0, accuracy
            self.weights = deepcopy(network.state_dict())
        else:
            self.misses += 1


class Average:
    """The exponential moving average of weights and buffers; whole numbers are the latest.

    Differs from torch's `AveragedModel` in that no update waits for the device.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network)
        self._average = get_ema_multi_avg_fn(decay)
        self._started = False

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        averaged = [(mine, new) for mine, new in pairs if self._started and mine.is_floating_point()]
        copied = [(mine, new) for mine, new in pairs if not (self._started and mine.is_floating_point())]
        if averaged:
            self._average(*map(list, zip(*averaged, strict=True)), 0)
        for mine, new in copied:
            mine.copy_(new)
        self._started = True


def _tensors(network: nn.Module) -> chain[Tensor]:
    return chain(network.parameters(), network.buffers())
