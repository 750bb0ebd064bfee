"""One run folder: its config, rounds, ledger and stages. Damage is reported, never guessed around."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from alframe.errors import RunFolderError
from alframe.labels.consensus import UNANSWERED, Rules, by_question, corrections, settle_all
from alframe.record.layout import CONFIG, PROVENANCE, ROUNDS, Layout
from alframe.record.read import flat, parse_config
from alframe.report.read.evidence import Evidence, mapping, parsed, read_evidence

CELL_GROUPS = ("strategy", "model", "trainer", "uncertainty", "annotator")
"""Choices in which compared runs may differ; they name a cell."""
MOST_CLASSES = 10_000
"""If the classes are unknown, a line with a label beyond these is damaged."""


@dataclass(frozen=True)
class Run:
    """A readable run folder: its config, and the last round of each label count."""

    folder: Path
    config: dict[str, Any]
    seed: int
    dataset: str
    data_hash: str
    classes: tuple[str, ...]
    rounds: list[dict[str, Any]]
    finished: bool
    n_pool: int | None = None
    normal: tuple[str, ...] | None = None
    absent: Mapping[str, Any] = field(default_factory=dict)
    """What options that were added to its parts count as in a folder of an earlier version, by path."""
    filled: Mapping[str, Any] = field(default_factory=dict)
    """Options that its version did not have yet, with what they count as, where another run of the comparison tells."""

    @property
    def normal_classes(self) -> tuple[int, ...] | None:
        """The classes that are no defects, by number: as recorded, else the first of two; None if unknown."""
        if self.normal is None:
            return (0,) if len(self.classes) == 2 else None
        return tuple(c for c, name in enumerate(self.classes) if name in self.normal)

    @property
    def choices(self) -> dict[str, str]:
        """The leaf of each group, by its name in `choices`, else by its class."""
        return {group: choice(self.config, group) for group in ("dataset", "budget", *CELL_GROUPS)}

    @property
    def by_people(self) -> bool:
        """Whether people were asked, not a machine."""
        return any(key.startswith("people/") for line in self.rounds for key in line)

    @property
    def other_defect(self) -> bool:
        """Whether the first of two classes is the defect: metrics of defects are then those of the other class."""
        return len(self.classes) == 2 and self.normal_classes == (1,)

    @cached_property
    def evidence(self) -> Evidence:
        """How the run came about, read once and on demand."""
        return read_evidence(self.folder)

    @property
    def options(self) -> dict[str, Any]:
        """What runs of one cell share: every option by its path, without budget, seed, normal classes, and where files lie,
        whose content is compared.
        """
        apart = {"budget", "seed", "choices"}
        options = {**self.filled, **flat({key: value for key, value in self.config.items() if key not in apart})}
        places = {"model.weights"} if "resolved.weights" in options else set()
        places |= {"dataset.root", "dataset.normal", "shift.source.root"}
        return {key: value for key, value in options.items() if key not in places}

    @cached_property
    def ledger(self) -> list[dict[str, Any]]:
        """The settled answers of the ledger in the order of asking, read once and on demand."""
        options = flat({"annotator": self.config.get("annotator")})
        aggregate, unsure = options.get("annotator.aggregate", "majority"), options.get("annotator.unsure", "again")
        soft: Literal["again", "soft"] = "soft" if unsure == "soft" and len(self.answerable) > 1 else "again"
        rules = Rules(people=True, aggregate=aggregate, classes=self.answerable, unsure=soft)
        answers = self.answers()
        settled = settle_all(by_question(answers), rules, corrections(answers))
        settled = [line for line in settled if line.get("answer") != UNANSWERED]
        return sorted(settled, key=lambda line: (line["round"], line["rank"]))

    def answers(self) -> list[dict[str, Any]]:
        """Every answer of every person, in order of arrival; empty without a ledger.

        It ends before the first line that is not an answer: what follows may be damaged too.
        """
        try:
            text = Layout(self.folder).ledger.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        lines = []
        for line in text.splitlines():
            answer = parsed(line)
            if not _is_answer(answer, len(self.answerable) if self.classes else MOST_CLASSES):
                break
            lines.append(answer)
        return lines

    @property
    def answerable(self) -> tuple[str, ...]:
        """The classes that an answer may name: the dataset's and those that people added."""
        annotator = self.config.get("annotator")
        found = annotator.get("new_classes") if isinstance(annotator, Mapping) else None
        return (*self.classes, *map(str, found if isinstance(found, list) else ()))

    @cached_property
    def labels(self) -> dict[int, int | None]:
        """The ledger's answers by index of the image."""
        return {line["index"]: line["label"] for line in self.ledger}

    def bought(self, labels: int) -> list[dict[str, Any]]:
        """The answers behind the last evaluation with at most `labels` labels; validation images only where they count as bought."""
        last = max(self.rounds_until(labels), default=-1)
        counted = flat(self.config.get("budget")).get("count_validation", True)
        return [line for line in self.ledger if line["round"] <= last and (counted or line["kind"] != "validation")]

    def rounds_until(self, labels: int) -> list[int]:
        """The rounds that were evaluated with at most `labels` labels."""
        return [line["round"] for line in self.rounds if line["labels"] <= labels and "round" in line]

    def stage(self, round: int) -> dict[str, Any]:
        """What was stored of a round, by key (`evaluation`, `questions`); empty if nothing can be read."""
        return mapping(Layout(self.folder).planned(round)) or {}

    def points(self, metric: str) -> tuple[list[float], list[float]]:
        """Label counts and values of the rounds that have the metric as a finite number."""
        lines = [line for line in self.rounds if is_finite(line.get(metric))]
        return [float(line["labels"]) for line in lines], [float(line[metric]) for line in lines]


def read_run(folder: Path) -> tuple[Run | None, list[str]]:
    """The run in `folder`, or None; and notes on what could not be used."""
    layout = Layout(folder)
    try:
        config = parse_config(layout.config.read_text(encoding="utf-8"))
        text = layout.rounds.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        finished = ": no round is finished" if ROUNDS in error.filename else ""
        return None, [f"no {Path(error.filename).name}{finished}"]
    # ValueError: not UTF-8, or an invalid date
    except (OSError, ValueError, RecursionError, RunFolderError, yaml.YAMLError) as error:
        return None, [f"cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(config, dict) or type(config.get("seed")) is not int:
        return None, [f"{CONFIG} has no seed"]
    lines, notes, broken = _lines(text)
    if broken:
        return None, [broken]
    has_stopped = bool(lines) and lines[-1].get("stopped") is not None
    if not has_stopped:
        lines += _measured(layout, len(lines))
    if not lines:
        return None, [*notes, "no round is finished"]
    provenance = mapping(layout.provenance)
    if provenance is None:
        notes.append(f"no readable {PROVENANCE}: compared only with runs whose data are also unknown")
        provenance = {}
    by_labels = {line["labels"]: line for line in lines}
    run = Run(
        folder=folder,
        config=config,
        seed=config["seed"],
        dataset=str(provenance.get("dataset") or choice(config, "dataset")),
        data_hash=str(provenance.get("data_hash") or ""),
        classes=tuple(map(str, classes)) if isinstance(classes := provenance.get("classes"), list) else (),
        rounds=[by_labels[labels] for labels in sorted(by_labels)],
        finished=has_stopped,
        normal=tuple(map(str, normal)) if isinstance(normal := provenance.get("normal"), list) else None,
        absent=absent if isinstance(absent := provenance.get("options_if_absent"), dict) else {},
        n_pool=n_pool if _is_count(n_pool := provenance.get("n_pool")) else None,
    )
    return run, notes


def _measured(layout: Layout, round: int) -> list[dict[str, Any]]:
    """The line of a round that is measured and waits for answers, if there is one."""
    line = (mapping(layout.planned(round)) or {}).get("line")
    return [line] if isinstance(line, dict) and _is_count(line.get("labels")) and line.get("round") == round else []


def _is_answer(line: Any, n_classes: int) -> bool:
    """Whether a ledger line has the fields that the report reads, and a label below `n_classes` or none."""
    return (
        isinstance(line, dict)
        and all(_is_count(line.get(key)) for key in ("index", "round", "rank"))
        and isinstance(line.get("kind"), str)
        and "label" in line
        and ((label := line["label"]) is None or (_is_count(label) and label < n_classes))
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # a bool is an int, but no count


def is_finite(value: object) -> bool:
    """Whether this is a number, neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> float:
    """The value if it is a finite number, else 0."""
    return float(value) if is_finite(value) else 0.0


def _lines(text: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """The rounds, notes on what was dropped, and why the file is unusable (or empty).

    An interrupted write leaves a torn last line; a bad line elsewhere means that the file is damaged.
    """
    lines: list[dict[str, Any]] = []
    written = text.splitlines()
    for number, line in enumerate(written, start=1):
        values = parsed(line)
        if not (isinstance(values, dict) and _is_count(values.get("labels")) and _is_count(values.get("round", 0))):
            if number == len(written):
                return lines, [f"the last line of {ROUNDS} is torn; the {len(lines)} before it are read"], ""
            return [], [], f"line {number} of {ROUNDS} is not a round: {line[:40]!r}"
        lines.append(values)
    return lines, [], ""


def choice(config: dict[str, Any], group: str) -> str:
    """The name of a group's leaf: from `choices`, else the last part of its `_target_`."""
    named = config.get("choices")
    if isinstance(named, dict) and named.get(group) not in (None, "custom"):
        return str(named[group])
    node = config.get(group)
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rsplit(".", maxsplit=1)[-1] if target else "unknown"
