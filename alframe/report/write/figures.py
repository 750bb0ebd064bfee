"""`figures/`: every picture of the page as PNG and SVG, and the learning curves again beside the report."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from alframe.record.files import write_atomically
from alframe.report.chapters.figure import learning_curves
from alframe.report.chapters.page import Page
from alframe.report.read.section import Section

FIGURES = "figures"
SHARP = 200  # dots per inch of curves.png, which goes onto slides


@dataclass(frozen=True)
class Drawn:
    """A figure as its files: PNG on white, SVG without a background, and its size in inches."""

    png: bytes
    svg: bytes
    size: tuple[float, float]


def render(draw: Callable[[], Figure], dpi: int = 150) -> Drawn:
    """Draw once, encode twice, the PNG with `dpi` dots per inch; the same figure gives the same bytes. Names are shown as they are, dollar signs too."""
    # with a fixed title height matplotlib does not search for one, which takes a sixth of the drawing
    with matplotlib.rc_context({"svg.hashsalt": "alframe", "text.parse_math": False, "axes.titley": 1.0}):
        figure = draw()
        png, svg = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=dpi, facecolor="white")
        FigureCanvasSVG(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        figure.savefig(svg, format="svg", facecolor="none", metadata={"Date": None})
    width, height = figure.get_size_inches()
    return Drawn(png.getvalue(), svg.getvalue(), (float(width), float(height)))


def figures(page: Page, sections: Sequence[Section], out: Path) -> tuple[dict[str, Drawn], list[Path]]:
    """Draw every picture of the page, once, into `figures/`, and all learning curves together as `curves.png` and `curves.svg`."""
    drawn = {one.name: render(one.draw, SHARP if one.name == "curves" else 150) for one in page.pictures}
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        write_atomically(out / FIGURES / f"{name}.png", figure.png)
        write_atomically(out / FIGURES / f"{name}.svg", figure.svg)
    single = len(sections) == 1 and "curves" in drawn
    together = drawn["curves"] if single else render(lambda: learning_curves(sections), SHARP)
    return drawn, [
        write_atomically(out / "curves.png", together.png),
        write_atomically(out / "curves.svg", together.svg),
    ]
