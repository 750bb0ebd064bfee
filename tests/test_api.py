"""alframe from Python, without configs."""

import csv

import numpy as np
import pytest
import torch
import yaml

import alframe
from alframe.annotator.queue import Queue
from alframe.budget import Budget
from alframe.dataset.augment import Augmentation
from alframe.errors import DataError, RunFolderError, Waiting
from alframe.handover.cli import export_main
from alframe.learner import POOL, TEST
from alframe.model.base import Model
from alframe.model.frozen import FeatureHead
from alframe.record.read import read_config, read_ledger
from alframe.report.cli import main as report_command
from alframe.scores import entropy
from alframe.strategy.random import Random
from alframe.strategy.top_score import TopScore
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.tta import TTA


def bare(lines):
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


def test_a_run_gives_its_rounds_its_ledger_and_the_fitted_posterior(make_experiment, tmp_path):
    experiment = make_experiment(uncertainty=MCDropout(draws=3), strategy=TopScore(entropy))
    done = alframe.run(experiment, tmp_path / "run")
    assert [line["labels"] for line in done.rounds] == [20, 25, 30, 35]
    assert done.ledger == read_ledger(tmp_path / "run")
    test = experiment.data.test
    prediction = done.fitted.predict(test.pixels)
    assert prediction.log_probs.shape == (40, 3, 2)
    accuracy = float((prediction.mean_log_probs.argmax(1).numpy() == test.labels).mean())
    assert accuracy == pytest.approx(done.rounds[-1]["test/accuracy"])


def test_a_finished_run_is_left_alone_and_more_rounds_extend_it(make_experiment, tmp_path):
    first = alframe.run(make_experiment(), tmp_path)
    assert alframe.run(make_experiment(), str(tmp_path)).rounds == first.rounds
    longer = alframe.run(make_experiment(budget=Budget(initial=20, query_size=5, rounds=4)), tmp_path)
    assert bare(longer.rounds[:3]) == bare(first.rounds[:3])
    assert longer.rounds[-1]["labels"] == 40


def test_other_parts_in_the_same_folder_fail_and_are_listed(make_experiment, tmp_path):
    alframe.run(make_experiment(), tmp_path)
    with pytest.raises(RunFolderError, match=r"strategy._target_ \(alframe.strategy.random.Random -> .*TopScore\)"):
        alframe.run(make_experiment(strategy=TopScore(entropy)), tmp_path)
    again = alframe.run(make_experiment(strategy=TopScore(entropy)), tmp_path, overwrite=True)
    assert read_config(tmp_path)["strategy"]["score"]["_target_"] == "alframe.scores.entropy"
    assert len(again.rounds) == 4


def test_a_run_with_free_validation_images_is_consistent_when_it_is_launched_again(make_experiment, tmp_path):
    """What counts as bought has one owner: the config of a run from Python does not say it, the budget does."""
    budget = Budget(initial=20, query_size=10, rounds=1, validation=0.3, count_validation=False)
    first = alframe.run(make_experiment(budget=budget), tmp_path)
    assert [line["labels"] for line in first.rounds] == [20, 30]
    longer = Budget(initial=20, query_size=10, rounds=2, validation=0.3, count_validation=False)
    assert [line["labels"] for line in alframe.run(make_experiment(budget=longer), tmp_path).rounds] == [20, 30, 40]


def test_one_fit_by_itself(make_experiment, data):
    experiment = make_experiment()
    labels = {index: int(data.pool.labels[index]) for index in range(40)}
    fitted = alframe.fit(experiment, labels)
    assert set(fitted.numbers) == {"train/loss"}
    prediction = fitted.predict(data.test.pixels)
    expected = torch.cat([batch.log_probs for batch in fitted.learner.predictions(TEST, torch.arange(40))])
    torch.testing.assert_close(prediction.log_probs, expected)
    assert float((prediction.mean_log_probs.argmax(1).numpy() == data.test.labels).mean()) > 0.7
    again = alframe.fit(experiment, labels).predict(data.test.pixels)
    assert torch.equal(prediction.log_probs, again.log_probs)
    assert not torch.equal(
        prediction.log_probs, alframe.fit(experiment, labels, round=1).predict(data.test.pixels).log_probs
    )


def test_a_temperature_is_fitted_to_the_validation_labels(make_experiment, data):
    experiment = make_experiment(uncertainty=MCDropout(draws=2, temperature=True), budget=Budget(validation=0.2))
    labels = dict(enumerate(data.pool.labels[:60].tolist()))
    fitted = alframe.fit(experiment, dict(list(labels.items())[:40]), dict(list(labels.items())[40:]))
    assert "posterior/temperature" in fitted.numbers


class Flattened(Model):
    """A frozen trunk that leaves pixels as they are."""

    on_features = True

    def __call__(self, shape, n_classes):
        return FeatureHead(shape, n_classes, dropout=0.0)

    def prepare(self, images, cache, device, transform=None):
        pixels = images.pixels if transform is None else transform(torch.from_numpy(np.array(images.pixels))).numpy()
        return type(images)(pixels.reshape(len(images), -1).astype(np.float32), images.labels, images.classes)


@pytest.mark.parametrize("model", ["images", "features"])
def test_predictions_of_transformed_images_are_those_of_the_learner(make_experiment, data, model, tiny_network):
    from dataclasses import replace

    augmented = replace(data, augment=Augmentation(crop=1))
    experiment = make_experiment(
        data=augmented, uncertainty=TTA(draws=3), model=tiny_network if model == "images" else Flattened()
    )
    fitted = alframe.fit(experiment, dict(enumerate(data.pool.labels[:40].tolist())))
    expected = torch.cat([batch.log_probs for batch in fitted.learner.predictions(POOL, torch.arange(30))])
    torch.testing.assert_close(fitted.predict(data.pool.pixels[:30]).log_probs, expected)


def test_people_are_asked_from_python_too(make_experiment, tmp_path):
    with pytest.raises(Waiting, match="Waiting for 20 of 20 answers"):
        alframe.run(make_experiment(annotator=Queue()), tmp_path)
    assert (tmp_path / "queue" / "round_000.csv").is_file()


def test_an_experiment_needs_data_and_a_model_and_no_more(data, tiny_network):
    experiment = alframe.Experiment(data, tiny_network)
    assert isinstance(experiment.strategy, Random)
    described = experiment.describe()
    assert described["trainer"]["optimizer"]["_target_"] == "torch.optim.sgd.SGD"
    assert described["budget"]["initial"] == 100
    assert described["model"]["_target_"].endswith("TinyNetwork")


def test_a_run_from_python_is_reported_and_its_model_is_had_from_python(make_experiment, tmp_path, capsys):
    alframe.run(make_experiment(), tmp_path / "run")
    assert report_command([str(tmp_path / "run"), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert export_main([str(tmp_path / "run")]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "if Python started it, call alframe.run again" in told


def fill(folder, answer):
    """The person, in the first sheet."""
    sheet = folder / "queue" / "round_000.csv"
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**row, "answer": answer(row)} for row in csv.DictReader(file)]
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return sheet


def test_answers_of_people_are_not_overwritten_whoever_labels_now(make_experiment, tmp_path):
    with pytest.raises(Waiting):
        alframe.run(make_experiment(annotator=Queue()), tmp_path)
    sheet = fill(tmp_path, lambda row: "class 0" if row["rank"] == "1" else "")
    with pytest.raises(RunFolderError, match="without answers from people"):
        alframe.run(make_experiment(), tmp_path, overwrite=True)
    assert sheet.is_file()


def test_a_class_that_people_found_after_the_last_round_is_none_of_its_networks(make_experiment, data, tmp_path):
    budget = Budget(initial=20, rounds=0)
    truth = dict(zip(data.pool.ids, (f"class {label}" for label in data.pool.labels), strict=True))
    with pytest.raises(Waiting):
        alframe.run(make_experiment(annotator=Queue(), budget=budget), tmp_path)
    fill(tmp_path, lambda row: truth[row["id"]])
    alframe.run(make_experiment(annotator=Queue(), budget=budget), tmp_path)
    again = alframe.run(make_experiment(annotator=Queue(new_classes=["dent"]), budget=budget), tmp_path)
    assert again.fitted.predict(data.test.pixels[:3]).log_probs.shape[-1] == 2


def test_an_option_that_the_folder_does_not_have_counts_as_its_default(make_experiment, tmp_path):
    alframe.run(make_experiment(), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del config["trainer"]["full_batches"], config["costs"], config["query"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(alframe.run(make_experiment(seed=np.int64(0)), tmp_path).rounds) == 4


def test_labels_of_images_that_are_not_in_the_pool_are_one_line(make_experiment):
    with pytest.raises(DataError, match=r"indices of the pool \(0 to 79\), got \[999\]"):
        alframe.fit(make_experiment(), {0: 1, 999: 0})
