"""A user's own YAML files and classes: found, named, and their mistakes told in a line."""

import sys

import pytest
import torch

import alframe
from alframe.cli import Outcome
from alframe.config.overrides import load
from alframe.config.own_code import blame, nearest_name, with_own
from alframe.config.plan import DEFAULTS, cell_name
from alframe.errors import ConfigError, StrategyError
from alframe.report.read.run import choice

MYLAB = """
from dataclasses import dataclass
import torch
from torch import nn
from alframe.annotator.oracle import Oracle
from alframe.dataset.defects import Defects
from alframe.strategy.base import Strategy
from alframe.types import Selection
from alframe.uncertainty.point import Point

@dataclass(frozen=True)
class Longest(Strategy):
    power: float = 1.0
    def summarize(self, prediction):
        return {"length": prediction.features.norm(dim=1) ** self.power}
    def select(self, view, size, generator):
        top = view.pool["length"].topk(size)
        return Selection(top.indices, top.values, "length")

class Nothing(Longest):
    def select(self, view, size, generator): pass

class NoSummary(Longest):
    def summarize(self, prediction): pass

class Broken(Longest):
    def select(self, view, size, generator): return view.pool["no such name"]

class Parts(Defects): pass
class Mine(Point): pass
class Robot(Oracle): pass

class Net(nn.Module):
    def __init__(self, n_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.top = nn.Linear(width, n_classes)
    def forward(self, x):
        return self.top(self.body(x))
"""
TINY = (
    "device=cpu", "threads=1", "progress=false", "run.tensorboard=false", "trainer.max_steps=4", "trainer.min_steps=2",
    "budget.initial=20", "budget.query_size=4", "budget.rounds=1", "uncertainty=point",
)  # fmt: skip
SMALL = ("dataset.size=32", "dataset.pool_size=60", "dataset.test_size=20")
LEAVES = {
    "strategy/longest": "_target_: mylab.Longest\npower: 2.0\n",
    "dataset/parts": "_target_: mylab.Parts\nsize: 32\npool_size: 60\ntest_size: 20\n",
    "model/net": "_target_: mylab.Net\n_partial_: true\nwidth: 8\n",
    "experiment/study": "# @package _global_\ndefaults:\n  - override /dataset: parts\n  - override /strategy: longest\n  - override /model: net\n",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with `mylab.py` and YAML files in `conf`, which is the working folder."""
    (tmp_path / "mylab.py").write_text(MYLAB)
    for name, text in LEAVES.items():
        path = tmp_path / f"conf/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mylab", None)  # of another test
    yield tmp_path
    sys.modules.pop("mylab", None)


@pytest.mark.parametrize(
    "how",
    [{"config_dir": "conf"}, "hydra.searchpath=[file://{lab}/conf]", "hydra.searchpath=[conf]"],
    ids=["--config-dir", "hydra.searchpath", "a relative path"],
)
@pytest.mark.parametrize("part", ["strategy=longest", "dataset=parts", "model=net", "experiment=study"])
def test_yaml_files_of_ones_own_are_choices(lab, how, part):
    plan = load(
        [*TINY, part, *([how.format(lab=lab)] if isinstance(how, str) else [])],
        **(how if isinstance(how, dict) else {}),
    )
    group, name = part.split("=")
    assert plan.identity["choices"][group] == name
    if group in ("strategy", "experiment"):
        assert plan.parts["strategy"].power == 2.0
        assert "longest" in str(plan.folder)
    with pytest.raises(ConfigError, match=r"got 'longst'; did you mean 'longest'\?"):
        load(["strategy=longst"], config_dir="conf")
    with pytest.raises(ConfigError, match="got 'longest'"):
        load(["strategy=longest"])


def test_a_study_of_ones_own_runs_from_python(lab):
    rounds = alframe.launch(*TINY, "experiment=study", config_dir="conf")
    assert [line["labels"] for line in rounds] == [20, 24]
    assert (
        lab / "runs/study/parts-net-point-longest,budget.initial=20,budget.query_size=4,budget.rou-b46c1f2e"
    ).parent.is_dir()
    with pytest.raises(ConfigError, match="a folder of YAML files in --config-dir or hydra.searchpath, got 'nowhere'"):
        load([], config_dir="nowhere")


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        (["strategy._target_=mylab.Longest", "strategy.power=3.0"], "defects-small_cnn-point-mylab.Longest,"),
        (["model._target_=mylab.Net", "model.width=6"], "defects-mylab.Net-point-least_confidence,"),
        (["dataset._target_=mylab.Parts"], "mylab.Parts-small_cnn-point-least_confidence,"),
        (["annotator=custom", "annotator._target_=mylab.Robot"], "defects-small_cnn-point-least_confidence,annotator"),
    ],
)  # fmt: skip
def test_a_class_of_ones_own_is_its_target_alone_and_names_the_cell(lab, words, cell):
    plan = load([*TINY, *words])
    assert plan.folder.parent.name.startswith(cell)
    group = words[-1].split("._")[0].split(".")[0]
    assert plan.identity["choices"][group] == "custom"
    assert plan.identity[group]["_target_"] == next(word.split("=")[1] for word in words if "_target_" in word)
    assert "pooling" not in plan.identity["model"] or group != "model"
    assert choice(plan.identity, group) == plan.identity[group]["_target_"].split(".")[1]
    if group == "dataset":
        assert plan.folder.parts[1] == "mylab.Parts"


def test_uncertainty_of_ones_own(lab):
    plan = load([*TINY[:-1], "uncertainty._target_=mylab.Mine"])
    assert plan.folder.parent.name.startswith("defects-small_cnn-mylab.Mine-")


def test_a_run_that_was_called_by_the_default_choice_is_found(lab):
    words = [*TINY, "strategy._target_=mylab.Longest"]
    now = load(words).folder
    quiet = ("device", "threads", "progress", "run", "budget.rounds")
    former = now.parent.parent / cell_name({**DEFAULTS, "uncertainty": "point"}, words, quiet) / "seed=0"
    former.mkdir(parents=True)
    assert load(words).folder == former


def test_words_that_choose_a_part_stay(lab):
    assert with_own(["strategy=badge", "seed=1"]) == ["strategy=badge", "seed=1"]
    assert with_own(["strategy._target_=alframe.strategy.random.Random"]) == [
        "strategy._target_=alframe.strategy.random.Random"
    ]
    assert with_own(["model=small_cnn", "model._target_=mylab.Net"]) == ["model=small_cnn", "model._target_=mylab.Net"]
    assert with_own(["model._target_=mylab.Net", "model.width=2"]) == [
        "model=custom",
        "model._target_=mylab.Net",
        "+model.width=2",
    ]
    assert with_own(["-m", "model._target_=mylab.Net", "~model.pooling"]) == [
        "-m",
        "model=custom",
        "model._target_=mylab.Net",
    ]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("strategy._target_=mylab.Longst", r"did you mean 'mylab.Longest'\?"),
        ("strategy._target_=mylb.Longest", r"did you mean 'mylab.Longest'\?"),
        ("strategy._target_=elsewhere.Thing", "run from the folder that contains it"),
        ("strategy._target_=mylab.Net", "Expected a Strategy|Expected a value for strategy.n_classes"),
        ("model._target_=mylab.Nets", r"did you mean 'mylab.Net'\?"),
    ],
)
def test_a_misspelt_class_is_told(lab, word, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load([*TINY, word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Nothing", "Expected a Selection from Nothing.select, got NoneType; return one."),
        ("NoSummary", "Expected tensors by name from NoSummary.summarize, got NoneType; return a dict of them."),
    ],
)
def test_a_strategy_that_returns_nothing_is_told(lab, name, told):
    with pytest.raises(StrategyError, match=told):
        alframe.launch(*TINY, *SMALL, f"strategy._target_=mylab.{name}")


def test_an_error_in_ones_own_code_is_one_line_that_says_where(lab, capsys):
    outcome = Outcome()
    outcome.run(lambda: load([*TINY, *SMALL, "strategy._target_=mylab.Broken"]))
    (told,) = capsys.readouterr().err.splitlines()
    line = next(i for i, text in enumerate(MYLAB.splitlines(), 1) if "no such name" in text)
    assert told == (
        f"error: Expected your code to work, got KeyError: 'no such name' (mylab.py, line {line}, in select); "
        "fix it, or see more with traceback=true."
    )


def test_an_error_of_ours_is_not_blamed_on_the_user():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert blame(caught.value).startswith("test_own_code.py")  # this file stands for the user's
    with pytest.raises(AttributeError) as inside:
        alframe.run(None, "x")
    assert not blame(inside.value)
    assert not nearest_name("zzz.Qqqqqq")
