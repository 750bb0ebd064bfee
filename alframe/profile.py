"""Where the time of a run goes: the seconds of every stage of every round, and a trace of the operations in one round.

The seconds are the clock's and cover whole rounds. The torch profiler, which slows what it watches and remembers every
operation, is on for the first batches of each stage of one round only; what it takes to start and stop is not counted.
"""

import gzip
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, record_function

from alframe.console import duration
from alframe.learner import Learner
from alframe.storage import read_json, write_atomically

STAGES = {
    "data": "#E69F00",
    "fit": "#0072B2",
    "evaluate": "#56B4E9",
    "pool": "#009E73",
    "select": "#D55E00",
    "annotate": "#CC79A7",
    "record": "#7A4FBF",
    "other": "#B5B5B5",
}
"""The stages with their colours. `data` is taken out of the stages in which images are read, augmented and normalised."""
TRACED_BATCHES = 10  # of each stage; a fit may have thousands
TRACED_CALLS = 20_000  # calls from Python in a selection, which has no batches and may be a loop over every pick
TOP_OPERATORS = 30


@dataclass
class Spent:
    """What a stage took: seconds without those in which its images were made ready (`data_s`), and how many images these were."""

    seconds: float = 0.0
    data_s: float = 0.0
    images: int = 0


class Profile:
    """Measures the rounds of a run and writes what it finds to `profile/` in its folder; without a folder it does nothing."""

    def __init__(self, folder: Path | None = None, device: torch.device | None = None) -> None:
        self.folder = None if folder is None else folder / "profile"
        self.device = device or torch.device("cpu")
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._stage: Spent | None = None
        self._batches = 0
        self._traces: list[_Trace] | None = None
        self._begins = {"round": 0.0, "stage": 0.0}
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    # -- measuring ---------------------------------------------------------------------------------------------------

    def watch(self, learner: Learner) -> None:
        """Time all that makes a batch ready: reading rows, augmenting, normalising."""
        if self.folder is None:
            return
        for pixels in learner.pixels.values():
            pixels.take = self._batch(self._data("take", pixels.take))  # type: ignore[assignment, method-assign]
        learner.prepare = self._data("prepare", learner.prepare)  # type: ignore[assignment]
        if learner.augment is not None:
            learner.augment = self._data("augment", learner.augment)

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """A whole round. It is written when it ends well; the run's first one with its operations."""
        if self.folder is None:
            yield
            return
        self._spent = defaultdict(Spent)
        self._traces = None if (self.folder / "trace.json.gz").exists() else []
        self._begins["round"] = time.perf_counter()
        yield
        total_s = time.perf_counter() - self._begins["round"]
        if self._traces:
            self._write_operations(number, self._traces)
        self._traces = None
        self._write_stages(number, total_s)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of a round, one of `STAGES`; stages do not lie in each other."""
        if self.folder is None:
            yield
            return
        self._stage, self._batches = self._spent[name], 0
        if self._traces is not None:
            with self._uncounted():
                self._traces.append(_Trace(name, self.device))
        self._wait()
        self._begins["stage"] = time.perf_counter()
        try:
            yield
            self._wait()
            self._stage.seconds += time.perf_counter() - self._begins["stage"]
            for first, last in self._events:
                self._add_data(first.elapsed_time(last) / 1000)
        finally:
            self._stage = None
            self._events.clear()
            self._stop_trace()

    def _batch(self, take: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def counted(rows: torch.Tensor) -> torch.Tensor:
            if self._stage is not None:
                self._stage.images += len(rows)
                self._batches += 1
                if self._batches > TRACED_BATCHES:
                    self._stop_trace()
            return take(rows)

        return counted

    def _data(self, name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`function`, with its time moved from the stage it is called in to data."""

        def timed(*arguments: Any) -> torch.Tensor:
            with record_function(f"data: {name}"):
                if self.device.type == "cuda":  # by the device's own clock: waiting here would hold it up at every step
                    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    first.record()
                    result = function(*arguments)
                    last.record()
                    self._events.append((first, last))
                    return result
                begin = time.perf_counter()
                result = function(*arguments)
                self._add_data(time.perf_counter() - begin)
                return result

        return timed

    def _add_data(self, seconds: float) -> None:
        if self._stage is not None:
            self._stage.data_s += seconds
            self._stage.seconds -= seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _stop_trace(self) -> None:
        if self._traces and self._traces[-1].running:
            with self._uncounted():
                self._traces[-1].stop()

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """The clocks of stage and round stand still."""
        self._wait()
        begin = time.perf_counter()
        yield
        for clock in self._begins:
            self._begins[clock] += time.perf_counter() - begin

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write_stages(self, number: int, total_s: float) -> None:
        """The round beside those before it, which an earlier launch may have measured."""
        assert self.folder is not None
        known = read_json(self.folder / "stages.json", ("rounds",)) or {"rounds": []}
        stages = {name: asdict(self._spent[name]) for name in STAGES}
        stages["data"]["seconds"] = sum(stage["data_s"] for stage in stages.values())
        stages["other"]["seconds"] = max(0.0, total_s - sum(stage["seconds"] for stage in stages.values()))
        rounds = [line for line in known["rounds"] if line["round"] != number]
        rounds.append(_rates({"round": number, "total_s": total_s, "stages": stages}))
        rounds.sort(key=lambda line: line["round"])
        whole = {"rounds": rounds, "all": _sum(rounds)}
        write_atomically(self.folder / "stages.json", json.dumps(whole, indent=1))
        figure = stages_figure(rounds)
        FigureCanvasAgg(figure)
        figure.savefig(self.folder / "stages.png")

    def _write_operations(self, number: int, traces: "list[_Trace]") -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [
            f"{trace.name} of round {number}: its first {TRACED_BATCHES} batches at most, by self time\n{trace.operators()}"
            for trace in traces
            if trace.has_operators
        ]
        write_atomically(self.folder / "operators.txt", "\n".join(parts))
        temporary = self.folder / ".trace.tmp"
        with gzip.open(temporary, "wt", encoding="utf-8") as file:
            json.dump(_joined([trace.export(temporary.with_suffix(".json")) for trace in traces]), file)
        temporary.replace(self.folder / "trace.json.gz")

    def report(self) -> list[str]:
        """Lines for a person: the table of the stages, and where the rest lies. Nothing where no round was measured."""
        found = None if self.folder is None else read_json(self.folder / "stages.json", ("rounds", "all"))
        if found is None:
            return []
        return [
            *stages_table(found["rounds"], found["all"]),
            f"figure: {self.folder}/stages.png · operators: {self.folder}/operators.txt",
            f"trace: {self.folder}/trace.json.gz; open it in chrome://tracing or at https://ui.perfetto.dev",
        ]


class _Trace:
    """The torch profiler over one stage, from its beginning to `stop`. A selection is cut after `TRACED_CALLS`."""

    def __init__(self, name: str, device: torch.device) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it writes lines about itself to stderr
        self.name, self.running = name, True
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._sort = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.start()
        self._range = record_function(name)
        self._range.__enter__()
        self._counts = name == "select" and sys.getprofile() is None
        self._calls = 0
        if self._counts:
            sys.setprofile(self._count)

    def stop(self) -> None:
        self.running = False
        if self._counts:
            sys.setprofile(None)
        self._range.__exit__(None, None, None)
        self._profiler.stop()

    def _count(self, _frame: FrameType, event: str, _argument: object) -> None:
        self._calls += event == "c_call"
        if self._calls >= TRACED_CALLS:
            self.stop()

    @property
    def has_operators(self) -> bool:
        return any(event.name.startswith("aten::") for event in self._profiler.events() or ())

    def operators(self) -> str:
        averages = [event for event in self._profiler.key_averages() if event.key != self.name]
        return EventList(averages, use_device=self._profiler.use_device).table(
            sort_by=self._sort, row_limit=TOP_OPERATORS, max_name_column_width=60
        )

    def export(self, temporary: Path) -> dict[str, Any]:
        self._profiler.export_chrome_trace(str(temporary))
        trace: dict[str, Any] = json.loads(temporary.read_bytes())
        temporary.unlink()
        return trace


def _joined(traces: list[dict[str, Any]]) -> dict[str, Any]:
    """One trace of several from the same process, whose clocks agree."""
    events = []
    for number, trace in enumerate(traces):
        for event in trace["traceEvents"]:
            if "id" in event:  # the ends of an arrow, counted from 1 in each
                event["id"] = f"{number}.{event['id']}"
            events.append(event)
    return {**traces[0], "traceEvents": events}


def _sum(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        name: {key: sum(line["stages"][name][key] for line in rounds) for key in ("seconds", "data_s", "images")}
        for name in STAGES
    }
    return _rates({"total_s": sum(line["total_s"] for line in rounds), "stages": stages})


def _rates(line: dict[str, Any]) -> dict[str, Any]:
    """`share` of the total for each stage, and `images_per_s`, their data included, for those that take images."""
    for stage in line["stages"].values():
        stage["share"] = stage["seconds"] / line["total_s"]
        if stage["images"]:
            stage["images_per_s"] = stage["images"] / (stage["seconds"] + stage["data_s"])
    return line


def stages_table(rounds: list[dict[str, Any]], whole: dict[str, Any]) -> list[str]:
    """A line a round with the seconds of its stages; below them those of all rounds, their shares, and images a second."""

    def row(head: str, total: str, cells: list[str]) -> str:
        return "  ".join([f"{head:>8}", f"{total:>8}", *(f"{cell:>8}" for cell in cells)]).rstrip()

    def seconds(head: str, line: dict[str, Any]) -> str:
        return row(head, f"{line['total_s']:.2f}", [f"{line['stages'][name]['seconds']:.2f}" for name in STAGES])

    totals = [whole["stages"][name] for name in STAGES]
    return [
        "seconds of each stage (data: reading, augmenting and normalising images, not counted in fit, evaluate, pool and annotate)",
        row("round", "total", list(STAGES)),
        *(seconds(str(line["round"]), line) for line in rounds),
        seconds("all", whole),
        row("share", "", [f"{100 * stage['share']:.1f} %" for stage in totals]),
        row("images/s", "", [f"{stage['images_per_s']:,.0f}" if "images_per_s" in stage else "" for stage in totals]),
    ]


def stages_figure(rounds: list[dict[str, Any]]) -> Figure:
    """A bar a round, made of its stages in the order they run in; the seconds of the round at its end."""
    bar = max(0.06, min(0.45, 12 / len(rounds)))  # inches
    height = 1.25 + bar * len(rounds)
    figure = Figure(figsize=(9, height), dpi=150, facecolor="white")
    axes = figure.add_axes((0.07, 0.5 / height, 0.83, bar * len(rounds) / height))
    numbers = [line["round"] for line in rounds]
    lefts = [0.0] * len(rounds)
    longest = max(line["total_s"] for line in rounds)
    for name, colour in STAGES.items():
        widths = [line["stages"][name]["seconds"] for line in rounds]
        share = sum(widths) / sum(line["total_s"] for line in rounds)
        label = f"{name} {100 * share:.1f} %"
        axes.barh(numbers, widths, left=lefts, color=colour, height=0.8, label=label)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    if bar >= 0.2:
        for line in rounds:
            text = duration(line["total_s"])
            axes.text(line["total_s"] + 0.008 * longest, line["round"], text, va="center", fontsize=8.5)
    axes.set(xlabel="seconds", ylabel="round", xlim=(0, 1.01 * longest), ylim=(numbers[-1] + 0.6, numbers[0] - 0.6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    axes.tick_params(axis="y", length=0)
    figure.legend(ncols=4, loc="upper left", bbox_to_anchor=(0.06, 1), frameon=False, fontsize=8.5, handlelength=1.2)
    return figure
