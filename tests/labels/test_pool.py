import json

import numpy as np
import pytest
import torch

from alframe.errors import RunFolderError
from alframe.labels.consensus import Rules
from alframe.labels.ledger import Ledger
from alframe.labels.pool import Pool
from alframe.types import Answer, Question

IDS = [f"image-{i}" for i in range(10)]


def question(index, round=0, rank=0, kind="query"):
    return Question(IDS[index], index, kind, round, rank)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def opened(path):
    """Opens the ledger at `path`, any number of times, and closes them all."""
    ledgers = []
    yield lambda: ledgers.append(Ledger(path)) or ledgers[-1]
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def pool(opened):
    pool = Pool(IDS, opened(), 3)
    for index, round, rank, kind, label in [
        (5, 0, 1, "initial", 2),
        (7, 0, 0, "initial", 0),
        (1, 1, 0, "query", None),
        (2, 1, 1, "validation", 1),
    ]:
        pool.add(question(index, round, rank, kind), Answer(index, label, "anna", 1.5))
    pool.ledger.sync()
    return pool


def test_training_is_in_round_and_rank_order_without_validation_and_skipped(pool):
    assert pool.training().rows.tolist() == [7, 5]
    assert pool.training().labels.tolist() == [0, 2]
    assert pool.validation().rows.tolist() == [2]


def test_bought_and_usable_are_counted_apart(pool):
    assert (pool.bought, pool.usable) == (4, 3)
    pool.ledger.count_validation = False
    assert pool.bought == 3


def test_labels_are_counted_by_class_with_those_for_validation(pool):
    assert pool.counts == (1, 1, 1)


def test_a_source_is_written_where_there_is_one(pool, path):
    pool.add(Question(IDS[3], 3, "query", 2, 0, score=0.5, source="anomaly"), Answer(3, 1, "anna"))
    pool.ledger.sync()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("source") for line in lines] == [None] * 4 + ["anomaly"]
    assert not any("source" in line for line in lines[:4])


def test_asked_images_leave_the_pool_even_when_skipped(pool):
    assert pool.available().tolist() == [0, 3, 4, 6, 8, 9]


def test_unsure_answers_train_with_a_soft_label_and_do_not_go_back(opened):
    pool = Pool(
        IDS, opened(), 3, rules=Rules(people=True, ask_again=1, classes=("a", "b", "c"), unsure="soft", lean=0.6)
    )
    for index, kind, label, answer, text in [
        (5, "query", 2, "", ""),
        (7, "query", None, "unsure", "b"),
        (1, "query", None, "unsure", ""),
        (3, "query", None, "skip", ""),
        (2, "validation", None, "unsure", "a"),
        (4, "validation", 1, "", ""),
    ]:
        pool.add(question(index, 1, index, kind), Answer(index, label, "anna", answer=answer, text=text))
    training = pool.training()
    assert (training.rows.tolist(), training.labels.tolist()) == ([1, 5, 7], [-1, 2, -1])
    assert training.soft_labels.dtype == torch.float32
    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0, 0, 1], [0.2, 0.6, 0.2]])
    torch.testing.assert_close(training.soft_labels, expected)
    assert pool.validation().rows.tolist() == [4]
    assert pool.validation().soft_labels is None
    assert (pool.bought, pool.usable) == (6, 4)
    assert pool.available().tolist() == [0, 2, 6, 8, 9]  # the unsure validation image goes back


def test_a_pool_opened_again_knows_the_same(pool, opened):
    again = Pool(IDS, opened(), 3)
    assert again.training().rows.tolist() == pool.training().rows.tolist()
    assert np.array_equal(again.available(), pool.available())
    assert again.answered(1) == {1, 2}


def test_a_ledger_line_says_who_answered_what_about_which_image(pool, path):
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {
        "id": "image-5", "index": 5, "kind": "initial", "label": 2, "annotator": "anna", "round": 0, "rank": 1, "score": None, "time_s": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize("torn", ['{"id": "image-3", "ind', '{"id": "image-3", "index": 3}', "\x00\x00"])
def test_a_torn_last_line_is_cut_off_and_the_rest_kept(pool, path, opened, torn):
    whole = path.read_text()
    path.write_text(whole + torn)
    ledger = opened()
    assert len(ledger.lines) == 4
    assert path.read_text() == whole


def test_damage_elsewhere_is_an_error_that_names_the_line(pool, path, opened):
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:20]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFolderError, match="line 2 of"):
        opened()


def test_answers_about_other_data_are_refused(pool, opened):
    with pytest.raises(RunFolderError, match="the data has changed"):
        Pool([f"other-{i}" for i in range(10)], opened(), 3)


def test_a_second_answer_and_a_label_out_of_range_are_refused_before_they_are_written(pool, path):
    with pytest.raises(RunFolderError, match="second one for image 5"):
        pool.add(question(5), Answer(5, 0, "bob"))
    with pytest.raises(RunFolderError, match="labels from 0 to 2"):
        pool.add(question(0), Answer(0, 3, "bob"))
    assert len(path.read_text().splitlines()) == 4


def test_an_image_that_was_put_back_is_trained_on_once(opened):
    """A tie puts image 0 back; once Dawid-Skene knows the two people apart, its first question has a label as well as its second."""
    rules = Rules(True, per_image=2, ask_again=1, aggregate="dawid_skene", classes=("good", "bad"))
    pool = Pool(IDS, opened(), 2, rules=rules)
    for round, index, anna, bob in [(1, 0, 0, 1), (1, 1, 1, 0)]:
        pool.add(question(index, round), Answer(index, anna, "anna"))
        pool.add(question(index, round), Answer(index, bob, "bob"))
    assert pool.usable == 0
    assert pool.available().tolist() == list(range(10))
    pool.add(question(0, 2, kind="validation"), Answer(0, 1, "anna"))
    pool.add(question(0, 2, kind="validation"), Answer(0, 1, "bob"))
    assert [(line["round"], line["index"], line["label"]) for line in pool.settled()] == [
        (1, 0, 1),
        (1, 1, 0),
        (2, 0, 1),
    ]
    assert (pool.training().rows.tolist(), pool.validation().rows.tolist()) == ([1], [0])
    assert pool.usable == 2
