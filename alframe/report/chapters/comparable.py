"""Protocol warnings, and the checks of whether runs may be compared: same initial images, test sets, budgets, recipes,
software and devices."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from alframe.record.read import flat
from alframe.report.read.comparison import LeftOut
from alframe.report.read.run import Run
from alframe.report.read.section import Section

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_NAMED = 3
NOT_RECIPE = ("strategy.", "resolved.")
"""Prefixes of options that may differ: the strategy is what is compared, and the device has its own check."""


@dataclass(frozen=True)
class Study:
    """What the checks read: the comparisons, and what was left out of them."""

    sections: Sequence[Section]
    left: Sequence[LeftOut]

    @property
    def runs(self) -> list[Run]:
        return [run for section in self.sections for run in section.runs]


@dataclass(frozen=True)
class ProtocolWarning:
    """`name` is stable, for scripts; `found` names folders and values, `advice` says what to do. `serious`: no verdict holds."""

    name: str
    found: str
    advice: str
    serious: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.found} {self.advice}"


def initial_sets(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        known = (
            (run.seed, (initial, run.folder)) for run in section.runs if (initial := run.evidence.initial) is not None
        )
        for seed, started in grouped(known).items():
            if len(sets := grouped(started)) > 1:
                (one, mine), (other, theirs) = list(sets.items())[:2]
                yield ProtocolWarning(
                    "different-initial-sets",
                    f"{section.title}: runs of seed {seed} started from {len(sets)} different sets of images: "
                    f"{mine[0]} from {len(one)} and {theirs[0]} from {len(other)}, with {len(one & other)} in common.",
                    "Run the cells again with the same dataset, budget and version of alframe; the initial images then depend on the seed alone.",
                    serious=True,
                )


def test_sets(study: Study) -> Iterator[ProtocolWarning]:
    for title, runs in _by_dataset(study.sections):
        data = _differing(("data", run.data_hash[:8] or "unknown", run.folder) for run in runs)
        tests = _differing(("test sets", run.evidence.test_set, run.folder) for run in runs)
        if data and not tests and runs[0].evidence.test_hash:
            yield ProtocolWarning(
                "different-pools",
                f"{title}: runs were not compared with each other because they bought from different pools: {data}.",
                "Load the data with the same options everywhere (dataset.pool_size, dataset.split_seed, the same files).",
            )
        elif data:
            yield ProtocolWarning(
                "different-test-sets",
                f"{title}: runs were not compared with each other because their data differ: {tests or data}.",
                "Measure all runs on one test set: the same dataset options and the same files.",
            )


def budgets(study: Study) -> Iterator[ProtocolWarning]:
    for title, runs in _by_dataset(study.sections):
        budgets = [(flat(run.config.get("budget")), run.folder) for run in runs]
        keys = sorted({key for budget, _ in budgets for key in budget} - {"count_validation"})
        if found := _differing(
            (f"budget.{key}", as_yaml(own.get(key)), folder) for key in keys for own, folder in budgets
        ):
            yield ProtocolWarning(
                "different-budgets",
                f"{title}: runs were not compared with each other because their budgets differ: {found}.",
                "Use one budget for all runs, or report one budget at a time.",
            )


def validation_counted(study: Study) -> Iterator[ProtocolWarning]:
    for title, runs in _by_dataset(study.sections):
        counted = [(flat(run.config.get("budget")).get("count_validation", True), run.folder) for run in runs]
        if found := _differing(("budget.count_validation", as_yaml(value), folder) for value, folder in counted):
            yield ProtocolWarning(
                "mixed-count-validation",
                f"{title}: validation labels count as bought in some runs only, so these were not compared: {found}.",
                "Use the same budget.count_validation for all runs; with false, labels look cheaper than they are.",
            )


def recipes(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        options = {name: next(iter(seeds.values())).options for name, seeds in section.cells.items()}
        keys = sorted({key for own in options.values() for key in own if not key.startswith(NOT_RECIPE)})
        differing = [key for key in keys if len({repr(own.get(key)) for own in options.values()}) > 1]
        if not differing:
            continue
        found = []
        for key in differing:
            cells = grouped((as_yaml(own.get(key)), name) for name, own in options.items())
            found.append(f"{key} is " + ", ".join(f"{value} in {first_few(names)}" for value, names in cells.items()))
        crossed = [
            f"{name} with {other}"
            for name, other in section.baselines.items()
            if any(repr(options[name].get(key)) != repr(options[other].get(key)) for key in differing)
        ]
        yield ProtocolWarning(
            "different-recipes",
            f"{section.title}: cells differ in more than the strategy: {first_few(found, '; ')}."
            + (f" Compared across recipes: {first_few(crossed)}." if crossed else ""),
            "Use the same options for all cells apart from the strategy, or read each verdict as one on strategy and recipe together.",
        )


def versions(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        used = [(run.folder, package, of) for run in section.runs for package, of in run.evidence.versions.items()]
        used.sort(key=lambda one: one[1])
        if found := _differing((package, version, folder) for folder, package, of in used for version in of):
            yield ProtocolWarning(
                "different-versions",
                f"{section.title}: runs used different software: {found}.",
                "Run all cells again with one installation, or repeat one run to show that the versions make no difference.",
            )


def devices(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        used = [("device", device, run.folder) for run in section.runs for device in run.evidence.devices]
        precisions = [(flat(run.config.get("resolved")).get("precision"), run.folder) for run in section.runs]
        used += [("precision", str(precision), folder) for precision, folder in precisions if precision]
        if found := _differing(used):
            yield ProtocolWarning(
                "different-devices",
                f"{section.title}: runs used different hardware: {found}.",
                "Run all cells on one kind of device and with one trainer.precision; differences between devices are noise at best.",
            )


def _by_dataset(sections: Sequence[Section]) -> Iterator[tuple[str, list[Run]]]:
    """The runs of comparisons that share a dataset and were kept apart because their data or budgets differ."""
    for name, same in sorted(grouped((section.runs[0].dataset, section) for section in sections).items()):
        if len(same) > 1:
            yield name, [run for section in same for run in section.runs]


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The second of each pair by the first, in order."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _differing(found: Iterable[tuple[str, str, Path]]) -> str:
    """What has several values, with the folders of each; empty if nothing has."""
    by_what = grouped((what, (value, folder)) for what, value, folder in found)
    several = {what: values for what, pairs in by_what.items() if len(values := grouped(pairs)) > 1}
    return "; ".join(f"{what} {with_folders(values)}" for what, values in several.items())


def with_folders(found: Mapping[str, Sequence[Path]]) -> str:
    """`2.14 (3 runs, the first <folder>), 2.15 (<folder>)`."""
    places = {
        value: str(at[0]) if len(at) == 1 else f"{len(at)} runs, the first {at[0]}" for value, at in found.items()
    }
    return first_few([f"{value} ({place})" for value, place in places.items()])


def first_few(names: Sequence[str], apart: str = ", ") -> str:
    """The first few of `names`, and how many more there are."""
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return apart.join(names[:MAX_NAMED]) + more


def as_yaml(value: object) -> str:
    """As in YAML: `true`, `null`, `0.1`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
