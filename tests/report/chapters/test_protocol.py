"""Each protocol check: it fires on a study made wrong in one way, and is silent on one made right."""

import json

import pytest
import yaml

from alframe.report.chapters.protocol import CHECKS, chapter, warnings
from alframe.report.cli import main
from alframe.report.read.section import sections

SEEDS = range(5)
LAUNCH = {
    "versions": {"python": "3.11.7", "alframe": "0.1.0", "torch": "2.14.1"},
    "git": {"commit": "0123456789abcdef", "diff": "", "untracked": []},
    "device": {"type": "cpu", "name": "x86_64", "threads": 1},
}


@pytest.fixture
def write(write_run):
    """A run folder with all its files; `initial`, `launches` and `provenance` are what the test makes of them."""

    def written(strategy="random", seed=0, *args, initial=None, launches=(LAUNCH,), provenance=None, **kwargs):
        folder = write_run(strategy, seed, *args, **kwargs)
        known = json.loads((folder / "provenance.json").read_text())
        known |= {"n_pool": 500, "n_test": 1000, "near_duplicates": {"exact": 0, "near": 0, "examples": []}}
        known |= {"pool_hash": "p", "test_hash": "t", "launches": list(launches)} | (provenance or {})
        (folder / "provenance.json").write_text(json.dumps(known))
        ids = initial if initial is not None else [f"{seed}-{i}" for i in range(4)]
        lines = [{"id": i, "index": 0, "kind": "initial", "label": 0, "round": 0, "rank": r} for r, i in enumerate(ids)]
        lines += [{"id": f"{strategy}{seed}", "index": 1, "kind": "query", "label": 1, "round": 1, "rank": 0}]
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return written


@pytest.fixture
def sound(write):
    """`sound(**of_margin)`: random and margin over five seeds; what is given is done to margin's first seed only, or to all of them."""

    def study(first=None, every=None):
        for seed in SEEDS:
            write("random", seed)
            write("margin", seed, **(every or {}), **((first or {}) if seed == 0 else {}))

    return study


def names(tmp_path, **options):
    return [warning.name for warning in found(tmp_path, **options)]


def found(tmp_path, **options):
    return warnings(*sections([tmp_path], **options))


def test_a_sound_study_has_nothing_to_object_to(sound, tmp_path):
    sound()
    assert found(tmp_path) == []
    (paragraph,) = chapter([]).blocks
    assert paragraph.text.startswith("No warnings. Checked for: test used for selection, different initial sets,")
    assert paragraph.text.count(",") == len(CHECKS) - 1


WRONG = {
    "different-initial-sets": {"first": {"initial": ["0-0", "0-1", "9-9"]}},
    "different-recipes": {"every": {"options": {"trainer.lr": 0.1}}},
    "different-versions": {"first": {"launches": [LAUNCH, LAUNCH | {"versions": {"torch": "2.15.0"}}]}},
    "different-devices": {"first": {"launches": [LAUNCH | {"device": {"type": "cuda", "name": "H100"}}]}},
    "near-duplicates": {"first": {"provenance": {"near_duplicates": {"exact": 1, "near": 30, "examples": []}}}},
    "unequal-label-grids": {"first": {"labels": [100, 110, 115]}},
    "growing-pools": {"every": {"provenance": {"grows": True}}},
    "no-test-images": {"every": {"provenance": {"n_test": 0}}},
    "missing-evidence": {"first": {"launches": []}},
}


@pytest.mark.parametrize("name", WRONG)
def test_one_fault_is_one_warning(sound, tmp_path, name):
    faults = WRONG[name]
    if name == "near-duplicates":  # the data are shared by all runs
        faults = {"every": faults["first"] | {"data_hash": "def"}}
        sound(**faults)
        assert name in names(tmp_path)
        return
    sound(**faults)
    assert names(tmp_path) == [name]


def test_initial_sets_are_reported_with_folders_and_sizes(sound, tmp_path):
    sound(first={"initial": ["0-0", "0-1", "9-9"]})
    (warning,) = found(tmp_path)
    assert "runs of seed 0 started from 2 different sets" in warning.found
    assert "from 4 and" in warning.found
    assert "from 3, with 2 in common" in warning.found
    assert str(tmp_path) in warning.found
    assert warning.serious


def test_other_seeds_may_begin_with_other_images(write, tmp_path):
    for seed in SEEDS:
        write("random", seed, initial=[f"{seed}"])
    assert names(tmp_path) == []


def test_label_counts_that_some_runs_lack_are_named(sound, tmp_path):
    sound(first={"values": (0.5, 0.6, 0.65, 0.7), "labels": [100, 110, 115, 120]})
    (warning,) = found(tmp_path)
    assert "not at 115 (9 runs" in warning.found
    assert "at all 4 (" in warning.found


def test_budgets_that_were_kept_apart_are_reported(write, tmp_path):
    for seed in SEEDS:
        write("random", seed)
        write("margin", seed, options={"budget.query_size": 20})
    (warning,) = found(tmp_path)
    assert warning.name == "different-budgets"
    assert "budget.query_size 20 (5 runs" in warning.found
    assert ", 10 (5 runs" in warning.found


def test_two_datasets_may_have_two_budgets(write, tmp_path):
    for seed in SEEDS:
        write("random", seed)
        write("random", seed, dataset="mnist", data_hash="m", options={"budget.query_size": 20})
    assert names(tmp_path) == []


def test_validation_counted_in_some_runs_only(write, tmp_path):
    for seed in SEEDS:
        write("random", seed)
        write("margin", seed, options={"budget.count_validation": False})
    assert names(tmp_path) == ["mixed-count-validation"]


@pytest.mark.parametrize(
    ("provenance", "name"),
    [
        ({"test_hash": "other"}, "different-test-sets"),
        ({"n_test": 900}, "different-test-sets"),
        ({"pool_hash": "other"}, "different-pools"),
        ({"test_hash": None}, "different-test-sets"),
    ],
)
def test_data_that_were_kept_apart_are_reported(write, tmp_path, provenance, name):
    for seed in SEEDS:
        write("random", seed)
        write("margin", seed, data_hash="def", provenance=provenance)
    assert names(tmp_path) == [name]


def test_recipes_name_the_options_and_who_is_compared_across_them(sound, tmp_path):
    sound(every={"options": {"trainer.lr": 0.1}})
    (warning,) = found(tmp_path)
    assert "trainer.lr is null in random, 0.1 in margin" in warning.found
    assert "Compared across recipes: margin with random." in warning.found


def test_options_of_the_strategy_are_no_recipe(sound, tmp_path):
    sound(every={"options": {"strategy.power": 2.0}})
    assert names(tmp_path) == []


def test_each_recipe_with_its_own_baseline_is_not_compared_across(write, tmp_path):
    for strategy in ("random", "margin"):
        for lr in (0.1, 0.2):
            for seed in SEEDS:
                write(strategy, seed, options={"trainer.lr": lr})
    (warning,) = found(tmp_path)
    assert warning.name == "different-recipes"
    assert "across" not in warning.found


def test_source_that_was_changed_in_between_is_another_version(sound, tmp_path):
    sound(first={"launches": [LAUNCH | {"git": LAUNCH["git"] | {"diff": "- a\n+ b\n"}}]})
    (warning,) = found(tmp_path)
    assert warning.name == "different-versions"
    assert "source 0123456789 (" in warning.found
    assert "0123456789 with changes " in warning.found


def test_two_makes_of_cpu_are_one_kind_of_device(sound, tmp_path):
    sound(first={"launches": [LAUNCH | {"device": {"type": "cpu", "name": "arm64"}}]})
    assert names(tmp_path) == []


def test_precision_is_reported(sound, tmp_path):
    sound(every={"options": {"resolved.precision": "bfloat16"}})
    assert names(tmp_path) == []  # random's is not known
    for seed in SEEDS:
        config = next((tmp_path / "study").glob(f"*random*/seed={seed}/config.yaml"))
        stored = yaml.safe_load(config.read_text()) | {"resolved": {"precision": "float32"}}
        config.write_text(yaml.safe_dump(stored))
    (warning,) = found(tmp_path)
    assert warning.name == "different-devices"
    assert "precision float32 (5 runs" in warning.found


@pytest.mark.parametrize(
    "options",
    [
        {"trainer.early_stop": "test/nll"},
        {"trainer.best_checkpoint": "test"},
        {"trainer.best_checkpoint_on_test": True},
        {"budget.metric": "test/accuracy", "budget.plateau": 3},
        {"budget.metric": "test/accuracy", "budget.stop_at": 0.9},
    ],
)
def test_deciding_on_test_data_is_serious(write, tmp_path, options):
    for seed in SEEDS:
        write("random", seed, options=options)
    (warning,) = found(tmp_path)
    assert warning.name == "test-used-for-selection"
    assert warning.serious
    assert f"{next(iter(options))}=" in warning.found


def test_a_run_that_says_it_stopped_on_test_data_is_serious_whatever_its_config(write, tmp_path):
    for seed in SEEDS:
        write("random", seed, stopped="test/accuracy reached 0.7")
    (warning,) = found(tmp_path)
    assert "stopped because test/accuracy reached 0.7 (5 runs" in warning.found


@pytest.mark.parametrize(
    "options",
    [
        {"budget.metric": "test/accuracy"},  # no rule looks at it
        {"budget.metric": "validation/accuracy", "budget.plateau": 3, "trainer.early_stop": 3},
        {"dataset.root": "test/photos"},
        {"query.target": "test"},  # its images, never its labels
    ],
)
def test_naming_the_test_data_without_deciding_on_it_is_all_right(write, tmp_path, options):
    for seed in SEEDS:
        write("random", seed, options=options)
    assert names(tmp_path) == []


def test_near_duplicates_are_reported_once_with_their_share(write, tmp_path):
    twins = {"near_duplicates": {"exact": 2, "near": 30, "examples": [["a.png", "b.png", 0.01]]}}
    for seed in SEEDS:
        write("random", seed, provenance=twins)
    (warning,) = found(tmp_path)
    assert "32 test images (3.2 % of 1,000) are in the pool too, 2 identical and 30 nearly so" in warning.found
    assert "a.png and b.png" in warning.found


def test_a_near_duplicate_in_a_thousand_is_not_worth_a_word(write, tmp_path):
    for seed in SEEDS:
        write("random", seed, provenance={"near_duplicates": {"exact": 0, "near": 1, "examples": []}})
    assert names(tmp_path) == []


def test_features_have_no_near_duplicates_to_look_for(write, tmp_path):
    for seed in SEEDS:
        write("random", seed, provenance={"near_duplicates": None})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("n", "expected"), [(1, "too-few-seeds"), (2, "too-few-seeds"), (3, "few-seeds"), (4, "few-seeds"), (5, None)]
)
def test_seeds_are_counted(write, tmp_path, n, expected):
    for seed in range(n):
        write("random", seed)
        write("margin", seed)
    assert names(tmp_path) == ([expected] if expected else [])


def test_only_seeds_in_common_with_the_baseline_count(write, tmp_path):
    for seed in SEEDS:
        write("random", seed)
        write("margin", seed + 3)
    few, unequal = found(tmp_path)
    assert few.name == "too-few-seeds"
    assert "elpv, margin: 2 seeds in common with the baseline" in few.found
    assert unequal.name == "unequal-seeds"
    assert "seeds 0 1 2 3 4 in random; seeds 3 4 5 6 7 in margin" in unequal.found


def test_folders_that_are_not_used_are_reported(sound, write, tmp_path):
    sound()
    folder = write("bald", 0, stopped=None)
    (warning,) = found(tmp_path)
    assert warning.name == "runs-left-out"
    assert f"{folder}: unfinished" in warning.found
    assert [name for name in names(tmp_path, unfinished=True) if name == "runs-left-out"] == []


@pytest.mark.parametrize("damage", ["", "{", "[]\n", '{"id": 1}\n', "\xff"])
def test_files_that_cannot_be_read_are_missing_evidence(sound, tmp_path, damage):
    sound()
    folder = next((tmp_path / "study").glob("*margin*/seed=0"))
    (folder / "ledger.jsonl").write_bytes(damage.encode("latin-1"))
    expected = (
        ["different-initial-sets"] if damage == "" else ["missing-evidence"]
    )  # an empty ledger is one without a start
    assert names(tmp_path) == expected


def test_runs_of_an_older_version_say_what_is_not_known(write, tmp_path):
    for seed in SEEDS:
        folder = write("random", seed)
        known = json.loads((folder / "provenance.json").read_text())
        del known["near_duplicates"]
        (folder / "provenance.json").write_text(json.dumps(known))
    (warning,) = found(tmp_path)
    assert warning.name == "missing-evidence"
    assert "never searched for near-duplicates (5 runs" in warning.found


def test_every_warning_is_a_paragraph(write, tmp_path):
    write("random", options={"trainer.early_stop": "test/nll"}, provenance={"near_duplicates": {"exact": 5, "near": 0}})
    blocks = chapter(found(tmp_path)).blocks
    assert [block.tone for block in blocks] == ["bad", "warning", "bad"]
    assert blocks[1].text.startswith("near-duplicates: elpv: 5 test images (0.5 % of 1,000) are")


def test_strict_writes_the_report_and_names_the_warnings(sound, write, tmp_path, capsys):
    sound(every={"options": {"trainer.lr": 0.1}})
    assert main([str(tmp_path), "--strict"]) == 1
    assert "different-recipes" in capsys.readouterr().err
    assert (tmp_path / "report.md").exists()
    assert main([str(tmp_path)]) == 0
    assert "different-recipes: elpv: cells differ" in capsys.readouterr().out


def test_strict_is_content_with_a_sound_study(sound, tmp_path, capsys):
    sound()
    assert main([str(tmp_path), "--strict"]) == 0
    assert capsys.readouterr().err == ""


def test_cells_that_failed_are_named_and_the_others_are_a_biased_choice(write_run, write_ledger, tmp_path):
    for seed in (0, 1, 2):
        write_ledger(write_run(seed=seed))
    gone = write_run(seed=3, stopped=None)
    (gone / "failed.json").write_text(json.dumps({"reason": "Expected a defect, got none.\nMore."}))
    never = tmp_path / "study/never/seed=4"
    never.mkdir(parents=True)
    (never / "rounds.jsonl").touch()
    (never / "failed.json").write_text(json.dumps({"reason": "ValueError: odd"}))
    done = write_run(seed=5)
    (done / "failed.json").write_text(json.dumps({"reason": "later, of no concern"}))
    found, left = sections([tmp_path])
    assert {item.folder: item.reason for item in left if item.failed} == {
        gone: "failed: Expected a defect, got none.",
        never: "failed: ValueError: odd",
    }
    (told,) = [warning for warning in warnings(found, left) if warning.name == "failed-cells"]
    assert told.serious
    assert told.found.startswith("2 cells failed: ")
    assert f"{gone}: Expected a defect, got none." in told.found
    assert "biased choice" in told.advice
