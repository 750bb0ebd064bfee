"""Config safety: all mistakes are reported together, before any data is read, with suggestions."""

import sys

import hydra
import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from tests_support import CONFIGS

from alframe import cli
from alframe.config.overrides import check_overrides, load
from alframe.config.plan import FAST_PATHS, cell_name
from alframe.config.schema import COMPOSING, GROUPS, composer
from alframe.config.stored import resume_options, stored_plan
from alframe.errors import ConfigError, RunFolderError


class Remembered:
    """`compose`, which does not do the same work twice: what it gave for the same overrides, or the error that it raised."""

    def __init__(self, compose):
        self.compose, self.options, self.has_group, self.known = compose, compose.options, compose.has_group, {}

    def __call__(self, overrides):
        key = tuple(overrides)
        if key not in self.known:
            try:
                self.known[key] = self.compose(overrides)
            except COMPOSING as error:
                self.known[key] = error
        if isinstance(self.known[key], Exception):
            raise self.known[key]
        return self.known[key]


@pytest.fixture(scope="module")
def compose():
    """One composer for all tests."""
    with composer() as compose:
        yield Remembered(compose)


@pytest.fixture(scope="module")
def check(compose):
    """The plan of a single run, None for a sweep."""
    return lambda *overrides, multirun=None: check_overrides(list(overrides), compose, multirun=multirun)


@pytest.fixture(scope="module")
def plan(check):
    return lambda *overrides: check(*overrides, multirun=False)


@pytest.fixture(scope="module")
def mistakes(plan):
    def mistakes(*overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            plan(*overrides)
        return str(caught.value).splitlines()

    return mistakes


def test_the_default_config_builds_every_part():
    before = GlobalHydra.instance().hydra
    plan = load()
    assert plan.parts["budget"].initial == 100
    assert plan.folder.parts == ("runs", "defects", "defects-small_cnn-mc_dropout-least_confidence", "seed=0")
    assert GlobalHydra.instance().hydra is before


def test_a_misspelt_choice_lists_the_options_and_suggests_one(mistakes):
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
def test_a_misspelt_key_at_any_depth_is_suggested(override, suggestion, mistakes):
    (told,) = mistakes(override)
    assert f"did you mean '{suggestion}'?" in told


def test_all_mistakes_are_reported_together(mistakes):
    told = mistakes("strategy=entrpy", "trainer.lrr=0.1", "budget.rounds=-1", "dataset.size=many", "seed=x")
    assert len(told) == 5
    for word in ("entrpy", "trainer.lrr", "budget.rounds", "dataset.size", "seed"):
        assert sum(word in line for line in told) == 1, word


def test_an_added_key_is_checked_against_the_constructor(mistakes):
    (told,) = mistakes("+strategy.temperature=3")
    assert "got 'temperature'; it takes" in told
    assert told.endswith(".")


def test_values_of_the_wrong_type_are_told_with_what_was_expected(mistakes, plan):
    assert mistakes("trainer.lr=fast") == ["Expected trainer.lr to be float, got 'fast'."]
    assert mistakes("trainer.schedule=cosin") == [
        "Expected trainer.schedule to be one of cosine, one_cycle, constant, got 'cosin'."
    ]
    assert plan("trainer.lr=1").parts["trainer"].lr == 1


def test_a_combination_that_cannot_work_is_told_before_data_is_read(mistakes):
    (told,) = mistakes("strategy=bald", "uncertainty=point", "dataset=image_folder", "dataset.root=/nowhere")
    assert "use uncertainty=mc_dropout" in told


def test_an_ensemble_of_one_is_refused(mistakes):
    (told,) = mistakes("uncertainty=ensemble", "uncertainty.members=1")
    assert "members" in told


def test_every_value_of_a_sweep_is_checked(mistakes):
    told = mistakes("strategy=margin,entrpy", "trainer.lr=0.1,-1")
    assert any("entrpy" in line for line in told)
    assert any("trainer.lr > 0, got -1" in line for line in told)


def test_every_combination_of_a_sweep_is_checked(check):
    """Each value works with the first ones of the others."""
    with pytest.raises(ConfigError, match="use uncertainty=mc_dropout"):
        check("strategy=random,bald", "uncertainty=mc_dropout,point", multirun=True)
    check("strategy=random,margin", "uncertainty=mc_dropout,point", multirun=True)


def test_a_class_of_ones_own_needs_no_registration(tmp_path, monkeypatch, mistakes, plan):
    (tmp_path / "mylab.py").write_text(
        "from dataclasses import dataclass\n"
        "from alframe.strategy.random import Random\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Random):\n"
        "    beta: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mylab", raising=False)  # of another test
    built = plan("strategy=custom", "strategy._target_=mylab.Mine", "+strategy.beta=2.0")
    assert built.parts["strategy"].beta == 2.0
    assert built.folder != plan("strategy=custom", "strategy._target_=mylab.Random").folder
    (told,) = mistakes("strategy=custom", "strategy._target_=mylab.Your")
    assert "importable class in strategy._target_, got 'mylab.Your'" in told
    (told,) = mistakes("strategy=custom")
    assert "name yours" in told


def test_options_that_cannot_change_a_result_are_not_part_of_the_identity(plan):
    one, other = plan(), plan("device=cpu", "progress=false", "query.batch_size=64", "run.tensorboard=false")
    assert one.identity == other.identity
    assert one.folder == other.folder
    assert plan("query.target_size=7").identity != one.identity


def test_costs_are_part_of_the_identity_because_they_are_in_the_metrics(plan):
    one, other = plan(), plan("costs.miss=50")
    assert one.identity["costs"] == {"miss": 10.0, "false_alarm": 1.0}
    assert other.identity["costs"]["miss"] == 50.0
    assert other.folder != one.folder


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
def test_a_mistake_is_one_line_that_names_it(overrides, words, mistakes):
    (told,) = mistakes(*overrides)
    assert words in told


@pytest.mark.parametrize("overrides", [["experiment=null"], ["debug=null"], ["~trainer.optimizer.nesterov"]])
def test_what_looks_odd_and_is_legal_builds(overrides):
    assert load(overrides).parts.keys() == load().parts.keys()


def test_suggestions_stay_within_the_group(mistakes):
    (told,) = mistakes("dataset=elpv", "dataset.root=/nowhere")
    assert "did you mean" not in told
    assert "; dataset takes " in told


def test_an_unimportable_class_is_told_once(capfd, mistakes):
    (told,) = mistakes("strategy._target_=nowhere.Mine")
    assert "importable" in told
    assert capfd.readouterr().err == ""


def test_a_sweep_may_be_asked_for_by_the_command_a_preset_or_hydra(check):
    check("strategy=glob(*,exclude=custom)", multirun=True)
    check("experiment=elpv_demo", "seed=0,1")
    check("hydra.mode=MULTIRUN", "seed=range(0,2)")
    with pytest.raises(ConfigError, match="add -m"):
        check("seed=0,1")


def test_what_a_preset_sweeps_over_is_checked_with_the_overrides(check):
    with pytest.raises(ConfigError, match="use uncertainty=mc_dropout"):
        check("experiment=elpv", "uncertainty=point")
    check("experiment=elpv", "uncertainty=point", "strategy=random,margin")


def test_seeds_of_a_sweep_are_checked_by_their_type_alone(check):
    check("seed=range(0,1000)", multirun=True)
    with pytest.raises(ConfigError, match="seed=x"):
        check("seed=0,1,x", multirun=True)


@pytest.fixture
def counts(monkeypatch, compose):
    """A line for each composition by Hydra, and the class of each part that is built."""
    composed, built = [], []
    compose.known.clear()
    compose_config, instantiate = Hydra.compose_config, hydra.utils.instantiate
    monkeypatch.setattr(
        Hydra, "compose_config", lambda *args, **kw: composed.append(kw["overrides"]) or compose_config(*args, **kw)
    )
    monkeypatch.setattr(
        hydra.utils, "instantiate", lambda node, **kw: built.append(node["_target_"]) or instantiate(node, **kw)
    )
    return composed, built


def by_the_command(overrides, monkeypatch):
    executed = []
    monkeypatch.setattr(sys, "argv", ["alframe", *overrides])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cli, "execute", executed.append)
    assert cli.main() == 0
    (plan,) = executed
    return plan


@pytest.mark.parametrize("make", [lambda overrides, _: load(overrides), by_the_command], ids=["load", "command"])
def test_a_single_run_is_composed_once_and_each_part_is_built_once(make, counts, monkeypatch):
    composed, built = counts
    plan = make(["strategy=margin", "trainer.lr=0.1", "seed=3"], monkeypatch)
    assert plan.parts["trainer"].lr == 0.1
    assert len(composed) == 1
    assert len(built) == len(set(built)) == len(GROUPS)


def test_a_sweep_is_composed_once_for_each_value(counts, check):
    check("strategy=random,margin,bald", "trainer.lr=0.1,0.2", "seed=range(0,20)", multirun=True)
    assert len(counts[0]) == 1 + 2 + 1


def test_a_misspelt_key_does_not_hide_what_else_is_wrong(counts, mistakes):
    told = mistakes("trainer.lrr=0.1", "budget.rounds=-1", "strategy=bald", "uncertainty=point")
    assert len(told) == 2
    assert "did you mean 'trainer.lr'" in told[0]
    assert "budget.rounds >= 0" in told[1]
    counts[1].clear()
    mistakes("trainer.lrr=0.1", "model=resnet_18")
    assert counts[1] == []  # nothing else was given that could be wrong


def test_the_identity_holds_what_a_deleted_option_falls_back_to(plan):
    assert plan("~trainer.lr").identity["trainer"]["lr"] == 0.05
    assert "shape" not in plan("~model.width").identity["model"]


def test_the_identity_holds_what_follows_the_device(plan):
    resolved = plan("device=cpu").identity["resolved"]
    assert resolved == {"precision": "float32", "channels_last": False, "fast_paths": f"cpu, {FAST_PATHS}"}
    assert plan("device=cpu", "trainer.precision=bf16").identity["resolved"]["precision"] == "bfloat16"
    assert plan("device=cpu", "trainer.channels_last=true").identity["resolved"]["channels_last"] is True


RECIPES = sorted((CONFIGS / "recipe").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_applies_to_its_combination_and_an_override_beats_it(path, plan):
    names = path.stem.split("-")
    groups = ("dataset", "model", "trainer") if path.parent.name == "dataset" else ("model", "trainer")
    choice = [f"{group}={name}" for group, name in zip(groups, names, strict=True)]
    tuned = yaml.safe_load(path.read_text())["trainer"]
    key, value = next(iter(tuned.items()))
    assert getattr(plan(*choice).parts["trainer"], key) == value
    assert getattr(plan(*choice, f"trainer.{key}=7").parts["trainer"], key) == 7


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
    queue = ["annotator=queue", "run.root=x"]
    plan, other = load(queue), load([*queue, "annotator.separator=';'", "annotator.quorum=0.9"])
    assert plan.folder == other.folder
    assert plan.identity != other.identity
    assert load(["budget.rounds=1"]).folder == load(["budget.rounds=2"]).folder == load().folder


def test_long_cells_are_shortened_and_stay_apart():
    long = [cell_name(CHOICES, [f"trainer.{'x' * 100}={value}"]) for value in (1, 2)]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 80


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_builds_and_opens_with_its_command(path, plan, check):
    assert (
        f"alframe experiment={path.stem}" in path.read_text()
        or f"alframe -m experiment={path.stem}" in path.read_text()
    )
    check(f"experiment={path.stem}")  # what it sweeps over, too
    built = plan(f"experiment={path.stem}")
    assert built.folder.parts[1] == path.stem


def test_a_part_inside_a_strategy_is_chosen_by_its_place(plan):
    built = plan("strategy=candidates", "strategy@strategy.strategy=badge", "strategy.size=50")
    assert type(built.parts["strategy"].strategy).__name__ == "Badge"
    assert built.folder != plan("strategy=candidates", "strategy.size=50").folder
    inside = plan("strategy=candidates", "strategy@strategy.strategy=badge", "strategy.strategy.first=sample")
    assert inside.parts["strategy"].strategy.first == "sample"


def test_a_misspelt_part_inside_a_strategy_is_told_with_the_choices(mistakes):
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=bagde")
    assert "got 'bagde'; did you mean 'badge'? The choices are alfa_mix, anomaly," in told


def test_what_a_part_inside_needs_is_checked_before_data_is_read(mistakes):
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=bald", "uncertainty=point")
    assert "at least 2 draws" in told
    (told,) = mistakes("strategy=candidates", "strategy@strategy.strategy=switch")
    assert "put candidates inside the switch" in told


def test_the_target_set_is_pool_test_or_a_folder_that_exists(tmp_path, mistakes, plan):
    (told,) = mistakes("query.target=tset")
    assert told == "Expected query.target to be pool, test or a folder of images, got 'tset'; correct it."
    assert plan(f"query.target={tmp_path}").identity["query"]["target"] == str(tmp_path)


@pytest.fixture
def stored(tmp_path, plan):
    """The folder of a run that began with a folder of images as its target."""
    begun = plan(f"query.target={tmp_path}", "strategy=epig", "device=cpu", "model.width=8")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(begun.identity))
    return tmp_path, begun


def test_a_stored_plan_is_the_one_that_the_run_began_with(stored):
    folder, begun = stored
    again = stored_plan(folder)
    assert again.identity == begun.identity
    assert (again.folder, again.device) == (folder, begun.device)
    assert stored_plan(folder, **{"query.target": "pool"}).options["query"]["target"] == "pool"


def test_a_run_resumes_with_options_that_leave_its_results_alone(stored):
    options = resume_options(["threads=2", "progress=false", "run.checkpoint=true", "budget.rounds=9"])
    again = stored_plan(stored[0], **options)
    assert [again.options[key] for key in ("threads", "progress", "checkpoint")] == [2, False, True]
    assert again.identity["budget"]["rounds"] == 9


def test_options_that_change_results_are_refused_on_resume(stored):
    options = resume_options(["strategy=bald", "trainer.lr=1", "threads=1", "run.root=x"])
    with pytest.raises(ConfigError) as caught:
        stored_plan(stored[0], **options)
    (told,) = str(caught.value).splitlines()
    assert "got strategy=bald, trainer.lr=1, run.root=x; its config fixes all but device, threads," in told
    assert "budget.rounds" in told
    with pytest.raises(ConfigError, match="an option with one value, got 'threads=1,2'"):
        resume_options(["threads=1,2"])
    for options in ({"threads": "many"}, {"budget.rounds": "many"}, {"annotator.quorum": 0.5}):
        with pytest.raises(ConfigError, match=next(iter(options)).split(".")[-1]):
            stored_plan(stored[0], **options)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(RunFolderError, match="name one such as"):
        stored_plan(tmp_path)
