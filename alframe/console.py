"""Console output of a run: a table with one line per round, and progress bars for long loops."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alframe.area import area_under_curve

if TYPE_CHECKING:
    from alframe.images import Data

Item = TypeVar("Item")

QUICK_S = 0.5
ALWAYS = {
    "round": "round",
    "labels": "labels",
    "accuracy": "test/accuracy",
    "balanced": "test/balanced_accuracy",
    "AUROC": "test/auroc",
    "NLL": "test/nll",
    "ECE": "test/ece",
}
BINARY_ONLY = "AUROC"


def what_was_found(data: "Data", most: int = 8) -> str:
    """In a line: the images by class (the first `most` classes), pool and test images, and what was passed over."""
    known = Counter(label for images in (data.pool, data.test) for label in images.labels.tolist())
    if data.grown:
        known = Counter([*(label for label, _ in data.folder_labels.values()), *data.test.labels.tolist()])
    n = len(data.pool) + len(data.test)
    classes = data.pool.classes
    counts = [f"{known[c]:,} {name}" for c, name in enumerate(classes[:most])]
    more = [f"{len(classes) - most:,} more classes"] if len(classes) > most else []
    rest = n - sum(known[c] for c in range(len(classes)))
    unlabelled = [f"{rest:,} without a label"] if rest else []
    test = f"{len(data.test):,} to test{f' ({data.test_from})' if data.test_from and len(data.test) else ''}"
    passed = f"; passed over: {', '.join(data.passed_over)}" if data.passed_over else ""
    where = f" in {data.root}" if data.root else ""
    return f"found{where}: {n:,} images: {', '.join([*counts, *more, *unlabelled])}; {len(data.pool):,} in the pool, {test}{passed}"


class RoundTable:
    """A table printed line by line, so that it reads the same on a terminal and in a log file.

    `binary` adds the AUROC; so does `defects`, but the last line then has the accuracy. `of` is test or validation, the images
    that the metrics are computed on. `fit s` is the time of training, `query s` the time of the pool pass and the selection.
    """

    def __init__(
        self, binary: bool, console: Console | None = None, of: str = "test", *, defects: bool = False
    ) -> None:
        self._console = console or Console(highlight=False)
        columns = {name: key.replace("test/", f"{of}/") for name, key in ALWAYS.items()}
        self._columns = {name: key for name, key in columns.items() if binary or defects or name != BINARY_ONLY}
        self._headed, self._remarked, self._binary = False, False, binary

    @classmethod
    def of_data(cls, data: "Data") -> "RoundTable":
        """The table of a run on `data`."""
        of = "test" if len(data.test) else "validation"
        return cls(data.pool.n_classes == 2, of=of, defects=data.normal is not None)

    def note(self, text: str) -> None:
        """Print a line between the rounds."""
        self._print(text, None)

    def warn(self, text: str) -> None:
        """Print a warning to stderr."""
        Console(stderr=True, highlight=False).print(f"warning: {text}", markup=False, soft_wrap=True, style="red")

    def row(self, line: dict[str, Any], remark: str = "") -> None:
        """Print the line of a round, and below it a remark on its metrics, one a launch; the header comes above the first one."""
        if not self._headed:
            self._print(
                "  ".join(f"{name:>{max(6, len(name))}}" for name in [*self._columns, "fit s", "query s"]), "bold"
            )
            self._headed = True
        query = [line[key] for key in ("pool_s", "select_s") if line.get(key) is not None]
        cells = [_cell(name, line.get(key)) for name, key in self._columns.items()]
        cells += [_cell("fit s", line.get("fit_s")), _cell("query s", sum(query) if query else None)]
        self._print("  ".join(cells), None)
        if remark and not self._remarked:
            self._remarked = True
            self._print(remark, None)

    def summary(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Print one closing line for all rounds of the run, including those before a resume."""
        last = lines[-1]
        has_auroc = self._binary and last.get(self._columns.get(BINARY_ONLY, "")) is not None
        name = BINARY_ONLY if has_auroc else "accuracy"
        key = self._columns[name]
        points = [(line["labels"], line[key]) for line in lines if line.get(key) is not None]
        parts = [f"{last.get('stopped') or 'Paused'}: {len(lines)} rounds, {last['labels']:,} labels"]
        if points:
            area = area_under_curve(*map(list, zip(*points, strict=True)))
            parts.append(f"{name} {points[-1][1]:.3f} (mean over the labels {area:.3f})")
        seconds = sum(v for line in lines for k, v in line.items() if k.endswith("_s") and isinstance(v, int | float))
        self._print(" · ".join([*parts, duration(seconds), str(folder)]), "bold")

    def _print(self, text: str, style: str | None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def progress(
    iterable: Iterable[Item], description: str, total: int | None = None, enabled: bool = True
) -> Iterator[Item]:
    """Yield from `iterable` with a bar on stderr that disappears at the end.

    Nothing is drawn if stderr is not a terminal, if `enabled` is false, or during the first half second.
    """
    total = total if total is not None else (length_hint(iterable) or None)
    if not (enabled and sys.stderr.isatty()) or (console := Console(stderr=True)).is_dumb_terminal:
        yield from iterable
        return
    bar = _bar(console, TextColumn("{task.description}"), TimeRemainingColumn(compact=True), 5)
    task, start, shown = bar.add_task(description, total=total), time.monotonic(), False
    with ExitStack() as stack:
        for done, item in enumerate(iterable):
            if not shown and time.monotonic() - start > QUICK_S:
                stack.enter_context(bar)
                shown = True
            bar.update(task, completed=done)
            yield item


class LiveCount:
    """Progress of people's answers on stderr: a bar on a terminal, else one line per 10 %.

    Used as a context manager; outside the context only `say` works.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._shown = ""

    def __enter__(self) -> "LiveCount":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._shown = None, ""

    def say(self, text: str) -> None:
        """Print one line, unwrapped."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` answers have arrived."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._bar is None:
                words = TextColumn("{task.description}", markup=False)
                self._bar = _bar(self._console, words, TimeElapsedColumn(), 2)
                self._bar.add_task(what, total=total)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif (line := f"{what}: {10 * (10 * done // max(1, total))} % of {total}") != self._shown:
            self._shown = line
            self.say(line)


def _bar(console: Console, words: TextColumn, clock: ProgressColumn, per_second: int) -> Progress:
    columns = (words, BarColumn(), MofNCompleteColumn(), clock)
    return Progress(*columns, console=console, transient=True, refresh_per_second=per_second)


def duration(seconds: int | float) -> str:
    """`8.2 s`, `3 min 5 s`, `2 h 7 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shorten(name: str, characters: int) -> str:
    """Cut in the middle, because names often differ at the end ("scratch 12", "scratch 13")."""
    if len(name) <= characters:
        return name
    tail = max(1, characters // 3)
    return f"{name[: max(1, characters - 1 - tail)]}…{name[-tail:]}"


def _cell(name: str, value: int | float | None) -> str:
    if value is None:
        text = "–"
    elif name in ("round", "labels"):
        text = f"{value:d}"
    elif name.endswith(" s"):
        text = f"{value:.1f}"
    else:
        text = f"{value:.3f}" if math.isfinite(value) else str(value)
    return f"{text:>{max(6, len(name))}}"
