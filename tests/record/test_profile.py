"""What a profile says of a run, and that it changes none of it."""

import gzip
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_data, tiny_experiment
from PIL import Image
from test_loop import KILLS, go, launch, read
from tests_support import die, on_call

import alframe
import alframe.record.profile
from alframe.clock import Clock
from alframe.config.overrides import load
from alframe.config.plan import cell_name
from alframe.dataset.augment import Augmentation
from alframe.record.profile import STAGES, Profile, stages_figure, stages_table, summed, with_rates
from alframe.record.record import Record
from alframe.scores import bald
from alframe.strategy.core_set import CoreSet
from alframe.strategy.top_score import TopScore
from alframe.uncertainty.mc_dropout import MCDropout

CPU = torch.device("cpu")


def make_profiled(folder=None, **options):
    """An experiment that augments, profiled into `folder`."""
    parts = {"uncertainty": MCDropout(draws=4), "strategy": TopScore(score=bald, min_draws=2)}
    data = replace(tiny_data(), augment=Augmentation(crop=1))
    experiment = tiny_experiment(**{"data": data, **parts, **options})
    clock = Clock() if folder is None else Profile(folder / "profile", CPU)
    return replace(experiment, resources=replace(experiment.resources, batch_size=16, clock=clock))


@pytest.fixture
def make():
    return make_profiled


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a run that is not profiled."""
    folder = tmp_path_factory.mktemp("plain")
    go(make_profiled(), folder)
    return folder


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """The folder of the same run profiled, and what it returned."""
    folder = tmp_path_factory.mktemp("profiled")
    return folder, go(make_profiled(folder), folder)


def stages(folder):
    return json.loads((folder / "profile/stages.json").read_text())


def events(folder):
    with gzip.open(folder / "profile/trace.json.gz") as file:
        return json.load(file)["traceEvents"]


def ranges(folder, name):
    return [event for event in events(folder) if event.get("cat") == "user_annotation" and event["name"] == name]


def test_a_profiled_run_is_the_run_without(plain, profiled):
    folder, _ = profiled
    assert read(plain) == read(folder)
    assert not (plain / "profile").exists()
    assert {path.name for path in (folder / "profile").iterdir()} == {
        "stages.json",
        "stages.png",
        "operators.txt",
        "trace.json.gz",
    }


def test_the_stages_of_every_round_add_up_to_it(profiled):
    found = stages(profiled[0])
    assert [line["round"] for line in found["rounds"]] == [0, 1, 2, 3]
    for line in [*found["rounds"], found["all"]]:
        assert line["stages"].keys() == STAGES.keys()
        assert sum(stage["share"] for stage in line["stages"].values()) == pytest.approx(1)
        assert sum(stage["seconds"] for stage in line["stages"].values()) == pytest.approx(line["total_s"])
        assert all(stage["seconds"] >= 0 for stage in line["stages"].values())
        within = sum(stage["data_s"] for stage in line["stages"].values())
        assert line["stages"]["data"]["seconds"] == pytest.approx(within)
        assert within > 0
    first, last = found["rounds"][0]["stages"], found["rounds"][-1]["stages"]
    assert first["fit"]["images"] == 20 * 16  # steps and batch
    assert first["evaluate"]["images"] == 40
    assert first["pool"]["images"] == 60
    assert first["select"]["seconds"] > 0
    assert last["select"]["seconds"] == last["pool"]["seconds"] == 0
    assert found["all"]["total_s"] == pytest.approx(sum(line["total_s"] for line in found["rounds"]))
    fit = found["all"]["stages"]["fit"]
    assert fit["images_per_s"] == pytest.approx(fit["images"] / (fit["seconds"] + fit["data_s"]))


def test_the_seconds_of_a_stage_are_not_less_than_those_of_the_round_line(profiled):
    folder, rounds = profiled
    for line, found in list(zip(rounds, stages(folder)["rounds"], strict=True))[1:]:  # the first one is traced
        for name in ("fit", "evaluate"):
            stage = found["stages"][name]
            assert stage["seconds"] + stage["data_s"] >= line[f"{name}_s"]


def test_the_trace_has_the_stages_of_one_round_and_a_bounded_part_of_each(profiled):
    folder, _ = profiled
    for name in ("fit", "evaluate", "pool", "select"):
        assert len(ranges(folder, name)) == 1, name
    assert {"annotate", "record"} <= {event["name"] for event in events(folder)}
    (fit,) = ranges(folder, "fit")
    inside = [
        event
        for event in events(folder)
        if event.get("ph") == "X" and fit["ts"] <= event["ts"] <= fit["ts"] + fit["dur"]
    ]
    names = [event["name"] for event in inside]
    assert names.count("data: take") == names.count("data: augment") == names.count("data: prepare") == 10
    assert names.count("Optimizer.step#SGD.step") == 10
    assert "aten::convolution" in names or "aten::conv2d" in names
    arrows = [event["id"] for event in events(folder) if event.get("ph") == "s"]
    assert len(set(arrows)) == len(arrows)


def test_the_operators_of_each_stage_are_listed_without_the_stage_itself(profiled):
    folder, _ = profiled
    text = (folder / "profile/operators.txt").read_text()
    assert "of round 0" in text
    heads = [line for line in text.splitlines() if line in STAGES]
    assert heads[:3] == ["fit", "evaluate", "pool"]
    assert "aten::" in text
    assert not [line for line in text.splitlines() if line.split()[:1] == ["fit"] and len(line.split()) > 1]


def test_a_long_selection_is_traced_to_a_limit_and_selects_the_same(make, tmp_path, monkeypatch):
    options = {"strategy": CoreSet(), "uncertainty": MCDropout(draws=2)}
    go(make(**options), tmp_path / "plain")
    monkeypatch.setattr(alframe.record.profile, "TRACED_CALLS", 30)
    go(make(tmp_path / "cut", **options), tmp_path / "cut")
    assert sys.getprofile() is None
    monkeypatch.setattr(alframe.record.profile, "TRACED_CALLS", 10**9)
    go(make(tmp_path / "whole", **options), tmp_path / "whole")
    assert sys.getprofile() is None
    assert read(tmp_path / "plain") == read(tmp_path / "cut") == read(tmp_path / "whole")
    (cut,), (whole,) = (ranges(tmp_path / name, "select") for name in ("cut", "whole"))
    n_cut, n_whole = (
        sum(event.get("cat") == "cpu_op" and event["ts"] >= one["ts"] for event in events(tmp_path / name))
        for name, one in (("cut", cut), ("whole", whole))
    )
    assert n_cut < n_whole


def test_images_that_are_streamed_are_timed_once_and_change_nothing(make, plain, tmp_path):
    streamed = make(tmp_path / "streamed")
    streamed = replace(streamed, resources=replace(streamed.resources, resident_bytes=0))
    go(streamed, tmp_path / "streamed")
    assert read(plain) == read(tmp_path / "streamed")
    first = stages(tmp_path / "streamed")["rounds"][0]["stages"]
    assert first["fit"]["images"] == 20 * 16
    assert first["pool"]["images"] == 60
    assert first["fit"]["data_s"] > 0


def test_a_resumed_run_adds_its_rounds_and_keeps_the_trace(make, plain, tmp_path):
    assert launch(make(tmp_path), tmp_path, [(torch.optim.SGD, "step", on_call(50, die))]) != 0
    assert [line["round"] for line in stages(tmp_path)["rounds"]] == [0, 1]
    trace = (tmp_path / "profile/trace.json.gz").read_bytes()
    assert launch(make(tmp_path), tmp_path) == 0
    assert [line["round"] for line in stages(tmp_path)["rounds"]] == [0, 1, 2, 3]
    assert (tmp_path / "profile/trace.json.gz").read_bytes() == trace
    assert read(tmp_path) == read(plain)


def test_a_round_that_was_begun_by_another_launch_has_no_times(make, tmp_path):
    assert launch(make(tmp_path), tmp_path, KILLS["between two answers of a query"]) != 0
    assert launch(make(tmp_path), tmp_path) == 0
    assert [line["round"] for line in stages(tmp_path)["rounds"]] == [0, 2, 3]
    assert ranges(tmp_path, "fit")


def test_a_round_that_fails_leaves_no_profiler_behind(make, tmp_path):
    class Fails(TopScore):
        def select(self, view, size, generator):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(make(tmp_path / "a", strategy=Fails(score=bald, min_draws=2)), tmp_path / "a")
    assert sys.getprofile() is None
    go(make(tmp_path / "b"), tmp_path / "b")
    assert ranges(tmp_path / "b", "select")
    assert not (tmp_path / "a/profile").exists()


class Device:
    """The clock of a device on which everything takes a second."""

    now = 0.0

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = Device.now
            Device.now += 1

        def elapsed_time(self, other):
            return 1000 * (other.at - self.at)


def test_on_cuda_data_are_timed_by_events_and_stages_end_when_the_device_does(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "Event", Device.Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0 * len(waits))
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/trace.json.gz").touch()  # no operations
    profile = Profile(tmp_path / "profile", torch.device("cuda"))
    prepare = profile.preparing("prepare", lambda x: x)
    with profile.round(0), profile.stage("fit"):
        assert [prepare(x) for x in (1, 2)] == [1, 2]
    assert len(waits) == 2
    line = stages(tmp_path)["rounds"][0]
    assert line["stages"]["data"]["seconds"] == line["stages"]["fit"]["data_s"] == 2
    assert line["stages"]["fit"]["seconds"] == 5 - 2


def round_of(number, **seconds):
    known = {name: {"seconds": float(seconds.get(name, 0)), "data_s": 0.0, "images": 0} for name in STAGES}
    known["fit"] |= {"data_s": known["data"]["seconds"], "images": 1200}
    return with_rates({"round": number, "total_s": float(sum(seconds.values())), "stages": known})


def test_the_table_is_what_a_hand_would_write():
    rounds = [round_of(0, data=1, fit=5, pool=2), round_of(1, data=1, fit=3)]
    _, head, *lines = stages_table(rounds, summed(rounds))
    assert head.split() == ["round", "total", *STAGES]
    assert [line.split() for line in lines] == [
        ["0", "8.00", "1.00", "5.00", "0.00", "2.00", "0.00", "0.00", "0.00", "0.00"],
        ["1", "4.00", "1.00", "3.00", "0.00", "0.00", "0.00", "0.00", "0.00", "0.00"],
        ["all", "12.00", "2.00", "8.00", "0.00", "2.00", "0.00", "0.00", "0.00", "0.00"],
        ["share", *["16.7", "%", "66.7", "%", "0.0", "%", "16.7", "%", "0.0", "%", "0.0", "%", "0.0", "%", "0.0", "%"]],
        ["images/s", "240"],
    ]


def test_the_bars_of_the_figure_are_as_long_as_their_rounds():
    rounds = [round_of(0, data=1, fit=5, pool=2), round_of(1, data=1, fit=3)]
    (axes,) = stages_figure(rounds).axes
    ends = {}
    for bar in axes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0), bar.get_x() + bar.get_width())
    assert ends == {0: 8, 1: 4}
    assert stages_figure([round_of(number, fit=1) for number in range(500)]).get_figheight() < 35


def test_the_figure_is_a_picture(profiled):
    with Image.open(profiled[0] / "profile/stages.png") as image:
        assert image.size[0] == 1350
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 5


def test_the_preset_is_a_short_run_apart_from_the_study():
    plan, plain = load(["debug=profile"]), load([])
    assert plan.options["profile"]
    assert plan.parts["budget"].rounds == 1
    assert plan.folder != plain.folder
    assert plan.folder.parts[:3] == ("runs", "profile", plain.folder.parts[1])
    assert {**plan.identity, "budget": plain.identity["budget"]} == plain.identity
    assert load(["run.profile=true"]).folder == plain.folder
    assert load(["run.profile=true"]).identity == plain.identity
    assert cell_name(dict.fromkeys(("dataset", "model", "uncertainty", "strategy")), ["run.profile=true"]) == cell_name(
        dict.fromkeys(("dataset", "model", "uncertainty", "strategy")), []
    )


def test_the_command_prints_the_table_and_how_to_open_the_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFRAME_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (60, 16, 16)).astype(np.uint8)
    np.savez(
        "few.npz",
        images=pixels[:40],
        labels=np.arange(40) % 2,
        test_images=pixels[40:],
        test_labels=np.arange(20) % 2,
    )
    tiny = ["dataset=arrays", "dataset.root=few.npz", "model.width=4", "uncertainty.draws=2", "trainer.epochs=1"]
    tiny += ["trainer.min_steps=4", "budget.initial=10", "budget.query_size=5", "threads=1", "progress=false"]
    tiny += ["run.tensorboard=false"]
    for _ in range(2):  # the second finds it finished, and shows the same
        alframe.launch("debug=profile", *tiny)
        told = capsys.readouterr()
        assert "share" in told.out
        (line,) = [line for line in told.out.splitlines() if line.startswith("trace: ")]
        path = line.removeprefix("trace: ").split(";")[0]
        assert (tmp_path / path).stat().st_size > 1000
        assert "chrome://tracing" in line
    assert told.err == ""
    (folder,) = (path.parent for path in tmp_path.rglob("rounds.jsonl"))
    assert [line["round"] for line in stages(folder)["rounds"]] == [0, 1]
    record = Record(folder, load(["debug=profile", *tiny]).identity)  # the config of an unprofiled run is the same
    record.close()
