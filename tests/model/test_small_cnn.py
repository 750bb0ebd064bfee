import pytest
import torch
from torch import nn

from alframe.errors import ConfigError
from alframe.model.small_cnn import Mean, MeanMax, SmallCNN


def multiplications(network: nn.Module, shape: tuple[int, ...]) -> int:
    total = 0

    def count(layer: nn.Conv2d, inputs, output) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network.eval()(torch.zeros(1, *shape))
    return total


def test_cost_does_not_grow_with_the_area_of_large_images():
    cost = {side: multiplications(SmallCNN((3, side, side), 2), (3, side, side)) for side in (32, 47, 64, 128, 224)}
    assert cost[32] < 20e6
    assert cost[64] < 1.2 * cost[32]
    assert cost[128] < 4.5 * cost[32]
    assert cost[224] < 4 * cost[32]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 48, 200), (3, 47, 31), (1, 160, 161)], ids=str)
def test_admits_images_of_8_pixels_and_more(shape):
    network = SmallCNN(shape, 4, width=6)
    assert network(torch.randn(2, *shape)).shape == (2, 4)


def test_smaller_images_are_an_error():
    with pytest.raises(ConfigError, match=r"at least 8x8 pixels for SmallCNN, got shape \(1, 7, 30\)"):
        SmallCNN((1, 7, 30), 4)


@pytest.mark.parametrize("options", [{"width": 0}, {"pooling": "max"}])
def test_options_out_of_range_are_an_error(options):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"model\.{name}"):
        SmallCNN((1, 28, 28), 4, **options)


def test_a_spot_anywhere_reaches_the_features_through_the_maximum():
    x = torch.zeros(1, 2, 5, 5)
    x[0, 1, 3, 2] = 50
    assert Mean()(x).tolist() == [[0, 2]]
    assert MeanMax()(x).tolist() == [[0, 2, 0, 50]]


@pytest.mark.parametrize(("pooling", "n_features"), [("mean", 64), ("mean_max", 128)])
def test_features_have_the_documented_size(pooling, n_features):
    network = SmallCNN((3, 32, 32), 4, pooling=pooling)
    assert network.embed(torch.randn(2, 3, 32, 32)).shape == (2, n_features)


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_learns_a_stripe_from_forty_images(pooling):
    torch.manual_seed(0)
    network = SmallCNN((1, 28, 28), 2, width=8, pooling=pooling)
    labels = torch.arange(40) % 2
    x = 0.5 * torch.randn(40, 1, 28, 28)
    x[labels == 1, :, 10:13] += 1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = 0.5 * torch.randn(100, 1, 28, 28)
    fresh[50:, :, 5:8] += 1
    accuracy = (network.eval()(fresh).argmax(dim=1) == (torch.arange(100) >= 50)).float().mean()
    assert accuracy > 0.9
