import json

import numpy as np
import pytest
import torch
from PIL import Image

from alframe.annotator.base import Job
from alframe.annotator.noisy import Noisy
from alframe.annotator.oracle import Oracle
from alframe.budget import Budget, draw_initial
from alframe.dataset.base import Dataset
from alframe.dataset.shift.base import Shifted
from alframe.dataset.shift.out_of_distribution import OutOfDistribution, in_shape
from alframe.errors import ConfigError, PoolError
from alframe.images import NO_CLASS, Data
from alframe.loop import run
from alframe.record.record import Record
from alframe.rng import generator
from alframe.types import Question


class Held(Dataset):
    def __init__(self, data: Data) -> None:
        self.data = data

    def load(self, cache):
        return self.data


@pytest.fixture
def mixed(make_images, tmp_path) -> Data:
    data = Data("tiny", make_images(60, 0), make_images(40, 1))
    others = Data("others", make_images(200, 2, 3, 16), make_images(9, 3, 3, 16))
    return Shifted(Held(data), OutOfDistribution(Held(others), share=0.4)).load(tmp_path)


def test_the_share_is_of_the_whole_pool_and_its_own_images_keep_their_places(mixed, make_images):
    assert len(mixed.pool) == 100
    np.testing.assert_array_equal(mixed.pool.labels[60:], NO_CLASS)
    np.testing.assert_array_equal(mixed.pool.pixels[:60], make_images(60, 0).pixels)
    assert len({name.split("-")[0] for name in mixed.pool.ids}) == 100  # drawn without repetition


def test_images_are_put_in_the_shape_of_the_pool_as_pillow_does():
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((12, 8)))
    colour = torch.from_numpy(smooth.transpose(2, 0, 1).copy())[None]
    as_grey = in_shape(colour, (1, 8, 12))[0, 0].numpy()
    assert np.abs(as_grey.astype(int) - np.asarray(Image.fromarray(smooth).convert("L"))).max() <= 1
    halved = in_shape(colour, (3, 4, 6))[0].numpy().transpose(1, 2, 0)
    by_pillow = np.asarray(Image.fromarray(smooth).resize((6, 4), Image.Resampling.BILINEAR))
    assert np.abs(halved.astype(int) - by_pillow).max() <= 1
    grey = in_shape(colour[:, :1], (3, 8, 12))
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert in_shape(colour, (3, 8, 12)) is colour


def test_annotators_give_them_no_label_and_all_others_theirs(mixed):
    questions = [Question(str(i), i, "query", 1, i) for i in range(len(mixed.pool))]
    labels = mixed.pool.labels
    for annotator in (Oracle(), Noisy(rate=0.0)):
        annotate = annotator.start(Job(mixed.pool.classes, data=mixed))
        answers = [answer.label for answer in annotate(questions)]
        assert answers == [*labels[:60].tolist(), *[None] * 40]


@pytest.mark.parametrize("how", ["balanced", "stratified"])
def test_initial_sets_that_read_labels_pass_over_them(mixed, how):
    stream = generator(0, 0, "initial")
    everything = np.arange(len(mixed.pool))
    drawn = draw_initial(mixed.pool.labels, everything, 50, how, 2, stream)
    assert len(set(drawn.tolist())) == 50
    assert (mixed.pool.labels[drawn] >= 0).all()
    with pytest.raises(PoolError, match=r"budget.initial of at most 60 .*, got 61"):
        draw_initial(mixed.pool.labels, everything, 61, how, 2, stream)


def test_random_initial_sets_do_not(mixed):
    drawn = draw_initial(mixed.pool.labels, np.arange(100), 50, "random", 2, generator(0, 0, "initial"))
    assert 5 < (mixed.pool.labels[drawn] == NO_CLASS).sum() < 40


def test_a_run_buys_them_and_learns_from_the_others(mixed, make_experiment, tmp_path):
    budget = Budget(initial=30, query_size=10, rounds=3, validation=0.2)
    record = Record(tmp_path / "run", {"budget": {}}, tensorboard=True)
    lines = run(make_experiment(data=mixed, budget=budget), record)
    record.close()
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    of_no_class = [line for line in ledger if line["index"] >= 60]
    assert of_no_class
    assert all(line["label"] is None for line in of_no_class)
    assert all(line["label"] == mixed.pool.labels[line["index"]] for line in ledger if line["index"] < 60)
    assert lines[-1]["labels"] == 60
    assert lines[-1]["usable"] == 60 - len(of_no_class) == lines[-1]["train"] + lines[-1]["validation"]


def test_a_source_that_is_too_small_and_a_share_out_of_range_are_told(make_images, tmp_path):
    data = Data("tiny", make_images(60, 0), make_images(40, 1))
    with pytest.raises(ConfigError, match="got 60 where 90 are needed"):
        Shifted(Held(data), OutOfDistribution(Held(data), share=0.6)).load(tmp_path)
    with pytest.raises(ConfigError, match=r"shift.share from 0 up to but not including 1, .* got 1"):
        OutOfDistribution(Held(data), share=1.0)


def test_a_share_of_nothing_adds_nothing(make_images, tmp_path):
    data = Data("tiny", make_images(60, 0), make_images(40, 1))
    same = Shifted(Held(data), OutOfDistribution(Held(data), share=0.0)).load(tmp_path)
    assert same.content_hash == data.content_hash
