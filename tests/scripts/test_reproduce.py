"""Published numbers beside ours: what is measured of a run, what is laid beside what, and every entry of published.yaml."""

import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where a script finds its own modules

import purchases
import reproduce
from reproduce import Row, Target, measured, read_published, rows_of
from tests_support import forked

from alframe.config.overrides import load
from alframe.config.schema import GROUPS
from alframe.report.read.comparison import compare, read_runs
from alframe.report.read.run import read_run

PUBLISHED = read_published()
ENTRIES = [(preset, entry) for preset, about in PUBLISHED.items() for entry in about["numbers"]]


@pytest.fixture
def write_run(tmp_path):
    """A run folder as `alframe` writes it, as far as the script reads it."""

    def write(
        strategy,
        seed,
        values,
        labels=None,
        ledger=(),
        n_pool=100,
        root=tmp_path,
        classes=("a", "b", "c", "d"),
        **config,
    ):
        labels = labels or [50 * (i + 1) for i in range(len(values))]
        folder = root / "study" / strategy / f"seed={seed}"
        folder.mkdir(parents=True)
        choices = dict.fromkeys(GROUPS, "any") | {"strategy": strategy}
        (folder / "config.yaml").write_text(
            json.dumps({"seed": seed, "choices": choices, "strategy": {"name": strategy}, **config})
        )
        lines = [
            {"round": i, "labels": n, "test/accuracy": v, "stopped": None}
            for i, (n, v) in enumerate(zip(labels, values, strict=True))
        ]
        lines[-1]["stopped"] = "budget spent"
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        about = {"dataset": "tiny", "data_hash": "abc", "classes": classes, "n_pool": n_pool}
        (folder / "provenance.json").write_text(json.dumps(about))
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
        return folder

    return write


def run_of(folder):
    run, _ = read_run(folder)
    assert run is not None
    return run


def test_the_area_is_the_trapezoid_rule_of_the_published_tables(write_run):
    values = np.random.default_rng(0).random(10).tolist()
    run = run_of(write_run("random", 0, values))
    aubc = sum((a + b) / 2 for a, b in pairwise(values)) / 9  # np.trapz(values, dx=1 / (n - 1))
    assert measured(run, {"measure": "area", "from": 50, "to": 500}) == pytest.approx(aubc)


def test_an_area_over_a_part_is_cut_at_its_ends(write_run):
    run = run_of(write_run("random", 0, [0.0, 1.0, 1.0], labels=[0, 100, 200]))
    assert measured(run, {"measure": "area", "from": 50, "to": 100}) == pytest.approx(0.75)


def test_accuracy_and_labels_are_read_off_the_curve(write_run):
    run = run_of(write_run("random", 0, [0.5, 0.9, 0.8]))
    assert measured(run, {"measure": "accuracy", "at": 100}) == pytest.approx(0.9)
    assert measured(run, {"measure": "accuracy", "at": 75}) == pytest.approx(0.7)
    assert measured(run, {"measure": "labels", "to": 0.9}) == 100
    assert measured(run, {"measure": "labels", "to": 0.95}) == math.inf


@pytest.mark.parametrize("entry", [{"measure": "accuracy", "at": 300}, {"measure": "area", "from": 20, "to": 100}])
def test_what_lies_outside_our_labels_is_not_made_up(write_run, entry):
    assert measured(run_of(write_run("random", 0, [0.5, 0.9, 0.8])), entry) == "we have 50 to 150 labels"


def test_differences_are_in_the_deviation_of_both_or_of_the_one_that_is_known():
    both = Row("area", "bald", (0.4, 0.6), Target("area", 0.4, 0.2), 3, "mean")
    assert both.in_sd == pytest.approx(0.1 / math.sqrt((0.02 + 0.04) / 2))
    ours = Row("area", "bald", (0.4, 0.6), Target("area", 0.4), 3, "mean")
    assert ours.in_sd == pytest.approx(0.1 / math.sqrt(0.02))
    theirs = Row("area", "bald", (0.5,), Target("area", 0.4, 0.2), 3, "mean")
    assert theirs.in_sd == pytest.approx(0.5)
    assert Row("area", "bald", (0.5,), Target("area", 0.4), 3, "mean").in_sd is None
    assert Row("area", "bald", (0.5,), None, 3, "mean").difference is None


def test_a_median_counts_a_seed_that_never_arrives_as_late():
    row = Row("labels to 0.9", "bald", (100.0, 120.0, math.inf), Target("labels to 0.9", 100), 6, "median")
    assert row.middle == 120
    assert row.difference == 20
    late = Row("labels to 0.9", "bald", (100.0, math.inf, math.inf), Target("labels to 0.9", 100), 6, "median")
    assert late.difference is None
    assert late.cells()[2] == "not reached"


def test_ours_stand_beside_theirs_by_strategy(write_run, tmp_path):
    for seed, value in enumerate((0.80, 0.84)):
        write_run("bald", seed, [0.5, value])
        write_run("random", seed, [0.5, 0.7])
    about = {
        "seeds": 6,
        "statistic": "mean",
        "numbers": [{"measure": "accuracy", "at": 100, "values": {"bald": [0.8, 0.01]}}],
    }
    (comparison,), _ = compare(read_runs([tmp_path])[0])
    rows = {row.strategy: row for row in rows_of(comparison, about)}
    assert rows["bald"].ours == pytest.approx((0.80, 0.84))
    assert rows["bald"].difference == pytest.approx(0.02)
    assert rows["random"].target is None
    assert rows["random"].cells()[4:] == ("–", "–", "–", "–")


def test_numbers_of_other_options_stay_away(write_run, tmp_path):
    write_run("bald", 0, [0.5, 0.8], shift={"copies": 2})
    entry = {"measure": "accuracy", "at": 100, "values": {"bald": 0.8}}
    (comparison,), _ = compare(read_runs([tmp_path])[0])
    assert len(rows_of(comparison, {"numbers": [entry | {"overrides": {"shift.copies": 2}}]})) == 1
    assert rows_of(comparison, {"numbers": [entry | {"overrides": {"shift.copies": 5}}]}) == []


@pytest.mark.parametrize(("preset", "about"), PUBLISHED.items(), ids=PUBLISHED.keys())
def test_an_entry_belongs_to_a_preset_and_says_where_its_numbers_are_from(preset, about):
    assert preset in reproduce.presets()
    assert set(about) <= {"source", "checked", "statistic", "seeds", "differs", "also", "numbers"}
    assert all(about[key] for key in ("source", "checked", "differs", "numbers"))
    assert about["statistic"] in ("mean", "median")
    for more in [[], *about.get("also", [])]:
        load([f"experiment={preset}", *more])


@pytest.mark.parametrize(("preset", "entry"), ENTRIES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_is_of_a_strategy_that_is_there_and_in_range(preset, entry):
    from tests_support import leaves

    assert set(entry["values"]) <= {leaf.stem for leaf in leaves("strategy")}
    reproduce._name(entry)
    for value in entry["values"].values():
        number, deviation = value if isinstance(value, list) else (value, 0.01)
        assert number > 1 if entry["measure"] == "labels" else 0 < number < 1
        assert 0 < deviation < 0.1
    options = load([f"experiment={preset}"]).identity
    for key in entry.get("overrides", {}):
        group, name = key.split(".")
        assert name in options[group]


@pytest.mark.parametrize(
    "preset", [name for name, about in PUBLISHED.items() if about["numbers"][0]["measure"] == "area"]
)
def test_an_area_is_over_the_labels_that_the_preset_buys(preset):
    budget = load([f"experiment={preset}"]).parts["budget"]
    entry = PUBLISHED[preset]["numbers"][0]
    assert entry["from"] == budget.initial
    assert entry["to"] == budget.initial + sum(budget.size(r) for r in range(budget.rounds))
    assert not budget.count_validation


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_header_of_a_preset_has_the_numbers_of_its_entry(preset):
    text = (reproduce.CONFIGS / "experiment" / f"{preset}.yaml").read_text(encoding="utf-8")
    for entry in PUBLISHED[preset]["numbers"][:1]:
        for value in entry["values"].values():
            number = value[0] if isinstance(value, list) else value
            spelt = (f"{number:.4f}".removeprefix("0"), f"{100 * number:.1f}", f"{number:g}")
            assert any(word in text for word in spelt), number


def tell(*argv: str, capsys) -> tuple[int, str, str]:
    code = reproduce.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_an_unknown_preset_is_one_line(capsys):
    code, out, err = tell("cifar10_lo", capsys=capsys)
    assert (code, out) == (1, "")
    assert err.startswith("error: Expected a preset, got 'cifar10_lo'; did you mean 'cifar10_low'? The presets are ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["elpv", "--onlyy"], "Expected overrides like threads=1 after the preset, got '--onlyy'"),
        (["elpv", "--only-report", "run.root=/nowhere"], "Expected runs of elpv in /nowhere/elpv, got none"),
    ],
)
def test_a_mistake_is_one_line(argv, told, capsys):
    code, _, err = tell(*argv, capsys=capsys)
    assert code == 1
    assert told in err
    assert err.count("\n") == 1


def test_the_list_names_every_preset(capsys):
    code, out, _ = tell("--list", capsys=capsys)
    assert code == 0
    assert all(re.search(rf"\b{preset}\b", out) for preset in reproduce.presets())


def test_a_preset_is_run_gone_on_with_and_written(tmp_path):
    command = [
        "imbalance",
        "debug=fast",
        "dataset=defects",
        "dataset.pool_size=120",
    ]
    command += [
        "~dataset.test_size",
        "+dataset.test_size=40",
        "model=small_cnn",
        "shift.ratio=3.0",
        "strategy=random,badge",
    ]
    command += [
        "seed=0",
        "threads=1",
        f"run.root={tmp_path}",
        f"cache={tmp_path}",
        "run.tensorboard=false",
        "--write",
        str(tmp_path / "t.md"),
    ]
    first = forked(reproduce.main, ["reproduce.py", *command], tmp_path, {})
    assert first.returncode == 0, first.stderr
    table = (tmp_path / "t.md").read_text()
    assert re.search(r"^\| accuracy at 25 labels +\| badge +\| 0\.\d{3} ", table, re.MULTILINE)
    assert "No published number is known" in table
    again = forked(reproduce.main, ["reproduce.py", *command], tmp_path, {})
    assert again.stdout.count("finished already") == 2
    assert again.stdout.endswith(table)
    assert forked(reproduce.main, ["reproduce.py", *command, "trainer.lr=nan"], tmp_path, {}).returncode == 1


def ledger(*rows):
    return [
        {"kind": kind, "index": index, "label": label, "round": place, "rank": 0}
        for place, (kind, index, label) in enumerate(rows)
    ]


def test_purchases_are_counted_of_what_was_queried(write_run, capsys, tmp_path):
    lines = ledger(
        ("initial", 3, 0),
        ("validation", 7, None),
        ("query", 53, 2),
        ("query", 4, None),
        ("query", 54, 3),
        ("query", 9, 0),
    )
    folder = write_run("bald", 0, [0.5, 0.8], ledger=lines, n_pool=100, shift={"copies": 2})
    assert purchases.bought(run_of(folder)) == {"no class": 0.25, "copies": 0.5, "rare half": 0.5}
    assert purchases.main([str(tmp_path)]) == 0
    assert "| bald | 0.250 | 0.500 | 0.500 |" in capsys.readouterr().out
    assert purchases.main([str(tmp_path / "nowhere")]) == 1
