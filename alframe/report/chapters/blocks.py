"""The report's building blocks: chapters of paragraphs, tables and pictures.

Each topic is a function `(section, options) -> Chapter | None`. The writers know the blocks, not the topics.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """Options of `alframe-report`. `at` are label counts, `target` a value of the metric, `label_cost` is in any currency."""

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
    """Plain text without markup. `tone`: good, bad, warning or empty; `big`: the first thing to read."""

    text: str
    tone: str = ""
    big: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are text as shown; the first column is a name. `note` explains the columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""
    tones: tuple[str, ...] = ()
    """One per row: good, bad, warning or empty. An empty tuple: no tones."""

    def has_words(self, column: int) -> bool:
        """Whether a column holds words (aligned left) rather than numbers."""
        return column == 0 or any(row[column][0] not in "0123456789+−-<>≤–" for row in self.rows if row[column])


@dataclass(frozen=True)
class Picture:
    """`draw()` returns the figure. `name` is its file's stem, unique in the report; `alt` describes it for readers who cannot see it."""

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of thumbnails `side` pixels wide, each with JPEG bytes and a caption. Formats without room for them show `title` alone."""

    title: str
    thumbnails: tuple[tuple[bytes, str], ...]
    side: int = 64


Block = Paragraph | Table | Picture | Strip


@dataclass(frozen=True)
class Chapter:
    """Blocks under a heading; `folded`: collapsed at first, if the format supports it."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False
