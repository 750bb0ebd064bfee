"""Config safety: every mistake at once, before any data is read, with suggestions."""

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from tests_support import CONFIGS

from alframe.config import build, cell_name, check_overrides, composer, load
from alframe.config.plan import FAST_PATHS
from alframe.config.schema import GROUPS, without_hydra
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
    assert "got 'entrpy'; did you mean 'entropy'? The choices are" in told


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


def test_costs_are_part_of_the_identity_because_they_are_in_the_metrics():
    plan, other = load(), load(["costs.miss=50"])
    assert plan.identity["costs"] == {"miss": 10.0, "false_alarm": 1.0}
    assert other.identity["costs"]["miss"] == 50.0
    assert other.folder != plan.folder


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["strategy=null"], "for strategy, got 'null'"),
        (["budget=null"], "for budget, got 'null'"),
        (["seed=interval(0,1)"], "Expected a list of values"),
        (["seed=0,1"], "add -m"),
        (["seed=range(0,2)"], "add -m"),
        (["~seed"], "Expected a value for seed, got none"),
        (["~run"], "Expected a value for run, got none"),
        (["~query"], "Expected a value for query, got none"),
        (["costs.miss=0"], "Expected costs.miss > 0, got 0.0"),
        (["costs.mis=2"], "did you mean 'costs.miss'"),
        (["~trainer._target_"], "Expected a class in trainer._target_"),
        (["hydra.foo=1"], "hydra.foo=1"),
        (["hydra/launcher=foo"], "hydra/launcher=foo"),
        (["hydra.mode=bla"], "hydra.mode=bla"),
        (["strategy._target_=math.pi"], "got 'math.pi', which is a float"),
        (["strategy._target_=builtins.dict"], "Expected a Strategy from strategy._target_=builtins.dict, got dict"),
        (["model=resnet18", "model._target_=builtins.dict", "model._partial_=false"], "makes a model"),
        (["trainer.optimizer.momentum=-1"], "trainer.optimizer"),
        (["budget.growth=1e300"], "budget"),
        (["+foo=1"], "got 'foo'"),
        (["+query.targt=test"], "did you mean 'query.target'?"),
        (["+run.x=1"], "got 'run.x'"),
        (["seed=???"], "Expected a value for seed, got none"),
        (["budget.initial=true"], "Expected budget.initial to be int or all, got True."),
        (["budget.query_size=[10,10,10,10,true]"], "budget.query_size"),
        (["budget.query_size=[10,10,10,10,10,10,x]"], "Expected budget.query_size to be int or list[int]"),
        (["device=meta"], "auto, cpu, cuda"),
        (["device=mps"], "auto, cpu, cuda"),
        (["trainer.lr=nan"], "Expected a finite number for trainer.lr"),
        (["trainer.optimizer.weight_decay=inf"], "Expected a finite number for trainer.optimizer.weight_decay"),
        (["annotator=noisy", "annotator.rate=2"], "annotator.rate in [0, 1], got 2"),
        (["model.width=0"], "model.width"),
        (["model=wide_resnet28", "model.dropout=2"], "model.dropout"),
        (["=5"], "got '=5'"),
        (["budget.rounds=1,2"], "Expected one number of rounds"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(overrides, words):
    (told,) = mistakes(*overrides)
    assert words in told


@pytest.mark.parametrize("overrides", [["experiment=null"], ["debug=null"], ["~trainer.optimizer.nesterov"]])
def test_what_looks_odd_and_is_legal_builds(overrides):
    assert load(overrides).parts.keys() == load().parts.keys()


def test_suggestions_stay_within_the_group():
    (told,) = mistakes("dataset=elpv", "dataset.root=/nowhere")
    assert "did you mean" not in told
    assert "; dataset takes " in told


def test_an_unimportable_class_is_told_once(capfd):
    (told,) = mistakes("strategy._target_=nowhere.Mine")
    assert "importable" in told
    assert capfd.readouterr().err == ""


def check(*overrides, multirun=None):
    with composer() as compose:
        check_overrides(list(overrides), compose, multirun=multirun)


def test_a_sweep_may_be_asked_for_by_the_command_a_preset_or_hydra():
    check("strategy=glob(*,exclude=custom)", multirun=True)
    check("experiment=elpv_demo", "seed=0,1")
    check("hydra.mode=MULTIRUN", "seed=range(0,2)")
    with pytest.raises(ConfigError, match="add -m"):
        check("seed=0,1")


def test_what_a_preset_sweeps_over_is_checked_with_the_overrides():
    with pytest.raises(ConfigError, match="use uncertainty=mc_dropout"):
        check("experiment=elpv", "uncertainty=point")
    check("experiment=elpv", "uncertainty=point", "strategy=random,margin")


def test_seeds_of_a_sweep_are_checked_by_their_type_alone():
    check("seed=range(0,1000)", multirun=True)
    with pytest.raises(ConfigError, match="seed=x"):
        check("seed=0,1,x", multirun=True)


def test_no_part_is_built_twice(monkeypatch):
    built = []
    instantiate = hydra.utils.instantiate
    with composer() as compose:
        cfg = compose([])
        choices = dict(cfg.hydra.runtime.choices)
    monkeypatch.setattr(
        hydra.utils, "instantiate", lambda node, **kw: built.append(node["_target_"]) or instantiate(node, **kw)
    )
    build(without_hydra(cfg), choices, [])
    assert len(built) == len(set(built)) == len(GROUPS)


def test_the_identity_holds_what_a_deleted_option_falls_back_to():
    assert load(["~trainer.lr"]).identity["trainer"]["lr"] == 0.05
    assert "shape" not in load(["~model.width"]).identity["model"]


def test_the_identity_holds_what_follows_the_device():
    resolved = load(["device=cpu"]).identity["resolved"]
    assert resolved == {"precision": "float32", "channels_last": False, "fast_paths": f"cpu, {FAST_PATHS}"}
    assert load(["device=cpu", "trainer.precision=bf16"]).identity["resolved"]["precision"] == "bfloat16"
    assert load(["device=cpu", "trainer.channels_last=true"]).identity["resolved"]["channels_last"] is True


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


def test_more_rounds_go_on_in_the_same_folder():
    assert cell_name(CHOICES, ["annotator.separator=;", "annotator.quorum=0.9"]) == cell_name(CHOICES, [])
    assert cell_name(CHOICES, ["budget.rounds=1"]) == cell_name(CHOICES, ["budget.rounds=2"]) == cell_name(CHOICES, [])


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
    check(f"experiment={path.stem}")  # what it sweeps over, too
    plan = load([f"experiment={path.stem}"])
    assert plan.folder.parts[1] == path.stem


def test_a_part_inside_a_strategy_is_chosen_by_its_place():
    plan = load(["strategy=candidates", "strategy@strategy.strategy=badge", "strategy.size=50"])
    assert type(plan.parts["strategy"].strategy).__name__ == "Badge"
    assert plan.folder != load(["strategy=candidates", "strategy.size=50"]).folder
    inside = load(["strategy=candidates", "strategy@strategy.strategy=badge", "strategy.strategy.first=sample"])
    assert inside.parts["strategy"].strategy.first == "sample"


def test_a_misspelt_part_inside_a_strategy_is_told_with_the_choices():
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=bagde")
    assert "got 'bagde'; did you mean 'badge'? The choices are alfa_mix, badge," in told


def test_what_a_part_inside_needs_is_checked_before_data_is_read():
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=bald", "uncertainty=point")
    assert "at least 2 draws" in told
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=switch")
    assert "put candidates inside the switch" in told


def test_the_target_set_is_pool_test_or_a_folder_that_exists(tmp_path):
    (told,) = mistakes("query.target=tset")
    assert told == "Expected query.target to be pool, test or a folder of images, got 'tset'; correct it."
    assert load([f"query.target={tmp_path}"]).identity["query"]["target"] == str(tmp_path)
