"""What every model leaf keeps to."""

import inspect
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from tests_support import leaves
from torch import nn

from alframe.errors import ConfigError
from alframe.model.base import Network
from alframe.rng import generator, scoped

LEAVES = leaves("model")
SMALLER = {
    "wide_resnet28": {"width": 1},
    "fast_resnet": {"width": 8},
    "torchvision": {"name": "resnet18"},
}  # quick to build, the same code
SHAPES = {"frozen": (24,), "frozen_torchvision": (24,)}
N_CLASSES = 3


def options(leaf: Path) -> dict:
    return {key: value for key, value in yaml.safe_load(leaf.read_text()).items() if key != "defaults"}


def factory(leaf: Path, **overrides):
    chosen = options(leaf) | SMALLER.get(leaf.stem, {}) | overrides
    module, name = chosen.pop("_target_").rsplit(".", 1)
    make = getattr(import_module(module), name)
    return partial(make, **chosen) if chosen.pop("_partial_", False) else make(**chosen)


def build(leaf: Path, shape: tuple[int, ...], seed: int = 0, **overrides) -> Network:
    make = factory(leaf, **overrides)
    with scoped(generator(seed, 0, "init")):
        return make(shape, N_CLASSES)


def shapes(leaf: Path) -> list[tuple[int, ...]]:
    return [SHAPES[leaf.stem]] if leaf.stem in SHAPES else [(1, 32, 32), (3, 36, 33)]


CASES = [
    pytest.param(leaf, shape, id=f"{leaf.stem}-{'x'.join(map(str, shape))}")
    for leaf in LEAVES
    for shape in shapes(leaf)
]


def test_there_are_leaves():
    expected = (
        "small_cnn fast_resnet resnet18 resnet18_imagenet wide_resnet28 torchvision frozen frozen_torchvision "
        "bayesian_mnist_cnn"
    )
    assert {leaf.stem for leaf in LEAVES} >= set(expected.split())


@pytest.mark.parametrize(("leaf", "shape"), CASES)
def test_forward_is_head_after_embed_and_every_weight_learns(leaf, shape):
    network = build(leaf, shape)
    assert isinstance(network, Network)
    assert network.training
    x = torch.randn(4, *shape, generator=generator(0, 0, "images"))
    network(x).logsumexp(dim=-1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    network.eval()
    with torch.no_grad():
        features = network.embed(x)
        logits = network.head(features)
        assert features.shape[0] == 4
        assert features.ndim == 2
        assert logits.shape == (4, N_CLASSES)
        torch.testing.assert_close(network(x), logits)
        torch.testing.assert_close(network(x[2:3]), logits[2:3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_the_callers_stream_alone_decides_the_initial_weights(leaf):
    shape = shapes(leaf)[0]
    first, again, other = (build(leaf, shape, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_dropout_before_the_last_layer_can_be_set_and_switched_off(leaf):
    for rate in (0.0, 0.25):
        network = build(leaf, shapes(leaf)[0], dropout=rate)
        leaves = [module for module in network.modules() if not any(module.children())]
        assert isinstance(leaves[-1], nn.Linear)
        assert isinstance(leaves[-2], nn.Dropout)
        assert leaves[-2].p == rate
        assert leaves[-1].out_features == N_CLASSES


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_range_is_an_error(leaf, rate):
    with pytest.raises(ConfigError, match=r"model\.dropout"):
        build(leaf, shapes(leaf)[0], dropout=rate)


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf.stem not in SHAPES], ids=lambda leaf: leaf.stem)
@pytest.mark.parametrize("shape", [(2, 32, 32), (4, 32, 32), (32, 32), (12,), (3, 0, 32)], ids=str)
def test_other_inputs_than_grey_and_colour_images_are_an_error(leaf, shape):
    with pytest.raises(ConfigError, match="Expected images of 1 or 3 channels"):
        build(leaf, shape)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_lists_every_option(leaf):
    given = set(options(leaf)) - {"_target_", "_partial_"}
    module, name = options(leaf)["_target_"].rsplit(".", 1)
    parameters = set(inspect.signature(getattr(import_module(module), name)).parameters)
    assert given == parameters - {"shape", "n_classes"}
    assert leaf.read_text().startswith("# ")
