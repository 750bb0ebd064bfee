"""Fixtures shared by the suite: a tiny image problem and a tiny network, both real and quick."""

import gc
import os
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alframe.annotator.oracle import Oracle
from alframe.budget import Budget
from alframe.experiment import Experiment
from alframe.images import Data, ImageSet
from alframe.learner import Resources
from alframe.model.base import Network
from alframe.strategy.random import Random
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.point import Point

torch.set_num_threads(1)
CACHE = tempfile.TemporaryDirectory()
"""Of tiny experiments; the datasets of the suite are kept where the user's are."""
REPOSITORY = Path(__file__).parent.parent


class TinyNetwork(Network):
    """A convolution, a global mean, dropout and a linear layer: milliseconds to train."""

    def __init__(self, shape: tuple[int, ...], n_classes: int, width: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.tail = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, n_classes))

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def head(self, h: Tensor) -> Tensor:
        return self.tail(h)


def tiny_images(n: int, seed: int, n_classes: int = 2, side: int = 8) -> ImageSet:
    """Noise with a brighter quarter whose place tells the class: learnable from a few dozen images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    pixels = rng.integers(0, 140, (n, 1, side, side))
    half = side // 2
    for i, label in enumerate(labels):
        row, column = divmod(int(label) % 4, 2)
        pixels[i, 0, row * half : (row + 1) * half, column * half : (column + 1) * half] += 45
    classes = tuple(f"class {c}" for c in range(n_classes))
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), classes)


def tiny_data(n_pool: int = 80, n_test: int = 40, n_classes: int = 2) -> Data:
    return Data("tiny", tiny_images(n_pool, 0, n_classes), tiny_images(n_test, 1, n_classes))


def tiny_trainer(**options: object) -> Trainer:
    defaults: dict[str, object] = {
        "optimizer": partial(torch.optim.SGD, momentum=0.9),
        "epochs": 2,
        "min_steps": 20,
        "batch_size": 16,
    }
    return Trainer(**{**defaults, **options})  # type: ignore[arg-type]


def tiny_experiment(**options: object) -> Experiment:
    defaults: dict[str, object] = {
        "data": tiny_data(),
        "model": TinyNetwork,
        "trainer": tiny_trainer(),
        "uncertainty": Point(),
        "strategy": Random(),
        "annotator": Oracle(),
        "budget": Budget(initial=20, query_size=5, rounds=3),
        "resources": Resources(cache=Path(CACHE.name)),
    }
    return Experiment(**{**defaults, **options})  # type: ignore[arg-type]


@pytest.fixture
def data() -> Data:
    return tiny_data()


@pytest.fixture
def make_experiment():
    """`make_experiment(strategy=..., budget=...)`: a whole run that takes a fraction of a second."""
    return tiny_experiment


@pytest.fixture
def make_trainer():
    return tiny_trainer


@pytest.fixture
def make_images():
    return tiny_images


@pytest.fixture
def tiny_network() -> type[Network]:
    return TinyNetwork


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


def pytest_configure(config: pytest.Config) -> None:
    """Under pytest-xdist a test file goes to one process as a whole: what its tests share (runs, a server) is made once."""
    if getattr(config.option, "dist", "no") == "load":  # what -n sets
        config.option.dist = "loadscope"
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what is imported and collected, some million objects, out of every later garbage collection."""
    gc.collect()
    gc.freeze()
