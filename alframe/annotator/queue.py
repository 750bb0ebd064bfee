"""People label in a spreadsheet: a round writes a CSV file and ends; re-running the command reads the answers and resumes."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from alframe.annotator.base import Job
from alframe.annotator.corrections import corrections_in
from alframe.annotator.people import AsksPeople, People, is_new, predicted
from alframe.annotator.photo_page import photo_page, write_photo_page
from alframe.annotator.sheet import SEPARATORS, Row, is_open, read_sheet, seconds_of, unknown_id, workbooks, write_sheet
from alframe.annotator.words import LEAN, NEW, parse_answer
from alframe.errors import DataError, Waiting, expect
from alframe.images import rgb
from alframe.labels.consensus import normalized_name
from alframe.names import is_text
from alframe.part import Change, anything
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout, round_name
from alframe.rng import generator
from alframe.types import Answer, Question


@dataclass(frozen=True, kw_only=True)
class Queue(AsksPeople):
    """`RUN/queue/round_003.csv`, or one file per person (`round_003.anna.csv`): one row per image, with an empty column `answer`.

    Beside it lies a page with the photos, for the browser: `round_003.html`. `links` says how the file names a photo: by its
    absolute path, or as a file:// URI, which some spreadsheets open by a click.

    `people` are the names of the annotators; without names there is one file. `gold_rate` and `repeat_rate` in [0, 1] are
    the numbers of hidden check images per image of a person: images that others answered (their majority is correct), and
    the person's own. `lean` in [1 / classes, 1) is the probability of the class in `unsure: NAME`. `format` is csv or
    jsonl; `separator` that of the CSV. The other options are described in `AsksPeople`.
    """

    people: list[str] = field(default_factory=list)  # type: ignore[misc]
    lean: float = 0.7  # type: ignore[misc]
    gold_rate: float = 0.0
    repeat_rate: float = 0.0
    format: Literal["csv", "jsonl"] = "csv"
    separator: str = ","
    links: Literal["path", "uri"] = "path"

    place: ClassVar[str] = "queue"
    changeable_on_resume: ClassVar[Mapping[str, Change]] = {
        **AsksPeople.changeable_on_resume,
        "separator": anything,
        "links": anything,
    }
    added_options: ClassVar[Mapping[str, Any]] = {**AsksPeople.added_options, "lean": 0.7, "links": "path"}

    def __post_init__(self) -> None:
        super().__post_init__()
        n_people = max(1, len(self.people))
        expect(
            self.per_image <= n_people,
            f"Expected annotator.per_image from 1 to the number of annotator.people ({n_people}), got {self.per_image}; "
            "name at least as many people, as in annotator.people=[anna,bob].",
        )
        expect(
            len({normalized_name(name) for name in self.people}) == len(self.people)
            and all(name.strip() == name and name.isprintable() and name and "/" not in name for name in self.people),
            f"Expected different names in annotator.people, without '/' or blanks at either end, got {self.people}; rename them.",
        )
        for key, rate in (("gold_rate", self.gold_rate), ("repeat_rate", self.repeat_rate)):
            expect(0 <= rate <= 1, f"Expected annotator.{key} in [0, 1], got {rate}; 0.1 adds one per ten images.")
        expect(
            self.separator in SEPARATORS,
            f"Expected annotator.separator to be a comma, a semicolon or a tab, got {self.separator!r}.",
        )

    def check_rates(self) -> Mapping[str, float]:
        return {"gold": self.gold_rate, "repeat": self.repeat_rate}

    def desk(self, job: Job) -> "Sheets":
        return Sheets(self, job)

    def has_answers(self, folder: Path) -> bool:
        place = Layout(folder).place(self.place)
        if place.is_dir() and super().has_answers(folder):
            return True
        for path in place.glob("round_*"):
            if path == photo_page(path):
                continue
            try:
                rows, mistakes = read_sheet(path)
            except DataError:
                return True  # not a file that we wrote
            if mistakes or any(row.answer for row in rows):
                return True
        return False


class Sheets(People):
    """The files of a run with annotator=queue.

    A row shows the image's file (the dataset's own, else an exported PNG) and, with `show_prediction`, the model's
    prediction and the file of the nearest labelled image.

    An existing file is never overwritten. A file with any mistake is rejected as a whole, because a mistake is often a shifted
    column. The answers of others go straight into the ledger, even if some rows are still empty. They can be changed until their
    round is complete: both stay in the ledger, and the last one counts.
    """

    def __init__(self, options: Queue, job: Job) -> None:
        super().__init__(options, job)
        self.format, self.separator, self.links = options.format, options.separator, options.links
        self._told_of_changes = False

    def annotate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers in people's files. Raises `DataError` with every mistake in them, `Waiting` for open questions."""
        if not questions:
            return
        self._tell_of_changes(questions[0].round)
        self._write(questions)
        self._replace_pictures(questions)
        mistakes, files = [], self.files(questions[0].round)
        for person, path in files.items():
            try:
                yield from self.answers(path, questions, person)
            except DataError as error:  # the files of other people are still accepted
                mistakes.append(str(error))
        if mistakes:
            raise DataError("\n".join(mistakes))
        yield from self.close(questions)
        if left := self.left(questions):
            raise Waiting(self._what_to_do(questions, len(left)))

    def _tell_of_changes(self, round: int) -> None:
        """Once per launch: whether files of rounds before `round` were changed after they had been read."""
        if self._told_of_changes:
            return
        self._told_of_changes = True
        for path, changed in self.changed(round):
            first = next(line["id"] for line in self.ledger if line["index"] == changed[0].index)
            logging.getLogger("alframe").warning(
                "%s was changed after its round was over: %s other than in the ledger (the first: %s); to make that count: "
                "alframe queue import '%s' '%s' --correct",
                *(
                    path.name,
                    f"{len(changed)} answer{'s are' if len(changed) > 1 else ' is'}",
                    first,
                    self.folder,
                    path,
                ),
            )

    def changed(self, round: int) -> Iterator[tuple[Path, list[Answer]]]:
        """The files of rounds before `round` with answers other than in the ledger, and those answers."""
        for earlier in range(round):
            for person, path in self.files(earlier).items():
                try:
                    rows, _ = read_sheet(path)
                except DataError:
                    continue  # gone, or no table any more: it has been read
                found, _ = corrections_in(rows, self.ledger, self.rules, self.named(person))
                if found:
                    yield path, found

    def named(self, person: str) -> Callable[[str], str]:
        """Who answered, by the name in a row: `person` where there is none."""
        return lambda name: self._who(name or person)

    def files(self, round: int) -> dict[str, Path]:
        """The file of each person; without names there is a single file."""
        names = {p: f".{p}" if p != self.anyone or len(self.people) > 1 else "" for p in self.people}
        return {p: self.place / f"{round_name(round)}{name}.{self.format}" for p, name in names.items()}

    def to_do(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """How many images are open, and in which file, for each person with open questions."""
        for person in self.people if questions else ():
            if share := self.missing(questions, person):
                yield len(share), str(self.files(share[0].round)[person])

    def answers(
        self, path: Path, questions: Sequence[Question], person: str, *, whole: bool = True
    ) -> Iterator[Answer]:
        """The answers in a file that are not in the ledger yet. `person` is the annotator of rows without a name.

        With `whole` it is the person's own file, and each of their open questions must have a row, filled or not. Raises
        `DataError` with one line per mistake before anything is yielded.
        """
        if whole and not path.exists() and not self.missing(questions, person):
            return  # no questions for this person, so no file was written
        rows, mistakes = read_sheet(path)
        recorded = self.answers_by_question(questions[0].round)
        by_id, checks = self._ids(questions), {name: self._checks(questions, name) for name in self.people}
        found: list[Answer] = []
        seen: dict[tuple[str, str], int] = {}
        for row in rows:
            try:
                who = self._who(row.annotator or person)
                first = seen.setdefault((row.id, who), row.number)
                check = checks.get(who, {}).get(row.id)
                if first != row.number:
                    raise DataError(
                        f"Expected one row per image, got a second one for {row.id} (the first is row {first}); delete one."
                    )
                if row.id not in by_id and check is None:
                    raise DataError(unknown_id(row.id, by_id))
                answer = self._answer(row, who, by_id.get(row.id, -1), check)
            except DataError as error:
                mistakes.append(f"row {row.number}: {error}")
                continue
            if answer is not None and is_new(answer, recorded):
                found.append(answer)
        if whole and not mistakes:
            ids = {row.id for row in rows}
            gone = [q.id for q in self.missing(questions, person) if q.id not in ids]
            if gone:
                mistakes.append(
                    f"Expected a row for each image, got none for {', '.join(gone[:3])}{f' and {len(gone) - 3} more' if len(gone) > 3 else ''}; "
                    "restore the rows, or rename the file so that a new one is written with the open questions."
                )
        if mistakes:
            mistakes.append("No answer of this file was accepted; correct it, save, and re-run the same command.")
            raise DataError("\n".join(f"{path.name}: {mistake}" for mistake in mistakes))
        yield from found

    def _who(self, name: str) -> str:
        """The person's name as in the config; any name if the config has none. Raises `DataError` for an unknown one."""
        if self.people == (self.anyone,):
            return name
        known = {normalized_name(person): person for person in self.people}
        if normalized_name(name) not in known:
            raise DataError(f"Expected {' or '.join(self.people)} as the annotator, got {name!r}; enter who answered.")
        return known[normalized_name(name)]

    def _answer(self, row: Row, who: str, index: int, check: tuple[Question, int] | None) -> Answer | None:
        seconds = seconds_of(row.seconds)
        if not row.answer:
            return None
        parsed = parse_answer(row.answer, self.classes)
        question, expected = check or (None, None)
        return Answer(
            index if question is None else question.index,
            parsed.label,
            who,
            seconds,
            {} if question is None else {"expected": expected},
            parsed.answer,
            parsed.text,
            question,
        )

    def _ids(self, questions: Sequence[Question]) -> dict[str, int]:
        """The images of the round by id: the open ones, and the answered ones, which may still be changed."""
        answered = {
            line["id"]: index
            for (check, index), of in self.answers_by_question(questions[0].round).items()
            if not check
            for line in of.values()
        }
        return answered | {question.id: question.index for question in questions}

    def _checks(self, questions: Sequence[Question], person: str) -> dict[str, tuple[Question, int]]:
        """The hidden check questions of a person by id, as drawn when the file was written."""
        stored = read_json(self._hidden(questions[0].round), ()) or {}
        return {q["id"]: (Question(**q), expected) for q, expected in stored.get(person, [])}

    def _hidden(self, round: int) -> Path:
        return self.place / f".{round_name(round)}.json"

    def _write(self, questions: Sequence[Question]) -> None:
        """Write the missing files. The hidden checks are stored first, and pictures before the file that refers to them."""
        round = questions[0].round
        files = {person: path for person, path in self.files(round).items() if not path.exists()}
        shares = {person: share for person in files if (share := self.missing(questions, person))}
        if not shares:
            return
        hidden = read_json(self._hidden(round), ()) or {}
        for person, share in shares.items():
            if person not in hidden:
                drawn = self.checks(questions, person, len(share))
                hidden[person] = [[vars(q), expected] for q, expected in drawn]
        write_atomically(self._hidden(round), json.dumps(hidden))
        for person, share in shares.items():
            self.write(files[person], self.rows(share, person))

    def write(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the file of these rows, and before it the page with their photos (none for images without pictures)."""
        if any(row["image"] for row in rows):
            write_photo_page(
                photo_page(path), rows, f"{path.stem.replace('_', ' ').replace('.', ', ')}: {', '.join(self.classes)}?"
            )
        linked = (
            {key: self._link(cell) if isinstance(cell, Path) else cell for key, cell in row.items()} for row in rows
        )
        write_sheet(path, linked, self.separator)

    def _link(self, path: Path) -> str:
        return path.as_uri() if self.links == "uri" or not is_text(path) else str(path)

    def rows(self, share: Sequence[Question], person: str, root: Path | None = None) -> list[dict[str, Any]]:
        """The rows of a file for `person`: the questions of `share` in order, with hidden checks in between; paths are absolute.

        `root`: where the photos are now, if they have been moved since their places were stored.
        """
        shown = list(share)
        if share:
            round = share[0].round
            stream = generator(self.seed, round, f"annotator/order/{person}")
            for check, _ in self._checks(share, person).values():
                shown.insert(int(torch.randint(len(shown) + 1, (1,), generator=stream)), check)
        nearest = [q.nearest for q in shown if q.nearest and self.show_prediction]
        pictures = self._pictures({q.id: q.index for q in shown} | {n["id"]: n["index"] for n in nearest})
        pictures = {id: path if root is None else _below(root, path) for id, path in pictures.items()}
        paths = {id: path.resolve() for id, path in pictures.items()}
        rows: list[dict[str, Any]] = []
        for rank, question in enumerate(shown, 1):
            row: dict[str, Any] = {"rank": rank, "id": question.id, "image": paths.get(question.id, "")}
            if self.show_prediction:
                like = paths.get(question.nearest["id"], "") if question.nearest else ""
                row |= {**predicted(question, self.classes), "nearest": like}
            rows.append(row)
        return rows

    def _pictures(self, images: Mapping[str, int]) -> dict[str, Path]:
        """The file of each image by id (`images` maps ids to indices); exported if the dataset has no file.

        The paths are stored for launches without the data.
        """
        known = self._up_to_date(images, self._picture)
        return {id: self.place / known[id] for id in images if id in known}

    def _up_to_date(self, images: Mapping[str, int], picture: Callable[[str, int], Path | None]) -> dict[str, str]:
        """The stored paths by id, with a new `picture` of each image whose file is missing or shows another image by now."""
        index = self.place / "images.json"
        known: dict[str, str] = read_json(index, ()) or {}
        if self.data is None:
            return known
        fresh = {}
        for id, at in images.items():
            there = id in known and (self._exported(id).is_file() or self.data.shows(self.place / known[id], at))
            if not there and (path := picture(id, at)):
                fresh[id] = str(path)
        if fresh:
            known |= fresh
            write_atomically(index, json.dumps(known))
        return known

    def _picture(self, id: str, index: int) -> Path | None:
        assert self.data is not None
        if (file := self.data.original(index)) is not None:
            return file.resolve()
        return self._export(id, index) if self.data.has_pictures else None

    def _export(self, id: str, index: int) -> Path:
        """Write the image as the network sees it; returns its path relative to `place`."""
        assert self.data is not None
        path = self._exported(id)
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb(self.data.pool.pixels[index]).save(path)
        return path.relative_to(self.place)

    def _exported(self, id: str) -> Path:
        return self.place / "images" / f"{id}.png"

    def _replace_pictures(self, questions: Sequence[Question]) -> None:
        """Export photos that were deleted, renamed or overwritten since the file of questions was written."""
        known = read_json(self.place / "images.json", ()) or {}
        self._up_to_date({q.id: q.index for q in questions if q.id in known}, self._export)

    def _what_to_do(self, questions: Sequence[Question], n_left: int) -> str:
        files = [path for person, path in self.files(questions[0].round).items() if self.missing(questions, person)]
        lean = f", {LEAN} NAME" if self.rules.unsure == "soft" else ""
        where = str(files[0]) if len(files) == 1 else f"{', '.join(path.name for path in files)} in {self.place}"
        seen = [page for path in files if (page := photo_page(path)).is_file()]
        pages = "".join(f" The photos, numbered by rank: {page.resolve().as_uri()}" for page in seen)
        notes = [f" {path.name} is open in LibreOffice: save it there first." for path in files if is_open(path)]
        notes += [f" {book.name} is ignored: save it as {path.name}." for path in files for book in workbooks(path)]
        return (
            f"Waiting for {n_left} of {self.n_asked(questions)} answers of round {questions[0].round}: fill the column answer in "
            f"{where} ({', '.join(self.classes)}, unsure{lean}, skip, bad image, or {NEW} NAME), "
            f"save, and re-run the same command.{''.join(notes)}{self._where_gone(questions)}{pages}"
        )

    def _where_gone(self, questions: Sequence[Question]) -> str:
        """Where to find photos that have moved since the file of questions was written."""
        if self.data is None or self.data.root is None:
            return ""
        n = sum(self._exported(question.id).is_file() for question in questions)
        return (
            f" Photos deleted, renamed or overwritten since then ({n}): see {self.place / 'images'}, by id."
            if n
            else ""
        )


def _below(root: Path, path: Path) -> Path:
    """The file below `root` that was at `path`: the one with most of its last names; `path` itself if it is there, or none is."""
    if path.is_file():
        return path
    places = (root.joinpath(*path.parts[first:]) for first in range(1, len(path.parts)))
    return next((place for place in places if place.is_file()), path)
