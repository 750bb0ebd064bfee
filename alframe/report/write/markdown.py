"""`report.md`: the page as text, with its figures as PNG."""

import re
from collections.abc import Mapping
from pathlib import Path

from alframe.record.files import write_atomically
from alframe.report.chapters.blocks import Block, Paragraph, Picture, Strip, Table
from alframe.report.chapters.page import Page
from alframe.report.write.figures import FIGURES, Drawn

MARKS = {"good": "**+** ", "bad": "**−** ", "warning": "**!** "}


def markdown(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """Write the page; its figures are already drawn."""
    text = [f"# {escape(page.title)}", ""]
    if "curves" not in drawn:  # several comparisons
        text += ["![Learning curves](curves.png)", ""]
    for part in page.parts:
        text += [f"## {escape(part.title)}", ""]
        text += [line for block in part.blocks for line in _lines(block)]
        for chapter in part.chapters:
            text += [f"### {escape(chapter.title)}", ""]
            text += [line for block in chapter.blocks for line in _lines(block)]
    return write_atomically(out / "report.md", "\n".join(text).rstrip() + "\n")


def escape(text: str) -> str:
    """Text escaped for Markdown, in one line. Underscores within words mean nothing and stay."""
    text = re.sub(r"([\\`*\[\]])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(block: Block) -> list[str]:
    match block:
        case Paragraph():
            text = f"**{escape(block.text)}**" if block.big else escape(block.text)
            return [f"{MARKS.get(block.tone, '')}{text}", ""]
        case Table():
            return _table(block)
        case Picture():
            caption = [escape(block.caption), ""] if block.caption else []
            return [f"![{escape(block.alt)}]({FIGURES}/{block.name}.png)", "", *caption]
        case Strip():
            return [f"- {escape(block.title)}: {len(block.thumbnails)} images, shown in report.html"]


def _table(table: Table) -> list[str]:
    title = [f"**{escape(table.title)}**", ""] if table.title else []
    rows = [
        "| " + " | ".join(escape(cell).replace("|", "\\|") for cell in row) + " |"
        for row in (table.columns, *table.rows)
    ]
    under = "|" + "".join("---|" if table.has_words(i) else "---:|" for i in range(len(table.columns)))
    note = [escape(table.note), ""] if table.note else []
    return [*title, rows[0], under, *rows[1:], "", *note]
