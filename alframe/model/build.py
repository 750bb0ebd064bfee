"""Whatever a config or a user passes as a model, as a `Model`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alframe.model.any_module import is_ours, network_of
from alframe.model.base import Build, Model


@dataclass(frozen=True)
class Plain(Model):
    """Networks of one class or function, in every round, on images."""

    build: Build | Callable[..., Any]

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        return network_of(self.build, shape, n_classes)

    def check(self, shape: tuple[int, ...], n_classes: int) -> None:
        if not is_ours(self.build):  # tried once, before anything is asked
            with torch.random.fork_rng(devices=[]):
                self(shape, n_classes)


def model_of(build: Model | Build | Callable[..., Any]) -> Model:
    """The model for whatever a config or a user passes."""
    return build if isinstance(build, Model) else Plain(build)
