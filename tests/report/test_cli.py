"""`alframe-report`: the table, the files, and one clear line where it cannot go on."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alframe.report.chapters.blocks import Options
from alframe.report.cli import main


def sweep(write_run):
    rise = {"random": 0.0, "margin": 0.05, "bald": 0.001}
    wobble = ((0.0, 0.004, 0.001), (0.003, 0.0, 0.002), (0.001, 0.002, 0.005), (0.002, 0.003, 0.0))
    for strategy, more in rise.items():
        for seed, shifts in enumerate(wobble):
            sign = 1 if strategy == "bald" and seed % 2 else -1
            values = tuple(
                0.5 + 0.1 * i + (more * (1 + 0.1 * seed) + sign * shift) * i for i, shift in enumerate(shifts)
            )
            write_run(strategy, seed, values)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_and_files(write_run, tmp_path, capsys):
    sweep(write_run)
    assert main([str(tmp_path / "study")]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "better (end and area)" in lines["margin"]
    assert "inconclusive" in lines["bald"]
    assert lines["random"].rstrip().endswith("baseline")
    assert "0.696 ± 0.004" in lines["random"]
    assert "end − random" in out
    files = {path.name for path in (tmp_path / "study").iterdir() if path.is_file()}
    assert files == {
        "report.html", "report.md", "curves.png", "curves.svg", "results.csv", "rounds.csv", "results.tex"
    }  # fmt: skip
    figures = {path.name for path in (tmp_path / "study" / "figures").iterdir()}
    assert figures >= {"curves.png", "curves.svg", "time.png", "time.svg"}


def test_report_has_the_table_the_figure_and_every_folder(write_run, tmp_path, capsys):
    sweep(write_run)
    torn = write_run("entropy", 0, stopped=None)
    assert main([str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "figures/curves.png" in text
    assert "| margin | better (end and area) | 4 |" in text
    assert "### Used: 12" in text
    assert text.count("| ../study/") == 13
    assert f"| ../study/{torn.parent.name}/seed=0 | unfinished" in text
    assert "Not used, or only in part: 1" in capsys.readouterr().out


def test_csv_files_hold_the_numbers_in_full(write_run, tmp_path):
    sweep(write_run)
    assert main([str(tmp_path / "study")]) == 0
    results = {row["cell"]: row for row in rows(tmp_path / "study" / "results.csv")}
    assert float(results["random"]["final_mean"]) == pytest.approx(
        sum(0.7 - 2 * s for s in (0.001, 0.002, 0.005, 0)) / 4
    )
    assert results["random"]["baseline"] == ""
    assert results["margin"]["baseline"] == "random"
    assert 0 < float(results["margin"]["area_p"]) < float(results["margin"]["area_p_holm"]) < 0.05
    rounds = rows(tmp_path / "study" / "rounds.csv")
    assert len(rounds) == 3 * 4 * 3
    assert float(rounds[0]["test/accuracy"]) == pytest.approx(0.5)
    assert rounds[0]["labels"] == "100"


def test_loss_is_better_when_it_is_less(write_run, tmp_path, capsys):
    sweep(write_run)
    assert main([str(tmp_path / "study"), "--metric", "test/nll"]) == 0
    out = capsys.readouterr().out
    assert "lower is better" in out
    assert "better (end and area)" in next(line for line in out.splitlines() if line.strip().startswith("margin"))


def test_one_seed_says_what_it_cannot_say(write_run, tmp_path, capsys):
    write_run("random")
    write_run("bald", values=(0.5, 0.6, 0.9))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "inconclusive (1 common seed, needs 3)" in out
    assert "±" not in out


def test_two_budgets_are_two_tables(write_run, tmp_path, capsys):
    write_run("random")
    write_run("bald", options={"budget.query_size": 20})
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "elpv (budget.query_size=10) ·" in out
    assert "elpv (budget.query_size=20) ·" in out
    assert "## elpv (budget.query_size=20)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "which does not exist"),
        (["{tmp}/empty"], "got none"),
        (["{tmp}/study", "--metric", "test/aurok"], "Expected a metric of these runs, got 'test/aurok'"),
        (["{tmp}/study", "--out", "{tmp}/file"], "choose another by --out"),
        (["{tmp}/study", "--out", "{tmp}/file/below"], "choose another by --out"),
        (["{tmp}/study", "--at", "100,many"], "Expected --at to be label counts such as 100,200, got 100,many"),
        (["{tmp}/study", "--at", "0"], "Expected --at to be label counts"),
        (["{tmp}/study", "--at", "100,5000"], "got 5,000; choose from 100 to 120 (elpv)"),
        (["{tmp}/study", "--target", "high"], "Expected --target to be a number, got 'high'"),
        (["{tmp}/study", "--target", "nan"], "Expected --target to be a value of the metric, got nan"),
        (["{tmp}/study", "--full-data-share", "1.5"], "a share above 0 and at most 1, got 1.5"),
        (["{tmp}/study", "--label-cost", "-1"], "Expected --label-cost to be a cost of 0 or more, got -1.0"),
        (["{tmp}/study", "--label-cost", "inf"], "Expected --label-cost to be a cost of 0 or more, got inf"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(write_run, tmp_path, capsys, arguments, message):
    write_run()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder")
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Expected")
    assert message in error
    assert error.count("\n") == 1


def test_options_reach_the_chapters(write_run, tmp_path, monkeypatch):
    write_run()
    seen = []
    monkeypatch.setattr("alframe.report.chapters.page.TOPICS", (lambda section, options: seen.append(options),))
    asked = ["--at", "120,100,100", "--target", "0.9", "--full-data-share", "0.9", "--label-cost", "2"]
    assert main([str(tmp_path), *asked, "--baseline", "bald"]) == 0
    assert seen == [
        Options(baseline="bald", at=(100, 120), target=0.9, full_data_share=0.9, label_cost=2.0, out=tmp_path)
    ]


def test_a_label_count_that_one_comparison_lacks_is_reported(write_run, tmp_path, capsys):
    write_run("random", labels=[100, 110, 120])
    write_run("random", labels=[200, 210, 220], dataset="cifar10")
    assert main([str(tmp_path), "--at", "110"]) == 0
    told = "cifar10 is not compared at 110 labels: its runs share 200 to 220."
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "report.html").read_text()


def test_a_file_is_the_old_one_until_the_new_one_is_whole(write_run, tmp_path, monkeypatch):
    write_run()
    assert main([str(tmp_path)]) == 0
    old = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main([str(tmp_path)]) == 1
    assert (tmp_path / "report.html").read_bytes() == old


def test_a_run_that_is_still_going_is_read_as_it_is(write_run, write_ledger, tmp_path):
    folder = write_run("random", stopped=None)
    write_ledger(folder)
    for name in ("rounds.jsonl", "ledger.jsonl"):
        (folder / name).write_text((folder / name).read_text() + '{"round": 3, "lab')
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path), "--unfinished"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "the last line of rounds.jsonl is torn" in text
    assert "What was bought" in text


def test_names_with_brackets_are_not_markup(write_run, tmp_path, capsys):
    write_run("[bold]mine", dataset="[red]data")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "[bold]mine" in out
    assert "[red]data" in out


def in_another_process(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=100
    )


def test_neither_torch_nor_tensorboard_is_imported(write_run, tmp_path):
    write_run()
    program = f"""
import sys
from alframe.report.cli import main
assert main([{str(tmp_path)!r}]) == 0
print([name for name in ("torch", "tensorboard", "hydra", "pandas") if name in sys.modules])
"""
    assert in_another_process("-c", program).stdout.splitlines()[-1] == "[]"


def test_help_needs_no_heavy_import():
    program = """
import sys
from alframe.report.cli import main
try:
    main(["--help"])
except SystemExit:
    print([name for name in ("scipy", "matplotlib", "numpy", "yaml", "jinja2") if name in sys.modules])
"""
    assert in_another_process("-c", program).stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_two_hundred_runs_are_no_burden(write_run, tmp_path):
    for k in range(10):
        for seed in range(20):
            write_run(f"strategy_{k}", seed, tuple(0.5 + 0.01 * i for i in range(20)))
    begin = time.process_time()
    assert main([str(tmp_path)]) == 0
    assert time.process_time() - begin < 20
