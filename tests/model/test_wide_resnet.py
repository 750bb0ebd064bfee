import pytest
import torch
from torch import nn

from alframe.errors import ConfigError
from alframe.model.wide_resnet import WideBlock, WideResNet28


def test_has_the_published_size():
    count = sum(parameter.numel() for parameter in WideResNet28((3, 32, 32), 10, width=2).parameters())
    assert count == 1_467_610  # WRN-28-2 for CIFAR-10
    convolutions = [m for m in WideResNet28((3, 32, 32), 10, width=1).modules() if isinstance(m, nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) == 25  # and three shortcuts, and the last layer


def test_dropout_stands_in_every_block_and_before_the_head():
    network = WideResNet28((3, 32, 32), 10, width=1, block_dropout=0.3, dropout=0.2)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.3] * 12 + [0.2]


def test_a_block_adds_its_input_where_the_shape_stays():
    block = WideBlock(4, 4, 1, 0.0).eval()
    nn.init.zeros_(block.residual[-1].weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, r"model\.width"), ({"block_dropout": 1.5}, r"model\.block_dropout")]
)
def test_options_out_of_range_are_an_error(options, message):
    with pytest.raises(ConfigError, match=message):
        WideResNet28((3, 32, 32), 10, **options)


def test_images_too_small_are_an_error():
    with pytest.raises(ConfigError, match="WideResNet-28"):
        WideResNet28((3, 7, 7), 10)
