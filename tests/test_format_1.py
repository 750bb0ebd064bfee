"""Run folders of the format before this one: finished, half done, and waiting for people."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from alframe.annotator.cli import main as queue_command
from alframe.cli import execute, main
from alframe.config.overrides import load
from alframe.config.stored import stored_plan
from alframe.errors import Waiting
from alframe.handover.cli import export_main, predict_main
from alframe.record.layout import FORMAT
from alframe.record.read import read_config
from alframe.report.cli import main as report_command

STORED = Path(__file__).parent / "format_1"
EXPECTED = json.loads((STORED / "expected.json").read_text())
COMMAND = [
    "dataset=arrays", "dataset.root=few.npz", "model.width=4", "uncertainty.draws=2", "trainer.epochs=1", "trainer.min_steps=6",
    "trainer.warmup=0", "strategy=margin", "budget.initial=16", "budget.query_size=4", "budget.rounds=2", "budget.validation=0.25",
    "run.tensorboard=false", "progress=false", "threads=1", "device=cpu", "cache=cache", "run.root=.",
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A copy of the folders, to work in."""
    shutil.copytree(STORED, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def run_in(study):
    (folder,) = Path(study).glob("*/seed=0")
    return folder


def lines(folder, name):
    return [json.loads(text) for text in (folder / f"{name}.jsonl").read_text().splitlines()]


def result(folder):
    """What was asked, answered and counted, which holds on every machine; scores and metrics to what processors round differently."""
    ledger = [
        {key: line[key] for key in ("id", "index", "kind", "label", "round", "rank")}
        for line in lines(folder, "ledger")
    ]
    rounds = lines(folder, "rounds")
    counts = [
        {key: line[key] for key in ("round", "labels", "usable", "train", "validation", "stopped")} for line in rounds
    ]
    return ledger, counts, [line["test/nll"] for line in rounds]


def expected(name):
    ledger, rounds = EXPECTED[name]["ledger"], EXPECTED[name]["rounds"]
    ledger = [{key: line[key] for key in ("id", "index", "kind", "label", "round", "rank")} for line in ledger]
    counts = [
        {key: line[key] for key in ("round", "labels", "usable", "train", "validation", "stopped")} for line in rounds
    ]
    return ledger, counts, pytest.approx([line["test/nll"] for line in rounds], rel=1e-4)


def answer(folder):
    """The person: the true class of every image in the newest sheet."""
    plan = stored_plan(folder)
    pool = plan.dataset.load(plan.cache).pool
    truth = {id: pool.classes[label] for id, label in zip(pool.ids, pool.labels, strict=True)}
    sheet = sorted((folder / "queue").glob("round_*.csv"))[-1]
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**row, "answer": truth[row["id"]]} for row in csv.DictReader(file)]
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def by_command(study, *more):
    return execute(load([*COMMAND, f"run.name={study}", *more]))


def by_verb(study, *more):
    return execute(stored_plan(run_in(study), cache="cache", progress=False))


@pytest.mark.parametrize("resume", [by_command, by_verb])
def test_a_run_that_was_killed_goes_on_to_the_same_result(workplace, resume):
    resume("half")
    assert result(run_in("half")) == expected("half")
    assert sorted(path.name for path in Path("half").iterdir()) == [run_in("half").parent.name], "it is the same folder"


@pytest.mark.parametrize("resume", [by_command, by_verb])
def test_a_run_that_waits_goes_on_to_the_same_result(workplace, resume):
    folder = run_in("waiting")
    for _ in range(5):
        try:
            resume("waiting", "annotator=queue")
            break
        except Waiting:
            answer(folder)
    assert result(folder) == expected("waiting")


def test_a_finished_run_is_left_alone_and_can_be_extended(workplace, capsys):
    before = (run_in("finished") / "rounds.jsonl").read_bytes()
    by_command("finished")
    assert "finished already" in capsys.readouterr().out
    assert (run_in("finished") / "rounds.jsonl").read_bytes() == before
    assert result(run_in("finished")) == expected("finished")
    by_command("finished", "budget.rounds=3")
    assert result(run_in("finished")) == expected("extended")


def test_a_folder_is_read_as_today_and_written_in_todays_format(workplace):
    folder = run_in("waiting")
    assert "\nformat: " not in "\n" + (folder / "config.yaml").read_text()
    before = read_config(folder)
    assert "_partial_" not in before["annotator"]
    assert "stop_at" in before["budget"]
    with pytest.raises(Waiting):
        by_command("waiting", "annotator=queue")
    assert f"format: {FORMAT}\n" in (folder / "config.yaml").read_text()
    since = {  # these options came since
        "dataset": {"normal": None},
        "trainer": {"prior_bias": False, "balanced_batches": False},
        "annotator": {"links": "path"},
    }
    assert read_config(folder) == {**before, **{part: {**before[part], **options} for part, options in since.items()}}


def test_queue_status_reads_them(workplace, capsys):
    assert queue_command(["status", str(run_in("waiting"))]) == 0
    told = capsys.readouterr().out
    assert "round 0: 16 of 16 images answered (16 a class)" in told
    assert "round 1: 0 of 4 images answered" in told
    assert queue_command(["export", str(run_in("waiting")), "open.csv"]) == 0


def test_they_are_reported_and_exported(workplace, capsys):
    assert report_command(["finished", "--unfinished"]) == 0
    assert "margin" in Path("finished/report.md").read_text()
    assert export_main([str(run_in("finished")), "--out", "out", "--no-onnx"]) == 0
    assert "are reproduced" in capsys.readouterr().out
    assert (Path("out") / "labels.csv").is_file()
    assert predict_main(["out", str(run_in("waiting") / "queue/images")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21


def test_old_and_new_runs_of_one_cell_are_compared(workplace, capsys):
    """Or the upgrade would show as another config."""
    by_command("new", "seed=1")
    capsys.readouterr()
    assert report_command(["finished", "new", "--out", "together"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["2"])
    assert row[1] == "2"


def test_people_s_answers_of_old_are_not_overwritten(workplace, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["alframe", *COMMAND, "annotator=queue", "run.name=waiting", "run.overwrite=true"])
    assert main() == 1
    assert "Expected a run without answers from people" in capsys.readouterr().err
    assert result(run_in("waiting"))[0] == [line for line in expected("waiting")[0] if line["round"] == 0]


def test_a_folder_of_a_newer_format_is_left_alone(workplace, monkeypatch, capsys):
    config = run_in("half") / "config.yaml"
    config.write_text(f"format: {FORMAT + 1}\n" + config.read_text())
    monkeypatch.setattr("sys.argv", ["alframe", "resume", str(run_in("half"))])
    assert main() == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert f"format {FORMAT} or older, got format {FORMAT + 1}" in told
