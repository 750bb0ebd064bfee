"""Any module as a network: cut before its last linear layer, built with the names that its constructor takes."""

from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from alframe.errors import ConfigError
from alframe.model.any_module import AnyModule, network_of
from alframe.model.build import model_of
from alframe.model.small_cnn import SmallCNN
from alframe.uncertainty.masks import Masks, stochastic_layers
from alframe.uncertainty.split import split


class Net(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5))
        self.top = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.top(self.body(x))
        return logits


class Fixed(Net):
    def __init__(self) -> None:
        super().__init__(10)


class Softmax(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class Two(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class NoLinear(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x).mean((2, 3))


class Twice(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(n_classes, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.last(x.mean((2, 3))[:, : self.last.in_features]))


class Small(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.top = nn.Linear(3 * 8 * 8, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(x.flatten(1))


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 12, 12)])
def test_the_parts_together_are_the_module(shape):
    torch.manual_seed(0)
    whole = Net(num_classes=2)
    x = torch.rand(5, *shape)
    expected = whole.eval()(x.expand(-1, 3, -1, -1))
    network = AnyModule(whole, shape, 2).eval()
    assert network.embed(x).shape == (5, 6)
    assert torch.equal(network.head(network.embed(x)), expected)
    assert torch.equal(network(x), expected)
    assert network.classifier.out_features == 2


def test_a_layer_for_other_classes_is_replaced_and_the_rest_stays():
    whole = Net(num_classes=10)
    kept = whole.body[0].weight.clone()
    network = AnyModule(whole, (3, 12, 12), 3)
    assert network(torch.rand(2, 3, 12, 12)).shape == (2, 3)
    assert torch.equal(network.module.body[0].weight, kept)
    assert network.training


@pytest.mark.parametrize(
    ("build", "n_classes"),
    [
        (Net, 4),
        (partial(Net, width=5), 4),
        (partial(Net, num_classes=7), 4),
        (Fixed, 4),
        (lambda in_chans, n_outputs: Net(n_outputs, channels=in_chans), 4),
        (lambda shape, n_classes: Net(n_classes, channels=shape[0]), 4),
        (lambda *, image_size, num_classes, **rest: Net(num_classes), 4),
        (lambda **options: Net(**options), 4),
        (partial(torchvision.models.mobilenet_v3_small, weights=None), 4),
    ],
)
def test_a_constructor_gets_what_it_takes_by_name(build, n_classes):
    network = network_of(build, (3, 32, 32), n_classes)
    assert isinstance(network, AnyModule)
    assert network.eval()(torch.rand(2, 3, 32, 32)).shape == (2, n_classes)


def test_sizes_are_those_of_the_images():
    seen = []

    def build(n_classes: int, input_shape: tuple[int, ...], img_size: int, in_channels: int) -> nn.Module:
        seen.append((n_classes, input_shape, img_size, in_channels))
        return Net(n_classes, channels=in_channels)

    network_of(build, (1, 16, 20), 3)
    assert seen == [(3, (1, 16, 20), 16, 1)]


def test_a_network_of_ours_is_left_as_it_is():
    assert isinstance(network_of(partial(SmallCNN, dropout=0.1), (3, 32, 32), 2), SmallCNN)


@pytest.mark.parametrize(
    ("build", "shape", "told"),
    [
        (
            Softmax,
            (3, 12, 12),
            r"model Softmax to return what its last linear layer gives, got more after it \(top.2\)",
        ),
        (Two, (3, 12, 12), "got a tuple"),
        (NoLinear, (3, 12, 12), "model NoLinear to end in a linear layer .* got none; let forward return"),
        (Twice, (3, 12, 12), "used once, got last used more often"),
        (Small, (3, 12, 12), r"model Small to run on images of shape \(3, 12, 12\) .* got RuntimeError: .*mat1"),
        (lambda n_classes: "net", (3, 12, 12), "a torch.nn.Module from model <lambda>, got str"),
        (partial(torchvision.models.squeezenet1_0, weights=None), (3, 64, 64), "got none"),
    ],
)
def test_what_is_missing_is_told_in_one_line(build, shape, told):
    with pytest.raises(ConfigError, match=told) as caught:
        network_of(build, shape, 2)
    assert "\n" not in str(caught.value)


def test_it_is_tried_before_a_run_without_touching_the_random_stream():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model_of(Net).check((3, 12, 12), 2)
    assert torch.equal(torch.rand(1), expected)
    with pytest.raises(ConfigError):
        model_of(NoLinear).check((3, 12, 12), 2)


def test_its_dropout_is_found_and_what_no_mask_changes_is_computed_once():
    network = AnyModule(Net(2), (3, 12, 12), 2).eval()
    masks = Masks(0, 3, stochastic_layers(network))
    cut = split(network, masks)
    x = torch.rand(4, 3, 12, 12)
    features, logits, *_ = cut.plain(*cut.trunk(x))
    assert torch.allclose(features, network.embed(x))
    assert torch.allclose(logits, network(x))
    assert [site.layer for site in cut.sites] == ["module.body.3"]
