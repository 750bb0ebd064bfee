"""Defaults may change, and options may come: a run that has begun keeps the values that it began with."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from alframe import config
from alframe.cli import execute
from alframe.config import kept, load
from alframe.config.schema import GROUPS, RESERVED
from alframe.errors import ConfigError, RunFolderError
from alframe.part import Part, part_class
from alframe.record.layout import CONFIG
from alframe.record.read import read_config, read_provenance, read_rounds
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
    folder = Path(shutil.copytree(config.CONFIGS, tmp_path / "configs"))
    for module in ("schema", "kept", "overrides"):
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
    "leaf", sorted((config.CONFIGS).glob("*/*.yaml")), ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}"
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
