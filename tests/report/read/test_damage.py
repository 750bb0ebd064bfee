"""Folders damaged by hand: the report says what it left out, and is written whatever the files hold."""

import json

import pytest
import yaml

from alframe.report.cli import main
from alframe.report.read.comparison import read_runs
from alframe.report.read.run import read_run
from alframe.report.read.section import sections

DEEP = "[" * 100_000


def damage_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def damage_lines(path, **values):
    path.write_text("".join(json.dumps(json.loads(line) | values) + "\n" for line in path.read_text().splitlines()))


@pytest.fixture
def study(write_run, write_ledger):
    """random and bald with three seeds each, as folders by (strategy, seed)."""
    folders = {}
    for name, gain in (("random", 0.0), ("bald", 0.1)):
        for seed in range(3):
            folder = write_run(name, seed, (0.5, 0.6 + gain + 0.01 * seed, 0.7 + gain))
            write_ledger(folder)
            folders[name, seed] = folder
    return folders


@pytest.mark.parametrize(
    "config", ["seed: 0\nbegun: 2020-13-45\n", "a: " + "[" * 20_000, "seed: true\n", "seed: 1.5\n"]
)
def test_a_config_that_is_none_leaves_the_run_out(write_run, config):
    folder = write_run()
    (folder / "config.yaml").write_text(config)
    run, (reason,) = read_run(folder)
    assert run is None
    assert reason.startswith(("cannot be read: ", "config.yaml has no seed"))


@pytest.mark.parametrize("values", [{"labels": -5}, {"labels": True}, {"labels": None}, {"round": "0"}, {"round": -1}])
def test_a_line_with_odd_counts_is_not_a_round(write_run, values):
    folder = write_run()
    damage_lines(folder / "rounds.jsonl", **values)
    run, (reason,) = read_run(folder)
    assert run is None
    assert reason.startswith("line 1 of rounds.jsonl is not a round")


@pytest.mark.parametrize(
    "values",
    [{"label": 10**9}, {"label": 2}, {"label": -1}, {"label": True}, {"round": -5}, {"index": "7"}, {"rank": None}],
)
def test_the_ledger_ends_before_an_odd_answer(study, values):
    folder = study["bald", 0]
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    lines[3] = json.dumps(json.loads(lines[3]) | values) + "\n"
    (folder / "ledger.jsonl").write_text("".join(lines))
    run, _ = read_run(folder)
    assert len(run.ledger) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.7", True])
def test_a_run_whose_metric_is_no_number_is_left_out(study, tmp_path, value):
    damage_lines(study["bald", 0] / "rounds.jsonl", **{"test/accuracy": value})
    (section,), left = sections([tmp_path])
    assert list(section.cells["bald"]) == [1, 2]
    assert [item.reason for item in left] == ["test/accuracy is not a finite number at 100 labels"]


def test_one_run_of_other_label_counts_does_not_stop_the_comparison(write_run, tmp_path):
    for name in ("random", "bald"):
        for seed in range(3):
            odd = (name, seed) == ("bald", 0)
            write_run(name, seed, labels=[900, 910, 920] if odd else [100, 110, 120])
    (section,), (item,) = sections([tmp_path])
    assert section.range == (100, 120)
    assert list(section.cells["bald"]) == [1, 2]
    assert item.reason == "has 900 to 920 labels, not the 100 that most runs of elpv have"


def test_every_damage_at_once_still_gives_a_report(study, tmp_path, capsys):
    damage_json(study["random", 0] / "provenance.json", classes=5, n_pool=True, launches=3)
    damage_json(
        study["random", 1] / "provenance.json", near_duplicates={"exact": 90, "examples": [1, "ab", ["a", "b"]]}
    )
    damage_json(study["random", 2] / "provenance.json", launches=[{"versions": 3, "git": "x", "device": "cpu"}])
    for path in (study["bald", 0] / "queries").glob("*.json"):
        damage_json(path, questions=5, evaluation={"reliability": {"count": [-1, "x"]}})
    (study["bald", 0] / "ledger.jsonl").write_text(DEEP)
    (study["bald", 1] / "ledger.jsonl").unlink()
    (study["bald", 1] / "ledger.jsonl").mkdir()
    (study["bald", 2] / "provenance.json").write_text(DEEP)
    for (_, seed), folder in study.items():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["budget"] = "none" if seed == 0 else {1: 2, "rounds": 3, None: 4}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--tensorboard"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ledgers are missing or damaged" in page
    assert len(read_runs([tmp_path])[0]) == 6
    assert "different-budgets" in capsys.readouterr().out
