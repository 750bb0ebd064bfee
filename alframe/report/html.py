"""`report.html`: the whole page in one file, which opens without a network and without scripts."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alframe.report.blocks import Block, Chapter, Strip
from alframe.report.figure import Drawn
from alframe.report.page import Page, Part
from alframe.report.write import put

MAX_SVG = 150_000
"""Bytes of an SVG beyond which the page takes the PNG: thousands of points draw slowly and are no sharper for it."""
MAX_STRIPS = 3_000_000
"""Bytes of small pictures; what comes after that is named and left to the run folders."""


def html(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """Write the page with its pictures, already drawn, in it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["picture"] = lambda name: _data(drawn[name])
    environment.filters["width"] = lambda name: round(96 * drawn[name].size[0])
    environment.filters["jpeg"] = lambda content: f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    template = environment.get_template("page.html.j2")
    return put(out / "report.html", template.render(page=page, parts=_within(page.parts, MAX_STRIPS)))


def _data(figure: Drawn) -> str:
    kind, content = ("svg+xml", figure.svg) if len(figure.svg) <= MAX_SVG else ("png", figure.png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _within(parts: Sequence[Part], most: int) -> list[tuple[Part, list[Chapter]]]:
    """The parts with their chapters; strips that would take more than `most` bytes in all are emptied, not dropped."""
    left = most
    fitted = []
    for part in parts:
        chapters = []
        for chapter in part.chapters:
            blocks: list[Block] = []
            for block in chapter.blocks:
                if isinstance(block, Strip):
                    left -= sum(len(content) for content, _ in block.thumbnails)
                    block = block if left >= 0 else Strip(f"{block.title}: not shown here, to keep this page small", ())
                blocks.append(block)
            chapters.append(Chapter(chapter.title, tuple(blocks), chapter.folded))
        fitted.append((part, chapters))
    return fitted
