from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from alframe.errors import StrategyError
from alframe.learner import POOL, TARGET, Learner, Resources, Sets
from alframe.query import TargetSet, query, summarize
from alframe.rng import generator
from alframe.strategy.base import Strategy
from alframe.types import Examples, Labelled, PoolView, Prediction, Selection, Summary
from alframe.uncertainty.mc_dropout import MCDropout

SIZE = 4
NOTHING = Examples(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Answers(Strategy):
    """Answers what it was told to, and remembers what it was shown."""

    positions: list[int] = field(default_factory=lambda: [3, 0, 2, 1])
    scores: list[float] = field(default_factory=lambda: [1.0] * SIZE)
    seen: list[PoolView] = field(default_factory=list)
    spoil: bool = False

    def summarize(self, prediction: Prediction) -> Summary:
        top = prediction.mean_log_probs.max(dim=1).values
        return {"top": top * float("nan") if self.spoil else top, "features": prediction.features}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        self.seen.append(view)
        return Selection(torch.tensor(self.positions, dtype=torch.int64), torch.tensor(self.scores), "told")


class Needy(Answers):
    needs: ClassVar[frozenset[str]] = frozenset({"labeled", "target", "held_out", "head"})


class Blind(Answers):
    needs_pool_pass: ClassVar[bool] = False


@pytest.fixture
def learner(data, make_trainer, tiny_network):
    learner = Learner(Sets(data), tiny_network, make_trainer(), MCDropout(draws=3), resources=Resources(batch_size=7))
    rows = torch.arange(20)
    learner.fit(Examples(rows, torch.from_numpy(data.pool.labels[:20])), NOTHING, 0)
    return learner


def ask(learner, strategy, training=NOTHING, validation=NOTHING, size=SIZE):
    return query(
        strategy,
        learner,
        torch.arange(20, 80),
        size,
        generator(0, 0, "query"),
        Labelled(training, validation),
    )


def test_positions_become_dataset_indices_in_their_order(learner):
    picked = ask(learner, Answers())
    assert picked.indices == [23, 20, 22, 21]
    assert picked.score_name == "told"
    assert set(picked.seconds) == {"pool_s", "select_s"}


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (Answers([0, 1, 2]), r"Expected 4 positions .* from Answers, got torch.int64 \[3\]"),
        (Answers([0, 1, 2, 60]), r"positions from 0 to 59 from Answers, got \[60\]"),
        (Answers([0, 1, -1, 2]), r"got \[-1\]"),
        (Answers([0, 1, 1, 2]), r"distinct positions from Answers, got \[1\]"),
        (Answers(scores=[1.0, float("nan"), 1.0, 1.0]), r"finite scores from Answers, got others at positions \[0\]"),
        (Answers(spoil=True), "'top' of Answers's summary .* got NaN in batch 0"),
    ],
)
def test_a_broken_contract_names_the_strategy_and_the_positions(learner, strategy, told):
    with pytest.raises(StrategyError, match=told):
        ask(learner, strategy)


def test_a_strategy_gets_what_it_needs_and_nothing_else(learner, data):
    plain = Answers()
    ask(learner, plain)
    view = plain.seen[0]
    assert (view.labeled, view.labels, view.target, view.held_out, view.head) == (None, None, None, None, None)
    assert view.n == len(view.pool["top"]) == 60

    needy = Needy()
    labels = torch.from_numpy(data.pool.labels)
    training, validation = Examples(torch.arange(15), labels[:15]), Examples(torch.arange(15, 20), labels[15:20])
    ask(learner, needy, training, validation)
    view = needy.seen[0]
    assert len(view.labeled["top"]) == 15
    assert torch.equal(view.labels, labels[:15])
    assert len(view.held_out["top"]) == 5
    assert len(view.target["top"]) == 60
    assert view.head(view.pool["features"]).shape == (60, 2)


class Fixed(Answers):
    needs: ClassVar[frozenset[str]] = frozenset({"fixed"})


def test_fixed_features_are_those_of_the_candidates_and_of_all_that_is_labelled(learner, data, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    monkeypatch.setattr("alframe.model.fixed.fixed_features", lambda *_: (rows, False, "some numbers"))
    labels = torch.from_numpy(data.pool.labels)
    training, validation = Examples(torch.arange(15), labels[:15]), Examples(torch.arange(15, 20), labels[15:20])
    strategy = Fixed()
    ask(learner, strategy, training, validation)
    (view,) = strategy.seen
    assert view.fixed.numpy().tolist() == rows[20:].tolist()
    assert view.fixed_labeled.numpy().tolist() == rows[:20].tolist()
    ask(learner, strategy)
    assert strategy.seen[1].fixed_labeled.shape == (0, 5)
    plain = Answers()
    ask(learner, plain)
    assert plain.seen[0].fixed is None


class ByPatches(Answers):
    needs: ClassVar[frozenset[str]] = frozenset({"patch"})


def test_patch_scores_are_those_of_the_candidates(learner, monkeypatch):
    monkeypatch.setattr(
        "alframe.model.fixed.Patches", lambda *_: SimpleNamespace(scores=lambda images: torch.arange(80.0))
    )
    strategy, plain = ByPatches(), Answers()
    ask(learner, strategy)
    ask(learner, plain)
    assert strategy.seen[0].patch_scores.tolist() == list(range(20, 80))
    assert plain.seen[0].patch_scores is None


def test_a_strategy_is_told_the_labels_by_class_and_the_defects(learner):
    training = Examples(torch.arange(3), torch.tensor([1, -1, 1]), torch.tensor([[0.0, 1], [0.5, 0.5], [0, 1]]))
    known = Labelled(training, Examples(torch.arange(3, 5), torch.tensor([0, 1])))
    strategy = Answers()
    for defects in (None, (1,)):
        query(strategy, learner, torch.arange(20, 80), SIZE, generator(0, 0, "query"), known, None, defects)
    assert [view.counts for view in strategy.seen] == [(1, 3)] * 2
    assert [view.defects for view in strategy.seen] == [None, (1,)]


class Credits(Answers):
    def select(self, view, size, generator):
        return replace(super().select(view, size, generator), sources=("a", "b"))


def test_sources_are_one_for_each_position(learner):
    with pytest.raises(StrategyError, match="Expected 4 sources from Credits, got 2"):
        ask(learner, Credits())


def test_the_target_set_may_be_images_that_are_neither_pool_nor_test(data, make_trainer, make_images, tiny_network):
    line = make_images(25, seed=9)
    learner = Learner(Sets(data, line), tiny_network, make_trainer(), MCDropout(draws=3))
    rows = torch.arange(20)
    learner.fit(Examples(rows, torch.from_numpy(data.pool.labels[:20])), NOTHING, 0)
    needy = Needy()
    known, target_set = Labelled(NOTHING, NOTHING), TargetSet(TARGET, 10)
    query(needy, learner, torch.arange(20, 80), SIZE, generator(0, 0, "query"), known, target_set)
    shown = needy.seen[0].target["features"]
    expected = summarize(Answers(), learner, TARGET, torch.arange(25))["features"]
    assert len(shown) == 10
    assert all(torch.isclose(expected, row, atol=1e-6).all(dim=1).any() for row in shown)


def test_a_strategy_that_does_not_read_the_pool_costs_no_pass(learner, monkeypatch):
    blind = Blind()
    passes = []
    forward = learner.posterior.predict
    monkeypatch.setattr(learner.posterior, "predict", lambda x: passes.append(1) or forward(x))
    ask(learner, blind)
    assert blind.seen[0].pool == {}
    assert not passes


def test_no_label_yet_gives_an_empty_summary_of_the_right_width(learner):
    needy = Needy()
    ask(learner, needy)
    assert needy.seen[0].labeled["features"].shape == (0, 32)


def test_the_summary_does_not_depend_on_the_batch_size(learner):
    rows = torch.arange(80)
    first = summarize(Answers(), learner, POOL, rows)
    learner.resources = Resources(batch_size=80)
    again = summarize(Answers(), learner, POOL, rows)
    assert all(torch.allclose(first[name], again[name], atol=1e-6) for name in first)


def test_the_pool_is_seen_without_augmentation(learner):
    learner.augment = lambda x, g: (_ for _ in ()).throw(AssertionError("augmented a pool image"))
    assert len(summarize(Answers(), learner, POOL, torch.arange(80))["top"]) == 80


def test_what_is_beside_the_pool_lies_on_its_device(learner, monkeypatch):
    """A pool too large for the device is kept in host memory; a small labelled set would stay on the device ("meta" stands for one)."""

    def placed(strategy, learner, which, rows, description=""):
        found = summarize(strategy, learner, which, rows, description)
        return {name: tensor.to("meta") if len(rows) == 60 else tensor for name, tensor in found.items()}

    monkeypatch.setattr("alframe.query.summarize", placed)
    rows = torch.arange(20)
    labelled = Examples(rows, torch.zeros(20, dtype=torch.int64))
    strategy = Needy()
    ask(learner, strategy, training=labelled, validation=labelled)
    (view,) = strategy.seen
    for summary in (view.pool, view.labeled, view.held_out, view.target):
        assert {tensor.device.type for tensor in summary.values()} == {"meta"}
    assert view.labels.device.type == view.held_out_labels.device.type == "meta"
