import itertools
import warnings

import pytest
import torch
from tests_support import NetworkTask
from torch import Tensor, nn

from alframe.errors import ConfigError
from alframe.model.base import Network
from alframe.model.bayesian_mnist_cnn import BayesianMNISTCNN
from alframe.model.fast_resnet import FastResNet
from alframe.model.resnet import ResNet18
from alframe.model.small_cnn import SmallCNN
from alframe.model.torchvision_model import Torchvision
from alframe.model.wide_resnet import WideResNet28
from alframe.rng import generator, scoped
from alframe.uncertainty.masks import Masks, Site
from alframe.uncertainty.mc_dropout import MCDropout, MCDropoutPosterior


class Branching(Network):
    """A branch on the data, which torch.fx cannot trace; one dropout layer called twice, on two shapes."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 6, 3)
        self.hidden = nn.Linear(6, 9)
        self.dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(9, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        if float(x.abs().sum()) < 0:
            return x
        return self.hidden(self.dropout(self.convolution(x).relu().mean(dim=(2, 3)))).tanh()

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


class Twice(Branching):
    """The same without the branch."""

    def embed(self, x: Tensor) -> Tensor:
        return self.hidden(self.dropout(self.convolution(x).relu().mean(dim=(2, 3)))).tanh()


class InPlaceAfterDropout(Branching):
    """In eval mode dropout hands on its very input, which the next layer then overwrites."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.tail = nn.Sequential(nn.Dropout(0.5), nn.LeakyReLU(0.3, inplace=True), nn.Linear(6, n_classes))

    def embed(self, x: Tensor) -> Tensor:
        return self.convolution(x).mean(dim=(2, 3))

    def head(self, h: Tensor) -> Tensor:
        return self.tail(h)


class InPlaceHead(InPlaceAfterDropout):
    """A head that overwrites the features it is given."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.tail = nn.Sequential(nn.LeakyReLU(0.3, inplace=True), nn.Dropout(0.5), nn.Linear(6, n_classes))


class ForgottenSideEffect(InPlaceAfterDropout):
    """A value changed in place through a statement whose result is not used: tracing forgets it."""

    def embed(self, x: Tensor) -> Tensor:
        h = self.convolution(x).mean(dim=(2, 3))
        h.mul_(50).cos_()
        return h


class Reshaping(Branching):
    """The batch size, read before the dropout, is used after it."""

    def embed(self, x: Tensor) -> Tensor:
        n = x.size(0)
        pooled = self.dropout(self.convolution(x).relu().amax(dim=(2, 3), keepdim=True))
        return self.hidden(pooled.view(n, -1)).tanh() + self.hidden.bias


class Transformer(Network):
    """torch's own layer hides its dropout from a tracer that takes torch's modules whole."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.classifier = nn.Linear(8, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)[..., :8]
        return self.layer(tokens, tokens).mean(dim=1)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(h)


NETWORKS = {
    "small_cnn": (lambda: SmallCNN((3, 28, 28), 5, width=8), (3, 28, 28)),
    "fast_resnet": (lambda: FastResNet((3, 16, 16), 5, width=2), (3, 16, 16)),
    "resnet18": (lambda: ResNet18((3, 8, 8), 5), (3, 8, 8)),
    "wide_resnet28": (lambda: WideResNet28((1, 8, 8), 5, width=1, block_dropout=0.3), (1, 8, 8)),
    "bayesian_mnist_cnn": (lambda: BayesianMNISTCNN((1, 28, 28), 5), (1, 28, 28)),
    "twice": (lambda: Twice((3, 8, 8), 5), (3, 8, 8)),
    "in_place_after_dropout": (lambda: InPlaceAfterDropout((3, 8, 8), 5), (3, 8, 8)),
    "in_place_head": (lambda: InPlaceHead((3, 8, 8), 5), (3, 8, 8)),
    "reshaping": (lambda: Reshaping((3, 8, 8), 5), (3, 8, 8)),
    "transformer": (lambda: Transformer((3, 4, 4), 5), (3, 4, 4)),
}
UNTRACEABLE = {
    "branching": (lambda: Branching((3, 8, 8), 5), (3, 8, 8)),
    "forgotten_side_effect": (lambda: ForgottenSideEffect((3, 8, 8), 5), (3, 8, 8)),
}


def make(build) -> Network:
    """A network with biases and batch-norm statistics that matter, in eval mode."""
    with scoped(generator(0, 0, "network")):
        network = build()
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(0.3 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def images(n: int, shape: tuple[int, ...], dtype=torch.float32) -> Tensor:
    return torch.randn(n, *shape, generator=generator(0, 0, "images")).to(dtype)


def fit(network: nn.Module, seed: int = 3, **options) -> MCDropoutPosterior:
    return MCDropout(**{"draws": 6, **options}).fit(
        NetworkTask(lambda member: network), torch.Generator().manual_seed(seed)
    )


class Masked(nn.Module):
    """A dropout layer replaced by the explicit masks of its successive calls."""

    def __init__(self, masks: list[Tensor], rate: float) -> None:
        super().__init__()
        self.masks, self.rate, self.calls = masks, rate, 0

    def forward(self, x: Tensor) -> Tensor:
        mask = self.masks[self.calls]
        self.calls += 1
        return torch.where(mask.expand_as(x), x / (1 - self.rate), torch.zeros_like(x))


def naive(build, posterior: MCDropoutPosterior, x: Tensor) -> Tensor:
    """Log-probabilities by whole networks, run one after another in float64 with the masks put in by hand."""
    draws = []
    for draw in range(posterior.draws):
        network = make(build).double()
        for name, layer in posterior.masks.layers.items():
            made = {site: mask for (site, _), mask in posterior.masks._made.items() if site.layer == name}
            masks = [made[Site(name, call)][draw] for call in range(len(made))]
            network.set_submodule(name, Masked(masks, layer.p))
        draws.append(network(x.double()).log_softmax(dim=-1))
    return torch.stack(draws, dim=1)


@pytest.mark.parametrize("method", ["batched", "looped", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_whole_networks_with_explicit_masks(name, method):
    build, shape = NETWORKS[name]
    x = images(4, shape)
    posterior = fit(make(build), method=method)
    prediction = posterior.predict(x)
    no_batching_rule = name == "transformer" and method == "batched"  # torch.vmap cannot batch attention on the CPU
    assert posterior.method == ("looped" if no_batching_rule else method)
    with torch.no_grad():
        torch.testing.assert_close(prediction.log_probs.double(), naive(build, posterior, x), rtol=1e-4, atol=1e-4)


def test_equals_whole_networks_on_a_torchvision_model():
    with scoped(generator(0, 0, "network")):
        network = Torchvision((3, 32, 32), 5, name="vgg11").eval()
    x = images(3, (3, 32, 32))
    fast = fit(network, method="looped", draws=3)
    slow = fit(network, method="full", draws=3)
    assert set(fast.masks.layers) == {"trunk.classifier.2", "dropout"}
    torch.testing.assert_close(fast.predict(x).log_probs, slow.predict(x).log_probs, rtol=1e-5, atol=1e-5)
    assert fast.method == "looped"
    assert fast._split is not None
    assert not any("features" in str(node.target) for node in fast._split.tail.graph.nodes), (
        "convolutions belong to the trunk"
    )


@pytest.mark.parametrize("name", UNTRACEABLE)
@pytest.mark.parametrize("method", ["batched", "looped"])
def test_a_network_that_cannot_be_cut_runs_in_full_with_one_warning(name, method):
    build, shape = UNTRACEABLE[name]
    posterior = fit(make(build), method=method)
    x = images(4, shape)
    with pytest.warns(UserWarning, match="full passes") as caught:
        prediction = posterior.predict(x)
    assert len(caught) == 1
    assert posterior.method == "full"
    assert torch.equal(posterior.predict(x).log_probs, prediction.log_probs)  # no second warning: it would be an error
    with torch.no_grad():
        torch.testing.assert_close(prediction.log_probs.double(), naive(build, posterior, x), rtol=1e-4, atol=1e-4)


def test_draws_are_looped_over_on_a_cpu():
    for build, shape in (NETWORKS["small_cnn"], NETWORKS["wide_resnet28"]):
        posterior = fit(make(build))
        posterior.predict(images(2, shape))
        assert posterior.method == "looped"


def test_convolutions_before_the_first_dropout_run_once():
    network = make(NETWORKS["small_cnn"][0])
    posterior = fit(network, draws=20)
    x = images(4, (3, 28, 28))
    posterior.predict(x)
    calls = []
    network.trunk[0].register_forward_hook(lambda *_: calls.append(1))
    network.classifier.register_forward_hook(lambda *_: calls.append(2))
    posterior.predict(x)
    assert (calls.count(1), calls.count(2)) == (1, 21)


@pytest.mark.parametrize("method", ["batched", "looped", "full"])
@pytest.mark.parametrize("name", ["small_cnn", "wide_resnet28", "bayesian_mnist_cnn"])
def test_predictions_depend_on_neither_batch_size_nor_order(name, method):
    build, shape = NETWORKS[name]
    network = make(build)
    x = images(7, shape)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    whole = fit(network, method=method).predict(x)
    by_ones = fit(network, method=method)
    singles = [by_ones.predict(x[i : i + 1]) for i in range(7)]
    shuffled = fit(network, method=method).predict(x[order])
    for field in ("log_probs", "features", "point_log_probs"):
        expected = getattr(whole, field)
        torch.testing.assert_close(torch.cat([getattr(p, field) for p in singles]), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(getattr(shuffled, field), expected[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_bytes", [1, 40_000, 1 << 30])
def test_chunks_of_draws_change_nothing(max_bytes):
    build, shape = NETWORKS["wide_resnet28"]
    network, x = make(build), images(3, shape)
    chunked = fit(network, method="batched", max_bytes=max_bytes).predict(x)
    torch.testing.assert_close(
        chunked.log_probs, fit(network, method="looped").predict(x).log_probs, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_draws_differ_from_each_other_and_repeat_themselves(name):
    build, shape = NETWORKS[name]
    network, x = make(build), images(5, shape)
    posterior = fit(network)
    first = posterior.predict(x)
    assert (first.log_probs.exp().var(dim=1).sum(dim=-1) > 0).all()
    assert torch.equal(posterior.predict(x).log_probs, first.log_probs)
    assert torch.equal(fit(network).predict(x).log_probs, first.log_probs)
    assert not torch.allclose(fit(network, seed=4).predict(x).log_probs, first.log_probs)


@pytest.mark.parametrize("name", [*NETWORKS, *UNTRACEABLE])
@pytest.mark.filterwarnings("ignore:uncertainty=mc_dropout runs")
def test_features_and_point_prediction_are_those_of_the_network_without_dropout(name):
    build, shape = (NETWORKS | UNTRACEABLE)[name]
    network, x = make(build), images(5, shape)
    prediction = fit(network).predict(x)
    with torch.no_grad():
        features = network.embed(x)
        torch.testing.assert_close(
            prediction.point_log_probs, network.head(features.clone()).log_softmax(dim=-1), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(prediction.features, features, rtol=1e-5, atol=1e-5)


def test_masks_keep_the_right_share_and_whole_channels():
    posterior = fit(make(NETWORKS["bayesian_mnist_cnn"][0]), draws=400)
    posterior.predict(images(2, (1, 28, 28)))
    shapes = {site.layer: tuple(mask.shape) for (site, _), mask in posterior.masks._made.items()}
    assert shapes == {"trunk.3": (400, 32, 1, 1), "trunk.7": (400, 64, 1, 1), "dropout": (400, 128)}
    for mask in posterior.masks._made.values():
        assert mask.float().mean() == pytest.approx(0.5, abs=0.03)


def test_every_layer_and_every_call_of_it_has_masks_of_its_own():
    layers = {"a": nn.Dropout(0.5), "b": nn.Dropout(0.5)}
    masks, shape, cpu = Masks(7, 50, layers), torch.Size((3, 40)), torch.device("cpu")
    made = [masks.get(site, shape, 3, cpu) for site in (Site("a", 0), Site("a", 1), Site("b", 0))]
    for first, second in itertools.combinations(made, 2):
        assert (first == second).float().mean() == pytest.approx(0.5, abs=0.05)
    again = Masks(7, 50, layers)
    assert torch.equal(again.get(Site("b", 0), torch.Size((8, 40)), 8, cpu), made[2]), "whatever was asked for before"
    assert not torch.equal(Masks(8, 50, layers).get(Site("b", 0), shape, 3, cpu), made[2])


def test_stratified_masks_drop_every_unit_in_its_share_of_the_draws():
    layers, shape, cpu = {"a": nn.Dropout(0.5), "b": nn.Dropout(0.3)}, torch.Size((2, 4000)), torch.device("cpu")
    masks = Masks(7, 10, layers, stratified=True)
    half, third = (masks.get(Site(name, 0), shape, 2, cpu) for name in layers)
    assert ((~half).sum(dim=0) == 5).all()
    assert ((~third).sum(dim=0) == 3).all()
    assert half.float().mean(dim=1).tolist() == pytest.approx([0.5] * 10, abs=0.03), "no draw is thinner than another"
    together = (half[:, :2000] & half[:, 2000:]).float().mean()
    assert together == pytest.approx(0.25, abs=0.02), "units are independent of each other"
    seven = Masks(7, 7, layers, stratified=True).get(Site("a", 0), shape, 2, cpu)
    assert set((~seven).sum(dim=0).tolist()) == {3, 4}
    assert seven.float().mean() == pytest.approx(0.5, abs=0.02), "a share that is no whole number: right on average"


def test_many_draws_average_to_the_expectation_over_dropout():
    network = make(NETWORKS["twice"][0])
    x = images(3, (3, 8, 8))
    mean = fit(network, draws=2000).predict(x).log_probs.exp().mean(dim=1)
    network.train()
    with torch.no_grad(), scoped(generator(0, 0, "dropout")):
        sampled = torch.stack([network(x).softmax(dim=-1) for _ in range(2000)]).mean(dim=0)
    torch.testing.assert_close(mean, sampled, rtol=0, atol=0.02)


def test_bfloat16_networks_answer_in_normalised_float32():
    build, shape = NETWORKS["wide_resnet28"]
    network, x = make(build), images(4, shape)
    for method in ("looped", "batched"):
        posterior = fit(network, method=method)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = posterior.predict(x)
        assert posterior.method == method
        for log_probs in (prediction.log_probs, prediction.point_log_probs):
            assert log_probs.dtype == torch.float32
            torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(log_probs.shape[:-1]), rtol=0, atol=1e-5)
        assert prediction.features.dtype == torch.float32


def test_an_image_of_nan_spoils_no_other():
    build, shape = NETWORKS["small_cnn"]
    posterior, x = fit(make(build)), images(5, shape)
    clean = posterior.predict(x).log_probs
    x[2, 0, 3, 3] = float("nan")
    dirty = fit(make(build)).predict(x).log_probs
    assert dirty[2].isnan().all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(dirty[others], clean[others], rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite():
    network = make(NETWORKS["twice"][0])
    network.classifier.weight.data.mul_(1e6)
    log_probs = fit(network).predict(images(4, (3, 8, 8))).log_probs
    assert log_probs.isfinite().all()
    assert (log_probs <= 0).all()


def test_the_generator_alone_decides_and_the_global_stream_is_left_alone():
    network, x = make(NETWORKS["twice"][0]), images(3, (3, 8, 8))
    before = torch.get_rng_state()
    first = fit(network).predict(x).log_probs
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(fit(network).predict(x).log_probs, first)


def test_no_hook_stays_on_the_network():
    network = make(UNTRACEABLE["branching"][0])
    with pytest.warns(UserWarning, match="full passes"):
        fit(network).predict(images(3, (3, 8, 8)))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_dropout_is_an_error():
    with pytest.raises(ConfigError, match=r"no spread; set model\.dropout above 0"):
        fit(SmallCNN((3, 28, 28), 5, width=8, dropout=0.0))


def test_dropout_that_the_logits_do_not_depend_on_is_an_error():
    class Aside(InPlaceAfterDropout):
        def head(self, h: Tensor) -> Tensor:
            self.dropout(h)
            return self.tail[2](h)

    with pytest.raises(ConfigError, match="do not depend on: the posterior would have no spread"):
        fit(make(lambda: Aside((3, 8, 8), 5))).predict(images(2, (3, 8, 8)))


def test_dropout_layers_that_are_never_called_are_an_error():
    class Uncalled(Branching):
        def embed(self, x: Tensor) -> Tensor:
            return self.hidden(self.convolution(x).mean(dim=(2, 3)))

        def head(self, h: Tensor) -> Tensor:
            return self.classifier(h)

    with pytest.raises(ConfigError, match="got no call"):
        fit(make(lambda: Uncalled((3, 8, 8), 5))).predict(images(2, (3, 8, 8)))


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.2), nn.Dropout(1.0)])
def test_a_dropout_layer_of_another_kind_is_named(layer):
    network = SmallCNN((3, 28, 28), 5, width=8)
    network.dropout = layer
    with pytest.raises(ConfigError, match="at 'dropout'"):
        fit(network)


def test_activations_that_do_not_begin_with_the_batch_are_an_error():
    class SequenceFirst(Twice):
        def head(self, h: Tensor) -> Tensor:
            return self.classifier(self.dropout(h[None])[0])

    with pytest.raises(ConfigError, match="whose first axis is the batch"):
        fit(make(lambda: SequenceFirst((3, 8, 8), 5))).predict(images(2, (3, 8, 8)))


def test_a_mistake_in_the_network_is_not_hidden():
    with pytest.raises(RuntimeError, match="channels"), warnings.catch_warnings():
        fit(make(NETWORKS["twice"][0])).predict(images(2, (1, 8, 8)))


@pytest.mark.parametrize("draws", [1, 0, -3])
def test_fewer_than_two_draws_are_an_error(draws):
    with pytest.raises(ConfigError, match="use uncertainty=point"):
        MCDropout(draws=draws)


def test_no_bytes_are_an_error():
    with pytest.raises(ConfigError, match="max_bytes"):
        MCDropout(max_bytes=0)
