"""What the report is made of, apart from how it is written: chapters of paragraphs, tables and pictures.

Each topic of the report is a file with `chapter(section, options) -> Chapter | None`; the writers (HTML, Markdown, LaTeX) know
nothing of topics.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """What `alframe-report` was asked for. Money is in any one unit; `at` are label counts, `target` a value of the metric."""

    metric: str | None = None
    baseline: str = "random"
    unfinished: bool = False
    at: tuple[int, ...] = ()
    target: float | None = None
    full_data_share: float = 0.95
    label_cost: float = 1.0
    out: Path = field(default_factory=Path)


@dataclass(frozen=True)
class Paragraph:
    """Plain text, without markup. `tone`: good, bad, warning, or nothing in particular; `big`: what is to be read first."""

    text: str
    tone: str = ""
    big: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are text as it is shown; the first column is a name. `note` explains the columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""
    tones: tuple[str, ...] = ()
    """By row: good, bad, warning or nothing; empty: none."""

    def has_words(self, column: int) -> bool:
        """Whether a column holds words, which are set to the left, and not numbers."""
        return column == 0 or any(row[column][0] not in "0123456789+−-<>≤–" for row in self.rows if row[column])


@dataclass(frozen=True)
class Picture:
    """`draw()` gives the figure. `name` is its file's stem, unique in the report; `alt` says what it shows, for who cannot see it."""

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """Small pictures in a row: JPEG bytes, and what stands below each. Formats without room for them name `title` alone."""

    title: str
    thumbnails: tuple[tuple[bytes, str], ...]


Block = Paragraph | Table | Picture | Strip


@dataclass(frozen=True)
class Chapter:
    """Some blocks under a heading; `folded`: closed until it is opened, where the format can do that."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False
