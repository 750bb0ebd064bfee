"""From run folders to numbers: which runs are compared over which labels, the table's rows, and what was left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alframe.errors import ConfigError, RunFolderError, did_you_mean, expect
from alframe.report.read.comparison import Comparison, LeftOut, compare, read_runs
from alframe.report.read.run import CELL_GROUPS, Run, is_finite
from alframe.report.statistics.curves import Against, Curve, Points, against, common_range, lower_is_better, on_grid

MULTICLASS_METRIC, BINARY_METRIC = "test/accuracy", "test/auroc"
UNMEASURED = "usable"
"""In place of a metric, for a run of people without test and validation images: the number of labels with a class."""
NOT_METRICS = ("round", "labels", "stopped")
Bought = dict[str, dict[int, list[dict[str, Any]]]]
"""The ledger's answers by cell and seed, in the order of asking."""


@dataclass(frozen=True)
class Section:
    """One comparison in numbers: its curves by cell, and every cell except the baselines against its baseline."""

    title: str
    metric: str
    common: dict[str, str]
    cells: dict[str, dict[int, Run]]
    curves: dict[str, Curve]
    against: dict[str, Against]
    baselines: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    full_data: float | None = None
    """The mean of the metric over runs of the same data and model that had all labels from the start, if any."""

    @property
    def runs(self) -> list[Run]:
        return [run for seeds in self.cells.values() for run in seeds.values()]

    @property
    def is_one_by_people(self) -> bool:
        """Whether this is a single run that people labelled, of which nobody wants a comparison."""
        return len(self.runs) == 1 and self.runs[0].by_people

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.metric)

    @property
    def fully_labelled(self) -> bool:
        """Whether these runs had all labels from the start: a reference, not a learning curve."""
        return all(_fully_labelled(run) for run in self.runs)

    @property
    def range(self) -> tuple[int, int]:
        """The first and the last label count that all runs share."""
        labels = next(iter(self.curves.values())).labels
        return round(labels[0]), round(labels[-1])

    def bought(self) -> Bought:
        """What each run bought up to the last label count, without runs whose ledger holds less."""
        found: Bought = {}
        for name, seeds in self.cells.items():
            for seed, run in seeds.items():
                lines = run.bought(self.range[1])
                claimed = max((line["labels"] for line in run.rounds if line["labels"] <= self.range[1]), default=0)
                if lines and len(lines) >= claimed:
                    found.setdefault(name, {})[seed] = lines
        return found

    def class_name(self, label: int) -> str:
        """The name of the class in the run folder, else its number."""
        classes = self.runs[0].classes
        return classes[label] if 0 <= label < len(classes) else f"class {label}"


def sections(
    folders: Sequence[Path], metric: str | None = None, baseline: str = "random", unfinished: bool = False
) -> tuple[list[Section], list[LeftOut]]:
    """The comparisons of the runs in and below `folders`, and what was left out.

    `metric` is a key of `rounds.jsonl`; by default `test/auroc` for two classes, else `test/accuracy`. Raises
    `RunFolderError` if no run can be used, `ConfigError` for a metric that no run has.
    """
    runs, left = read_runs(folders, unfinished)
    expect(bool(runs), f"Expected a run to report on, got none: {_reasons(left)}.", RunFolderError)
    if metric is not None:
        known = metrics(runs)
        expect(
            metric in known,
            f"Expected a metric of these runs, got {metric!r}"
            + did_you_mean(metric, known, otherwise=";")
            + f" they have {', '.join(known)}.",
            ConfigError,
        )
    comparisons, twice = compare(runs)
    worked_out = []
    for comparison in comparisons:
        section, without = _section(comparison, metric, baseline)
        left += without
        worked_out += [section] if section else []
    left += twice
    expect(bool(worked_out), f"Expected a run to report on, got none: {_reasons(left)}.", RunFolderError)
    return [replace(section, full_data=full_data(section, runs)) for section in worked_out], left


def full_data(section: Section, runs: Iterable[Run]) -> float | None:
    """The mean over `runs` that had all labels at once (`budget.initial=all`), on the section's data and its only model; or None.

    The trainer may differ: the best recipe for a hundred labels is often not the best for all of them.
    """
    own = section.runs
    models = {run.choices["model"] for run in own}
    if len(models) > 1 or section.fully_labelled:
        return None
    values = [
        run.rounds[-1].get(section.metric)
        for run in runs
        if _fully_labelled(run)
        and (run.dataset, run.data_hash, run.other_defect) == (own[0].dataset, own[0].data_hash, own[0].other_defect)
        and run.choices["model"] in models
    ]
    known = [float(value) for value in values if value is not None and is_finite(value)]
    return sum(known) / len(known) if known else None


def _fully_labelled(run: Run) -> bool:
    budget = run.config.get("budget")
    return isinstance(budget, dict) and budget.get("initial") == "all"


def metrics(runs: Iterable[Run]) -> list[str]:
    """The keys of all rounds that hold numbers."""
    keys = {
        key
        for run in runs
        for line in run.rounds
        for key, value in line.items()
        if key not in NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return sorted(keys, key=lambda key: (not key.startswith("test/"), "/" not in key, key))


def _section(comparison: Comparison, metric: str | None, baseline: str) -> tuple[Section | None, list[LeftOut]]:
    runs = [run for seeds in comparison.cells.values() for run in seeds.values()]
    if metric is None:
        known = metrics(runs)
        metric = BINARY_METRIC if len(runs[0].classes) == 2 and BINARY_METRIC in known else MULTICLASS_METRIC
        if metric not in known and (instead := metric.replace("test/", "validation/")) in known:
            metric = instead  # photos without a test set
        elif metric not in known and len(runs) == 1 and runs[0].by_people:
            metric = UNMEASURED
    points, left = _points(comparison, metric)
    points, apart = _overlapping(points, comparison)
    left += apart
    if not points:
        return None, left
    used = {name: {seed: comparison.cells[name][seed] for seed in seeds} for name, seeds in points.items()}
    low, high = common_range(points)
    notes = []
    if high < (longest := max(labels[-1] for seeds in points.values() for labels, _ in seeds.values())):
        every = (run for seeds in used.values() for run in seeds.values())
        shortest = min(every, key=lambda run: run.points(metric)[0][-1])
        notes.append(
            f"Compared up to {high:,.0f} labels, which all runs reach. The longest run has {longest:,.0f}; "
            f"{shortest.folder} is the shortest ({shortest.rounds[-1].get('stopped') or 'unfinished'})."
        )
    seeds_of = {name: set(seeds) for name, seeds in used.items()}
    for name, seeds in seeds_of.items():
        missing = sorted(set.union(*seeds_of.values()) - seeds)
        if missing:
            notes.append(f"{name} has no seed {', '.join(map(str, missing))}; differences use the common seeds only.")
    curves = on_grid(points, low, high)
    baselines, remarks = _baselines(used, baseline)
    first = [next(iter(seeds.values())) for seeds in used.values()]
    common = {
        group: first[0].choices[group]
        for group in (*CELL_GROUPS[1:], "budget")
        if len({run.choices[group] for run in first}) == 1
    }
    versus = against(curves, baselines, lower_is_better(metric))
    section = Section(comparison.title, metric, common, used, curves, versus, baselines, (*notes, *remarks))
    return section, left


def _points(comparison: Comparison, metric: str) -> tuple[Points, list[LeftOut]]:
    """(labels, values) by cell and seed, for the rounds that have the metric; unusable runs are left out."""
    points: Points = {}
    left = []
    for name, seeds in comparison.cells.items():
        for seed, run in seeds.items():
            odd = [
                line["labels"] for line in run.rounds if not is_finite(line.get(metric, 0)) and line[metric] is not None
            ]
            if odd:
                left.append(LeftOut(run.folder, f"{metric} is not a finite number at {odd[0]:,} labels"))
            elif not (measured := run.points(metric))[0]:
                left.append(LeftOut(run.folder, f"has no {metric}"))
            else:
                points.setdefault(name, {})[seed] = measured
    return points, left


def _overlapping(points: Points, comparison: Comparison) -> tuple[Points, list[LeftOut]]:
    """The runs whose range holds the label count that most ranges hold, if that is a majority."""
    spans = [(labels[0], labels[-1]) for seeds in points.values() for labels, _ in seeds.values()]
    if not spans or max(first for first, _ in spans) <= min(last for _, last in spans):
        return points, []

    def n_with(count: float) -> int:
        return sum(first <= count <= last for first, last in spans)

    common = max((first for first, _ in spans), key=n_with)
    if 2 * n_with(common) <= len(spans):
        reason = f"no label count in common with the other runs of {comparison.title}"
        return {}, [LeftOut(comparison.cells[name][seed].folder, reason) for name in points for seed in points[name]]
    kept: Points = {}
    left = []
    for name, seeds in points.items():
        for seed, (labels, values) in seeds.items():
            if labels[0] <= common <= labels[-1]:
                kept.setdefault(name, {})[seed] = (labels, values)
            else:
                reason = f"has {labels[0]:,.0f} to {labels[-1]:,.0f} labels, not the {common:,.0f} that most runs of {comparison.title} have"
                left.append(LeftOut(comparison.cells[name][seed].folder, reason))
    return kept, left


def _baselines(cells: dict[str, dict[int, Run]], baseline: str) -> tuple[dict[str, str], list[str]]:
    """By cell, the cell it is compared with: the baseline strategy with the same other options, else the only candidate."""
    first = {name: next(iter(seeds.values())) for name, seeds in cells.items()}
    candidates = [name for name, run in first.items() if run.choices["strategy"] == baseline]
    found, remarks = {}, []
    for name in [name for name in cells if name not in candidates]:
        for others in (_other_options, _other_choices):
            same = [c for c in candidates if others(first[c]) == others(first[name])]
            if len(same) == 1:
                found[name] = same[0]
                if others is _other_choices:
                    mine, theirs = _other_options(first[name]), _other_options(first[same[0]])
                    keys = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
                    remarks.append(
                        f"{name} is compared with {same[0]}, which differs in more than the strategy: {', '.join(keys)}."
                    )
                break
        else:
            if len(candidates) == 1:
                found[name] = candidates[0]
                remarks.append(f"{name} is compared with {candidates[0]}, which differs in more than the strategy.")
            elif candidates:
                remarks.append(f"{name} has no baseline: no run of {baseline} shares its other options.")
    if not candidates:
        remarks.append(f"No run of {baseline}: nothing to compare with (choose another strategy with --baseline).")
    return found, remarks


def _other_options(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.options.items() if key.split(".")[0] != "strategy"}


def _other_choices(run: Run) -> dict[str, Any]:
    return {group: name for group, name in run.choices.items() if group != "strategy"}


def _reasons(left: Sequence[LeftOut]) -> str:
    shown = "; ".join(f"{item.folder}: {item.reason}" for item in left[:3])
    return shown + (f"; and {len(left) - 3} more" if len(left) > 3 else "")
