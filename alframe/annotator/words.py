"""Parsing of the answers that people write."""

from collections.abc import Sequence
from dataclasses import dataclass

from alframe.errors import DataError, did_you_mean
from alframe.labels.consensus import BAD_IMAGE, NEW_CLASS, SKIP, UNSURE, normalized_name

WORDS = {
    UNSURE: UNSURE,
    "?": UNSURE,
    SKIP: SKIP,
    "-": SKIP,
    "bad image": BAD_IMAGE,
    BAD_IMAGE: BAD_IMAGE,
    "bad": BAD_IMAGE,
}
NEW = "new:"
LEAN = "unsure:"


@dataclass(frozen=True)
class ParsedAnswer:
    """A class (`label`), or None with the kind of `answer`; `text` names a new class, or the more likely one if unsure."""

    label: int | None
    answer: str = ""
    text: str = ""


def parse_answer(text: str, classes: Sequence[str]) -> ParsedAnswer:
    """Parse a cell: a class; unsure (`unsure: NAME` or `NAME?` if a class is more likely), skip or bad image; or `new: NAME`.

    Case, surrounding and repeated white space are ignored. A class with the name of a keyword takes precedence. Numbers that a
    spreadsheet has reformatted match too (1,0 the class 1, 7 the class 007). Raises `DataError` with the allowed answers otherwise.
    """
    if text in classes:
        return ParsedAnswer(classes.index(text))
    wanted = normalized_name(text)
    for same in (
        [number for number, name in enumerate(classes) if normalized_name(name) == wanted],
        [number for number, name in enumerate(classes) if _number(name) is not None and _number(name) == _number(text)],
    ):
        if len(same) == 1:
            return ParsedAnswer(same[0])
        if same:
            raise DataError(
                f"Expected an unambiguous class, got {text!r}, which may be {' or '.join(repr(classes[n]) for n in same)}; write it exactly."
            )
    if wanted in WORDS:
        return ParsedAnswer(None, WORDS[wanted])
    if wanted.startswith(LEAN) or (wanted.endswith("?") and _is_known(wanted[:-1], classes)):
        return _lean(text.strip()[len(LEAN) :] if wanted.startswith(LEAN) else text.strip()[:-1], classes)
    if wanted.startswith(NEW):
        name = " ".join(text.strip()[len(NEW) :].split())
        if not name or _is_known(name, classes):
            got = f"{name!r}, which already is a class; write {name}" if name else "none; write it after new:"
            raise DataError(f"Expected the name of a new class, got {got}.")
        if any(sign in name for sign in ",[]{}'\"=:$"):
            raise DataError(f"Expected a name without punctuation for a new class, got {name!r}; choose another name.")
        return ParsedAnswer(None, NEW_CLASS, name)
    allowed = [*classes, UNSURE, SKIP, "bad image"]
    hint = did_you_mean(wanted, allowed, otherwise=".")
    raise DataError(f"Expected {', '.join(allowed)} or {NEW} NAME, got {text!r}{hint}")


def _lean(name: str, classes: Sequence[str]) -> ParsedAnswer:
    try:
        label = parse_answer(name.strip(), classes).label
    except DataError:
        label = None
    if label is None:
        raise DataError(
            f"Expected the most likely of {', '.join(classes)} after {LEAN}, got {name.strip()!r}; write its name."
        )
    return ParsedAnswer(None, UNSURE, classes[label])


def _is_known(name: str, classes: Sequence[str]) -> bool:
    return normalized_name(name) in {normalized_name(known) for known in classes}


def _number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return None
