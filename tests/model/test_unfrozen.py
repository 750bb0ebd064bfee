"""Trunk and head trained as one network: from a round on, or from a layer on."""

import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import test_loop
import torch
import torchvision
from test_loop import read

from alframe.budget import Budget
from alframe.config.overrides import load
from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError, DataError
from alframe.images import Data, ImageSet
from alframe.learner import POOL, Learner, Resources
from alframe.model.frozen import Frozen
from alframe.pixels import Pixels
from alframe.rng import generator, scoped
from alframe.scores import bald
from alframe.strategy.core_set import CoreSet
from alframe.strategy.top_score import TopScore
from alframe.trainer.together import Together
from alframe.trainer.trainer import Lesson
from alframe.types import Examples
from alframe.uncertainty.ensemble import Ensemble
from alframe.uncertainty.laplace import Laplace
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.tta import TTA

CPU = torch.device("cpu")
go = partial(test_loop.go, tensorboard=False)
lite0 = pytest.param(
    "efficientnet_lite0",
    marks=pytest.mark.skipif(
        find_spec("efficientnet_lite_pytorch") is None, reason="the extra efficientnet-lite0 is not installed"
    ),
)


@pytest.fixture
def make_frozen(weights):
    def make(freeze_until=0, trunk="resnet18", **options) -> Frozen:
        known = {"weights": weights} if trunk == "resnet18" else {}
        return Frozen(trunk=trunk, freeze_until=freeze_until, **{"input_size": 32, **known, **options})

    return make


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict:
    """The quickest of torchvision's models, for whole runs."""
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    with scoped(generator(0, 0, "weights")):
        torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    return {"trunk": "shufflenet_v2_x0_5", "weights": str(path), "input_size": 32}


@pytest.fixture
def make_run(make_experiment, make_trainer, make_images, quick, tmp_path):
    """Three rounds, unfrozen in round 2 unless told otherwise."""

    def make(freeze_until=2, trainer=(), **options):
        return make_experiment(
            **{
                "data": Data("tiny", make_images(40, 0), make_images(10, 1)),
                "model": Frozen(freeze_until=freeze_until, **quick),
                "trainer": make_trainer(min_steps=2, epochs=0, batch_size=8, **dict(trainer)),
                "strategy": CoreSet(),
                "resources": Resources(cache=tmp_path / "cache"),
                "budget": Budget(initial=12, query_size=4, rounds=3),
                **options,
            }
        )

    return make


def images(n: int = 6, channels: int = 1, side: int = 40) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, ("good", "bad"))


def trained_names(network: torch.nn.Module) -> list[str]:
    return [name for name, weights in network.named_parameters() if weights.requires_grad]


def fit_a_little(network, make_trainer, **options) -> dict[str, torch.Tensor]:
    """All that a few steps changed, by name."""
    before = deepcopy(network.state_dict())
    pixels = images()
    examples = Examples(torch.arange(6), torch.from_numpy(pixels.labels))
    lesson = Lesson(Pixels(pixels.pixels, CPU, 1 << 30), examples, 2, torch.Tensor.float)
    make_trainer(min_steps=2, epochs=0, batch_size=4, **options).fit(network, lesson, partial(generator, 0, 0))
    return {name: value for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("trunk", ["resnet18", lite0])
@pytest.mark.parametrize(("channels", "side"), [(1, 40), (3, 32)])
def test_before_training_it_embeds_images_as_their_cached_features(make_frozen, tmp_path, trunk, channels, side):
    frozen, pool = make_frozen(trunk=trunk), images(channels=channels, side=side)
    features = torch.from_numpy(np.array(frozen.prepare(pool, tmp_path, CPU).pixels))
    network = frozen.unfrozen(pool.shape, 2).eval()
    with torch.no_grad():
        torch.testing.assert_close(network.embed(torch.from_numpy(pool.pixels).float()), features, rtol=1e-3, atol=1e-3)


def test_the_head_is_that_of_the_features(make_frozen):
    network = make_frozen(hidden=7, dropout=0.25).unfrozen((1, 40, 40), 3).eval()
    features = network.embed(torch.zeros(2, 1, 40, 40))
    assert features.shape == (2, 7)
    assert torch.equal(network(torch.zeros(2, 1, 40, 40)), network.head(features))
    assert network.top.dropout.p == 0.25


def test_a_round_says_from_when_on_everything_is_trained(make_frozen):
    assert [make_frozen(2).at(round).on_features for round in range(4)] == [True, True, False, False]
    assert not make_frozen(0).at(0).on_features
    assert not make_frozen("layer4").at(0).on_features
    assert make_frozen(None).at(1000).on_features
    network = make_frozen(2).unfrozen((1, 40, 40), 2)
    assert len(trained_names(network)) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("trunk", "layer", "first"),
    [
        ("resnet18", "layer4", "layer4.0.conv1"),
        ("resnet18", "layer3.1", "layer3.1.conv1"),
        ("resnet18", "layer3.1.bn1", "layer3.1.bn1"),
        ("resnet18", "conv1", "conv1"),
        pytest.param("efficientnet_lite0", "_blocks.15", "_blocks.15._expand_conv", marks=lite0.marks),
    ],
)
def test_a_layer_and_what_follows_it_is_trained_and_nothing_else(make_frozen, trunk, layer, first):
    network = make_frozen(layer, trunk).unfrozen((1, 40, 40), 2)
    everything = [name for name, _ in network.named_parameters()]
    assert trained_names(network) == everything[everything.index(f"trunk.1.{first}.weight") :]


def test_what_is_frozen_stays_in_eval_mode_and_its_statistics_do_not_move(make_frozen, make_trainer):
    network = make_frozen("layer4").unfrozen((1, 40, 40), 2).train()
    training = {name for name, module in network.named_modules() if module.training}
    assert {"trunk.1.layer4", "trunk.1.layer4.0.bn1", "top.dropout"} <= training
    assert not {name for name in training if name.startswith(("trunk.1.conv1", "trunk.1.bn1", "trunk.1.layer3"))}
    changed = fit_a_little(network, make_trainer)
    assert {name.split(".")[2] for name in changed if name.startswith("trunk")} == {"layer4"}
    assert "trunk.1.layer4.0.bn1.running_mean" in changed
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(
    "options", [{"ema": 0.5}, {"gradient_clip": 0.1}, {"optimizer": torch.optim.AdamW, "lr": 1e-3}]
)
def test_frozen_weights_are_untouched_by_every_way_of_training(make_frozen, make_trainer, options):
    changed = fit_a_little(make_frozen("layer4").unfrozen((1, 40, 40), 2), make_trainer, **options)
    assert "trunk.1.layer4.0.conv1.weight" in changed
    assert not [name for name in changed if name.startswith("trunk") and "layer4" not in name]


def test_members_that_train_together_keep_what_is_frozen(make_frozen):
    networks = [make_frozen("layer4").unfrozen((1, 32, 32), 2) for _ in range(2)]
    together = Together(networks).train()
    assert len(trained_names(together)) == len(trained_names(networks[0]))
    before = deepcopy(networks[1].state_dict())
    together(torch.rand(8, 1, 32, 32) * 255)
    together.release(networks)
    moved = [name for name, value in networks[1].state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all(name.startswith("trunk.1.layer4") for name in moved)


@pytest.mark.parametrize("uncertainty", [MCDropout(draws=3), Ensemble(members=2), Laplace(draws=3), TTA(draws=3)])
@pytest.mark.parametrize("round", [0, 1])
def test_posteriors_work_in_both_phases(make_run, uncertainty, round):
    run = make_run(1, uncertainty=uncertainty, data=replace(make_run().data, augment=Augmentation(crop=1)))
    learner = run.learner(round)
    learner.fit(Examples(torch.arange(12), torch.arange(12) % 2), Examples(torch.arange(0), torch.arange(0)), round)
    (prediction,) = learner.predictions(POOL, torch.arange(20, 25))
    assert prediction.features.shape == (5, 1024)
    assert prediction.log_probs.shape[:2] == (5, uncertainty.n_draws)
    assert float(prediction.log_probs.exp().std(dim=1).max()) > 0
    if isinstance(uncertainty, MCDropout):
        assert learner.posterior.method == "looped", "cut at the dropout before the last layer"


def test_the_learner_changes_once_and_the_pixels_reach_the_network_as_they_are(make_run):
    run = make_run(2)
    learners = [run.learner(0)]
    for round in (1, 2, 3):
        learners.append(run.learner(round, learners[-1]))
    assert learners[1] is learners[0]
    assert learners[3] is learners[2] is not learners[1]
    assert [learner.shape for learner in learners[1:3]] == [(1024,), (1, 8, 8)]
    x, _ = next(learners[2].batches(POOL, torch.arange(4)))
    assert torch.equal(x, torch.from_numpy(run.data.pool.pixels[:4]).float())


def test_the_trunk_is_trained_from_its_round_on_and_each_round_starts_from_the_pretrained_one(
    make_run, monkeypatch, tmp_path
):
    starts, ends = [], []
    original = Learner.fit

    def fit(learner, training, validation, round):
        with scoped(generator(0, 0, "any")):
            network = learner.model(learner.shape, learner.n_classes)
        numbers = original(learner, training, validation, round)
        key = "trunk.1.conv1.0.weight"
        starts.append(network.state_dict().get(key))
        ends.append(learner.posterior.networks[0].state_dict().get(key))
        return numbers

    monkeypatch.setattr(Learner, "fit", fit)
    go(make_run(2), tmp_path / "run")
    assert starts[:2] == ends[:2] == [None, None]
    assert torch.equal(starts[2], starts[3])
    assert not torch.equal(ends[2], starts[2])
    assert not torch.equal(ends[2], ends[3])


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_run_goes_on_across_the_change_as_if_nothing_had_happened(make_run, tmp_path, warm_start):
    run = make_run(2, {"warm_start": warm_start}, strategy=TopScore(bald, 2), uncertainty=MCDropout(draws=2))
    go(run, tmp_path / "straight")
    for rounds in (1, 3):
        go(replace(run, budget=replace(run.budget, rounds=rounds)), tmp_path / "steps")
    assert read(tmp_path / "steps") == read(tmp_path / "straight")


def test_after_the_change_the_features_are_not_needed(make_run, monkeypatch, tmp_path):
    run = make_run(1, budget=Budget(initial=12, query_size=4, rounds=2))
    go(replace(run, budget=replace(run.budget, rounds=1)), tmp_path / "run")
    go(run, tmp_path / "straight")
    shutil.rmtree(run.resources.cache)
    monkeypatch.setattr(Frozen, "prepare", None)
    go(run, tmp_path / "run")
    assert read(tmp_path / "run") == read(tmp_path / "straight")
    assert not list(run.resources.cache.glob("features-*"))


@pytest.mark.parametrize(
    ("trunk", "freeze_until", "message"),
    [
        ("resnet18", -1, r"a round from 0 on or the name of a layer, got -1"),
        ("resnet18", "layer5", r"a layer of resnet18 .* got 'layer5'; did you mean 'layer4'\?"),
        ("resnet18", "fc", r"its parts are conv1, bn1, relu, maxpool, layer1"),
        pytest.param("efficientnet_lite0", "_block.12", r"did you mean '_blocks\.12'", marks=lite0.marks),
    ],
)
def test_what_cannot_be_unfrozen_is_an_error_of_one_line_at_the_door(make_frozen, trunk, freeze_until, message):
    with pytest.raises(ConfigError, match=message) as raised:
        make_frozen(freeze_until, trunk)
    assert "\n" not in str(raised.value)
    name = "frozen" if trunk == "efficientnet_lite0" else "frozen_torchvision"
    with pytest.raises(ConfigError, match=message):
        load([f"model={name}", f"model.freeze_until={freeze_until}"])


def test_a_layer_that_only_the_weights_can_show_is_an_error_when_it_is_used(tmp_path):
    path = tmp_path / "regnet.pth"
    torch.save(torchvision.models.regnet_y_400mf().state_dict(), path)
    frozen = Frozen(trunk="regnet_y_400mf", weights=str(path), input_size=32, freeze_until="trunk_outputs")
    with pytest.raises(ConfigError, match="did you mean 'trunk_output'"):
        frozen.unfrozen((3, 32, 32), 2)


def test_features_instead_of_images_are_an_error(make_run, tmp_path):
    run = make_run(0)
    features = [
        replace(s, pixels=s.pixels.reshape(len(s), -1).astype(np.float32)) for s in (run.data.pool, run.data.test)
    ]
    with pytest.raises((ConfigError, DataError), match="Expected images"):
        go(replace(run, data=replace(run.data, pool=features[0], test=features[1])), tmp_path / "run")
