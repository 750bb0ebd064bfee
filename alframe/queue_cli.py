"""The `alframe-queue` command: what people are asked in a run, out to a file, and back in. It needs the run folder, not the data."""

import argparse
import inspect
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from alframe.annotator.label_studio import LabelStudio
from alframe.annotator.queue import Queue
from alframe.annotator.sheet import write_sheet
from alframe.consensus import UNANSWERED, by_question
from alframe.errors import AlframeError, ConfigError, RunFolderError, expect
from alframe.pool import Pool
from alframe.record import Record
from alframe.storage import read_json, read_jsonl
from alframe.tally import accuracy
from alframe.types import Question

KINDS: dict[str, type[Queue] | type[LabelStudio]] = {
    "alframe.annotator.queue.Queue": Queue,
    "alframe.annotator.label_studio.LabelStudio": LabelStudio,
}
LEDGER = ("id", "index", "kind", "label", "round", "rank")


def main(argv: Sequence[str] | None = None, *, prog: str = "alframe-queue") -> int:
    """Run the command; 0 if it did what was asked, 1 with a line on stderr for each mistake if not."""
    try:
        options = _parser(prog).parse_args(argv)
        for line in options.run_command(options):
            print(line)
    except AlframeError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: Expected the disk and files to work, got: {error}; mend it and try again.", file=sys.stderr)
        return 1
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="What people are asked in a run with annotator=queue, and with label_studio how far they are.",
    )
    commands = parser.add_subparsers(required=True)
    status = commands.add_parser(
        "status", help="questions and answers by round and by person (of annotator=label_studio too)"
    )
    export = commands.add_parser("export", help="write the open questions to a new file, CSV or JSON lines (.jsonl)")
    take = commands.add_parser("import", help="take the answers of a filled file into the ledger")
    for command, function in ((status, _status), (export, _export), (take, _import)):
        command.add_argument("run", type=Path, metavar="RUN", help="the run's folder (the one with ledger.jsonl)")
        command.set_defaults(run_command=function)
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--annotator", metavar="NAME", help="only what this person is to answer")
    take.add_argument("file", type=Path, metavar="FILE")
    take.add_argument("--annotator", metavar="NAME", help="who gave the answers whose row names nobody")
    return parser


def _status(options: argparse.Namespace) -> list[str]:
    run = _Run(options.run)
    last = [line for lines in by_question(run.ledger).values() for line in lines.values()]
    answers = [line for line in last if line.get("answer") != UNANSWERED]
    lines = []
    for round in sorted({line["round"] for line in answers} | {q.round for q in run.questions}):
        of = [line for line in answers if line["round"] == round]
        asked = {q.index for q in run.questions if q.round == round} | {line["index"] for line in of}
        left = len(run.open) if run.questions and round == run.questions[0].round else 0
        said = Counter(line.get("answer") or ("a class" if line["label"] is not None else "no label") for line in of)
        told = ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in said.most_common())
        lines.append(
            f"round {round}: {len(asked) - left} of {len(asked)} images answered" + (f" ({told})" if told else "")
        )
    checked = accuracy(run.ledger)
    for person, n in Counter(line["annotator"] for line in answers).most_common():
        seconds = [line["time_s"] for line in answers if line["annotator"] == person and line.get("time_s")]
        parts = [f"{n} answers"] + ([f"{sum(seconds) / len(seconds):.1f} s each"] if seconds else [])
        parts += [f"{right} of {of} {kind} right" for kind, (right, of) in checked.get(person, {}).items()]
        lines.append(f"{person}: {', '.join(parts)}")
    lines += [f"open: {n} images, {where}" for n, where in run.annotator.to_do(run.open)]
    return lines or ["Nothing was asked yet."]


def _export(options: argparse.Namespace) -> list[str]:
    run, path = _Run(options.run), options.file
    expect(
        not path.exists(),
        f"Expected a new file to write to, got {path}, which is there; choose another name.",
        ConfigError,
    )
    people = [run.person(options.annotator)] if options.annotator else list(run.queue.people)
    rows: list[dict[str, Any]] = []
    for person in people:
        share = run.queue.missing(run.open, person)
        name = person if len(run.queue.people) > 1 else ""
        rows += [{**row, "annotator": name} for row in run.queue.rows(share, person, path.parent)]
    write_sheet(path, rows, run.queue.separator)
    return [
        f"{len(rows)} open questions written to {path}; take the answers in by alframe-queue import {options.run} {path}"
    ]


def _import(options: argparse.Namespace) -> list[str]:
    known = _Run(options.run)  # what is wrong with the folder is told before it is locked
    record = Record(known.folder, known.config, tensorboard=False)
    with closing(record):
        run = _Run(options.run, record.ledger.lines)
        if not run.open:
            raise RunFolderError(
                f"Expected a run that waits for answers, got {run.folder} with none to give; run its command, which asks the next questions."
            )
        pool = Pool(run.ids(), record.ledger, len(run.queue.classes), rules=run.queue.rules)
        asked = {q.index: q for q in run.questions}
        taken = 0
        person = run.person(options.annotator) if options.annotator or len(run.queue.people) == 1 else ""
        for answer in run.queue.answers(options.file, run.open, person, whole=False):
            pool.add(answer.about or asked[answer.index], answer)
            taken += 1
        left = len(run.queue.left(run.open))
    what = f"{left} are left" if left else "the round is complete: run its command to go on"
    return [f"{taken} answers taken from {options.file}; {what}."]


class _Run:
    """A run folder as far as people are concerned: its questions, what is open, and its queue without the data."""

    def __init__(self, folder: Path, ledger: list[dict[str, Any]] | None = None) -> None:
        path = folder / "config.yaml"
        if not path.is_file():
            raise RunFolderError(
                f"Expected the folder of a run (with config.yaml), got {folder}; it is named when a run starts."
            )
        self.folder = folder
        self.config = _config(path)
        node = dict(self.config.get("annotator") or {})
        kind = KINDS.get(str(node.get("_target_")))
        if kind is None:
            raise RunFolderError(
                f"Expected a run with annotator=queue or label_studio, got {node.get('_target_')} in {folder}."
            )
        provenance = read_json(folder / "provenance.json", ("classes",))
        if provenance is None:
            raise RunFolderError(f"Expected provenance.json in {folder}, got none; run its command, which writes it.")
        self.ledger = read_jsonl(folder / "ledger.jsonl", LEDGER, mend=False) if ledger is None else ledger
        options = {key: node[key] for key in inspect.signature(kind).parameters if key in node}
        self.annotator = kind(
            **options,
            classes=tuple(provenance["classes"]),
            seed=self.config.get("seed", 0),
            folder=folder,
            ledger=self.ledger,
        )
        done = len(read_jsonl(folder / "rounds.jsonl", ("round",), mend=False))
        self.questions = self._questions(f"round_{done:03d}") or ([] if done else self._questions("initial"))
        self.open = self.annotator.left(self.questions)

    def _questions(self, name: str) -> list[Question]:
        stage = read_json(self.folder / "queries" / f"{name}.json", ("questions",)) or {"questions": []}
        return [Question(**question) for question in stage["questions"]]

    @property
    def queue(self) -> Queue:
        """The annotator of a run whose questions go out in files."""
        if not isinstance(self.annotator, Queue):
            raise RunFolderError(
                f"Expected a run with annotator=queue, got one with {type(self.annotator).__name__}, whose answers come from the server."
            )
        return self.annotator

    def person(self, name: str | None) -> str:
        """`name`, or the only one there is."""
        people = self.queue.people
        if name is not None and len(people) > 1 and name not in people:
            raise ConfigError(f"Expected --annotator to be one of {', '.join(people)}, got '{name}'.")
        return name or people[0]

    def ids(self) -> list[str]:
        """The ids of the pool as far as they are known here: those of the images that were asked about."""
        known = {line["index"]: line["id"] for line in self.ledger} | {q.index: q.id for q in self.questions}
        return [known.get(index, "") for index in range(max(known, default=-1) + 1)]


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise RunFolderError(f"Expected the run's config in {path}, got a damaged file; restore it from a backup.")
    return config


if __name__ == "__main__":
    raise SystemExit(main())
