"""The report on the console: a table for each comparison, and what was left out."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from alframe.report.chapters import one_run
from alframe.report.chapters.blocks import Paragraph
from alframe.report.chapters.comparable import ProtocolWarning
from alframe.report.chapters.phrases import tone_of
from alframe.report.chapters.results import heading, table_of
from alframe.report.read.comparison import LeftOut
from alframe.report.read.section import Section

MAX_SHOWN = 8


def print_section(section: Section, console: Console) -> None:
    """One line per cell, then the section's notes; of one run that people labelled, how good its model is. Lines are never cut or wrapped: a log has no width."""
    console.print()
    if section.is_one_by_people:
        for block in one_run.in_short(section):
            if isinstance(block, Paragraph):
                _line(console, Text(block.text, style="bold" if block.big else ""))
        return
    _line(console, Text.assemble((section.title, "bold"), f" · {heading(section)}"))
    columns, rows = table_of(section)
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns) - 1)]
    _line(console, Text(f"{_aligned(columns[:-1], widths)}   {columns[-1]}", style="bold"))
    for row in rows:
        verdict = row[-1]
        style = {"good": "green", "bad": "red", "warning": "yellow"}.get(tone_of(verdict), "")
        numbers = _aligned(row[:-1], widths)
        _line(console, Text.assemble(numbers, "   ", (verdict, style)))
    print_notes(section.notes, console)


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The name to the left, the numbers to the right."""
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "   ".join([cells[0].ljust(widths[0]), *numbers])


def print_left_out(left: Sequence[LeftOut], console: Console) -> None:
    """What was not used, or only in part, and why; a long list is cut, report.md has it in full."""
    if not left:
        return
    lines = [f"Not used, or only in part: {len(left)}"]
    lines += [f"  {item.folder}: {item.reason}" for item in left[:MAX_SHOWN]]
    if len(left) > MAX_SHOWN:
        lines.append(f"  and {len(left) - MAX_SHOWN} more, listed in report.md")
    console.print()
    print_notes(lines, console)


def print_notes(notes: Sequence[str], console: Console) -> None:
    """One line per note."""
    for note in notes:
        _line(console, Text(note, style="yellow"))


def print_warnings(found: Sequence[ProtocolWarning], console: Console) -> None:
    """One line per warning."""
    if found:
        console.print()
    for warning in found:
        style = "red" if warning.serious else "yellow"
        _line(console, Text(f"warning: {warning}", style=style))
