"""Run folders are found once each; what differs is never mixed."""

import json

import pytest

from alframe.errors import RunFolderError
from alframe.report.read.comparison import compare, read_runs, run_folders


def reasons(left):
    return [f"{item.folder.name}: {item.reason}" for item in left]


def test_runs_are_found_at_any_depth_once_each(write_run, tmp_path):
    folders = [write_run("random", 0), write_run("random", 1), write_run("bald", 0, study="other")]
    (folders[0] / "tensorboard").mkdir()
    (folders[0] / "queries").mkdir()
    (folders[0] / "queries" / "config.yaml").write_text("not a run")
    assert set(run_folders(tmp_path)) == set(folders)
    runs, left = read_runs([tmp_path, folders[0], tmp_path / "study"])
    assert sorted(run.folder for run in runs) == sorted(folders)
    assert left == []


def test_unfinished_runs_are_left_out_unless_asked_for(write_run, tmp_path):
    write_run("random", 0, stopped=None)
    write_run("random", 1)
    runs, left = read_runs([tmp_path])
    assert [run.seed for run in runs] == [1]
    assert reasons(left)[0].startswith("seed=0: unfinished (3 rounds, 120 labels): re-run its command")
    assert [run.seed for run in read_runs([tmp_path], unfinished=True)[0]] == [0, 1]


def test_missing_and_empty_folders_are_errors(write_run, tmp_path):
    write_run()
    with pytest.raises(RunFolderError, match=r"not exist; did you mean 'study'\?"):
        read_runs([tmp_path / "studi"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunFolderError, match=r"Expected run folders below .*empty, got none"):
        read_runs([empty])


@pytest.mark.parametrize(
    ("differing", "title"),
    [
        ({"dataset": "cifar10"}, "cifar10"),
        ({"data_hash": "fedcba9876"}, "elpv (data=fedcba98)"),
        ({"options": {"budget.query_size": 20}}, "elpv (budget.query_size=20)"),
        ({"options": {"budget.count_validation": False}}, "elpv (budget.count_validation=False)"),
    ],
)
def test_data_and_budget_are_never_mixed(write_run, tmp_path, differing, title):
    write_run("random")
    write_run("bald", **differing)
    comparisons, _ = compare(read_runs([tmp_path])[0])
    assert len(comparisons) == 2
    assert title in [comparison.title for comparison in comparisons]
    assert all(len(comparison.cells) == 1 for comparison in comparisons)


@pytest.mark.parametrize(("normal", "titles"), [("good", ["elpv"]), ("defective", ["elpv", "elpv (defect=good)"])])
def test_runs_with_another_defect_of_two_classes_are_not_compared(write_run, tmp_path, normal, titles):
    write_run("random")
    provenance = write_run("margin") / "provenance.json"
    provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"normal": [normal]}))
    assert sorted(one.title for one in compare(read_runs([tmp_path])[0])[0]) == titles


def test_options_that_an_earlier_version_lacked_count_as_what_it_did(write_run, tmp_path):
    write_run("bald", 0)
    for seed, value in ((1, False), (2, True)):
        provenance = write_run("bald", seed, options={"trainer.prior_bias": value}) / "provenance.json"
        came = {"options_if_absent": {"trainer.prior_bias": False}}
        provenance.write_text(json.dumps(json.loads(provenance.read_text()) | came))
    (comparison,) = compare(read_runs([tmp_path])[0])[0]
    assert {name: sorted(seeds) for name, seeds in comparison.cells.items()} == {
        "bald (trainer.prior_bias=False)": [0, 1],
        "bald (trainer.prior_bias=True)": [2],
    }


def test_cells_are_named_by_what_varies(write_run, tmp_path):
    for strategy in ("random", "bald"):
        for model in ("small_cnn", "resnet18"):
            write_run(strategy, 0, model=model)
    (comparison,) = compare(read_runs([tmp_path])[0])[0]
    assert list(comparison.cells) == ["random · resnet18", "random · small_cnn", "bald · resnet18", "bald · small_cnn"]


def test_cells_with_the_same_choices_are_reported_apart_by_their_options(write_run, tmp_path):
    write_run("random", 0)
    for draws in (5, 20):
        for seed in (0, 1):
            write_run("bald", seed, options={"uncertainty.draws": draws})
    (comparison,) = compare(read_runs([tmp_path])[0])[0]
    assert list(comparison.cells) == ["random", "bald (uncertainty.draws=20)", "bald (uncertainty.draws=5)"]
    assert [len(seeds) for seeds in comparison.cells.values()] == [1, 2, 2]


def test_where_the_data_lie_does_not_make_another_cell(write_run, tmp_path):
    write_run("random", 0, options={"dataset.root": "here"})
    write_run("random", 1, options={"dataset.root": "there"})
    (comparison,) = compare(read_runs([tmp_path])[0])[0]
    assert list(comparison.cells["random"]) == [0, 1]


def test_of_two_runs_of_one_cell_and_seed_the_longer_stays(write_run, tmp_path):
    short = write_run("random", 0, (0.5, 0.6), study="a")
    long = write_run("random", 0, (0.5, 0.6, 0.7), study="b")
    comparisons, left = compare(read_runs([tmp_path])[0])
    assert comparisons[0].cells["random"][0].folder == long
    assert left[0].folder == short
    assert "the same cell and seed" in left[0].reason
