"""Protocol warnings, and the checks of whether runs may be compared: same initial images, test sets, budgets, recipes,
software and devices."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from alframe.record.read import flat
from alframe.report.read.evidence import Study
from alframe.report.read.section import Section

MAX_NAMED = 3
NOT_RECIPE = ("strategy.", "resolved.")
"""Prefixes of options that may differ: the strategy is what is compared, and the device has its own check."""


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
        by_seed: dict[int, dict[frozenset[str], list[Path]]] = defaultdict(lambda: defaultdict(list))
        for run in section.runs:
            initial = study.of(run).initial
            if initial is not None:
                by_seed[run.seed][initial].append(run.folder)
        for seed, sets in by_seed.items():
            if len(sets) > 1:
                (one, mine), (other, theirs) = list(sets.items())[:2]
                yield ProtocolWarning(
                    "different-initial-sets",
                    f"{section.title}: runs of seed {seed} started from {len(sets)} different sets of images: "
                    f"{mine[0]} from {len(one)} and {theirs[0]} from {len(other)}, with {len(one & other)} in common.",
                    "Run the cells again with the same dataset, budget and version of alframe; the initial images then depend on the seed alone.",
                    serious=True,
                )


def test_sets(study: Study) -> Iterator[ProtocolWarning]:
    for title, sections in _by_dataset(study.sections):
        data: dict[str, list[Path]] = defaultdict(list)
        tests: dict[str, list[Path]] = defaultdict(list)
        for run in (run for section in sections for run in section.runs):
            evidence = study.of(run)
            data[run.data_hash[:8] or "unknown"].append(run.folder)
            size = "" if evidence.n_test is None else f" ({evidence.n_test:,} images)"
            tests[f"{(evidence.test_hash or 'unknown')[:8]}{size}"].append(run.folder)
        if len(data) == 1:
            continue
        known = not any(key.startswith("unknown") for key in tests)
        if known and len(tests) == 1:
            yield ProtocolWarning(
                "different-pools",
                f"{title}: runs were not compared with each other because they bought from different pools: data {with_folders(data)}.",
                "Load the data with the same options everywhere (dataset.pool_size, dataset.split_seed, the same files).",
            )
        else:
            what = f"test sets {with_folders(tests)}" if len(tests) > 1 else f"data {with_folders(data)}"
            yield ProtocolWarning(
                "different-test-sets",
                f"{title}: runs were not compared with each other because their data differ: {what}.",
                "Measure all runs on one test set: the same dataset options and the same files.",
            )


def budgets(study: Study) -> Iterator[ProtocolWarning]:
    for title, sections in _by_dataset(study.sections):
        by_option: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        keys = {key for section in sections for key in flat(section.runs[0].config.get("budget"))}
        for run in (run for section in sections for run in section.runs):
            budget = flat(run.config.get("budget"))
            for key in sorted(keys - {"count_validation"}):
                by_option[key][as_yaml(budget.get(key))].append(run.folder)
        differing = [f"budget.{key} {with_folders(found)}" for key, found in by_option.items() if len(found) > 1]
        if differing:
            yield ProtocolWarning(
                "different-budgets",
                f"{title}: runs were not compared with each other because their budgets differ: {'; '.join(differing)}.",
                "Use one budget for all runs, or report one budget at a time.",
            )


def validation_counted(study: Study) -> Iterator[ProtocolWarning]:
    for title, sections in _by_dataset(study.sections):
        counted: dict[str, list[Path]] = defaultdict(list)
        for section in sections:
            budget = section.runs[0].config.get("budget")
            value = budget.get("count_validation", True) if isinstance(budget, dict) else True
            counted[as_yaml(value)] += [run.folder for run in section.runs]
        if len(counted) > 1:
            yield ProtocolWarning(
                "mixed-count-validation",
                f"{title}: validation labels count as bought in some runs only, so these were not compared: "
                f"budget.count_validation {with_folders(counted)}.",
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
        for key in differing[:MAX_NAMED]:
            cells: dict[str, list[str]] = defaultdict(list)
            for name, own in options.items():
                cells[as_yaml(own.get(key))].append(name)
            found.append(f"{key} is " + ", ".join(f"{value} in {first_few(names)}" for value, names in cells.items()))
        crossed = [
            f"{name} with {other}"
            for name, other in section.baselines.items()
            if any(repr(options[name].get(key)) != repr(options[other].get(key)) for key in differing)
        ]
        yield ProtocolWarning(
            "different-recipes",
            f"{section.title}: cells differ in more than the strategy: {'; '.join(found)}{and_more(len(differing))}."
            + (f" Compared across recipes: {first_few(crossed)}." if crossed else ""),
            "Use the same options for all cells apart from the strategy, or read each verdict as one on strategy and recipe together.",
        )


def versions(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        versions: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for run in section.runs:
            for package, values in study.of(run).versions.items():
                for version in values:
                    versions[package][version].append(run.folder)
        differing = {package: found for package, found in sorted(versions.items()) if len(found) > 1}
        if differing:
            listed = "; ".join(f"{package} {with_folders(found)}" for package, found in differing.items())
            yield ProtocolWarning(
                "different-versions",
                f"{section.title}: runs used different software: {listed}.",
                "Run all cells again with one installation, or repeat one run to show that the versions make no difference.",
            )


def devices(study: Study) -> Iterator[ProtocolWarning]:
    for section in study.sections:
        devices: dict[str, list[Path]] = defaultdict(list)
        precisions: dict[str, list[Path]] = defaultdict(list)
        for run in section.runs:
            for device in study.of(run).devices:
                devices[device].append(run.folder)
            precision = flat(run.config.get("resolved")).get("precision")
            if precision:
                precisions[str(precision)].append(run.folder)
        differing = [
            f"{what} {with_folders(found)}"
            for what, found in (("device", devices), ("precision", precisions))
            if len(found) > 1
        ]
        if differing:
            yield ProtocolWarning(
                "different-devices",
                f"{section.title}: runs used different hardware: {'; '.join(differing)}.",
                "Run all cells on one kind of device and with one trainer.precision; differences between devices are noise at best.",
            )


def _by_dataset(sections: Sequence[Section]) -> Iterator[tuple[str, list[Section]]]:
    """Comparisons that share a dataset and were kept apart because their data or budgets differ."""

    def dataset(section: Section) -> str:
        return section.runs[0].dataset

    for name, group in groupby(sorted(sections, key=dataset), dataset):
        same = list(group)
        if len(same) > 1:
            yield name, same


def with_folders(found: Mapping[str, Sequence[Path]]) -> str:
    """`2.14 (3 runs, the first <folder>), 2.15 (<folder>)`."""

    def with_place(value: str, folders: Sequence[Path]) -> str:
        where = str(folders[0]) if len(folders) == 1 else f"{len(folders)} runs, the first {folders[0]}"
        return f"{value} ({where})"

    return ", ".join(with_place(value, folders) for value, folders in list(found.items())[:MAX_NAMED]) + and_more(
        len(found)
    )


def first_few(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:MAX_NAMED]) + and_more(len(names))


def and_more(n: int) -> str:
    return f", and {n - MAX_NAMED} more" if n > MAX_NAMED else ""


def as_yaml(value: object) -> str:
    """As in YAML: `true`, `null`, `0.1`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
