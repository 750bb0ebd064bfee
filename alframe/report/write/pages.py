"""`report.html`: the whole page in one file, which needs neither network nor scripts; and `report.md`: the same as text."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alframe.record.files import write_atomically
from alframe.report.chapters.blocks import Block, Chapter, Strip
from alframe.report.chapters.page import Page, Part
from alframe.report.write.figures import FIGURES, Drawn

MAX_SVG = 60_000
"""A larger SVG, in bytes, is replaced by its PNG if that is smaller."""
MAX_STRIPS = 1_500_000
"""Bytes of all thumbnails together; beyond them every strip is cut by the same share."""


def html(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """Write the page with its figures embedded."""
    environment = _environment(autoescape=True)
    environment.filters["picture"] = lambda name: _embedded(*_smaller(drawn[name]))
    environment.filters["width"] = lambda name: round(96 * drawn[name].size[0])
    environment.filters["jpeg"] = partial(_embedded, "jpeg")
    template = environment.get_template("page.html.j2")
    return write_atomically(out / "report.html", template.render(page=page, parts=_within(page.parts, MAX_STRIPS)))


def _smaller(figure: Drawn) -> tuple[str, bytes]:
    return ("svg+xml", figure.svg) if len(figure.svg) <= max(MAX_SVG, len(figure.png)) else ("png", figure.png)


def _embedded(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _within(parts: Sequence[Part], most: int) -> list[tuple[Part, list[Chapter]]]:
    """The parts with their chapters, all strips cut by the same share so that they take `most` bytes or less."""
    strips = [b for part in parts for chapter in part.chapters for b in chapter.blocks if isinstance(b, Strip)]
    total = sum(len(content) for strip in strips for content, _ in strip.thumbnails)
    share = min(1.0, most / max(total, 1))

    def cut(b: Block) -> Block:
        return replace(b, thumbnails=b.thumbnails[: int(share * len(b.thumbnails))]) if isinstance(b, Strip) else b

    return [(part, [replace(c, blocks=tuple(map(cut, c.blocks))) for c in part.chapters]) for part in parts]


def markdown(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """Write the page; its figures are already drawn."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape
    template = environment.get_template("report.md.j2")
    text = template.render(page=page, drawn=drawn, figures=FIGURES)
    return write_atomically(out / "report.md", text.rstrip() + "\n")


def _environment(autoescape: bool) -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(
        loader=loader, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["kind"] = lambda block: type(block).__name__
    return made


def escape(text: str) -> str:
    """Text escaped for Markdown, in one line. Underscores within words mean nothing and stay."""
    text = re.sub(r"([\\`*\[\]])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
