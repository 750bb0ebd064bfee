"""Rows of a sheet that say otherwise than the ledger, after their round is over: what people want to have corrected."""

from collections.abc import Callable, Sequence

from alframe.annotator.sheet import Row, seconds_of
from alframe.annotator.words import ParsedAnswer, parse_answer
from alframe.errors import DataError
from alframe.labels.consensus import (
    CHECKS,
    NEW_CLASS,
    UNANSWERED,
    Line,
    Rules,
    by_question,
    corrections,
    settle_all,
)
from alframe.types import Answer


def corrections_in(
    rows: Sequence[Row], ledger: Sequence[Line], rules: Rules, who: Callable[[str], str]
) -> tuple[list[Answer], list[str]]:
    """The rows that differ from what the ledger settled and from what the same person had answered, and the mistakes in others.

    A person whose answer others outvoted has changed nothing. `who` gives the name of the annotator in a row; it raises
    `DataError` for one that is not known, and such a row is a mistake, as is one about an image that nobody has answered.
    """
    settled = _settled(ledger, rules)
    of_id = {line["id"]: line["index"] for line in ledger}
    found: list[Answer] = []
    mistakes: list[str] = []
    for row in rows:
        try:
            index = of_id.get(row.id, -1)
            answer = _answer(row, index, rules, who) if row.answer else None
            if answer is None or _is_known(answer, settled.get(index), ledger):
                continue
            if index not in settled:
                raise DataError(
                    f"Expected the id of an image that has been answered, got {row.id!r}; import a first answer without --correct."
                )
            found.append(answer)
        except DataError as error:
            mistakes.append(f"row {row.number}: {error}")
    return found, mistakes


def _settled(ledger: Sequence[Line], rules: Rules) -> dict[int, Line]:
    """The settled line of the last question about each image that somebody answered."""
    lines = settle_all(by_question(ledger), rules, corrections(ledger))
    return {
        line["index"]: line
        for line in sorted(lines, key=lambda line: line["round"])
        if line.get("answer") != UNANSWERED
    }


def _answer(row: Row, index: int, rules: Rules, who: Callable[[str], str]) -> Answer:
    parsed = parse_answer(row.answer, rules.classes)
    if parsed.answer == NEW_CLASS:
        raise DataError(
            f"Expected a class of the run, got the new {parsed.text!r}; name it first: annotator.new_classes=['{parsed.text}']."
        )
    return Answer(
        index, parsed.label, who(row.annotator), seconds_of(row.seconds), answer=parsed.answer, text=parsed.text
    )


def _is_known(answer: Answer, settled: Line | None, ledger: Sequence[Line]) -> bool:
    """Whether the ledger says the same already: as settled, as this person's last word, or as their answer to a check.

    Of an image that was asked about again, what they had answered before is in older sheets, and no correction.
    """
    own = [line for line in ledger if line["index"] == answer.index and line["annotator"] == answer.annotator]
    last = [line for line in own if line["kind"] not in CHECKS][-1:]
    older = [line for line in own if line["kind"] in CHECKS or (settled and line["round"] < settled["round"])]
    given = ParsedAnswer(answer.label, answer.answer, answer.text)
    said = [line for line in (settled, *last, *older) if line is not None]
    return any(given == ParsedAnswer(line["label"], line.get("answer", ""), line.get("text", "")) for line in said)
