"""Config safety: every mistake at once, before any data is read, with suggestions."""

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from tests_support import CONFIGS

from alframe.config import cell_name, load
from alframe.errors import ConfigError


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(overrides)
    return str(caught.value).splitlines()


def test_the_default_config_builds_every_part():
    plan = load()
    assert plan.parts["budget"].initial == 100
    assert plan.folder.parts == ("runs", "defects", "defects-small_cnn-mc_dropout-least_confidence", "seed=0")
    assert not GlobalHydra.instance().is_initialized()


def test_a_misspelt_choice_lists_the_options_and_suggests_one():
    (told,) = mistakes("strategy=entrpy")
    assert "margin" in told
    assert "bald" in told
    assert told.endswith("got 'entrpy'; did you mean 'entropy'?")


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("trainer.lrr=0.1", "trainer.lr"),
        ("budget.inital=5", "budget.initial"),
        ("trainer.optimizer.momentm=0.5", "trainer.optimizer.momentum"),
        ("sed=3", "seed"),
        ("query.maxbytes=5", "query.max_bytes"),
        ("datset.size=3", "dataset.size"),
        ("uncertainty.drws=3", "uncertainty.draws"),
    ],
)
def test_a_misspelt_key_at_any_depth_is_suggested(override, suggestion):
    (told,) = mistakes(override)
    assert f"did you mean '{suggestion}'?" in told


def test_all_mistakes_are_told_at_once():
    told = mistakes("strategy=entrpy", "trainer.lrr=0.1", "budget.rounds=-1", "dataset.size=many", "seed=x")
    assert len(told) == 5
    for word in ("entrpy", "trainer.lrr", "budget.rounds", "dataset.size", "seed"):
        assert sum(word in line for line in told) == 1, word


def test_an_added_key_is_checked_against_the_constructor():
    (told,) = mistakes("+strategy.temperature=3")
    assert "got 'temperature'; it takes" in told
    assert told.endswith(".")


def test_values_of_the_wrong_type_are_told_with_what_was_expected():
    assert mistakes("trainer.lr=fast") == ["Expected trainer.lr to be float, got 'fast'."]
    assert mistakes("trainer.schedule=cosin") == [
        "Expected trainer.schedule to be one of cosine, one_cycle, constant, got 'cosin'."
    ]
    assert load(["trainer.lr=1"]).parts["trainer"].lr == 1


def test_a_combination_that_cannot_work_is_told_before_data_is_read():
    (told,) = mistakes("strategy=bald", "uncertainty=point", "dataset=image_folder", "dataset.root=/nowhere")
    assert "use uncertainty=mc_dropout" in told


def test_an_ensemble_of_one_is_refused():
    (told,) = mistakes("uncertainty=ensemble", "uncertainty.members=1")
    assert "members" in told


def test_every_value_of_a_sweep_is_checked():
    told = mistakes("strategy=margin,entrpy", "trainer.lr=0.1,-1")
    assert any("entrpy" in line for line in told)
    assert any("trainer.lr > 0, got -1" in line for line in told)


def test_a_class_of_ones_own_needs_no_registration(tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text(
        "from dataclasses import dataclass\n"
        "from alframe.strategy.random import Random\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Random):\n"
        "    beta: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = load(["strategy=custom", "strategy._target_=mylab.Mine", "+strategy.beta=2.0"])
    assert plan.parts["strategy"].beta == 2.0
    assert plan.folder != load(["strategy=custom", "strategy._target_=mylab.Random"]).folder
    (told,) = mistakes("strategy=custom", "strategy._target_=mylab.Your")
    assert "importable class in strategy._target_, got 'mylab.Your'" in told
    (told,) = mistakes("strategy=custom")
    assert "name yours" in told


def test_options_that_cannot_change_a_result_are_not_part_of_the_identity():
    plan, other = load(), load(["device=cpu", "progress=false", "query.batch_size=64", "run.tensorboard=false"])
    assert plan.identity == other.identity
    assert plan.folder == other.folder
    assert load(["query.target_size=7"]).identity != plan.identity


RECIPES = sorted((CONFIGS / "recipe").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_applies_to_its_combination_and_an_override_beats_it(path):
    names = path.stem.split("-")
    groups = ("dataset", "model", "trainer") if path.parent.name == "dataset" else ("model", "trainer")
    choice = [f"{group}={name}" for group, name in zip(groups, names, strict=True)]
    tuned = yaml.safe_load(path.read_text())["trainer"]
    key, value = next(iter(tuned.items()))
    assert getattr(load(choice).parts["trainer"], key) == value
    assert getattr(load([*choice, f"trainer.{key}=7"]).parts["trainer"], key) == 7


CHOICES = {"dataset": "elpv", "model": "small_cnn", "uncertainty": "mc_dropout", "strategy": "margin", "trainer": "sgd"}


def test_cells_of_a_sweep_never_share_a_folder():
    overrides = [
        [],
        ["trainer.lr=0.1"],
        ["trainer.lr=0.2"],
        ["trainer=adamw"],
        ["budget=geometric"],
        ["+strategy.beta=1"],
        ["trainer/optimizer=adam"],
    ]
    cells = {cell_name(CHOICES, ["strategy=margin", "seed=3", "device=cpu", *more]) for more in overrides}
    assert len(cells) == len(overrides)
    assert "elpv-small_cnn-mc_dropout-margin" in cells


def test_a_cell_does_not_depend_on_the_order_of_overrides():
    assert cell_name(CHOICES, ["a=1", "b=2"]) == cell_name(CHOICES, ["b=2", "a=1"])


def test_long_cells_are_shortened_and_stay_apart():
    long = [cell_name(CHOICES, [f"trainer.{'x' * 100}={value}"]) for value in (1, 2)]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 80


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_builds_and_opens_with_its_command(path):
    assert (
        f"alframe experiment={path.stem}" in path.read_text()
        or f"alframe -m experiment={path.stem}" in path.read_text()
    )
    plan = load([f"experiment={path.stem}"])
    assert plan.folder.parts[1] == path.stem
