"""Labels to a level, areas and finds of a run, and the table."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import labels_saved
from labels_saved import area, found, needed

from alframe.report.read.run import read_run


@pytest.fixture
def write_run(tmp_path):
    def write(study, strategy, seed, aurocs, labels):
        folder = tmp_path / study / strategy / f"seed={seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps({"seed": seed, "choices": {"strategy": strategy}}))
        lines = [{"round": i, "labels": 10 * i, "test/auroc": v, "stopped": None} for i, v in enumerate(aurocs)]
        lines[-1]["stopped"] = "budget spent"
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "provenance.json").write_text(json.dumps({"classes": ["bad", "ok"], "normal": ["ok"]}))
        ledger = [
            {"index": i, "round": i // 10, "rank": i % 10, "kind": "query", "label": y} for i, y in enumerate(labels)
        ]
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
        return folder

    return write


def test_labels_to_a_level_the_area_and_the_finds(write_run):
    run, _ = read_run(write_run("s", "random", 0, [0.5, 0.6, 0.9, 0.8], [0, 1] * 15))
    assert [needed(run, level) for level in (0.55, 0.9, 0.95)] == [10, 20, 40], "one query more than it bought"
    assert area(run, 10) == pytest.approx((0.75 * 10 + 0.85 * 10) / 20)
    assert [found(run, n) for n in (10, 20, 30)] == [5, 10, 15], "the first class is the defect here"


def test_the_table_pairs_by_seed(write_run, tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        write_run("s", "random", seed, [0.5, 0.5, 0.6, 0.8], [1] * 30)
        write_run("s", "margin", seed, [0.5, 0.8 if seed else 0.7, 0.8, 0.9], [0] * 30)
        write_run("t", "margin", seed, [0.5, 0.5, 0.8, 0.9], [0] * 30)
    arguments = ["labels_saved.py", str(tmp_path / "s"), "--then", str(tmp_path / "t"), "--at", "10", "30"]
    monkeypatch.setattr("sys.argv", arguments)
    labels_saved.main()
    out = capsys.readouterr().out
    assert "The level: 0.800" in out
    rows = {
        row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ")
        for row in out.splitlines()
        if row.startswith("| ")
    }
    assert rows["margin"][2:4] == ["15", "15 ± 64"], "20 and 10 labels instead of 30 and 30"
    assert rows["random, then margin"][3] == "10 ± 0"
    assert rows["margin"][-1] == "0.900 · 30.0"
