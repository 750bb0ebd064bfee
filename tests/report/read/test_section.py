"""Which metric, which runs, over which labels, against what."""

import pytest

from alframe.errors import ConfigError, RunFolderError
from alframe.report.read.section import sections


def test_auroc_for_two_classes_accuracy_for_more(write_run, tmp_path):
    write_run(metric="test/auroc", more={"test/accuracy": 0.9}, study="two")
    write_run(metric="test/auroc", more={"test/accuracy": 0.9}, study="three", classes="abc", dataset="three")
    found, _ = sections([tmp_path])
    assert {section.title: section.metric for section in found} == {"elpv": "test/auroc", "three": "test/accuracy"}


def test_an_unknown_metric_lists_those_there_are(write_run, tmp_path):
    write_run()
    with pytest.raises(
        ConfigError,
        match=r"got 'test/acuracy'; did you mean 'test/accuracy'\? they have test/accuracy, test/nll, fit_s",
    ):
        sections([tmp_path], metric="test/acuracy")


def test_a_run_without_the_metric_is_left_out(write_run, tmp_path):
    write_run("random", metric="test/auroc")
    write_run("bald")
    found, left = sections([tmp_path], metric="test/auroc")
    assert list(found[0].curves) == ["random"]
    assert left[0].reason == "has no test/auroc"


def test_rounds_without_the_metric_are_passed_over(write_run, tmp_path):
    write_run(values=(0.1, 0.6, 0.7), labels=[0, 10, 20])
    folder = tmp_path / "study"
    (rounds,) = folder.rglob("rounds.jsonl")
    rounds.write_text(rounds.read_text().replace('"test/accuracy": 0.1', '"test/accuracy": null'))
    found, _ = sections([tmp_path], metric="test/accuracy")
    assert found[0].range == (10, 20)


@pytest.mark.parametrize("odd", ["NaN", "Infinity", '"high"'])
def test_a_value_that_is_not_a_number_leaves_the_run_out(write_run, tmp_path, odd):
    good, bad = write_run("random"), write_run("bald", values=(0.5, 0.625, 0.7))
    (bad / "rounds.jsonl").write_text((bad / "rounds.jsonl").read_text().replace("0.625", odd))
    found, left = sections([tmp_path])
    assert [run.folder for run in found[0].runs] == [good]
    assert left[0].reason == "test/accuracy is not a finite number at 110 labels"


def test_runs_of_different_lengths_are_compared_where_both_are(write_run, tmp_path):
    write_run("random", values=(0.5, 0.6, 0.7))
    write_run("bald", values=(0.5, 0.8), stopped="plateau")
    (section,), _ = sections([tmp_path])
    assert section.range == (100, 110)
    assert section.curves["random"].finals == pytest.approx([0.6])
    (note,) = [note for note in section.notes if note.startswith("Compared up to 110 labels")]
    assert "The longest run has 120" in note
    assert "(plateau)" in note


def test_runs_without_common_labels_cannot_be_compared(write_run, tmp_path):
    write_run("random", labels=[100, 110, 120])
    write_run("bald", labels=[200, 210, 220])
    with pytest.raises(RunFolderError, match="no label count in common"):
        sections([tmp_path])


def test_missing_seeds_are_named_and_the_common_ones_paired(write_run, tmp_path):
    for seed in range(3):
        write_run("random", seed)
    for seed in (0, 2):
        write_run("bald", seed, values=(0.5, 0.6, 0.8))
    (section,), _ = sections([tmp_path])
    assert "bald has no seed 1; differences use the common seeds only." in section.notes
    assert section.against["bald"].final.n == 2
    assert section.against["bald"].final.mean == pytest.approx(0.1)


def test_each_model_has_its_own_baseline(write_run, tmp_path):
    for model in ("small_cnn", "resnet18"):
        for strategy in ("random", "bald"):
            write_run(strategy, model=model)
    (section,), _ = sections([tmp_path])
    assert section.baselines == {"bald · small_cnn": "random · small_cnn", "bald · resnet18": "random · resnet18"}
    assert section.notes == ()
    assert section.common["trainer"] == "sgd"
    assert "model" not in section.common


def test_a_lone_baseline_serves_all_and_that_is_said(write_run, tmp_path):
    write_run("random", uncertainty="point")
    write_run("bald")
    (section,), _ = sections([tmp_path])
    assert section.baselines == {"bald · mc_dropout": "random · point"}
    assert section.notes == (
        "bald · mc_dropout is compared with random · point, which differs in more than the strategy.",
    )


def test_a_baseline_that_does_not_fit_is_not_used(write_run, tmp_path):
    write_run("random", model="small_cnn")
    write_run("random", model="resnet18")
    write_run("bald", model="wide_resnet28")
    (section,), _ = sections([tmp_path])
    assert section.against == {}
    assert section.notes == ("bald · wide_resnet28 has no baseline: no run of random shares its other options.",)


def test_another_strategy_can_be_the_baseline(write_run, tmp_path):
    write_run("entropy")
    write_run("bald")
    assert "No run of random:" in sections([tmp_path])[0][0].notes[0]
    assert sections([tmp_path], baseline="entropy")[0][0].baselines == {"bald": "entropy"}


def test_nothing_but_unfinished_runs_is_an_error_that_says_so(write_run, tmp_path):
    write_run(stopped=None)
    with pytest.raises(RunFolderError, match=r"got none: .*unfinished .* --unfinished"):
        sections([tmp_path])
    assert len(sections([tmp_path], unfinished=True)[0]) == 1
