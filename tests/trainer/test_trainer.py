from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from alframe.errors import ConfigError, TrainingError
from alframe.pixels import Normalizer, Pixels
from alframe.rng import generator, scoped
from alframe.trainer.trainer import Cycles, Lesson
from alframe.types import Examples

CPU = torch.device("cpu")


@dataclass
class Problem:
    """What a fit needs, with the first `n` images labelled."""

    images: object
    n: int = 48

    def fit(self, trainer, network, **options):
        pixels = Pixels(self.images.pixels, CPU, options.pop("resident_bytes", 1 << 30))
        with scoped(generator(0, 0, "init")):
            model = network(self.images.shape, self.images.n_classes)
        cycles = options.pop("cycles", None)
        prepare = Normalizer(self.images.pixels, CPU)
        lesson = Lesson(pixels, self.examples(0, self.n), self.images.n_classes, prepare, **options)
        report = trainer.fit(model, lesson, lambda purpose: generator(0, 0, purpose), cycles)
        return model, report

    def examples(self, start, stop):
        rows = torch.arange(start, stop)
        return Examples(rows, torch.from_numpy(self.images.labels)[rows])

    def accuracy(self, trainer, model):
        pixels, prepare = Pixels(self.images.pixels, CPU, 0), Normalizer(self.images.pixels, CPU)
        return trainer.validate(model, pixels, self.examples(self.n, len(self.images)), prepare)[0]


@pytest.fixture
def problem(make_images):
    return Problem(make_images(120, 0))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values() if p.is_floating_point()])


def test_training_learns(problem, make_trainer, tiny_network):
    trainer = make_trainer(min_steps=150)
    model, report = problem.fit(trainer, tiny_network)
    assert report.steps == 150
    assert not model.training
    assert problem.accuracy(trainer, model) > 0.85


def test_the_same_streams_give_the_same_weights_resident_or_streamed(problem, make_trainer, tiny_network):
    first, _ = problem.fit(make_trainer(), tiny_network)
    torch.rand(7)  # the state of the default generator is nobody's business
    again, _ = problem.fit(make_trainer(), tiny_network, resident_bytes=0)
    assert torch.equal(weights(first), weights(again))


def test_training_leaves_the_default_generator_alone(problem, make_trainer, tiny_network):
    before = torch.get_rng_state()
    problem.fit(make_trainer(), tiny_network)
    assert torch.equal(torch.get_rng_state(), before)


def test_few_images_still_get_the_least_number_of_steps(make_trainer):
    trainer = make_trainer(epochs=10, min_steps=300, batch_size=64)
    assert [trainer.n_steps(n) for n in (2, 100, 64 * 40)] == [300, 300, 400]
    assert make_trainer(epochs=10, min_steps=300, max_steps=50).n_steps(100) == 50


def test_every_image_is_seen_equally_often(problem, make_trainer, tiny_network):
    seen = []
    problem.n = 50
    problem.fit(make_trainer(min_steps=25, batch_size=16), tiny_network, augment=lambda x, g: seen.append(x) or x)
    images = {image.numpy().tobytes(): 0 for image in torch.from_numpy(problem.images.pixels[:50])}
    for image in torch.cat(seen):
        images[image.numpy().tobytes()] += 1
    assert sum(images.values()) == 25 * 16
    assert set(images.values()) == {8}


def test_few_images_are_repeated_to_full_batches_where_that_is_asked_for(problem, make_trainer, tiny_network):
    seen = []
    problem.n = 10
    trainer = make_trainer(epochs=0, min_steps=25, batch_size=16, full_batches=True)
    problem.fit(trainer, tiny_network, augment=lambda x, g: seen.append(x) or x)
    assert {len(batch) for batch in seen} == {16}
    counts: dict[bytes, int] = {}
    for image in torch.cat(seen):
        counts[image.numpy().tobytes()] = counts.get(image.numpy().tobytes(), 0) + 1
    assert sorted(counts.values()) == [40] * 10


def test_augmentation_is_asked_for_each_batch_and_can_be_switched_off(problem, make_trainer, tiny_network):
    calls = []
    problem.fit(make_trainer(), tiny_network, augment=lambda x, g: calls.append(1) or x)
    assert len(calls) == 20
    problem.fit(make_trainer(augment=False), tiny_network, augment=lambda x, g: calls.append(1) or x)
    assert len(calls) == 20


def test_a_diverging_loss_stops_with_one_clear_line(problem, make_trainer, tiny_network):
    with pytest.raises(TrainingError, match=r"finite training loss, got (nan|inf).*trainer\.lr"):
        problem.fit(make_trainer(lr=1e38, min_steps=60), tiny_network)


def test_early_stop_ends_before_the_last_step(problem, make_trainer, tiny_network):
    trainer = make_trainer(min_steps=600, early_stop=2, validate_every=10, best_checkpoint=True)
    model, report = problem.fit(trainer, tiny_network, validation=problem.examples(60, 120))
    assert report.steps < 600
    assert report.best_step <= report.steps - 20
    assert report.validation_accuracy == pytest.approx(
        trainer.validate(
            model,
            Pixels(problem.images.pixels, CPU, 0),
            problem.examples(60, 120),
            Normalizer(problem.images.pixels, CPU),
        )[0]
    )


def test_balanced_weights_make_every_class_weigh_the_same(make_trainer):
    labels = torch.tensor([0] * 30 + [1] * 10)
    weight = make_trainer(class_weighting="balanced")._class_weight(Examples(torch.arange(40), labels), 3, CPU)
    assert weight[labels].mean() == pytest.approx(1.0)
    assert 30 * weight[0] == pytest.approx(10 * float(weight[1]))
    assert weight[2] == 0


@pytest.mark.parametrize("soft", [False, True])
def test_a_new_network_begins_with_the_shares_of_its_labels(soft, make_trainer, tiny_network):
    labels = torch.tensor([0] * 45 + [2] * 5)
    some = Examples(torch.arange(50), labels, nn.functional.one_hot(labels, 3).float() if soft else None)
    network = tiny_network((1, 8, 8), 3)
    last = network.tail[-1]
    kept = last.weight.clone()
    make_trainer(prior_bias=True).begin(network, some, 3)
    torch.testing.assert_close(last.bias.exp(), torch.tensor([45.5, 0.5, 5.5]) / 51.5)
    assert torch.equal(last.weight, kept)
    make_trainer(prior_bias=True, class_weighting="balanced").begin(network, some, 3)
    assert not last.bias.any()
    untouched = weights(network)
    make_trainer(prior_bias=False).begin(network, some, 3)
    assert torch.equal(weights(network), untouched)
    make_trainer(prior_bias=True).begin(nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False)), some, 3)


def test_balanced_batches_show_every_class_and_every_image_of_a_class_equally_often(
    make_trainer, tiny_network, make_images
):
    images = make_images(40, 0)
    images.labels[:] = [0] * 36 + [1] * 4
    problem, seen = Problem(images, 40), []
    trainer = make_trainer(min_steps=27, batch_size=16, balanced_batches=True, epochs=0)
    problem.fit(trainer, tiny_network, augment=lambda x, g: seen.append(x) or x)
    label = {
        image.numpy().tobytes(): int(y) for image, y in zip(torch.from_numpy(images.pixels), images.labels, strict=True)
    }
    drawn = [image.numpy().tobytes() for image in torch.cat(seen)]
    for start in range(0, 27 * 16, 16):
        assert sum(label[image] for image in drawn[start : start + 16]) == 8
    assert {drawn.count(image) for image, y in label.items() if y == 0} == {6}
    assert {drawn.count(image) for image, y in label.items() if y == 1} == {54}


def test_balanced_batches_leave_the_predicted_shares_to_the_labels(make_trainer, make_images):
    images = make_images(40, 0, 3)
    images.pixels[:] = 7  # nothing tells the classes apart
    images.labels[:] = [0] * 32 + [1] * 8
    trainer = make_trainer(epochs=0, min_steps=400, balanced_batches=True, lr=0.5, augment=False)
    model, _ = Problem(images, 40).fit(trainer, lambda shape, c: nn.Sequential(nn.Flatten(), nn.Linear(64, c)))
    probs = model(torch.zeros(1, 64)).softmax(dim=1)[0].detach()
    assert float(probs[1]) == pytest.approx(0.2, abs=0.02)
    assert probs[2] < 0.01


def test_two_cures_for_rare_classes_at_once_are_refused(make_trainer):
    with pytest.raises(ConfigError, match="choose one of the two"):
        make_trainer(class_weighting="balanced", balanced_batches=True)


def soft_rows(n, c):
    targets = torch.rand(n, c, generator=generator(0, 0, "targets"))
    return targets / targets.sum(dim=1, keepdim=True)


def naive_loss(logits, targets, weight, smoothing):
    """Every term in float64: the mean of the weighted cross-entropies, weighted by what the targets weigh."""
    c, above, below = logits.shape[1], 0.0, 0.0
    for row, target in zip(logits.double(), targets.double(), strict=True):
        log_z = float(torch.log(torch.exp(row).sum()))
        for k in range(c):
            part = (1 - smoothing) * float(target[k]) + smoothing / c
            above -= float(weight[k]) * part * (float(row[k]) - log_z)
            below += float(weight[k]) * float(target[k])
    return above / below


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_soft_targets_is_the_one_written_out_and_of_a_single_1_that_of_labels(
    make_trainer, smoothing, weighted
):
    trainer = make_trainer(label_smoothing=smoothing)
    logits = torch.randn(9, 3, generator=generator(0, 0, "logits"))
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2, 0])
    weight = torch.tensor([0.5, 2.0, 1.5]) if weighted else None
    soft = soft_rows(9, 3)
    expected = naive_loss(logits, soft, [0.5, 2.0, 1.5] if weighted else [1, 1, 1], smoothing)
    assert float(trainer._loss(logits, soft, weight)) == pytest.approx(expected, rel=1e-6)
    certain = nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(trainer._loss(logits, certain, weight), trainer._loss(logits, labels, weight))


def test_targets_of_a_single_1_weigh_and_train_as_labels_do(problem, make_trainer, tiny_network):
    trainer = make_trainer(class_weighting="balanced", min_steps=20)
    by_labels, _ = problem.fit(trainer, tiny_network)
    plain = problem.examples(0, problem.n)
    certain = nn.functional.one_hot(plain.labels, problem.images.n_classes).float()
    problem.examples = lambda start, stop: Examples(plain.rows, plain.labels, certain)
    by_targets, _ = problem.fit(trainer, tiny_network)
    torch.testing.assert_close(weights(by_targets), weights(by_labels), rtol=1e-3, atol=1e-4)


def test_a_network_learns_the_probabilities_it_is_given(problem, make_trainer, tiny_network):
    unknown, targets = torch.full((problem.n,), -1), torch.tensor([[0.7, 0.3]]).expand(problem.n, 2)
    rows = torch.arange(problem.n)
    problem.examples = lambda start, stop: Examples(rows, unknown, targets)
    model, report = problem.fit(make_trainer(min_steps=200), tiny_network)
    pixels, prepare = Pixels(problem.images.pixels, CPU, 0), Normalizer(problem.images.pixels, CPU)
    with torch.no_grad():
        probs = model(prepare(pixels.take(rows))).softmax(dim=1)
    assert float(probs[:, 0].mean()) == pytest.approx(0.7, abs=0.05)
    assert report.loss > 0.6  # no less than the entropy of the targets


def test_what_has_a_class_is_told_from_what_has_a_target_alone():
    targets = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.25, 0.75]])
    examples = Examples(torch.tensor([4, 5, 6]), torch.tensor([0, -1, 1]), targets)
    assert (examples.certain.rows.tolist(), examples.certain.labels.tolist()) == ([4, 6], [0, 1])
    assert examples.certain.soft_labels is None
    assert (len(examples), examples.n_soft) == (3, 2)
    plain = Examples(torch.tensor([4]), torch.tensor([0]))
    assert (plain.certain is plain, plain.truth is plain.labels, plain.n_soft) == (True, True, 0)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_schedules_warm_up_peak_at_one_and_stay_positive(make_trainer, schedule):
    trainer = make_trainer(schedule=schedule, warmup=0.2)
    factors = [trainer._lr_factor(step, 100) for step in range(100)]
    assert 0 < factors[0] < 0.1
    assert max(factors) == pytest.approx(1.0, abs=0.06)
    assert min(factors) > 0
    assert np.argmax(factors) in range(18, 22)
    assert (factors[-1] < 0.03) == (schedule != "constant")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_lower_precision_still_learns(problem, make_trainer, tiny_network, precision):
    trainer = make_trainer(min_steps=150, precision=precision)
    model, _ = problem.fit(trainer, tiny_network)
    assert problem.accuracy(trainer, model) > 0.85


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"epochs": 0, "min_steps": 0},
        {"warmup": 1.0},
        {"batch_size": 1},
        {"label_smoothing": 1.0},
        {"early_stop": 0},
        {"max_steps": 0},
        {"gradient_clip": -1.0},
        {"ema": 1.0},
    ],
)
def test_values_out_of_range_are_refused(make_trainer, options):
    with pytest.raises(ConfigError, match="Expected"):
        make_trainer(**options)


def test_cycles_start_the_schedule_again_within_the_same_steps(problem, make_trainer, tiny_network):
    trainer = make_trainer(min_steps=20, epochs=0, warmup=0.0)
    ends = []
    _, report = problem.fit(trainer, tiny_network, cycles=Cycles(3, lambda: ends.append(1)))
    assert (report.steps, len(ends)) == (20, 3)
    factors = [trainer._lr_factor(step, 20, cycles=3) for step in range(20)]
    assert [step for step, factor in enumerate(factors) if factor == 1.0] == [0, 7, 14]
    assert [trainer._lr_factor(step, 7) for step in range(7)] == pytest.approx(factors[7:14])


def test_there_are_at_least_as_many_steps_as_cycles(problem, make_trainer, tiny_network):
    ends = []
    _, report = problem.fit(make_trainer(min_steps=2, epochs=0), tiny_network, cycles=Cycles(5, lambda: ends.append(1)))
    assert (report.steps, len(ends)) == (5, 5)


def test_the_moving_average_of_the_weights_is_kept(problem, make_trainer, tiny_network, monkeypatch):
    seen = []
    step = torch.optim.SGD.step

    def remember(optimizer, *arguments, **options):
        step(optimizer, *arguments, **options)
        seen.append(optimizer.param_groups[0]["params"][0].detach().double().clone())

    monkeypatch.setattr(torch.optim.SGD, "step", remember)
    model, _ = problem.fit(make_trainer(min_steps=8, epochs=0, ema=0.7), tiny_network)
    average = seen[0]
    for weights in seen[1:]:
        average = 0.7 * average + 0.3 * weights
    torch.testing.assert_close(next(model.parameters()).double(), average, rtol=1e-5, atol=1e-6)


def test_a_moving_average_is_what_validation_sees_and_keeps(problem, make_trainer, tiny_network):
    trainer = make_trainer(min_steps=60, ema=0.9, best_checkpoint=True, validate_every=10)
    model, report = problem.fit(trainer, tiny_network, validation=problem.examples(60, 120))
    pixels, prepare = Pixels(problem.images.pixels, CPU, 0), Normalizer(problem.images.pixels, CPU)
    assert report.validation_accuracy == trainer.validate(model, pixels, problem.examples(60, 120), prepare)[0]


@pytest.mark.parametrize(
    ("device", "options", "fused"),
    [("cuda", {}, True), ("cpu", {}, None), ("cuda", {"fused": False}, False), ("cuda", {"foreach": True}, None)],
)
def test_fused_optimizers_are_for_cuda_and_for_those_who_say_nothing_else(
    make_trainer, tiny_network, device, options, fused
):
    trainer = make_trainer(optimizer=partial(torch.optim.SGD, momentum=0.9, **options))
    assert trainer._optimizer(tiny_network((1, 8, 8), 2), torch.device(device)).defaults["fused"] is fused


def test_the_next_round_uses_what_was_compiled(problem, make_trainer, tiny_network, monkeypatch):
    compiled = []
    backend = lambda graph, inputs: compiled.append(1) or graph.forward  # noqa: E731
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    eager, _ = problem.fit(make_trainer(), tiny_network)
    for round in range(3):
        model, _ = problem.fit(make_trainer(compile=True), tiny_network)
        torch.testing.assert_close(weights(model), weights(eager))
        if round == 0:
            first = len(compiled)
    assert len(compiled) == first > 0
