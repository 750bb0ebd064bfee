"""The `alframe queue` command: show, export and import the questions for people. It needs the run folder, not the data."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from alframe.annotator.base import Job
from alframe.annotator.corrections import corrections_in
from alframe.annotator.people import AsksPeople, stored_annotator
from alframe.annotator.photo_page import photo_page
from alframe.annotator.queue import Sheets
from alframe.annotator.sheet import read_sheet
from alframe.errors import ConfigError, DataError, RunFolderError, expect
from alframe.labels.consensus import UNANSWERED, by_question, corrections, normalized_name
from alframe.labels.pool import Pool
from alframe.labels.tally import accuracy
from alframe.record.read import read_config, read_ledger, read_planned, read_provenance, read_rounds
from alframe.record.record import Record
from alframe.types import Question
from alframe.verbs import guarded


def main(argv: Sequence[str] | None = None, *, prog: str = "alframe-queue") -> int:
    """Run the command; 0 on success, else 1 with one line per error on stderr."""
    options = _parser(prog).parse_args(argv)

    def work() -> int:
        for line in options.run_command(options):
            print(line)
        return 0

    return guarded(work)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="The questions for people in a run with annotator=queue; with annotator=label_studio, the progress.",
    )
    commands = parser.add_subparsers(required=True)
    status = commands.add_parser(
        "status", help="questions and answers by round and by person (of annotator=label_studio too)"
    )
    export = commands.add_parser("export", help="write the open questions to a new file, CSV or JSON lines (.jsonl)")
    import_ = commands.add_parser("import", help="record the answers of a filled file in the ledger")
    for command, function in ((status, _status), (export, _export), (import_, _import)):
        command.add_argument(
            "run", type=Path, metavar="RUN", help="the run's folder, such as runs/<study>/<cell>/seed=0"
        )
        command.set_defaults(run_command=function)
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--annotator", metavar="NAME", help="only the questions of this person")
    export.add_argument("--root", metavar="PATH", type=Path, help="where the photos are now, if they have been moved")
    import_.add_argument("file", type=Path, metavar="FILE")
    import_.add_argument("--annotator", metavar="NAME", help="the annotator of rows without a name")
    import_.add_argument(
        "--correct",
        action="store_true",
        help="rows that differ from answers of closed rounds correct them, from the next round on",
    )
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
        kinds = Counter(line.get("answer") or ("a class" if line["label"] is not None else "no label") for line in of)
        counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in kinds.most_common())
        lines.append(
            f"round {round}: {len(asked) - left} of {len(asked)} images answered" + (f" ({counts})" if counts else "")
        )
    checked = accuracy(run.ledger)
    for person, n in Counter(line["annotator"] for line in answers).most_common():
        seconds = [line["time_s"] for line in answers if line["annotator"] == person and line.get("time_s")]
        parts = [f"{n} answers"] + ([f"{sum(seconds) / len(seconds):.1f} s each"] if seconds else [])
        parts += [f"{right} of {of} {kind} correct" for kind, (right, of) in checked.get(person, {}).items()]
        lines.append(f"{person}: {', '.join(parts)}")
    if n := len(corrections(run.ledger)):
        lines.append(f"corrected: {n} label{'s' * (n > 1)}")
    lines += [f"open: {n} images, {where}" for n, where in run.desk.to_do(run.open)]
    for path, changed in run.desk.changed(run.n_rounds) if isinstance(run.desk, Sheets) else ():
        lines.append(
            f"{path.name}: {len(changed)} answers differ from the ledger; alframe queue import {run.folder} {path} --correct"
        )
    return lines or ["No questions yet."]


def _export(options: argparse.Namespace) -> list[str]:
    run, path = _Run(options.run), options.file
    expect(
        path.suffix in (".csv", ".jsonl"),
        f"Expected a file that ends in .csv or .jsonl, got {path}; choose one.",
        ConfigError,
    )
    for file in (path, photo_page(path)):
        expect(
            not file.exists(),
            f"Expected a new file to write to, got {file}, which exists; choose another name.",
            ConfigError,
        )
    people = [run.person(options.annotator)] if options.annotator else list(run.sheets.people)
    rows: list[dict[str, Any]] = []
    for person in people:
        share = run.sheets.missing(run.open, person)
        name = person if len(run.sheets.people) > 1 else ""
        rows += [{**row, "annotator": name} for row in run.sheets.rows(share, person, options.root)]
    run.sheets.write(path, [{**row, "rank": rank} for rank, row in enumerate(rows, 1)])
    return [
        f"{len(rows)} open questions written to {path}; import the answers with: alframe queue import {options.run} {path}"
    ]


def _import(options: argparse.Namespace) -> list[str]:
    if options.correct:
        return _correct(options)
    known = _Run(options.run)  # errors in the folder are reported before it is locked
    record = Record(known.folder, known.config, tensorboard=False)
    with closing(record):
        run = _Run(options.run, record.ledger.lines)
        sheets = run.sheets
        if not run.open:
            raise RunFolderError(
                f"Expected a run that waits for answers, got {run.folder} without open questions; re-run its command, which asks the next ones."
            )
        pool = Pool(run.ids(), record.ledger, len(sheets.classes), sheets.rules)
        asked = {q.index: q for q in run.questions}
        n_answers = 0
        person = run.person(options.annotator) if options.annotator or len(sheets.people) == 1 else ""
        for answer in sheets.answers(options.file, run.open, person, whole=False):
            pool.add(answer.about or asked[answer.index], answer)
            n_answers += 1
        left = len(sheets.left(run.open))
    rest = f"{left} images are still open" if left else "the round is complete: re-run its command to continue"
    return [f"{n_answers} answers imported from {options.file}; {rest}."]


def _correct(options: argparse.Namespace) -> list[str]:
    """Record each row that says otherwise than the ledger as a correction. All of them, or none if there is a mistake."""
    known = _Run(options.run)
    record = Record(known.folder, known.config, tensorboard=False)
    with closing(record):
        run = _Run(options.run, record.ledger.lines)
        rows, mistakes = read_sheet(options.file)
        found, wrong = corrections_in(rows, record.ledger.lines, run.desk.rules, run.corrector(options))
        if mistakes := [*mistakes, *wrong]:
            mistakes.append("No correction of this file was accepted; mend it, and import it again.")
            raise DataError("\n".join(f"{options.file.name}: {mistake}" for mistake in mistakes))
        first = record.done + (record.planned(record.done) is not None)  # a round that is planned was trained already
        pool = Pool(run.ids(), record.ledger, len(run.desk.classes), run.desk.rules)
        for answer in found:
            pool.correct(answer.index, answer, first)
        counts = f"they count from round {first} on"
        goes_on = "the run is finished: raise budget.rounds to train on them" if record.stopped else counts
    if not found:
        return [f"No correction in {options.file}: every row says what the ledger says."]
    return [f"{len(found)} correction{'s' * (len(found) > 1)} recorded from {options.file}; {goes_on}."]


class _Run:
    """The questions of a run folder, which of them are open, and the desk that manages them, without the data."""

    def __init__(self, folder: Path, ledger: list[dict[str, Any]] | None = None) -> None:
        self.folder, self.config = folder, read_config(folder)
        annotator, provenance = stored_annotator(self.config), read_provenance(folder)
        if not isinstance(annotator, AsksPeople):
            raise RunFolderError(
                f"Expected a run with people as annotators, got {folder}; name one with annotator=queue or annotator=label_studio."
            )
        if "classes" not in provenance:
            raise RunFolderError(
                f"Expected the provenance of a run in {folder}, got none; re-run its command, which writes it."
            )
        self.ledger = read_ledger(folder) if ledger is None else ledger
        self.desk = annotator.desk(Job(tuple(provenance["classes"]), self.config.get("seed", 0), folder, self.ledger))
        done = len(read_rounds(folder))
        self.questions = self._questions(done) or ([] if done else self._questions(None))
        self.n_rounds = self.questions[0].round if self.questions else done + 1
        self.open = self.desk.left(self.questions)

    def _questions(self, round: int | None) -> list[Question]:
        planned = read_planned(self.folder, round) or {"questions": []}
        return [Question(**question) for question in planned["questions"]]

    @property
    def sheets(self) -> Sheets:
        """The desk of a run with annotator=queue."""
        if not isinstance(self.desk, Sheets):
            raise RunFolderError(
                f"Expected a run with annotator=queue, got {self.folder}, whose answers are not in files; use its labelling server."
            )
        return self.desk

    def person(self, name: str | None) -> str:
        """`name`, or the only person."""
        people = self.desk.people
        if name is not None and len(people) > 1 and name not in people:
            raise ConfigError(f"Expected --annotator to be one of {', '.join(people)}, got '{name}'.")
        return name or people[0]

    def corrector(self, options: argparse.Namespace) -> Callable[[str], str]:
        """Who corrects, by the name in a row: a person of the run, or anyone else, such as who checks their work."""
        people = {normalized_name(person): person for person in self.desk.people}
        rounds = range(len(read_rounds(self.folder)) + 1) if isinstance(self.desk, Sheets) else ()
        own = [person for round in rounds for person, path in self.sheets.files(round).items() if path == options.file]
        names = own or self.desk.people
        person = options.annotator or (names[0] if len(names) == 1 else "")

        def who(name: str) -> str:
            if not (name or person):
                raise DataError("Expected the name of who corrects, got none; add --annotator NAME.")
            return people.get(normalized_name(name or person), name or person)

        return who

    def ids(self) -> list[str]:
        """The ids of the pool, as far as the ledger and the questions contain them."""
        known = {line["index"]: line["id"] for line in self.ledger} | {q.index: q.id for q in self.questions}
        return [known.get(index, "") for index in range(max(known, default=-1) + 1)]


if __name__ == "__main__":
    raise SystemExit(main())
