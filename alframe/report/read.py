"""Finds run folders and reads what the report needs of them. Nothing is guessed: what cannot be used is left out by name."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from alframe.consensus import UNANSWERED, Rules, by_question, settle_all
from alframe.errors import RunFolderError, did_you_mean, expect

CONFIG, ROUNDS, PROVENANCE, LEDGER = "config.yaml", "rounds.jsonl", "provenance.json", "ledger.jsonl"
CELL_GROUPS = ("strategy", "model", "trainer", "uncertainty", "annotator")
"""Choices that runs may differ in and still be compared; they name a cell."""


@dataclass(frozen=True)
class Run:
    """One run folder that could be read: its config, and its rounds with the last one of each label count."""

    folder: Path
    config: dict[str, Any]
    seed: int
    dataset: str
    data_hash: str
    classes: tuple[str, ...]
    rounds: list[dict[str, Any]]
    finished: bool
    n_pool: int | None = None

    @property
    def choices(self) -> dict[str, str]:
        """The leaf of each group, by its name in `choices` or else by the class it names."""
        return {group: choice(self.config, group) for group in ("dataset", "budget", *CELL_GROUPS)}

    @property
    def settings(self) -> str:
        """What must be equal for two runs to be compared: the data and the budget, with `count_validation`."""
        return json.dumps([self.dataset, self.data_hash, self.config.get("budget")], sort_keys=True, default=str)

    @property
    def options(self) -> dict[str, Any]:
        """What is equal in runs that differ in their seed only: every option by its path, without budget and place of the data."""
        apart = {"budget", "seed", "choices"}
        flat = _flat({key: value for key, value in self.config.items() if key not in apart})
        return {key: value for key, value in flat.items() if key != "dataset.root"}

    @property
    def cell(self) -> str:
        """`options` as one string."""
        return json.dumps(self.options, sort_keys=True, default=str)

    @cached_property
    def ledger(self) -> list[dict[str, Any]]:
        """The ledger's answers in the order they were asked for, read once and only when wanted; nothing where there is no ledger.

        It ends before the first line that is not an answer: after that nothing is known to be whole.
        """
        try:
            text = (self.folder / LEDGER).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                answer = json.loads(line)
            except ValueError:
                break
            if not _is_answer(answer):
                break
            lines.append(answer)
        return sorted(self._settled(lines), key=lambda line: (line["round"], line["rank"]))

    def _settled(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A line for each question that someone answered: the ledger holds every answer of every person."""
        options = self.config.get("annotator") or {}
        classes = (*self.classes, *map(str, options.get("new_classes") or ()))
        rules = Rules(people=True, aggregate=options.get("aggregate", "majority"), classes=classes)
        return [line for line in settle_all(by_question(lines), rules) if line.get("answer") != UNANSWERED]

    @cached_property
    def labels(self) -> dict[int, int | None]:
        """The ledger's answers by index of the image."""
        return {line["index"]: line["label"] for line in self.ledger}

    def bought(self, labels: int) -> list[dict[str, Any]]:
        """The answers behind the last evaluation with at most `labels` labels; validation images only where they count as bought."""
        last = max((line["round"] for line in self.rounds if line["labels"] <= labels and "round" in line), default=-1)
        counted = (self.config.get("budget") or {}).get("count_validation", True)
        return [line for line in self.ledger if line["round"] <= last and (counted or line["kind"] != "validation")]

    def stage(self, round: int) -> dict[str, Any]:
        """What was stored of a round, by key (`evaluation`, `questions`); empty where there is nothing that can be read."""
        try:
            stage = json.loads((self.folder / "queries" / f"round_{round:03d}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stage if isinstance(stage, dict) else {}


@dataclass(frozen=True)
class LeftOut:
    """A folder that is not used, and why; or one that is used but for a part of it."""

    folder: Path
    reason: str


@dataclass
class Comparison:
    """Runs that may be compared: by name of the cell, then by seed."""

    title: str
    cells: dict[str, dict[int, Run]] = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.cells.values() for run in runs.values()]


def read_runs(folders: Sequence[Path], unfinished: bool = False) -> tuple[list[Run], list[LeftOut]]:
    """All usable runs in and below `folders`, and what was left out. `unfinished` uses those that have not stopped yet.

    Raises `RunFolderError` where a folder does not exist or holds no run folder.
    """
    runs, left, seen = [], [], set()
    for folder in folders:
        near = folder.parent if folder.parent.is_dir() else Path()
        expect(
            folder.is_dir(),
            f"Expected a folder of runs, got {str(folder)!r}, which is not there"
            + did_you_mean(folder.name, (p.name for p in near.iterdir()), otherwise="; check the path."),
            RunFolderError,
        )
        found = [path for path in run_folders(folder) if path.resolve() not in seen]
        seen |= {path.resolve() for path in found}
        for path in found:
            run, reasons = read_run(path)
            left += [LeftOut(path, reason) for reason in reasons]
            if run is not None and not (run.finished or unfinished):
                have = f"{len(run.rounds)} rounds, {run.rounds[-1]['labels']} labels"
                advice = "run its command again to finish it, or use it as it is by --unfinished"
                left.append(LeftOut(path, f"unfinished ({have}): {advice}"))
            elif run is not None:
                runs.append(run)
    expect(
        bool(seen),
        f"Expected run folders below {' '.join(map(str, folders))}, got none; "
        f"a run folder holds {CONFIG} and {ROUNDS}, and `alframe` writes them under run.root.",
        RunFolderError,
    )
    return runs, left


def run_folders(folder: Path) -> Iterator[Path]:
    """Every run folder in and below `folder`, in the order of their names; what is inside of one is not looked at."""
    for at, below, files in os.walk(folder):
        if CONFIG in files or ROUNDS in files:
            below.clear()
            yield Path(at)
        below.sort()


def read_run(folder: Path) -> tuple[Run | None, list[str]]:
    """The run in `folder`, or None; and what could not be used, in words."""
    try:
        config = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        text = (folder / ROUNDS).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        return None, [f"no {Path(error.filename).name}" + (": no round is done" if ROUNDS in error.filename else "")]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return None, [f"cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(config, dict) or not isinstance(config.get("seed"), int):
        return None, [f"{CONFIG} has no seed"]
    lines, notes, broken = _lines(text)
    if broken:
        return None, [broken]
    if not lines:
        return None, [*notes, "no round is done"]
    provenance = _provenance(folder / PROVENANCE, notes)
    by_labels = {line["labels"]: line for line in lines}
    run = Run(
        folder=folder,
        config=config,
        seed=config["seed"],
        dataset=str(provenance.get("dataset") or choice(config, "dataset")),
        data_hash=str(provenance.get("data_hash") or ""),
        classes=tuple(map(str, provenance.get("classes") or ())),
        rounds=[by_labels[labels] for labels in sorted(by_labels)],
        finished=lines[-1].get("stopped") is not None,
        n_pool=provenance["n_pool"] if isinstance(provenance.get("n_pool"), int) else None,
    )
    return run, notes


def _is_answer(line: Any) -> bool:
    """Whether a ledger's line has what the report reads of it, and a label that is a whole number or nothing."""
    return (
        isinstance(line, dict)
        and all(isinstance(line.get(key), int) for key in ("index", "round", "rank"))
        and isinstance(line.get("kind"), str)
        and isinstance(line.get("label", ""), int | None)
    )


def _lines(text: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """The rounds, notes on what was dropped, and why the file is of no use (or nothing).

    A last line that is torn is what an interrupted write leaves behind; a bad line elsewhere means that the file is damaged.
    """
    lines: list[dict[str, Any]] = []
    written = text.splitlines()
    for number, line in enumerate(written, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or not isinstance(values.get("labels"), int):
                raise ValueError
        except ValueError:
            if number == len(written):
                return lines, [f"the last line of {ROUNDS} is torn; the {len(lines)} before it are read"], ""
            return [], [], f"line {number} of {ROUNDS} is not a round: {line[:40]!r}"
        lines.append(values)
    return lines, [], ""


def _provenance(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        provenance = None
    if not isinstance(provenance, dict):
        notes.append(f"no readable {PROVENANCE}: compared only with runs whose data is unknown too")
        return {}
    return provenance


def compare(runs: Sequence[Run]) -> tuple[list[Comparison], list[LeftOut]]:
    """Groups runs by what makes them comparable, then by cell; of two runs of one cell and seed the longer one stays."""
    comparisons, left = [], []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    titles = _titles([group[0] for group in groups.values()])
    for title, group in zip(titles, groups.values(), strict=True):
        cells: dict[str, dict[int, Run]] = {}
        for run in group:
            seeds = cells.setdefault(run.cell, {})
            if run.seed in seeds:
                loser, run = sorted((seeds[run.seed], run), key=lambda r: (r.finished, len(r.rounds)))
                left.append(LeftOut(loser.folder, f"the same cell and seed as {run.folder}"))
            seeds[run.seed] = run
        names = _cell_names([next(iter(seeds.values())) for seeds in cells.values()])
        named = dict(zip(names, cells.values(), strict=True))
        # random first, as the baseline; the others by name
        order = sorted(named, key=lambda name: (choice(_first(named[name]).config, "strategy") != "random", name))
        comparisons.append(Comparison(title, {name: dict(sorted(named[name].items())) for name in order}))
    return comparisons, left


def choice(config: dict[str, Any], group: str) -> str:
    """The name of a group's leaf: from `choices`, else the last part of its `_target_`."""
    named = config.get("choices")
    if isinstance(named, dict) and named.get(group) is not None:
        return str(named[group])
    node = config.get(group)
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rsplit(".", maxsplit=1)[-1] if target else "unknown"


def _first(seeds: dict[int, Run]) -> Run:
    return next(iter(seeds.values()))


def _cell_names(runs: Sequence[Run]) -> list[str]:
    """The strategy and the other choices that vary; where that leaves two cells alike, the options that differ."""
    varying = [group for group in CELL_GROUPS[1:] if len({run.choices[group] for run in runs}) > 1]
    names = [" · ".join(run.choices[group] for group in ("strategy", *varying)) for run in runs]
    return _told_apart(names, [run.options for run in runs])


def _titles(runs: Sequence[Run]) -> list[str]:
    """The dataset; where several comparisons share it, the budget's options and the data that differ."""
    hashes = [{"data": (run.data_hash or "unknown")[:8]} for run in runs]
    return _told_apart(
        [run.dataset for run in runs],
        [_flat({"budget": run.config.get("budget")}) | data for run, data in zip(runs, hashes, strict=True)],
    )


def _told_apart(names: Sequence[str], options: Sequence[dict[str, Any]]) -> list[str]:
    """Each name, and where others share it the options in which they differ."""
    told = []
    for name, own in zip(names, options, strict=True):
        alike = [other for other_name, other in zip(names, options, strict=True) if other_name == name]
        keys = [key for key in _all_keys(alike) if len({repr(other.get(key)) for other in alike}) > 1]
        differing = ", ".join(f"{key}={own[key]}" for key in keys if key in own)
        told.append(f"{name} ({differing})" if differing else name)
    return told


def _all_keys(options: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for option in options for key in option))


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        path: value
        for key, child in node.items()
        for path, value in _flat(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }
