"""A table that people fill, CSV or JSON lines: written so that any spreadsheet opens it, read whatever the spreadsheet made of it.

What Excel and LibreOffice do to a CSV file on the way is undone here: a byte-order mark, UTF-16 or the Windows code page, Windows
line ends, semicolons or tabs between the cells, a first line `sep=;`, quoted cells, empty rows and columns at the end.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alframe.errors import DataError, did_you_mean
from alframe.record.files import write_atomically

COLUMNS = (
    "rank", "id", "image", "prediction", "probability", "score", "reason", "nearest", "answer", "annotator", "seconds",
)  # fmt: skip
NEEDED = ("id", "answer")
SEPARATORS = (",", ";", "\t")
PATHS, TEXTS, NUMBERS = ("image", "nearest"), ("prediction", "reason"), ("probability", "score")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
HOW = "save it as CSV (UTF-8) with the columns it had"


@dataclass(frozen=True)
class Row:
    """A filled row: `number` as a spreadsheet counts it (the header is row 1; of JSON lines, the line), and its cells as text."""

    number: int
    id: str
    answer: str
    annotator: str = ""
    seconds: str = ""


def write_sheet(path: Path, rows: Iterable[Mapping[str, Any]], separator: str = ",") -> None:
    """The whole file or none; JSON lines where its name ends so. Cells that a row lacks are empty."""
    full = [{column: row.get(column, "") for column in COLUMNS} for row in rows]
    if path.suffix == ".jsonl":
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in full))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(column, str(value), separator) for column, value in row.items()} for row in full)
    write_atomically(path, "\ufeff" + text.getvalue())  # the mark tells Excel that this is UTF-8


def _cell(column: str, value: str, separator: str) -> str:
    """A text that is no formula; a number as it is written where semicolons separate cells, and 0.369 would be read as 369."""
    if column in (*PATHS, *TEXTS) and value.startswith(FORMULA):
        return f"./{value}" if column in PATHS else f"'{value}"
    return value.replace(".", ",") if column in NUMBERS and separator == ";" else value


def is_open(path: Path) -> bool:
    """Whether LibreOffice has the file open."""
    return path.with_name(f".~lock.{path.name}#").exists()


def workbooks(path: Path) -> list[Path]:
    """What a spreadsheet saved in its own format, beside the table and after it."""
    books = [path.with_suffix(ending) for ending in (".xlsx", ".xls", ".ods", ".numbers")]
    return [book for book in books if book.is_file() and book.stat().st_mtime > path.stat().st_mtime]


def read_sheet(path: Path) -> tuple[list[Row], list[str]]:
    """The rows that are not empty, and a line for each mistake in them. Raises `DataError` for a file that is no such table."""
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"Expected a file of answers that can be read, got {path} ({error.strerror}); close it in the spreadsheet, or correct its name."
        ) from error
    return _from_jsonl(text, path) if path.suffix == ".jsonl" else _from_csv(text, path)


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's "Unicode text"
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # Excel's plain "CSV" on a western Windows
        return raw.decode("cp1252", errors="replace")


def _from_csv(text: str, path: Path) -> tuple[list[Row], list[str]]:
    first = text.lstrip().split("\n", 1)[0].strip().lower()
    skipped = int(first.startswith("sep=") and len(first) <= 5)
    records = next(
        (r for r in (_records(text, separator, path) for separator in SEPARATORS) if _is_header(r, skipped)), None
    )
    if records is None:
        shown = first[:80] or "an empty file"
        raise DataError(
            f"Expected a row of column names with {' and '.join(NEEDED)} in row {skipped + 1} of {path}, got {shown!r}; {HOW}."
        )
    names = [_key(name) for name in records[skipped]]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise DataError(f"Expected one column {twice[0]} in {path}, got {names.count(twice[0])}; {HOW}.")
    rows, mistakes = [], []
    for number, record in enumerate(records[skipped + 1 :], skipped + 2):
        cells = [cell.strip() for cell in record]
        if not any(cells):
            continue
        if any(cells[len(names) :]):
            mistakes.append(
                f"row {number}: Expected {len(names)} cells, got {len(cells)}; a cell that holds the separator needs quotes around it."
            )
            continue
        of = dict(zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=False))
        rows.append(Row(number, of["id"], of["answer"], of.get("annotator", ""), of.get("seconds", "")))
    return rows, mistakes


def _records(text: str, separator: str, path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"Expected a table of text in {path}, got one with {error}; {HOW}.") from error


def _is_header(records: Sequence[Sequence[str]], skipped: int) -> bool:
    return len(records) > skipped and set(NEEDED) <= {_key(name) for name in records[skipped]}


def _key(name: str) -> str:
    return name.strip().casefold()


def _from_jsonl(text: str, path: Path) -> tuple[list[Row], list[str]]:
    rows, mistakes = [], []
    for number, line in enumerate(text.split("\n"), 1):  # no other sign ends a line: U+2028 may stand in a name
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict) or any(key not in value for key in NEEDED):
            mistakes.append(
                f"row {number}: Expected a JSON object with {' and '.join(NEEDED)}, got {line[:40]!r}; fix the line."
            )
            continue
        of = {
            key: "" if value.get(key) is None else str(value[key]).strip()
            for key in ("id", "answer", "annotator", "seconds")
        }
        rows.append(Row(number, **of))
    return rows, mistakes


def seconds_of(text: str) -> float:
    """Seconds in a cell, 0 where it is empty; with a decimal point or comma. Raises `DataError` for anything else."""
    try:
        seconds = float(text.replace(",", ".")) if text else 0.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise DataError(f"Expected seconds as a number from 0 on, or an empty cell, got {text!r}.")
    return seconds


def unknown_id(text: str, known: Iterable[str]) -> str:
    """What to say of an id that is none of this round."""
    hint = did_you_mean(text, known, otherwise="; it may be of another round.")
    return (
        f"Expected the id of an image of this round, got {text!r}{hint}"
        if text
        else "Expected an id, got an empty cell; restore it."
    )
