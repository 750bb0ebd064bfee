"""One run folder: what is read of it, and what is said of a damaged one."""

import pytest

from alframe.report.read.comparison import compare, read_runs
from alframe.report.read.run import read_run


def reasons(left):
    return [f"{item.folder.name}: {item.reason}" for item in left]


def test_a_run_is_read_with_its_choices_and_rounds(write_run):
    folder = write_run("bald", 3, (0.5, 0.6))
    run, notes = read_run(folder)
    assert notes == []
    assert (run.seed, run.dataset, run.data_hash, run.classes) == (3, "elpv", "abc", ("good", "defective"))
    assert run.choices["strategy"] == "bald"
    assert run.finished
    assert [line["test/accuracy"] for line in run.rounds] == [0.5, 0.6]


def test_a_torn_last_line_is_dropped_and_reported(write_run):
    folder = write_run(values=(0.5, 0.6, 0.7))
    whole = (folder / "rounds.jsonl").read_text()
    (folder / "rounds.jsonl").write_text(whole[:-20])
    run, notes = read_run(folder)
    assert notes == ["the last line of rounds.jsonl is torn; the 2 before it are read"]
    assert len(run.rounds) == 2
    assert not run.finished


def test_a_bad_line_in_the_middle_is_damage(write_run):
    folder = write_run(values=(0.5, 0.6, 0.7))
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    (folder / "rounds.jsonl").write_text("\n".join([lines[0], lines[1][:10], lines[2]]) + "\n")
    run, notes = read_run(folder)
    assert run is None
    assert notes[0].startswith("line 2 of rounds.jsonl is not a round: '{")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("rounds.jsonl", None, "no rounds.jsonl: no round is finished"),
        ("rounds.jsonl", "", "no round is finished"),
        ("rounds.jsonl", "[1, 2]\n{}\n", "line 1 of rounds.jsonl is not a round"),
        ("config.yaml", None, "no config.yaml"),
        ("config.yaml", "a: [1", "cannot be read"),
        ("config.yaml", "just words", "config.yaml has no seed"),
        ("config.yaml", "strategy: {}", "config.yaml has no seed"),
    ],
)
def test_what_is_missing_or_broken_is_named(write_run, file, text, reason):
    folder = write_run()
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    run, notes = read_run(folder)
    assert run is None
    assert notes[-1].startswith(reason)
    assert "\n" not in notes[-1]


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_unreadable_provenance_keeps_the_run_apart(write_run, text):
    odd, whole = write_run("bald"), write_run("random")
    (odd / "provenance.json").unlink()
    if text is not None:
        (odd / "provenance.json").write_text(text)
    runs, left = read_runs([odd, whole])
    assert reasons(left) == ["seed=0: no readable provenance.json: compared only with runs whose data are also unknown"]
    assert len(compare(runs)[0]) == 2


def test_of_rounds_with_the_same_labels_the_last_counts(write_run):
    run, _ = read_run(write_run(values=(0.5, 0.6, 0.9), labels=[100, 110, 110]))
    assert [(line["labels"], line["test/accuracy"]) for line in run.rounds] == [(100, 0.5), (110, 0.9)]


def test_a_config_without_choices_is_named_by_its_classes(write_run):
    folder = write_run("bald")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("choices", "  ")))
        + "\nstrategy: {_target_: mylab.Mine}\n"
    )
    run, _ = read_run(folder)
    assert run.choices["strategy"] == "Mine"
    assert run.choices["model"] == "unknown"
