import pytest
import torch
from tests_support import NetworkTask
from torch import Tensor, nn

from alframe.errors import ConfigError
from alframe.model.fast_resnet import FastResNet, Residual
from alframe.rng import generator, scoped
from alframe.uncertainty.laplace import Laplace, last_linear
from alframe.uncertainty.mc_dropout import MCDropout


def make(shape=(3, 32, 32), n_classes=4, **options) -> FastResNet:
    with scoped(generator(0, 0, "network")):
        return FastResNet(shape, n_classes, **{"width": 2, **options}).eval()


def images(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(n, *shape, generator=generator(0, 0, "images"))


def convolutions(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_has_the_published_layers():
    channels = [shape[:2] for shape in convolutions(FastResNet((3, 32, 32), 10))]
    assert channels == [(64, 3), (128, 64), (128, 128), (128, 128), (256, 128), (512, 256), (512, 512), (512, 512)]
    assert all(shape[2:] == (3, 3) for shape in convolutions(FastResNet((3, 47, 64), 10, width=1)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 47, 31), (1, 64, 64), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("width", [1, 3])
def test_features_have_eight_times_the_width(shape, width):
    network = make(shape, width=width)
    assert network.embed(images(2, shape)).shape == (2, 8 * width)
    assert network(images(2, shape)).shape == (2, 4)


def test_images_of_64_pixels_cost_about_as_much_as_those_of_32():
    sizes = {}
    for side in (32, 64):
        network, seen = make((3, side, side)), []
        for layer in network.trunk:
            layer.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.shape[-1]))
        network(images(1, (3, side, side)))
        sizes[side] = seen
    assert sizes[32] == sizes[64]


def test_features_are_the_scaled_maximum_of_each_channel():
    x = images(2, (3, 32, 32))
    plain, scaled = (make(feature_scale=scale).embed(x) for scale in (1.0, 0.125))
    torch.testing.assert_close(scaled, plain / 8)
    torch.testing.assert_close(plain, make().trunk(x).flatten(2).max(dim=2).values)


def test_the_logits_are_what_the_last_layer_gives_to_the_features():
    network, x = make(), images(3, (3, 32, 32))
    layer = last_linear(network)
    assert layer is network.classifier
    torch.testing.assert_close(network(x), network.embed(x) @ layer.weight.T + layer.bias)


def test_a_laplace_posterior_can_be_fitted():
    network, x = make(), images(6, (3, 32, 32))
    task = NetworkTask(lambda member: network, [(x, torch.arange(6) % 4)])
    prediction = Laplace(draws=5).fit(task, generator(0, 0, "posterior")).predict(x)
    assert prediction.log_probs.shape == (6, 5, 4)
    torch.testing.assert_close(prediction.point_log_probs, network(x).log_softmax(dim=-1))


def test_a_residual_adds_its_input():
    block = Residual(4).eval()
    nn.init.zeros_(block.pair[-2].weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_convolutions_run_once_for_all_dropout_masks():
    network, x = make(dropout=0.3), images(4, (3, 32, 32))
    posterior = MCDropout(draws=6).fit(NetworkTask(lambda member: network), generator(0, 0, "masks"))
    assert set(posterior.masks.layers) == {"dropout"}
    posterior.predict(x)
    calls = []
    network.trunk[0].register_forward_hook(lambda *_: calls.append("convolution"))
    network.classifier.register_forward_hook(lambda *_: calls.append("head"))
    assert (posterior.predict(x).log_probs.exp().var(dim=1).sum(dim=-1) > 0).all()
    assert (calls.count("convolution"), calls.count("head")) == (1, 7)


@pytest.mark.parametrize("options", [{"width": 0}, {"feature_scale": 0.0}, {"dropout": 1.0}])
def test_options_out_of_range_are_an_error(options):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"model\.{name}"):
        make(**options)


def test_images_too_small_are_an_error():
    with pytest.raises(ConfigError, match=r"at least 8x8 pixels for FastResNet, got shape \(1, 7, 30\)"):
        make((1, 7, 30))


def test_learns_a_stripe_from_forty_images_at_a_large_learning_rate():
    torch.manual_seed(0)
    network = FastResNet((1, 28, 28), 2, width=4)
    labels = torch.arange(40) % 2
    x = 0.5 * torch.randn(40, 1, 28, 28)
    x[labels == 1, :, 10:13] += 1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.4, momentum=0.9, nesterov=True)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 0.4 * (1 - step / 40)
        loss = nn.functional.cross_entropy(network(x), labels, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = 0.5 * torch.randn(100, 1, 28, 28)
    fresh[50:, :, 5:8] += 1
    accuracy = (network.eval()(fresh).argmax(dim=1) == (torch.arange(100) >= 50)).float().mean()
    assert accuracy > 0.9
