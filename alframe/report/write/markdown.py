"""`report.md`: the page as text, with its figures as PNG."""

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alframe.record.files import write_atomically
from alframe.report.chapters.page import Page
from alframe.report.write.figures import FIGURES, Drawn

MARKS = {"good": "**+** ", "bad": "**−** ", "warning": "**!** "}


def markdown(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """Write the page; its figures are already drawn."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"md": escape, "kind": lambda block: type(block).__name__}
    template = environment.get_template("report.md.j2")
    text = template.render(page=page, drawn=drawn, marks=MARKS, figures=FIGURES)
    return write_atomically(out / "report.md", text.rstrip() + "\n")


def escape(text: str) -> str:
    """Text escaped for Markdown, in one line. Underscores within words mean nothing and stay."""
    text = re.sub(r"([\\`*\[\]])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
