"""Where the time of a run goes: the seconds of every stage of every round, and a trace of the operations in one round.

The seconds are wall-clock time and cover whole rounds. The torch profiler is slow and records every operation, so it only
covers the first batches of each stage of one round; the time to start and stop it is not counted.
"""

import gzip
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, record_function

from alframe.clock import Clock, Function, Stopwatch
from alframe.console import duration
from alframe.record.files import read_json, replacing, write_atomically
from alframe.record.layout import OPERATORS, STAGES_FIGURE, TRACE
from alframe.record.layout import STAGES as STAGES_FILE

TRACED_BATCHES = 10  # per stage; a fit may have thousands
TRACED_CALLS = 20_000  # calls from Python in a selection, which has no batches and may loop over every pick
TOP_OPERATORS = 30
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
"""The stages with their colours. `data` is the time to read, augment and normalise images, subtracted from the other stages."""


class Profile(Clock):
    """Measures the rounds of a run and writes the results to `folder`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._stage: Spent | None = None
        self._batches, self._in_data = 0, False
        self._traces: list[_Trace] | None = None
        self._starts = {"round": 0.0, "stage": 0.0}
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """A whole round. Its times are written on success; for the run's first round, also its operations."""
        self._spent = defaultdict(Spent)
        self._traces = None if (self.folder / TRACE).exists() else []
        self._starts["round"] = time.perf_counter()
        yield
        total_s = time.perf_counter() - self._starts["round"]
        if self._traces:
            self._write_operations(number, self._traces)
        self._traces = None
        self._write_stages(number, total_s)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        self._stage, self._batches = self._spent[name], 0
        if self._traces is not None:
            with self._uncounted():
                self._traces.append(_Trace(name, self.device, self._stop_trace))
        self._wait()
        self._starts["stage"] = time.perf_counter()
        try:
            with super().stage(name) as watch:
                yield watch
                self._wait()
            self._stage.seconds += time.perf_counter() - self._starts["stage"]
            for first, last in self._events:
                self._add_data(first.elapsed_time(last) / 1000)
        finally:
            self._stage = None
            self._events.clear()
            self._stop_trace()

    def preparing(self, name: str, function: Function) -> Function:
        def timed(*arguments: Any) -> Any:
            if self._stage is None or self._in_data:
                return function(*arguments)
            self._in_data = True
            try:
                with record_function(f"data: {name}") if self._trace else nullcontext(), self._data_clock():
                    return function(*arguments)
            finally:
                self._in_data = False

        return timed  # type: ignore[return-value]

    def reading(self, take: Callable[..., Any]) -> Callable[..., Any]:
        """As in `Clock`; also stops the trace after `TRACED_BATCHES`."""
        timed = self.preparing("take", take)

        def counted(*arguments: Any) -> Any:
            if self._stage is None or self._in_data:  # already counted by an outer call
                return take(*arguments)
            self._batches += 1
            if self._batches > TRACED_BATCHES:
                self._stop_trace()
            samples = timed(*arguments)
            self._stage.images += 0 if samples is None else len(samples)
            return samples

        return counted

    def streaming(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        following = self.reading(partial(next, batches, None))
        while (samples := following()) is not None:
            yield samples

    @contextmanager
    def _data_clock(self) -> Iterator[None]:
        if self.device.type == "cuda":  # by CUDA events: synchronizing here would stall every step
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            stream = torch.cuda.current_stream(self.device)
            first.record(stream)
            yield
            last.record(stream)
            self._events.append((first, last))
        else:
            begin = time.perf_counter()
            yield
            self._add_data(time.perf_counter() - begin)

    def _add_data(self, seconds: float) -> None:
        if self._stage is not None:
            self._stage.data_s += seconds
            self._stage.seconds -= seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def _trace(self) -> "_Trace | None":
        """The running trace, if any."""
        return self._traces[-1] if self._traces and self._traces[-1].running else None

    def _stop_trace(self) -> None:
        if trace := self._trace:
            with self._uncounted():
                trace.stop()

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Pause the clocks of stage and round."""
        self._wait()
        begin = time.perf_counter()
        yield
        for clock in self._starts:
            self._starts[clock] += time.perf_counter() - begin

    def _write_stages(self, number: int, total_s: float) -> None:
        """Add the round to the file, which may contain rounds of earlier launches."""
        known = read_json(self.folder / STAGES_FILE, ("rounds",)) or {"rounds": []}
        stages = {name: asdict(self._spent[name]) for name in STAGES}
        stages["data"]["seconds"] = sum(stage["data_s"] for stage in stages.values())
        stages["other"]["seconds"] = max(0.0, total_s - sum(stage["seconds"] for stage in stages.values()))
        rounds = [line for line in known["rounds"] if line["round"] != number]
        rounds.append(with_rates({"round": number, "total_s": total_s, "stages": stages}))
        rounds.sort(key=lambda line: line["round"])
        whole = {"rounds": rounds, "all": summed(rounds)}
        write_atomically(self.folder / STAGES_FILE, json.dumps(whole, indent=1))
        figure = stages_figure(rounds)
        FigureCanvasAgg(figure)
        with replacing(self.folder / STAGES_FIGURE) as temporary:
            figure.savefig(temporary, format="png")

    def _write_operations(self, number: int, traces: "list[_Trace]") -> None:
        heading = (
            f"The operators of each stage of round {number} by self time: at most {TRACED_BATCHES} batches per stage, "
            f"or {TRACED_CALLS:,} calls of a selection.\n"
        )
        tables = [f"{trace.name}\n{table}" for trace in traces if (table := trace.operators())]
        write_atomically(self.folder / OPERATORS, "\n".join([heading, *tables]))
        exported = [trace.export(self.folder / ".trace.tmp.json") for trace in traces]  # they share a clock
        events = [event for trace in exported for event in trace["traceEvents"]]
        for number, trace in enumerate(exported):
            for event in trace["traceEvents"]:
                if "id" in event:  # ids of arrows, counted from 1 in each trace
                    event["id"] = f"{number}.{event['id']}"
        joined = {**exported[0], "traceEvents": events}
        with replacing(self.folder / TRACE) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
            json.dump(joined, file)

    def report(self) -> list[str]:
        """The table of the stages, and the paths of the other files. Empty if no round was measured."""
        found = read_json(self.folder / STAGES_FILE, ("rounds", "all"))
        if found is None:
            return []
        return [
            *stages_table(found["rounds"], found["all"]),
            f"figure: {self.folder}/{STAGES_FIGURE} · operators: {self.folder}/{OPERATORS}",
            f"trace: {self.folder}/{TRACE}; open it in chrome://tracing or at https://ui.perfetto.dev",
        ]


class _Trace:
    """The torch profiler over one stage, from its start to `stop`. A selection is cut after `TRACED_CALLS`."""

    def __init__(self, name: str, device: torch.device, stop_at_limit: Callable[[], None]) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler logs to stderr
        self.name, self.running = name, True
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._sort = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.start()
        self._range = record_function(name)
        self._range.__enter__()
        self._counts = name == "select" and sys.getprofile() is None
        self._calls, self._stop_at_limit = 0, stop_at_limit
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
            self._stop_at_limit()

    def operators(self) -> str:
        """The table; empty if no operator ran."""
        if not any(event.name.startswith("aten::") for event in self._profiler.events() or ()):
            return ""
        averages = [event for event in self._profiler.key_averages() if event.key != self.name]
        return EventList(averages, use_device=self._profiler.use_device).table(
            sort_by=self._sort, row_limit=TOP_OPERATORS, max_name_column_width=60
        )

    def export(self, temporary: Path) -> dict[str, Any]:
        self._profiler.export_chrome_trace(str(temporary))
        trace: dict[str, Any] = json.loads(temporary.read_bytes())
        temporary.unlink()
        return trace


@dataclass
class Spent:
    """The time of a stage: seconds without the preparation of its images (`data_s`), and the number of images."""

    seconds: float = 0.0
    data_s: float = 0.0
    images: int = 0


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        name: {key: sum(line["stages"][name][key] for line in rounds) for key in ("seconds", "data_s", "images")}
        for name in STAGES
    }
    return with_rates({"total_s": sum(line["total_s"] for line in rounds), "stages": stages})


def with_rates(line: dict[str, Any]) -> dict[str, Any]:
    """Add the `share` of the total of each stage, and `images_per_s` (with data preparation) for stages with images."""
    for stage in line["stages"].values():
        stage["share"] = stage["seconds"] / line["total_s"]
        if stage["images"]:
            stage["images_per_s"] = stage["images"] / (stage["seconds"] + stage["data_s"])
    return line


def stages_table(rounds: list[dict[str, Any]], whole: dict[str, Any]) -> list[str]:
    """One line per round with the seconds of its stages; then the totals, their shares, and images per second."""

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
    """One bar per round, split into its stages in order, with the round's seconds at the end."""
    bar = max(0.06, min(0.45, 12 / len(rounds)))  # inches
    height = 1.1 + bar * len(rounds)
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
