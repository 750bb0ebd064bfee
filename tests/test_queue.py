"""People who label in a spreadsheet, played by a script: a whole run, what goes wrong in files, and kills at any instant."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import die, die_after_half_a_line, in_a_process, on_call

import alframe.annotator.photo_page
import alframe.annotator.queue
from alframe.annotator.cli import main as queue_command
from alframe.annotator.corrections import corrections_in
from alframe.annotator.photo_page import write_photo_page
from alframe.annotator.queue import Queue, Sheets
from alframe.annotator.sheet import Row
from alframe.budget import Budget
from alframe.config.overrides import load
from alframe.errors import ConfigError, DataError, PoolError, RunFolderError, Waiting
from alframe.images import Data
from alframe.labels.ledger import Answers, Ledger
from alframe.labels.pool import Pool
from alframe.labels.tally import accuracy
from alframe.loop import run
from alframe.record.record import Record
from alframe.restore import labelled_at, restore
from alframe.scores import entropy
from alframe.strategy.top_score import TopScore
from alframe.uncertainty.laplace import Laplace

BUDGET = Budget(initial=20, query_size=6, rounds=3)


@pytest.fixture
def make(make_experiment):
    def make(annotator=None, budget=BUDGET, **options):
        annotator = annotator or Queue()
        return make_experiment(strategy=TopScore(score=entropy), annotator=annotator, budget=budget, **options)

    return make


def go(experiment, folder):
    """One launch; True when the run is finished, False when it waits for people."""
    try:
        launch_here(experiment, folder)
    except Waiting:
        return False
    return True


def launch_here(experiment, folder):
    with closing(Record(folder, experiment.describe(), experiment.declared, tensorboard=False)) as record:
        run(experiment, record)


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save(path, rows, *, separator=",", newline="\n", encoding="utf-8-sig"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


def fill(path, data, say=None, only=slice(None), **saved):
    """The person: every row's true class, or what `say` has under the row's place."""
    rows = read_csv(path)
    index = {id: i for i, id in enumerate(data.pool.ids)}
    for place, row in list(enumerate(rows))[only]:
        row["answer"] = (say or {}).get(place) or data.pool.classes[data.pool.labels[index[row["id"]]]]
    save(path, rows, **saved)


def sheets(folder):
    return sorted((folder / "queue").glob("round_*.[cj]s*"))


def drive(experiment, folder, say=None, **saved):
    """Launches until the run is finished; before each the newest file is filled."""
    for _ in range(10):
        if go(experiment, folder):
            return
        fill(sheets(folder)[-1], experiment.data, say, **saved)
    raise AssertionError("the run did not finish")


def read(folder):
    """Ledger and rounds as values, without seconds and people."""
    return [
        [
            {
                k: v
                for k, v in json.loads(text).items()
                if not k.endswith("_s") and k != "annotator" and not k.startswith("people/")
            }
            for text in (folder / name).read_text().splitlines()
        ]
        for name in ("ledger.jsonl", "rounds.jsonl")
    ]


def rounds_of(folder):
    return [json.loads(text) for text in (folder / "rounds.jsonl").read_text().splitlines()]


def ledger(folder):
    return [json.loads(text) for text in (folder / "ledger.jsonl").read_text().splitlines()]


SAVED = [
    {},
    {"separator": ";"},
    {"newline": "\r\n"},
    {"separator": ";", "newline": "\r\n"},
    {"separator": "\t", "encoding": "utf-16"},
]


@pytest.fixture(scope="module")
def by_oracle(tmp_path_factory):
    from conftest import tiny_experiment

    folder = tmp_path_factory.mktemp("oracle")
    experiment = tiny_experiment(strategy=TopScore(score=entropy), budget=BUDGET)
    assert go(experiment, folder)
    return read(folder)


@pytest.mark.parametrize("saved", SAVED, ids=str)
def test_people_who_answer_as_the_oracle_give_the_same_run(make, tmp_path, by_oracle, saved):
    drive(make(), tmp_path, **saved)
    assert read(tmp_path) == by_oracle


def test_json_lines_do_too(make, tmp_path, by_oracle):
    experiment = make(Queue(format="jsonl"))
    labels = dict(zip(experiment.data.pool.ids, experiment.data.pool.labels, strict=True))
    while not go(experiment, tmp_path):
        path = sheets(tmp_path)[-1]
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        for row in rows:
            row["answer"] = f"class {labels[row['id']]}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(tmp_path) == by_oracle


def test_a_row_shows_the_image_and_what_the_model_thinks(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data)
    go(experiment, tmp_path)
    first, second = (read_csv(path) for path in sheets(tmp_path))
    assert [row["rank"] for row in second] == ["1", "2", "3", "4", "5", "6"]
    assert all((tmp_path / "queue" / row["image"]).is_file() for row in first + second)
    assert {row["prediction"] for row in first} == {""}
    assert {row["prediction"] for row in second} <= {"class 0", "class 1"}
    assert all(0.5 <= float(row["probability"]) <= 1 and "entropy" in row["reason"] for row in second)
    assert {row["answer"] for row in second} == {""}


def test_a_row_names_the_labelled_image_that_is_nearest_and_where_to_look_at_it(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data)
    go(experiment, tmp_path)
    first, second = (read_csv(path) for path in sheets(tmp_path))
    assert {row["nearest"] for row in first} == {""}
    out = tmp_path / "open.csv"
    assert queue_command(["export", str(tmp_path), str(out)]) == 0
    for rows, folder in ((second, tmp_path / "queue"), (read_csv(out), tmp_path)):
        for row in rows:
            path = (folder / row["nearest"]).resolve()
            assert path.is_file()
            assert path.stem in {before["id"] for before in first}
            label = experiment.data.pool.labels[experiment.data.pool.ids.index(path.stem)]
            assert f"most like {path.stem} (class {label}, similarity " in row["reason"]


def test_predictions_can_be_hidden(make, tmp_path):
    experiment = make(Queue(show_prediction=False))
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data)
    go(experiment, tmp_path)
    for row in read_csv(sheets(tmp_path)[-1]):
        assert row["prediction"] == row["reason"] == row["score"] == row["nearest"] == ""


def test_all_mistakes_are_told_at_once_and_nothing_of_that_file_is_taken(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[-1]
    fill(path, experiment.data, {0: "clas 0", 4: "class 2"})
    rows = read_csv(path)
    rows[2]["id"] = "nothing-0"
    rows[6]["seconds"] = "long"
    save(path, [*rows, rows[8]])
    written = path.read_bytes()
    with pytest.raises(DataError) as told:
        go(experiment, tmp_path)
    lines = str(told.value).splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == ["row 2", "row 4", "row 6", "row 8", "row 22"]
    assert lines[-1].endswith("correct it, save, and re-run the same command.")
    assert "did you mean 'class 0'?" in lines[0]
    assert "class 0, class 1, unsure, skip, bad image or new: NAME" in lines[2]
    assert "the first is row 10" in lines[4]
    assert ledger(tmp_path) == []
    assert path.read_bytes() == written
    fill(path, experiment.data, only=slice(0, 0))
    rows[0]["answer"], rows[4]["answer"], rows[2]["id"], rows[6]["seconds"] = "class 0", "class 1", "", ""
    save(path, rows)
    with pytest.raises(DataError, match="row 4: Expected an id, got an empty cell"):
        go(experiment, tmp_path)


def test_answers_of_people_are_not_overwritten(make, tmp_path):
    """Read or not; what nobody has filled may go."""

    def start_again():
        Record(tmp_path, experiment.describe(), experiment.declared, overwrite=True, tensorboard=False).close()

    experiment = make()
    go(experiment, tmp_path)
    start_again()
    assert not (tmp_path / "queue").exists()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[0]
    empty = path.read_bytes()
    fill(path, experiment.data, only=slice(0, 1))
    with pytest.raises(RunFolderError, match="without answers from people"):
        start_again()
    go(experiment, tmp_path)
    path.write_bytes(empty)
    with pytest.raises(RunFolderError, match="use another run.name, or move the folder away"):
        start_again()
    assert len(ledger(tmp_path)) == 1


def test_a_row_that_is_gone_is_told(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[-1]
    fill(path, experiment.data)
    rows = read_csv(path)
    save(path, rows[:7])
    with pytest.raises(DataError, match=rf"got none for {rows[7]['id']}, .* and 10 more"):
        go(experiment, tmp_path)
    path.write_text("")
    with pytest.raises(DataError, match="an empty file"):
        go(experiment, tmp_path)
    assert ledger(tmp_path) == []


def test_a_filled_part_is_taken_at_once_and_the_file_is_left_alone(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[-1]
    fill(path, experiment.data, only=slice(0, 7))
    written = path.read_bytes()
    assert not go(experiment, tmp_path)
    assert not go(experiment, tmp_path)
    assert len(ledger(tmp_path)) == 7
    assert path.read_bytes() == written


def test_an_answer_may_be_changed_until_the_round_is_complete(make, tmp_path, by_oracle):
    experiment = make()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[-1]
    fill(path, experiment.data, {1: "skip", 2: "bad image"}, only=slice(0, 5))
    assert not go(experiment, tmp_path)
    drive(experiment, tmp_path)
    answers, rounds = read(tmp_path)
    assert rounds == by_oracle[1]
    assert len(answers) == len(by_oracle[0]) + 2
    assert answers[5:7] == [by_oracle[0][1], by_oracle[0][2]]


def test_unsure_is_learnt_from_by_policy_and_not_asked_again(make, tmp_path):
    experiment = make(Queue(unsure="soft", lean=0.9), uncertainty=Laplace(draws=4))
    drive(experiment, tmp_path, {0: "unsure: class 1", 1: "class 0?", 2: "unsure", 3: "skip"})
    lines, rounds = read(tmp_path)
    assert len({line["index"] for line in lines}) == len(lines)
    assert [line.get("text") for line in lines[:4]] == ["class 1", "class 0", None, None]
    assert [line["soft"] for line in rounds] == [3, 6, 9, 12]
    assert [line["train"] for line in rounds] == [line["usable"] for line in rounds] == [19, 24, 29, 34]
    assert [line["labels"] for line in rounds] == [20, 26, 32, 38]


def test_the_policy_changes_nothing_while_nobody_is_unsure(make, tmp_path, by_oracle):
    drive(make(Queue(unsure="soft")), tmp_path)
    lines, rounds = read(tmp_path)
    assert [line.pop("soft") for line in rounds] == [0, 0, 0, 0]
    assert [lines, rounds] == by_oracle


def test_unsure_goes_back_once_bad_images_and_skipped_ones_do_not(make, tmp_path):
    drive(make(), tmp_path, {0: "unsure", 1: "bad image", 2: "skip"})
    asked = {}
    for line in ledger(tmp_path):
        asked.setdefault(line["index"], []).append(line.get("answer"))
    assert all(answers.count("unsure") <= 2 for answers in asked.values())
    assert all(len(answers) == 1 for answers in asked.values() if answers[0] in ("bad_image", "skip"))
    rounds = read(tmp_path)[1]
    assert [line["labels"] for line in rounds] == [20, 26, 32, 38]
    assert [line["usable"] for line in rounds] == [17, 20, 23, 26]


def test_what_nobody_is_sure_of_can_be_kept_out(make, tmp_path):
    def repeated(ask_again, folder):
        drive(
            make(Queue(ask_again=ask_again), Budget(initial=40, query_size=13, rounds=3)),
            folder,
            dict.fromkeys(range(2, 13), "unsure"),
        )
        counts = np.bincount([line["index"] for line in ledger(folder)])
        return int(counts.max())

    assert repeated(0, tmp_path / "out") == 1
    assert repeated(1, tmp_path / "once") == 2


def test_a_new_class_stops_the_training_until_the_config_names_it(make, tmp_path):
    experiment = make()
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data, {3: "new: Dent", 9: "NEW: dent"})
    with pytest.raises(PoolError, match=r"new 'Dent' \(2 images\).*'annotator.new_classes=\[\"Dent\"\]'"):
        go(experiment, tmp_path)
    assert len(ledger(tmp_path)) == 20
    named = make(Queue(new_classes=["Dent"]))
    assert not go(named, tmp_path)
    line = read(tmp_path)[1]
    assert line == []
    assert len(json.loads((tmp_path / "queries" / "round_000.json").read_text())["questions"][0]["probs"]) == 3
    drive(named, tmp_path, {0: "dent"})
    rounds = read(tmp_path)[1]
    assert rounds[-1]["usable"] == 38
    with pytest.raises(RunFolderError, match="annotator.new_classes"):
        go(experiment, tmp_path)


@pytest.mark.parametrize("name", ["Öl fleck", "7", "null", "50 % Grat"])
def test_the_override_that_is_told_for_a_new_class_is_one(make, tmp_path, name):
    experiment = make()
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data, {3: f"new: {name}"})
    with pytest.raises(PoolError) as told:
        go(experiment, tmp_path)
    (override,) = re.findall(r"'(annotator\.new_classes=.+)'", str(told.value))
    assert load(["annotator=queue", override]).identity["annotator"]["new_classes"] == [name]


def test_a_new_class_may_be_taken_back(make, tmp_path, by_oracle):
    experiment = make()
    go(experiment, tmp_path)
    path = sheets(tmp_path)[-1]
    fill(path, experiment.data, {3: "new: dent"})
    with pytest.raises(PoolError, match="dent"):
        go(experiment, tmp_path)
    fill(path, experiment.data)
    drive(experiment, tmp_path)
    assert read(tmp_path)[1] == by_oracle[1]


def test_a_quorum_closes_a_round_and_the_rest_goes_back(make, tmp_path):
    experiment = make(Queue(quorum=0.9))
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data, only=slice(0, 17))
    assert not go(experiment, tmp_path)
    assert len(ledger(tmp_path)) == 17
    fill(sheets(tmp_path)[-1], experiment.data, only=slice(0, 18))
    assert not go(experiment, tmp_path)
    lines = ledger(tmp_path)
    assert [line.get("answer") for line in lines] == [None] * 18 + ["unanswered"] * 2
    stage = json.loads((tmp_path / "queries" / "round_000.json").read_text())
    assert stage["line"]["labels"] == stage["line"]["usable"] == 18
    drive(experiment, tmp_path)
    assert [line["labels"] for line in read(tmp_path)[1]] == [18, 24, 30, 36]


def test_how_people_are_asked_may_change_while_a_run_goes_on(make, tmp_path):
    go(make(), tmp_path)
    experiment = make(Queue(separator=";", quorum=0.5, show_prediction=False))
    before = sheets(tmp_path)[0].read_bytes()
    assert not go(experiment, tmp_path)
    assert sheets(tmp_path)[0].read_bytes() == before
    fill(sheets(tmp_path)[0], experiment.data, only=slice(0, 10))
    assert not go(experiment, tmp_path)
    assert len(ledger(tmp_path)) == 20
    text = sheets(tmp_path)[1].read_text(encoding="utf-8-sig")
    assert text.startswith("rank;id;image;")
    assert "entropy" not in text
    with pytest.raises(RunFolderError, match="annotator.people"):
        go(make(Queue(separator=";", quorum=0.5, show_prediction=False, people=["anna"])), tmp_path)


@pytest.mark.parametrize(("word", "found"), [("class 0", "20 class 0"), ("skip", "none")])
def test_people_who_find_one_class_at_first_are_asked_on(make, tmp_path, capsys, word, found):
    """Factory photos are good, nearly all of them: no answer is thrown away for a larger budget.initial."""
    experiment = make()
    go(experiment, tmp_path)
    fill(sheets(tmp_path)[-1], experiment.data, dict.fromkeys(range(20), word))
    assert not go(experiment, tmp_path)
    assert f"Labels so far: {found}. The network learns nothing" in capsys.readouterr().out
    rows = read_csv(sheets(tmp_path)[-1])
    assert {row["prediction"] for row in rows} == {row["probability"] for row in rows} == {""}
    assert {row["reason"].split()[0] for row in rows} == {"anomaly", "random"}
    drive(experiment, tmp_path)
    assert [line["labels"] for line in read(tmp_path)[1]] == [20, 26, 32, 38]


# -- several people ----------------------------------------------------------------------------------------------------


def test_people_share_the_work_in_files_of_their_own(make, tmp_path, by_oracle):
    experiment = make(Queue(people=["anna", "bob"]))
    while not go(experiment, tmp_path):
        for path in sheets(tmp_path)[-2:]:
            fill(path, experiment.data)
    assert sorted(path.name for path in sheets(tmp_path))[:2] == ["round_000.anna.csv", "round_000.bob.csv"]
    with pytest.raises(
        Waiting, match=rf"answer in round_000.anna.csv, round_000.bob.csv in {tmp_path / 'other/queue'} \("
    ):
        launch_here(experiment, tmp_path / "other")
    answers, rounds = read(tmp_path)
    assert rounds == by_oracle[1]
    assert sorted(map(str, answers)) == sorted(map(str, by_oracle[0]))
    assert [line["annotator"] for line in ledger(tmp_path)].count("anna") == 19


def test_several_answers_an_image_are_all_kept_and_the_majority_counts(make, tmp_path):
    experiment = make(Queue(people=["anna", "bob", "cora"], per_image=3))
    data, wrong = experiment.data, {}
    while not go(experiment, tmp_path):
        anna, bob, cora = sheets(tmp_path)[-3:]
        fill(anna, data)
        fill(cora, data)
        truth = [row["answer"] for row in read_csv(anna)]
        wrong = {place: f"class {1 - int(said[-1])}" for place, said in enumerate(truth) if place % 3 == 0}
        fill(bob, data, wrong)
    lines = ledger(tmp_path)
    rounds = read(tmp_path)[1]
    assert len(lines) == 3 * 38
    assert [line["labels"] for line in rounds] == [20, 26, 32, 38]
    assert rounds[-1]["usable"] == 38
    asked = 6
    assert rounds[-1]["agreement/pairs"] == pytest.approx(1 - len(wrong) * (2 / 3) / asked)
    assert rounds[-1]["agreement/kappa"] < 1


def test_known_images_are_hidden_and_tell_who_is_right(make, tmp_path):
    experiment = make(Queue(people=["anna", "bob"], gold_rate=0.5, repeat_rate=0.5, show_prediction=False))
    while not go(experiment, tmp_path):
        for path in sheets(tmp_path)[-2:]:
            if "anna" in path.name:
                fill(path, experiment.data)
            else:  # bob says class 0 of everything
                rows = read_csv(path)
                save(path, [{**row, "answer": "class 0"} for row in rows])
    lines = ledger(tmp_path)
    kinds = [line["kind"] for line in lines]
    assert kinds.count("gold") + kinds.count("repeat") == 3 * 2 * 4
    assert [line["labels"] for line in read(tmp_path)[1]] == [20, 26, 32, 38]
    assert len(read_csv(tmp_path / "queue" / "round_001.anna.csv")) == 7
    found = accuracy(lines)
    assert found["bob"]["repeat"] == (6, 6)
    assert found["anna"]["repeat"] == (6, 6)
    assert sum(right for right, _ in found["anna"].values()) > 0
    expected = [
        line["label"] == line["expected"] for line in lines if line["kind"] == "gold" and line["annotator"] == "bob"
    ]
    assert found["bob"]["gold"] == (sum(expected), len(expected))
    last = rounds_of(tmp_path)[-1]
    of_bob = [line for line in lines if line["annotator"] == "bob" and line["round"] == 3]
    gold = [line["label"] == line["expected"] for line in of_bob if line["kind"] == "gold"]
    assert last["people/bob/gold"] == sum(gold) / len(gold)
    assert last["people/bob/repeat"] == last["people/anna/repeat"] == 1.0
    assert last["people/bob/images"] == sum(line["kind"] == "query" for line in of_bob)
    assert "people/bob/agreement" not in last
    assert "people/bob/seconds" not in last


def test_no_known_image_is_shown_with_its_class_as_nearest_to_another(make, tmp_path):
    experiment = make(Queue(people=["anna", "bob"], gold_rate=0.3, repeat_rate=0.3))
    while not go(experiment, tmp_path):
        for path in sheets(tmp_path)[-2:]:
            fill(path, experiment.data)
    hidden = 0
    for path in sheets(tmp_path):
        rows = read_csv(path)
        assert len({(row["reason"] == "", row["nearest"] == "") for row in rows}) == 1  # they look alike
        round, name = int(path.name[6:9]), path.name.split(".")[1]
        checks = {
            line["id"]
            for line in ledger(tmp_path)
            if line["kind"] in ("gold", "repeat") and (line["round"], line["annotator"]) == (round, name)
        }
        hidden += len(checks)
        assert not checks & {Path(row["nearest"]).stem for row in rows}
    assert hidden > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"quorum": 0.0}, "annotator.quorum"),
        ({"per_image": 2}, "annotator.per_image from 1 to the number of annotator.people"),
        ({"people": ["a", "A"]}, "different names"),
        ({"people": ["a/b"]}, "without '/'"),
        ({"gold_rate": 2.0}, "annotator.gold_rate"),
        ({"ask_again": -1}, "annotator.ask_again"),
        ({"new_classes": ["Good"]}, "annotator.new_classes"),
        ({"unsure": "soft", "lean": 0.4}, "annotator.lean from 1 / 2"),
        ({"unsure": "soft", "lean": 1.0}, "annotator.lean"),
        ({"separator": "|"}, "annotator.separator"),
    ],
)
def test_impossible_options_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        Queue(**options).rules(("good", "bad"))


def test_gold_is_what_the_others_said_and_no_row_comes_twice(make, tmp_path):
    """Images that a tie put back are asked again, and then are no check in the same file."""
    people = ["anna", "bob", "cora"]
    experiment = make(Queue(people=people, per_image=2, gold_rate=1.0, repeat_rate=1.0))
    data = experiment.data
    while not go(experiment, tmp_path):
        for path in sheets(tmp_path)[-3:]:
            fill(path, data, dict.fromkeys(range(0, 40, 2), "class 0"))
    lines = ledger(tmp_path)
    put_back = [index for index, n in Counter((q["index"]) for q in asked(tmp_path)).items() if n > 1]
    assert put_back, "no tie was asked again"
    for line in lines:
        if line["kind"] == "gold":
            others = {
                other["label"]
                for other in lines
                if other["index"] == line["index"]
                and other["round"] < line["round"]
                and other["annotator"] != line["annotator"]
            }
            assert line["expected"] in others
    for path in sheets(tmp_path):
        ids = [row["id"] for row in read_csv(path)]
        assert len(ids) == len(set(ids))


def asked(folder):
    """All questions of a run."""
    files = sorted((folder / "queries").glob("*.json"))
    return [question for path in files for question in json.loads(path.read_text())["questions"]]


def test_an_annotator_who_is_none_of_the_people_is_told(make, tmp_path):
    experiment = make(Queue(people=["anna", "bob"]))
    go(experiment, tmp_path)
    path = sheets(tmp_path)[0]
    fill(path, experiment.data)
    rows = read_csv(path)
    rows[0]["annotator"], rows[1]["annotator"], rows[2]["annotator"] = "Anna ", "ana", "BOB"
    save(path, rows)
    with pytest.raises(DataError, match="row 3: Expected anna or bob as the annotator, got 'ana'"):
        go(experiment, tmp_path)
    rows[1]["annotator"] = ""
    save(path, rows)
    assert not go(experiment, tmp_path)
    assert [line["annotator"] for line in ledger(tmp_path)] == ["anna", "anna", "bob"] + ["anna"] * 7


def test_a_workbook_beside_the_file_and_an_open_file_are_told(make, tmp_path):
    experiment = make()
    with pytest.raises(Waiting) as told:
        launch_here(experiment, tmp_path)
    page = tmp_path / "queue/round_000.html"
    assert str(told.value).endswith(f"re-run the same command. The photos, numbered by rank: {page.as_uri()}")
    path = sheets(tmp_path)[-1]
    path.with_suffix(".xlsx").write_bytes(b"PK")
    os.utime(path, (1, 1))
    path.with_name(f".~lock.{path.name}#").touch()
    with pytest.raises(Waiting) as told:
        launch_here(experiment, tmp_path)
    assert "round_000.csv is open in LibreOffice: save it there first." in str(told.value)
    assert "round_000.xlsx is ignored: save it as round_000.csv. The photos" in str(told.value)


def test_the_images_are_found_where_the_run_folder_is_a_link(make, tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "far/away")
    experiment = make()
    go(with_files(experiment, tmp_path), tmp_path / "run")
    path = sheets(tmp_path / "run")[0]
    assert all((path.parent / row["image"]).is_file() for row in read_csv(path))


# -- the page of photos ------------------------------------------------------------------------------------------------


def tiles(page):
    """(number, file a click opens, size of the picture, guess, text) of each photo on a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for figure in re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL):
        data = re.search(r'src="data:image/\w+;base64,([^"]+)"', figure)
        picture = Image.open(io.BytesIO(base64.b64decode(data[1]))) if data else None
        found.append(
            (
                int(re.search(r'"number">(\d+)<', figure)[1]),
                Path(unquote(urlsplit(link[1]).path)) if (link := re.search(r'<a href="([^"]+)"', figure)) else None,
                picture.size if picture else None,
                re.search(r'"guess">(.*?)<', figure)[1],
                unescape(re.sub(r"<[^>]*>", " ", figure)),
            )
        )
    return found


def test_the_photos_of_a_sheet_stand_on_a_page_in_its_order_before_anyone_answers(make, tmp_path):
    experiment = with_files(make(), tmp_path, side=700)
    go(experiment, tmp_path / "run")
    fill(sheets(tmp_path / "run")[-1], experiment.data)
    assert {guess for *_, guess, _ in tiles(tmp_path / "run/queue/round_000.html")} == {""}  # nothing is trained yet
    go(experiment, tmp_path / "run")
    sheet = sheets(tmp_path / "run")[-1]
    shown = tiles(sheet.with_suffix(".html"))
    rows = read_csv(sheet)
    assert [(number, str(file)) for number, file, *_ in shown] == [(int(row["rank"]), row["image"]) for row in rows]
    assert {size for *_, size, _, _ in shown} == {(480, 480)}
    for (*_, guess, text), row in zip(shown, rows, strict=True):
        assert guess == f"{row['prediction']} {float(row['probability']):.2f}"
        assert Path(row["image"]).name in text
        assert row["reason"] in text
        assert "the most similar labelled photo" in text


def test_the_page_of_each_person_has_their_photos_and_guesses_can_be_hidden(make, tmp_path):
    experiment = make(Queue(people=["anna", "bob"], show_prediction=False))
    go(experiment, tmp_path)
    for sheet in sheets(tmp_path):
        fill(sheet, experiment.data)
    go(experiment, tmp_path)
    for sheet in sheets(tmp_path)[-2:]:
        shown = tiles(sheet.with_suffix(".html"))
        assert [file.stem for _, file, *_ in shown] == [row["id"] for row in read_csv(sheet)]
        assert {guess for *_, guess, _ in shown} == {""}
        assert not any("similar" in text for *_, text in shown)


def test_the_page_names_a_photo_that_it_cannot_show_and_escapes_names(tmp_path):
    (tmp_path / "a <b>&.png").write_bytes(b"no picture")
    rows = [
        {"rank": 1, "id": "ab-0", "image": tmp_path / "a <b>&.png", "prediction": "<i>x", "probability": "0.5"},
        {"rank": 2, "id": "cd-0", "image": ""},
    ]
    write_photo_page(tmp_path / "page.html", rows, "<round>")
    (_, link, _, guess, text), (*_, other) = tiles(tmp_path / "page.html")
    assert (link, guess) == (None, "&lt;i&gt;x 0.50")
    assert "a <b>&.png" in text
    assert "cannot be shown: not an image" in text
    assert "no file: cd-0" in other
    assert "<b>" not in (tmp_path / "page.html").read_text()


def test_a_photo_of_few_bits_is_seen_on_the_page(tmp_path):
    Image.fromarray(np.linspace(0, 900, 64).astype(np.uint16).reshape(8, 8)).save(tmp_path / "ten bits.png")
    write_photo_page(tmp_path / "page.html", [{"rank": 1, "id": "ab-0", "image": tmp_path / "ten bits.png"}], "round")
    data = re.search(r'src="data:image/png;base64,([^"]+)"', (tmp_path / "page.html").read_text())[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).convert("L").getextrema() == (0, 255)


def test_a_sheet_can_name_photos_by_uri_and_an_exported_one_has_its_page(make, tmp_path):
    experiment = with_files(make(Queue(links="uri")), tmp_path)
    go(experiment, tmp_path / "run")
    names = {row["image"] for row in read_csv(sheets(tmp_path / "run")[0])}
    assert names <= {(tmp_path / name).as_uri() for name in experiment.data.pool.names}
    out = tmp_path / "for anna/open.csv"
    assert queue_command(["export", str(tmp_path / "run"), str(out)]) == 0
    assert {row["image"] for row in read_csv(out)} == names
    assert len(tiles(out.with_suffix(".html"))) == len(names)


# -- the command -------------------------------------------------------------------------------------------------------


def test_status_export_and_import(make, tmp_path, capsys, by_oracle):
    experiment, folder = make(), tmp_path / "run"
    go(experiment, folder)
    fill(sheets(folder)[-1], experiment.data, only=slice(0, 4))
    go(experiment, folder)
    out = tmp_path / "elsewhere" / "open.jsonl"
    out.parent.mkdir()
    assert queue_command(["export", str(folder), str(out.with_suffix(".csv"))]) == 0
    rows = read_csv(out.with_suffix(".csv"))
    assert len(rows) == 16
    assert all((out.parent / row["image"]).is_file() for row in rows)
    assert queue_command(["export", str(folder), str(out.with_suffix(".csv"))]) == 1
    assert "a new file" in capsys.readouterr().err

    fill(out.with_suffix(".csv"), experiment.data, {0: "clas 1"}, only=slice(0, 9))
    assert queue_command(["import", str(folder), str(out.with_suffix(".csv"))]) == 1
    assert "open.csv: row 2: " in capsys.readouterr().err
    fill(out.with_suffix(".csv"), experiment.data, only=slice(0, 9))
    assert queue_command(["import", str(folder), str(out.with_suffix(".csv"))]) == 0
    assert queue_command(["import", str(folder), str(out.with_suffix(".csv"))]) == 0
    assert queue_command(["status", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "9 answers imported" in told
    assert "0 answers imported" in told
    assert "round 0: 13 of 20 images answered (13 a class)" in told
    assert "person: 13 answers" in told
    assert "open: 7 images" in told
    assert len(ledger(folder)) == 13
    drive(experiment, folder)
    assert read(folder)[1] == by_oracle[1]
    assert queue_command(["import", str(folder), str(out.with_suffix(".csv"))]) == 1
    assert "without open questions" in capsys.readouterr().err


def test_export_and_import_for_several_people_at_once(make, tmp_path, capsys):
    """One file for all, with the hidden checks of each; who answered is told by its column."""
    experiment = make(Queue(people=["anna", "bob"], gold_rate=0.5, repeat_rate=0.5, show_prediction=False))
    folder, out = tmp_path / "run", tmp_path / "open.csv"
    go(experiment, folder)
    for path in sheets(folder):
        fill(path, experiment.data)
    go(experiment, folder)
    assert queue_command(["export", str(folder), str(out)]) == 0
    fill(out, experiment.data)
    rows = read_csv(out)
    save(out, [{**row, "annotator": ""} for row in rows])
    assert queue_command(["import", str(folder), str(out)]) == 1
    assert "row 2: Expected anna or bob as the annotator, got ''" in capsys.readouterr().err
    save(out, rows)
    assert queue_command(["import", str(folder), str(out)]) == 0
    assert "the round is complete" in capsys.readouterr().out
    kinds = Counter(line["kind"] for line in ledger(folder) if line["round"] == 1)
    assert kinds["query"] == 6
    assert kinds["gold"] > 0 < kinds["repeat"]
    assert len(rows) == kinds.total()


def test_a_changed_answer_is_one_answer_in_the_status(make, tmp_path, capsys):
    experiment = make()
    go(experiment, tmp_path)
    for word in ("class 0", "class 1"):
        fill(sheets(tmp_path)[0], experiment.data, {0: word}, only=slice(0, 1))
        go(experiment, tmp_path)
    assert len(ledger(tmp_path)) == 2
    assert queue_command(["status", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "round 0: 1 of 20 images answered (1 a class)" in told
    assert "person: 1 answers" in told


def test_files_that_cannot_be_written_or_read_are_told_in_a_line(make, tmp_path, capsys):
    go(make(), tmp_path / "run")
    (tmp_path / "file").touch()
    assert queue_command(["export", str(tmp_path / "run"), str(tmp_path / "file" / "open.csv")]) == 1
    assert queue_command(["import", str(tmp_path / "run"), str(tmp_path / "none.csv")]) == 1
    (tmp_path / "run/config.yaml").write_text("annotator: [")
    assert queue_command(["status", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err.splitlines()
    lines = [line for line in err if "counts as the defect" not in line]
    assert [line[:16] for line in lines] == ["error: Expected ", "error: Expected ", "error: Expected "]
    assert "none.csv" in lines[1]


def test_import_waits_for_the_lock_and_knows_its_runs(make, tmp_path, capsys):
    experiment = make()
    go(experiment, tmp_path)
    record = Record(tmp_path, experiment.describe(), tensorboard=False)
    assert queue_command(["import", str(tmp_path), str(sheets(tmp_path)[0])]) == 1
    assert "another process" in capsys.readouterr().err
    assert queue_command(["status", str(tmp_path)]) == 0
    record.close()
    assert queue_command(["status", str(tmp_path / "queue")]) == 1
    assert "the folder of a run" in capsys.readouterr().err


# -- killed at any instant ---------------------------------------------------------------------------------------------


KILLS = {  # in which launch, and where
    "before the first file": (0, (alframe.annotator.queue, "write_sheet", on_call(1, die))),
    "between the pictures": (0, (Sheets, "_picture", on_call(9, die))),
    "on the page of photos": (0, (alframe.annotator.photo_page, "_img", on_call(3, die))),
    "before the first answer": (1, (Ledger, "append", on_call(1, die))),
    "between two answers": (1, (Ledger, "append", on_call(8, die))),
    "in the middle of a ledger line": (1, (Ledger, "append", on_call(9, die_after_half_a_line))),
    "after the last answer": (1, (Record, "store", on_call(1, die))),
    "before the second file": (1, (alframe.annotator.queue, "write_sheet", on_call(1, die))),
    "between two answers of a query": (2, (Ledger, "append", on_call(3, die))),
    "before the commit": (2, (Record, "commit", on_call(1, die))),
    "in a fit": (2, (torch.optim.SGD, "step", on_call(7, die))),
}


@pytest.fixture(scope="module")
def files_undisturbed(tmp_path_factory):
    from conftest import tiny_experiment

    folder = tmp_path_factory.mktemp("queue")
    experiment = tiny_experiment(strategy=TopScore(score=entropy), annotator=Queue(), budget=BUDGET)
    files = {}
    while not go(experiment, folder):
        files[sheets(folder)[-1].name] = contents(sheets(folder)[-1])
        fill(sheets(folder)[-1], experiment.data)
    return files


def contents(sheet):
    """A file of questions, wherever its folder is."""
    return sheet.read_bytes().replace(bytes(sheet.parent), b"")


@pytest.mark.parametrize("moment", KILLS)
def test_killed_no_answer_is_lost_and_none_counts_twice(moment, make, tmp_path, by_oracle, files_undisturbed):
    number, patch = KILLS[moment]
    experiment, launches, files = make(), 0, {}
    code = 75
    while code != 0:
        code = in_a_process(partial(go, experiment, tmp_path), patch if launches == number else None)
        assert (code == -signal.SIGKILL) == (launches == number), "the kill did not come, or came again"
        if sheets(tmp_path) and code == 75:
            files[sheets(tmp_path)[-1].name] = contents(sheets(tmp_path)[-1])
            assert sheets(tmp_path)[-1].with_suffix(".html").is_file()
            fill(sheets(tmp_path)[-1], experiment.data)
        launches += 1
        assert launches < 10
    assert read(tmp_path) == by_oracle
    assert files == files_undisturbed


def with_files(experiment, root, side=None):
    """The experiment on images that are files in `root`, in the network's size or with that side."""
    pool = experiment.data.pool
    names = tuple(f"part {i:02d}.png" for i in range(len(pool)))
    for name, pixels in zip(names, pool.pixels, strict=True):
        image = Image.fromarray(pixels[0])
        (image.resize((side, side)) if side else image).save(root / name)
    return replace(experiment, data=Data("tiny", replace(pool, names=names), experiment.data.test, root=root))


def test_files_of_the_dataset_are_shown_themselves(make, tmp_path):
    experiment = with_files(make(), tmp_path)
    go(experiment, tmp_path / "run")
    rows = read_csv(sheets(tmp_path / "run")[0])
    names = dict(zip(experiment.data.pool.ids, experiment.data.pool.names, strict=True))
    assert all((tmp_path / "run/queue" / Path(row["image"])).resolve() == tmp_path / names[row["id"]] for row in rows)
    assert not (tmp_path / "run/queue/images").exists()


# -- corrections ----------------------------------------------------------------------------------------------------------


def corrected(folder, path, *options):
    return queue_command(["import", str(folder), str(path), "--correct", *options])


def answered(make, folder, n_rounds, annotator=None):
    """A run that waits in the round after `n_rounds`, every sheet filled with the truth."""
    experiment = make(annotator)
    for _ in range(n_rounds + 1):
        assert not go(experiment, folder)
        if len(sheets(folder)) <= n_rounds:
            fill(sheets(folder)[-1], experiment.data)
    return experiment


def test_a_sheet_that_was_changed_after_its_round_is_told_and_counts_when_it_is_imported(
    make, tmp_path, caplog, capsys
):
    experiment = answered(make, tmp_path, 2)
    first = sheets(tmp_path)[0]
    before, bought = ledger(tmp_path), rounds_of(tmp_path)[-1]["labels"]
    wrong = {0: "class 1", 1: "class 1", 2: "skip"}
    truth = read_csv(first)
    rows = [{**row, "answer": wrong.get(place, row["answer"])} for place, row in enumerate(truth)]
    changed = [row["id"] for row, old in zip(rows, truth, strict=True) if row["answer"] != old["answer"]]
    save(first, rows)
    assert not go(experiment, tmp_path)
    assert "round_000.csv was changed after its round was over" in caplog.text
    assert len(ledger(tmp_path)) == len(before), "only told"
    assert queue_command(["status", str(tmp_path)]) == 0
    assert f"round_000.csv: {len(changed)} answers differ from the ledger" in capsys.readouterr().out

    assert corrected(tmp_path, first) == 0
    assert f"{len(changed)} corrections recorded" in capsys.readouterr().out
    new = ledger(tmp_path)[len(before) :]
    assert [line["id"] for line in new] == changed
    assert all(line["counts_from"] == 2 and line["round"] == 0 and line["annotator"] == "person" for line in new)
    assert ledger(tmp_path)[: len(before)] == before
    assert corrected(tmp_path, first) == 0
    assert "No correction" in capsys.readouterr().out
    save(first, truth)  # and back: the person's last word counts
    assert corrected(tmp_path, first) == 0
    assert len(ledger(tmp_path)) == len(before) + 2 * len(changed)
    save(first, rows)
    assert corrected(tmp_path, first) == 0

    caplog.clear()
    drive(experiment, tmp_path)
    assert "was changed" not in caplog.text
    assert rounds_of(tmp_path)[0]["labels"] == bought
    assert rounds_of(tmp_path)[2]["usable"] == rounds_of(tmp_path)[2]["labels"] - 1, "one is skipped by now"


def test_a_correction_counts_from_the_next_round_on_and_not_before(make, tmp_path):
    experiment = answered(make, tmp_path, 2)
    first = sheets(tmp_path)[0]
    rows = read_csv(first)
    index = {id: i for i, id in enumerate(experiment.data.pool.ids)}[rows[0]["id"]]
    other = 1 - int(experiment.data.pool.labels[index])
    rules = experiment.annotator.rules(experiment.data.pool.classes)

    def label(round):
        known = labelled_at(experiment, ledger(tmp_path), rules, round).training
        return int(known.labels[known.rows == index])

    assert label(1) == 1 - other
    save(first, [{**rows[0], "answer": f"class {other}"}, *rows[1:]])
    assert corrected(tmp_path, first) == 0
    assert [label(round) for round in range(4)] == [1 - other, 1 - other, other, other]
    again = tmp_path.with_name("again")  # the same, undisturbed
    shutil.copytree(tmp_path, again)
    drive(experiment, tmp_path)
    drive(experiment, again)
    assert read(again) == read(tmp_path)
    learner, _ = restore(experiment, tmp_path, ledger(tmp_path), rules, 1)
    assert learner.fitted is not None
    accuracy = (
        learner.mean_log_probs("test", torch.arange(40)).argmax(1).numpy() == experiment.data.test.labels
    ).mean()
    assert accuracy == pytest.approx(rounds_of(tmp_path)[1]["test/accuracy"]), "the round before is what it was"


def test_what_was_said_before_an_image_was_asked_about_again_is_no_correction():
    line = {"index": 0, "id": "ab-0", "annotator": "anna", "kind": "query", "text": "", "time_s": 0.0}
    said = [
        {**line, "round": 0, "label": None, "answer": "unsure", "text": "b"},
        {**line, "round": 2, "label": 0, "answer": ""},
    ]

    def found(answer, lines=said):
        rules = Queue().rules(("a", "b"))
        answers, mistakes = corrections_in([Row(2, "ab-0", answer)], lines, rules, lambda name: "anna")
        assert not mistakes
        return [found.label for found in answers]

    assert found("unsure: b") == found("a") == []
    assert found("b") == [1]
    assert found("skip") == [None]
    now = [*said, {**line, "round": 2, "label": 1, "answer": "", "counts_from": 3}]
    assert found("unsure: b", now) == found("b", now) == []
    assert found("a", now) == [0]


def test_a_correction_settles_what_several_people_said_and_leaves_their_answers(make, tmp_path, capsys):
    annotator = Queue(people=["anna", "bob", "cora"], per_image=3)
    experiment = make(annotator)
    assert not go(experiment, tmp_path)
    for path in sheets(tmp_path):  # bob errs in the first row
        fill(path, experiment.data)
        rows = read_csv(path)
        if "bob" in path.name:
            bobs = rows[0]["id"]
            flipped = {"class 0": "class 1", "class 1": "class 0"}[rows[0]["answer"]]
            save(path, [{**rows[0], "answer": flipped}, *rows[1:]])
    assert not go(experiment, tmp_path)
    bob = next(path for path in sheets(tmp_path) if "round_000.bob" in path.name)
    assert corrected(tmp_path, bob) == 0
    assert "No correction" in capsys.readouterr().out, "who was outvoted has changed nothing"
    index = {id: i for i, id in enumerate(experiment.data.pool.ids)}[bobs]
    (tmp_path / "boss.csv").write_text(f"id,answer\n{bobs},{flipped}\n")
    assert corrected(tmp_path, tmp_path / "boss.csv") == 1
    assert "add --annotator NAME" in capsys.readouterr().err
    assert corrected(tmp_path, tmp_path / "boss.csv", "--annotator", "boss") == 0
    pool = Pool(experiment.data.pool.ids, Answers(ledger(tmp_path)), 2, annotator.rules(("class 0", "class 1")))
    assert pool.last_settled(index)["label"] == int(flipped[-1])
    assert pool.last_settled(index)["annotator"] == "boss"
    assert pool.agreement(0)["agreement/pairs"] < 1, "the votes stay"
    assert pool.people(0)["people/bob/agreement"] < pool.people(0)["people/anna/agreement"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("nobody-0,class 0", "Expected the id of an image that has been answered, got 'nobody-0'"),
        ("{open},class 0", "Expected the id of an image that has been answered"),
        ("{known},clas 5", "Expected class 0, class 1"),
        ("{known},new: dent", "name it first: annotator.new_classes=['dent']"),
    ],
)
def test_a_mistake_in_corrections_is_one_line_and_none_is_recorded(make, tmp_path, capsys, row, told):
    answered(make, tmp_path, 1)
    known, asked = (read_csv(path)[0]["id"] for path in sheets(tmp_path))
    (tmp_path / "c.csv").write_text("id,answer\n" + row.format(open=asked, known=known) + f"\n{known},skip\n")
    n = len(ledger(tmp_path))
    capsys.readouterr()
    assert corrected(tmp_path, tmp_path / "c.csv") == 1
    mistake, none = capsys.readouterr().err.splitlines()
    assert told in mistake
    assert "No correction of this file was accepted" in none
    assert len(ledger(tmp_path)) == n


def test_a_finished_run_is_corrected_too(make, tmp_path, capsys):
    experiment = make()
    drive(experiment, tmp_path)
    done = read(tmp_path)[1]
    first = sheets(tmp_path)[0]
    rows = read_csv(first)
    save(first, [{**rows[0], "answer": "bad image"}, *rows[1:]])
    assert corrected(tmp_path, first) == 0
    assert "the run is finished: raise budget.rounds" in capsys.readouterr().out
    more = make(budget=replace(BUDGET, rounds=4))
    drive(more, tmp_path)
    assert read(tmp_path)[1][:3] == done[:3]
    assert rounds_of(tmp_path)[-1]["usable"] == rounds_of(tmp_path)[-1]["labels"] - 1
