"""Finds run folders, and groups those that may be compared. Nothing is guessed: what cannot be used is left out by name."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alframe.errors import RunFolderError, did_you_mean, expect
from alframe.record.failure import failure_of
from alframe.record.layout import CONFIG, ROUNDS
from alframe.record.read import flat
from alframe.report.read.run import CELL_GROUPS, Run, read_run

ALL = 1000


@dataclass(frozen=True)
class LeftOut:
    """A folder that is not used, or only in part, and why."""

    folder: Path
    reason: str
    failed: bool = False


@dataclass
class Comparison:
    """Runs that may be compared: by name of the cell, then by seed."""

    title: str
    cells: dict[str, dict[int, Run]] = field(default_factory=dict)


def read_runs(folders: Sequence[Path], unfinished: bool = False) -> tuple[list[Run], list[LeftOut]]:
    """All usable runs in and below `folders`, and what was left out. `unfinished` uses those that have not stopped yet.

    A single run that people are labelling is used before it has finished.
    Raises `RunFolderError` where a folder does not exist or holds no run folder.
    """
    runs, left, seen, going_on = [], [], set(), []
    for folder in folders:
        near = folder.parent if folder.parent.is_dir() else Path()
        expect(
            folder.is_dir(),
            f"Expected a folder of runs, got {str(folder)!r}, which does not exist"
            + did_you_mean(folder.name, (p.name for p in near.iterdir()), otherwise="; check the path."),
            RunFolderError,
        )
        found = [path for path in run_folders(folder) if path.resolve() not in seen]
        seen |= {path.resolve() for path in found}
        for path in found:
            run, reasons = read_run(path)
            failed = failure_of(path)
            if failed is not None and (run is None or not run.finished):
                left.append(LeftOut(path, f"failed: {failed}", failed=True))
                continue
            left += [LeftOut(path, reason) for reason in reasons]
            going_on += [run] if run is not None and not run.finished and run.by_people else []
            if run is not None and not (run.finished or unfinished):
                have = f"{len(run.rounds)} rounds, {run.rounds[-1]['labels']} labels"
                advice = "re-run its command to finish it, or include it with --unfinished"
                left.append(LeftOut(path, f"unfinished ({have}): {advice}"))
            elif run is not None:
                runs.append(run)
    expect(
        bool(seen),
        f"Expected run folders below {' '.join(map(str, folders))}, got none; "
        f"a run folder holds {CONFIG} and {ROUNDS}, and `alframe` writes them under run.root.",
        RunFolderError,
    )
    if not runs and len(going_on) == 1:
        return going_on, [item for item in left if item.folder != going_on[0].folder]
    return runs, left


def run_folders(folder: Path) -> Iterator[Path]:
    """Every run folder in and below `folder`, in the order of their names; folders inside a run folder are skipped."""
    for at, below, files in os.walk(folder):
        if CONFIG in files or ROUNDS in files:
            below.clear()
            yield Path(at)
        below.sort()


def compare(runs: Sequence[Run]) -> tuple[list[Comparison], list[LeftOut]]:
    """Groups runs by what makes them comparable, then by cell; of two runs of one cell and seed the longer one stays."""
    comparisons, left = [], []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        budget = flat({"budget": run.config.get("budget")})  # with count_validation
        same = json.dumps([run.dataset, run.data_hash, budget, run.other_defect], sort_keys=True, default=str)
        groups.setdefault(same, []).append(run)
    first = [group[0] for group in groups.values()]
    apart = [flat({"budget": run.config.get("budget")}) | {"data": (run.data_hash or "unknown")[:8]} for run in first]
    apart = [
        of | ({"defect": run.classes[0]} if run.other_defect else {}) for run, of in zip(first, apart, strict=True)
    ]
    titles = _distinct([run.dataset for run in first], apart)
    for title, group in zip(titles, groups.values(), strict=True):
        cells: dict[str, dict[int, Run]] = {}
        for run in _filled(group):
            seeds = cells.setdefault(json.dumps(run.options, sort_keys=True, default=str), {})
            if run.seed in seeds:
                loser, run = sorted((seeds[run.seed], run), key=lambda r: (r.finished, len(r.rounds)))
                left.append(LeftOut(loser.folder, f"the same cell and seed as {run.folder}"))
            seeds[run.seed] = run
        first = [next(iter(seeds.values())) for seeds in cells.values()]
        varying = [group for group in CELL_GROUPS[1:] if len({run.choices[group] for run in first}) > 1]
        names = [" · ".join(run.choices[group] for group in ("strategy", *varying)) for run in first]
        named = zip(_distinct(names, [run.options for run in first]), cells.values(), strict=True)
        # random first, as the baseline; the others by name
        order = sorted(named, key=lambda one: (next(iter(one[1].values())).choices["strategy"] != "random", one[0]))
        comparisons.append(Comparison(title, {name: dict(sorted(seeds.items())) for name, seeds in order}))
    return comparisons, left


def _filled(runs: Sequence[Run]) -> list[Run]:
    """The runs with the options that their version did not have yet, at the value that equals what it did then."""
    known = {
        (group, run.choices[group], key): value
        for run in runs
        for key, value in run.absent.items()
        if (group := key.split(".", 1)[0]) in run.choices
    }
    return [
        replace(run, filled={key: value for (group, leaf, key), value in known.items() if run.choices[group] == leaf})
        for run in runs
    ]


def _distinct(names: Sequence[str], options: Sequence[dict[str, Any]], most: int = 3) -> list[str]:
    """Each name; if others share it, with the options that differ: the first `most`, or all if these are not enough."""
    distinct = []
    for name, own in zip(names, options, strict=True):
        alike = [other for other_name, other in zip(names, options, strict=True) if other_name == name]
        keys = [
            key
            for key in dict.fromkeys(key for other in alike for key in other)
            if len({repr(other.get(key)) for other in alike}) > 1
        ]
        differing = [f"{key}={own[key]}" for key in keys if key in own]
        distinct.append(
            f"{name} ({', '.join(differing[:most])}{', …' if len(differing) > most else ''})" if differing else name
        )
    return distinct if len(set(distinct)) == len(distinct) or most >= ALL else _distinct(names, options, most=ALL)
