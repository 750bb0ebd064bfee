import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alframe.errors import ConfigError
from alframe.model.bayesian_mnist_cnn import BayesianMNISTCNN


def test_equals_the_paper_s_order_of_layers_under_the_same_masks():
    network = BayesianMNISTCNN((1, 28, 28), 10).double().eval()
    conv1, conv2, fc1 = (network.trunk[i] for i in (0, 4, 9))
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    masks = [2.0 * (torch.rand(shape) < 0.5).double() for shape in ((1, 32, 1, 1), (1, 64, 1, 1), (1, 128))]

    h = F.relu(F.max_pool2d(masks[0] * conv1(x), 2))  # as published: convolution, dropout, max-pool, ReLU
    h = F.relu(F.max_pool2d(masks[1] * conv2(h), 2))
    h = F.relu(masks[2] * fc1(h.flatten(1)))
    expected = network.classifier(h)

    for layer, mask in zip((network.trunk[3], network.trunk[7], network.dropout), masks, strict=True):
        layer.register_forward_hook(lambda _module, _inputs, output, mask=mask: output * mask)
    torch.testing.assert_close(network(x), expected)


def test_layers_have_the_published_sizes():
    network = BayesianMNISTCNN((1, 28, 28), 10)
    shapes = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (128, 1024), (10, 128)]


def test_images_too_small_are_an_error():
    assert BayesianMNISTCNN((3, 16, 20), 10)(torch.zeros(2, 3, 16, 20)).shape == (2, 10)
    with pytest.raises(ConfigError, match="at least 16x16"):
        BayesianMNISTCNN((3, 15, 20), 10)
