import pytest
import torch
from torch import nn

from alframe.dataset.augment import Augmentation
from alframe.errors import TrainingError
from alframe.pixels import Normalizer, Pixels
from alframe.rng import generator, scoped
from alframe.trainer.together import Together
from alframe.trainer.trainer import Lesson
from alframe.types import Examples

CPU = torch.device("cpu")
MEMBERS = 3


def networks(make, images, **options) -> list[nn.Module]:
    made = []
    for member in range(MEMBERS):
        with scoped(generator(0, member, "init")):
            made.append(make(images.shape, images.n_classes, **options))
    return made


def streams():
    return [lambda purpose, member=member: generator(0, member, purpose) for member in range(MEMBERS)]


@pytest.fixture
def data(make_images):
    images = make_images(60, 0)
    examples = Examples(torch.arange(40), torch.from_numpy(images.labels)[:40])
    pixels, prepare = Pixels(images.pixels, CPU, 1 << 30), Normalizer(images.pixels, CPU)
    return images, Lesson(pixels, examples, images.n_classes, prepare, Augmentation(crop=1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip": 0.05},
        {"class_weighting": "balanced"},
        {"ema": 0.9},
        {"label_smoothing": 0.1},
        {"channels_last": True},
    ],
    ids=str,
)
def test_members_come_out_as_if_trained_one_after_another(data, make_trainer, tiny_network, options):
    images, lesson = data
    trainer = make_trainer(**options)
    alone, together = networks(tiny_network, images, dropout=0.0), networks(tiny_network, images, dropout=0.0)
    expected = [trainer.fit(network, lesson, stream) for network, stream in zip(alone, streams(), strict=True)]
    reports = trainer.fit_together(together, lesson, streams())
    assert [report.steps for report in reports] == [report.steps for report in expected]
    for one, other, report, wanted in zip(together, alone, reports, expected, strict=True):
        assert report.loss == pytest.approx(wanted.loss, rel=1e-3)
        assert not one.training
        for (name, value), (_, other_value) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            torch.testing.assert_close(
                value, other_value, rtol=2e-3, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_members_drop_out_apart(data, tiny_network):
    images, _ = data
    one = networks(tiny_network, images, dropout=0.5)[:1] * MEMBERS
    together = Together(one).train()
    x = torch.randn(4, *images.shape).repeat(MEMBERS, 1, 1, 1)
    logits = together(x).unflatten(0, (MEMBERS, 4))
    assert not torch.allclose(logits[0], logits[1])
    logits = together.eval()(x).unflatten(0, (MEMBERS, 4))
    torch.testing.assert_close(logits[0], logits[1])


def test_the_networks_are_untouched_until_they_are_released(data, tiny_network):
    images, _ = data
    members = networks(tiny_network, images)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in members]
    together = Together(members)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(1.0)
    for network, weights in zip(members, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    together.release(members)
    for network, weights in zip(members, before, strict=True):
        for name, value in network.named_parameters():
            torch.testing.assert_close(value, weights[name] + 1.0)


def test_a_network_that_vmap_cannot_batch_is_told_with_the_way_out(data, make_trainer, tiny_network):
    class Reads(tiny_network):
        def embed(self, x):
            return super().embed(x) * (2.0 if x.mean().item() > 0 else 1.0)

    images, lesson = data
    with pytest.raises(TrainingError, match=r"Expected a network that torch.vmap .*uncertainty.method=one_by_one"):
        make_trainer().fit_together(networks(Reads, images), lesson, streams())
