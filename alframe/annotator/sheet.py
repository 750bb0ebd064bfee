"""A table that people fill, as CSV or JSON lines. Any spreadsheet can open it, and its changes to the format are undone.

Byte-order marks, UTF-16 or the Windows code page, line ends, separators, a first line `sep=;`, quotes, empty rows and columns.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
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
"""A spreadsheet interprets a cell that starts with one of these as a formula."""
HOW = "save it as CSV (UTF-8) with the columns it had"


@dataclass(frozen=True)
class Row:
    """A filled row: `number` as a spreadsheet counts it (the header is row 1; in JSON lines, the line), and its cells."""

    number: int
    id: str
    answer: str
    annotator: str = ""
    seconds: str = ""


def write_sheet(path: Path, rows: Iterable[Mapping[str, Any]], separator: str = ",") -> None:
    """Write the file atomically, as JSON lines if its name ends in .jsonl. Missing cells are empty."""
    full = [{column: row.get(column, "") for column in COLUMNS} for row in rows]
    if path.suffix == ".jsonl":
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in full))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(column, str(value), separator) for column, value in row.items()} for row in full)
    write_atomically(path, "\ufeff" + text.getvalue())  # the byte-order mark marks UTF-8 for Excel


def _cell(column: str, value: str, separator: str) -> str:
    """Text that cannot be read as a formula; with semicolons as separators, numbers with a decimal comma."""
    if column in (*PATHS, *TEXTS) and value.startswith(FORMULA):
        return f"./{value}" if column in PATHS else f"'{value}"
    return value.replace(".", ",") if column in NUMBERS and separator == ";" else value


def is_open(path: Path) -> bool:
    """Whether LibreOffice has the file open."""
    return path.with_name(f".~lock.{path.name}#").exists()


def workbooks(path: Path) -> list[Path]:
    """Files that a spreadsheet saved in its own format beside the table, and later."""
    files = [path.with_suffix(ending) for ending in (".xlsx", ".xls", ".ods", ".numbers")]
    return [file for file in files if file.is_file() and file.stat().st_mtime > path.stat().st_mtime]


def read_sheet(path: Path) -> tuple[list[Row], list[str]]:
    """The non-empty rows, and one line per mistake in them. Raises `DataError` for a file that is not such a table."""
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"Expected a readable file of answers, got {path} ({error.strerror}); close it in the spreadsheet, or correct its name."
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
    for separator in SEPARATORS:
        records = _records(text, separator, path)
        names = [name.strip().casefold() for name in records[skipped]] if len(records) > skipped else []
        if set(NEEDED) <= set(names):
            break
    else:
        shown = first[:80] or "an empty file"
        raise DataError(
            f"Expected a row of column names with {' and '.join(NEEDED)} in row {skipped + 1} of {path}, got {shown!r}; {HOW}."
        )
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


def _from_jsonl(text: str, path: Path) -> tuple[list[Row], list[str]]:
    rows, mistakes = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): a name may contain U+2028
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
    """Seconds in a cell, with a decimal point or comma; 0 if it is empty. Raises `DataError` for anything else."""
    try:
        seconds = float(text.replace(",", ".")) if text else 0.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise DataError(f"Expected seconds as a number >= 0, or an empty cell, got {text!r}; correct the cell.")
    return seconds


def unknown_id(text: str, known: Iterable[str]) -> str:
    """The message for an id that is not in this round."""
    hint = did_you_mean(text, known, otherwise="; it may belong to another round.")
    return (
        f"Expected the id of an image in this round, got {text!r}{hint}"
        if text
        else "Expected an id, got an empty cell; restore it."
    )
