import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from alframe.errors import RunFolderError
from alframe.record.files import write_atomically
from alframe.record.planned import Planned, Shown
from alframe.record.read import read_config
from alframe.record.record import Record, _hparams
from alframe.types import Question

CONFIG = {"strategy": {"_target_": "a.B", "beta": 1.0}, "budget": {"rounds": 3, "count_validation": True}, "seed": 0}
DATA = {"dataset": "tiny", "classes": ["good", "bad"], "data_hash": "abc"}
CPU = torch.device("cpu")


def line(round, labels, stopped=None):
    return {"round": round, "labels": labels, "test/accuracy": 0.5 + round / 10, "fit_s": 1.0, "stopped": stopped}


def planned(line):
    evaluation = {
        "confusion": [[1, 0], [0, 1]],
        "reliability": {"confidence": [0.5], "accuracy": [0.5], "count": [2]},
        "classes": ["good", "bad"],
    }
    return Planned([], line, evaluation)


SHOWN = Shown(classes=("good", "bad"))


def test_the_folder_holds_the_config_and_where_the_run_came_from(tmp_path):
    record = Record(tmp_path / "run", CONFIG)
    record.at_start(DATA, CPU)
    record.close()
    assert read_config(tmp_path / "run") == CONFIG
    provenance = json.loads((tmp_path / "run/provenance.json").read_text())
    assert provenance["classes"] == ["good", "bad"]
    launch = provenance["launches"][0]
    assert launch["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert launch["device"]["type"] == "cpu"
    assert {"time", "command", "git", "platform"} <= launch.keys()


def test_another_config_is_refused_with_the_differing_keys_and_both_ways_out(tmp_path):
    Record(tmp_path, CONFIG).close()
    other = {**CONFIG, "strategy": {"_target_": "a.B", "beta": 2.0}, "seed": 1}
    with pytest.raises(
        RunFolderError,
        match=r"seed \(0 -> 1\), strategy.beta \(1.0 -> 2.0\); use another run.name, or .* run.overwrite=true",
    ):
        Record(tmp_path, other)
    assert read_config(tmp_path) == CONFIG


def test_a_refused_folder_is_not_left_locked(tmp_path):
    Record(tmp_path, CONFIG).close()
    with pytest.raises(RunFolderError):
        Record(tmp_path, {**CONFIG, "seed": 1})
    Record(tmp_path, CONFIG).close()


def test_overwrite_starts_again_with_nothing_of_the_old_run(tmp_path):
    record = Record(tmp_path, CONFIG)
    record.store(None, Planned())
    record.commit(planned(line(0, 10)), SHOWN)
    record.close()
    again = Record(tmp_path, {**CONFIG, "seed": 1}, overwrite=True)
    assert (again.done, again.planned(None)) == (0, None)
    again.close()


def test_an_overwrite_that_was_killed_halfway_is_finished_by_the_next_launch(tmp_path, monkeypatch):
    record = Record(tmp_path, CONFIG)
    bought(record, range(3), 0)
    record.close()

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        Record(tmp_path, {**CONFIG, "seed": 1}, overwrite=True)
    monkeypatch.undo()
    again = Record(tmp_path, {**CONFIG, "seed": 1})
    assert again.ledger.lines == []
    again.close()
    assert not (tmp_path / ".discarding").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", ""),
        ("config.yaml", "- 1"),
        ("provenance.json", ""),
        ("provenance.json", "{"),
        ("rounds.jsonl", "{}\n"),
        ("ledger.jsonl", "{}\n"),
        ("queries/initial.json", "[]"),
        ("queries/round_000.json", "{}"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content):
    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    record.close()
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFolderError, match=name):
        open_and_read(tmp_path)


def open_and_read(folder):
    record = Record(folder, CONFIG)
    try:
        record.at_start(DATA, CPU)
        record.planned(None)
        record.planned(0)
    finally:
        record.close()


def test_a_board_that_begins_late_gets_the_earlier_rounds(tmp_path):
    record = Record(tmp_path, CONFIG, tensorboard=False)
    record.at_start(DATA, CPU)
    bought(record, range(10), 0)
    record.commit(planned(line(0, 10)), SHOWN)
    record.close()
    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    record.close()
    assert scalars(tmp_path) == [(10, 0.5)]


def test_fewer_rounds_than_stored_are_another_config(tmp_path):
    Record(tmp_path, CONFIG).close()
    with pytest.raises(RunFolderError, match=r"budget.rounds \(3 -> 2\)"):
        Record(tmp_path, {**CONFIG, "budget": {"rounds": 2, "count_validation": True}})


def hold(folder, ready, leave):
    record = Record(folder, CONFIG)
    ready.set()
    leave.wait(60)
    record.close()


def test_a_folder_that_another_live_process_holds_is_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready, leave))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(RunFolderError, match="another process is using"):
        Record(tmp_path, CONFIG)
    leave.set()
    holder.join(60)
    Record(tmp_path, CONFIG).close()


def test_a_lock_of_a_dead_process_keeps_nobody_out(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready, context.Event()))
    holder.start()
    assert ready.wait(60)
    holder.kill()
    holder.join(60)
    Record(tmp_path, CONFIG).close()


def test_a_folder_that_cannot_be_written_is_one_clear_error():
    with pytest.raises(RunFolderError, match="writable run folder.*choose another run.root"):
        Record(Path("/proc/alframe-run"), CONFIG)


def test_other_data_than_the_run_began_with_are_refused(tmp_path):
    record = Record(tmp_path, CONFIG, tensorboard=False)
    record.at_start(DATA, CPU)
    record.close()
    record = Record(tmp_path, CONFIG, tensorboard=False)
    with pytest.raises(RunFolderError, match="data that this run started with"):
        record.at_start({**DATA, "data_hash": "xyz"}, CPU)
    record.close()


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars("test/accuracy")]


def bought(record, indices, round):
    for index in indices:
        record.ledger.append({"id": str(index), "index": index, "kind": "query", "label": 0, "round": round, "rank": 0})


def test_tensorboard_forgets_an_undone_round(tmp_path):
    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    bought(record, range(10), 0)
    record.commit(planned(line(0, 10)), SHOWN)
    bought(record, range(10, 15), 1)
    record.board.round({**line(1, 15), "test/accuracy": 0.99}, None)  # written, but never committed
    record.close()

    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    record.commit(planned(line(1, 15)), SHOWN)
    record.close()
    assert scalars(tmp_path) == [(10, 0.5), (15, 0.6)]


def test_a_committed_round_at_the_step_of_the_undone_one_is_written_again(tmp_path):
    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    bought(record, range(10), 0)
    record.commit(planned(line(0, 10)), SHOWN)
    record.close()  # nothing was bought after round 0: round 1 has its step

    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    record.close()
    assert scalars(tmp_path) == [(10, 0.5)]


def test_queried_images_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = Record(tmp_path, CONFIG)
    record.at_start(DATA, CPU)
    question = {
        "id": "0",
        "index": 0,
        "kind": "query",
        "round": 1,
        "rank": 0,
        "score": 0.5,
        "score_name": "margin",
        "probs": [0.4, 0.6],
        "reason": "",
    }
    asked = Planned([Question(**question)], line(0, 10))
    record.commit(asked, Shown([1], ("good", "bad"), np.zeros((1, 3, 8, 8), dtype=np.uint8)))
    record.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "query/images" in events.Tags()["images"]


def test_the_contact_sheet_of_a_round_stands_in_rank_order_beside_its_questions(tmp_path):
    from PIL import Image

    record = Record(tmp_path, CONFIG, tensorboard=False)
    record.at_start(DATA, CPU)
    asked = Planned([Question("a", 0, "query", 1, rank) for rank in (1, 0)], line(0, 10))
    images = np.stack([np.full((1, 16, 16), level, dtype=np.uint8) for level in (40, 200)])
    record.commit(asked, Shown([1, 0], ("good", "bad"), images))
    record.commit(planned(line(1, 12)), SHOWN)
    record.close()
    with Image.open(tmp_path / "queries" / "round_000.jpg") as sheet:
        levels = [sheet.convert("L").getpixel((8 + 16 * k, 8)) for k in range(2)]
    assert levels == pytest.approx([200, 40], abs=3)
    assert not (tmp_path / "queries" / "round_001.jpg").exists()


def test_the_hparams_page_shows_what_studies_compare_first():
    config = {
        "choices": {"dataset": "elpv", "model": "frozen", "strategy": "bald", "uncertainty": "point", "trainer": "sgd"},
        **CONFIG,
    }
    columns = _hparams(config)
    assert sorted(columns)[:5] == ["dataset", "model", "seed", "strategy", "uncertainty"]
    assert columns["strategy"] == "bald"
    assert columns["with trainer"] == "sgd"
    assert columns["with strategy.beta"] == 1.0
    assert not any("_target_" in column for column in columns)


def test_a_source_is_stored_where_there_is_one_and_read_back():
    asked = Planned(
        [Question("a", 0, "query", 1, 0, source="random"), Question("b", 1, "validation", 1, 1)], line(0, 10)
    )
    stored = json.loads(asked.to_json())
    assert [question.get("source") for question in stored["questions"]] == ["random", None]
    assert "source" not in stored["questions"][1]
    assert Planned.of(stored) == asked
