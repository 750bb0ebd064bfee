"""The ways of the loop benchmark do the same experiment; nothing is timed here, and no peer is asked."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where a script finds its own modules

import benchmark_loop
from benchmark_loop import ExampleCNN, Task

from alframe import scores
from alframe.images import Data

TASK = Task(pool_size=80, test_size=40, initial=20, query_size=10, rounds=2, draws=10, epochs=2, batch_size=16)


@pytest.fixture
def data(make_images) -> Data:
    return Data("tiny", make_images(80, 0, 10, 28), make_images(40, 1, 10, 28))


def test_both_ways_answer_with_every_stage_and_an_accuracy_a_round(data):
    by_alframe = benchmark_loop.by_alframe(TASK, data, 0, tensorboard=False)
    by_hand = benchmark_loop.by_hand(TASK, benchmark_loop.arrays(TASK, data, 0), 0)
    for result in (by_alframe, by_hand):
        assert set(result.stages) == set(benchmark_loop.STAGES)
        assert len(result.accuracies) == TASK.rounds + 1


def test_all_ways_begin_with_the_labels_that_alframe_draws(data, monkeypatch):
    drawn = []
    start = benchmark_loop.Oracle.start

    def watched(self, job):
        annotate = start(self, job)
        return lambda questions: drawn.append([question.index for question in questions]) or annotate(questions)

    monkeypatch.setattr(benchmark_loop.Oracle, "start", watched)
    benchmark_loop.by_alframe(replace(TASK, rounds=0), data, 3, tensorboard=False)
    assert drawn[0] == benchmark_loop.arrays(TASK, data, 3)["initial"].tolist()


def test_the_plain_draws_and_score_are_those_of_the_whole_network_and_of_alframe():
    torch.manual_seed(0)
    network, x = ExampleCNN((1, 28, 28), 10), torch.randn(4, 1, 28, 28)
    probs = benchmark_loop.draw(replace(TASK, draws=2000), network, x)
    with torch.no_grad():
        whole = torch.stack([network(x).softmax(dim=-1) for _ in range(2000)], dim=1)
    torch.testing.assert_close(probs.mean(dim=1), whole.mean(dim=1), atol=0.01, rtol=0)
    bald = benchmark_loop.entropy(probs.mean(dim=1)) - benchmark_loop.entropy(probs).mean(dim=1)
    torch.testing.assert_close(bald, scores.bald(probs.log()), atol=1e-5, rtol=0)


def test_a_plain_fit_takes_as_many_steps_as_the_trainer(monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1))
    benchmark_loop.fit(TASK, torch.randn(20, 1, 28, 28), torch.arange(20) % 10)
    assert len(steps) == TASK.epochs * 2
