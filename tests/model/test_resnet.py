import pytest
import torch
import torchvision
from torch import nn

from alframe.errors import ConfigError
from alframe.model.resnet import ResNet18


def test_the_imagenet_stem_is_torchvisions_network():
    network = ResNet18((3, 64, 64), 10, stem="imagenet").eval()
    reference = torchvision.models.resnet18(num_classes=10).eval()
    last = {"fc.weight": network.classifier.weight, "fc.bias": network.classifier.bias}
    reference.load_state_dict({**network.trunk.state_dict(), **last})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(x), reference(x))


def test_the_cifar_stem_keeps_the_resolution():
    network = ResNet18((1, 32, 32), 10)
    maps = []
    network.trunk.layer1.register_forward_hook(lambda _module, _inputs, output: maps.append(output.shape))
    network.trunk.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output.shape))
    network.eval()(torch.zeros(1, 1, 32, 32))
    assert [tuple(shape) for shape in maps] == [(1, 64, 32, 32), (1, 512, 4, 4)]
    assert (
        sum(parameter.numel() for parameter in ResNet18((3, 32, 32), 10).parameters()) == 11_173_962
    )  # as published for CIFAR-10


@pytest.mark.parametrize(("stem", "side"), [("cifar", 7), ("imagenet", 31)])
def test_images_too_small_for_the_stem_are_an_error(stem, side):
    with pytest.raises(ConfigError, match=f"ResNet-18 with the {stem} stem, got shape"):
        ResNet18((3, side, 64), 10, stem=stem)


def test_an_unknown_stem_is_an_error():
    with pytest.raises(ConfigError, match=r"model\.stem"):
        ResNet18((3, 64, 64), 10, stem="mnist")


def test_the_first_convolution_is_initialised_like_the_others():
    weight = ResNet18((1, 32, 32), 10).trunk.conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert isinstance(ResNet18((1, 32, 32), 10).trunk.maxpool, nn.Identity)
