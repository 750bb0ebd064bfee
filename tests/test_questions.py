"""The nearest labelled image against a naive version in float64, and what is said of it."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from alframe.budget import Budget
from alframe.learner import POOL, Learner, Resources, Sets
from alframe.loop import run
from alframe.questions import nearest_labelled, nearest_of, reason
from alframe.record.record import Record
from alframe.types import Examples, Labelled
from alframe.uncertainty.mc_dropout import MCDropout

CPU = torch.device("cpu")
NONE = Examples(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


@pytest.fixture
def learner(make_experiment):
    e = make_experiment()
    learner = Learner(Sets(e.data), e.model, e.trainer, MCDropout(draws=3), resources=Resources(batch_size=7))
    rows = torch.arange(20)
    learner.fit(Examples(rows, torch.from_numpy(e.data.pool.labels)[rows]), NONE, round=0)
    return learner


def naive(features, queried, labelled):
    """Every pair written out in float64."""
    places, similarities = [], []
    for q in queried:
        cosines = [
            float(features[q] @ features[m] / (np.linalg.norm(features[q]) * np.linalg.norm(features[m])))
            for m in labelled
        ]
        places.append(int(np.argmax(cosines)))
        similarities.append(max(cosines))
    return places, similarities


@pytest.mark.parametrize("m", [1, 7, 30])
def test_the_nearest_is_that_of_all_pairs_written_out(learner, m):
    features = torch.cat(list(learner.features(POOL, torch.arange(80)))).double().numpy()
    queried, labelled = torch.arange(40, 60), torch.randperm(40, generator=torch.Generator().manual_seed(m))[:m]
    places, similarities = nearest_labelled(learner, queried, labelled)
    expected = naive(features, queried.tolist(), labelled.tolist())
    assert places.tolist() == expected[0]
    assert similarities.tolist() == pytest.approx(expected[1], abs=1e-6)


def test_an_image_is_most_like_its_own_copy_and_of_copies_the_first_counts(make_experiment):
    e = make_experiment()
    pixels = e.data.pool.pixels.copy()
    pixels[[50, 12, 30]] = pixels[5]
    data = replace(e.data, pool=replace(e.data.pool, pixels=pixels))
    learner = Learner(Sets(data), e.model, e.trainer, e.uncertainty, resources=Resources(batch_size=7))
    learner.fit(NONE, NONE, round=0)
    places, similarities = nearest_labelled(learner, torch.tensor([50]), torch.arange(10, 40))
    assert places.tolist() == [2]
    assert similarities.tolist() == pytest.approx([1.0])


def test_it_draws_no_random_number_and_leaves_the_network_alone(learner):
    before, state = [w.clone() for w in learner.fitted.networks[0].state_dict().values()], torch.get_rng_state()
    nearest_labelled(learner, torch.arange(40, 60), torch.arange(30))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, learner.fitted.networks[0].state_dict().values()))


def test_it_is_named_by_file_or_id_and_absent_without_labels(learner, make_experiment):
    images = make_experiment().data.pool
    known = Examples(torch.tensor([3, 9]), torch.tensor([1, 0]))
    other = Examples(torch.tensor([20]), torch.tensor([1]))
    named = replace(images, names=tuple(f"photo {i}.png" for i in range(len(images))))
    for found in nearest_of(learner, named, [40, 41], Labelled(known, other)):
        assert (found["index"], found["label"]) in [(3, 1), (9, 0), (20, 1)]
        assert found["id"] == images.ids[found["index"]]
        assert found["name"] == f"photo {found['index']}.png"
        line = reason(torch.tensor([0.25, 0.75]), ("good", "crack"), "margin 0.5", found)
        like = f"photo {found['index']}.png ({('good', 'crack')[found['label']]}, similarity {found['similarity']:.2f})"
        assert line == f"crack 0.75, good 0.25; margin 0.5; most like {like}"
    assert all(found["name"] == "" for found in nearest_of(learner, images, [40, 41], Labelled(known, other)))
    assert nearest_of(learner, images, [40, 41], Labelled(NONE, NONE)) == [None, None]
    assert (
        reason(torch.tensor([0.25, 0.75]), ("good", "crack"), "margin 0.5", None) == "crack 0.75, good 0.25; margin 0.5"
    )


def questions(folder, round):
    return json.loads((folder / "queries" / f"round_{round:03d}.json").read_text())["questions"]


@pytest.mark.parametrize("initial", [0, 10])
def test_questions_name_an_image_that_was_labelled_before(make_experiment, tmp_path, initial):
    experiment = make_experiment(budget=Budget(initial=initial, query_size=10, rounds=2, validation=0.2))
    with closing(Record(tmp_path, experiment.describe(), experiment.declared, tensorboard=False)) as record:
        run(experiment, record)
    labels = {line["index"]: (line["label"], line["round"]) for line in record.ledger.lines}
    for round in (0, 1):
        for question in questions(tmp_path, round):
            if round == 0 and initial == 0:
                assert question["nearest"] is None
                assert "most like" not in question["reason"]
            else:
                label, bought = labels[question["nearest"]["index"]]
                assert question["nearest"]["label"] == label
                assert bought <= round
                assert question["nearest"]["id"] in question["reason"]
