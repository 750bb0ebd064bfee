"""Learning curves as a figure: one panel per comparison, the mean over seeds with its band, each curve labelled where it ends."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from alframe.console import shorten
from alframe.report.chapters.phrases import metric_words
from alframe.report.read.section import Section
from alframe.report.statistics.curves import BOOTSTRAP_SEEDS, Curve, band

# Okabe and Ito's palette without its yellow, which is invisible on white; distinct under every common colour blindness
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4FBF")
STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
BASELINE, INK, FAINT = "#5F5F5F", "#222222", "#E4E4E4"
FONT = 10.0
PANEL = (5.6, 3.7)  # inches


def learning_curves(sections: Sequence[Section], x_label: str = "labels bought") -> Figure:
    """One panel for each section, at most three in a row; a cell has the same colour in all of them."""
    columns = min(3, len(sections))
    rows = math.ceil(len(sections) / columns)
    longest = max(len(name) for section in sections for name in section.curves)
    left, right, top, bottom = 0.75, 0.35 + 0.072 * longest, 0.5, 0.78
    width, height = columns * (PANEL[0] + right), rows * PANEL[1]
    figure = Figure(figsize=(width, height), facecolor="white")
    style = line_styles(sections)
    for i, section in enumerate(sections):
        x, y = (i % columns) * (PANEL[0] + right), height - (1 + i // columns) * PANEL[1]
        axes = figure.add_axes(
            ((x + left) / width, (y + bottom) / height, (PANEL[0] - left) / width, (PANEL[1] - top - bottom) / height)
        )
        n_seeds = [len(curve.seeds) for curve in section.curves.values()]
        plot_curves(axes, section.curves, style)
        axes.set_title(section.title, loc="left", fontsize=FONT + 2, color=INK, pad=10)
        caption: dict[str, Any] = {"fontsize": FONT - 2.5, "color": "#777777", "transform": axes.transAxes, "va": "top"}
        few, most = min(n_seeds), max(n_seeds)
        seeds = f"{most} seeds" if few == most else f"{few} to {most} seeds"
        kind = "95 % bootstrap interval of the mean" if few >= BOOTSTRAP_SEEDS else "lowest to highest seed"
        shown = f"line: mean over {seeds} · band: {kind}" if most > 1 else "one seed each: the spread is unknown"
        axes.text(0, -0.235, shown, **caption)
        finish_curves(axes, section.curves, style, x_label, metric_words(section.metric))
    return figure


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near to `wanted` as possible, `gap` apart and within `low`..`high`, in the order of `wanted`.

    Neighbours that touch are moved together around their common middle. If there is no room, the gap shrinks.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    blocks: list[tuple[float, int]] = []  # (bottom, members)
    for i in order:
        bottom, size = min(max(wanted[i], low), high), 1
        while blocks and blocks[-1][0] + blocks[-1][1] * gap > bottom:
            below, n = blocks.pop()
            bottom = (below * n + (bottom - n * gap) * size) / (n + size)
            size += n
            bottom = min(max(bottom, low), high - (size - 1) * gap)
        blocks.append((bottom, size))
    heights = [bottom + k * gap for bottom, size in blocks for k in range(size)]
    placed = dict(zip(order, heights, strict=True))
    return [placed[i] for i in range(len(wanted))]


def columns_of(n: int, most: int = 4) -> int:
    """Columns for `n` panels in as few rows as `most` allows, with even rows: 3 + 2, not 4 + 1."""
    return math.ceil(n / math.ceil(n / most))


def stacked_bars(
    axes: Axes, name: str, values: Float[np.ndarray, "t k"], colours: Iterable[str], highest: int | float
) -> None:
    """A bar per step, up to `highest`, split into parts by colour."""
    tops, edges = np.nan_to_num(np.cumsum(values, axis=1)), np.arange(len(values) + 1) - 0.5
    for part, colour in zip(range(tops.shape[1]), colours, strict=False):
        baseline = tops[:, part - 1] if part else np.zeros(len(tops))
        axes.stairs(tops[:, part], edges, baseline=baseline, fill=True, color=colour)
    axes.vlines(edges, 0, highest, color="white", linewidth=1)
    axes.set_title(shorten(name, 27), loc="left", fontsize=FONT, color=INK)
    style_axes(axes)
    axes.set(ylim=(0, highest), xlim=(-0.6, len(values) - 0.4))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def plot_curves(axes: Axes, curves: dict[str, Curve], styles: dict[str, dict[str, Any]]) -> None:
    """The mean over seeds of each curve with its band."""
    bootstrap = min(len(curve.seeds) for curve in curves.values()) >= BOOTSTRAP_SEEDS
    alpha = 0.13 if len(curves) <= 5 else 0.07  # many bands over each other would hide the lines
    for name, curve in curves.items():
        if len(curve.seeds) > 1:
            low, high = band(curve.values, bootstrap)
            axes.fill_between(curve.labels, low, high, color=styles[name]["color"], alpha=alpha, linewidth=0)
        marker = "o" if len(curve.labels) <= 25 else ""
        axes.plot(curve.labels, curve.mean, marker=marker, markersize=3.5, linewidth=1.8, **styles[name])


def finish_curves(
    axes: Axes, curves: dict[str, Curve], styles: dict[str, dict[str, Any]], x_label: str, y_label: str
) -> None:
    """Names of the axes and of each curve, after everything is drawn."""
    style_axes(axes)
    axes.set_ylabel(y_label, fontsize=FONT, color=INK)
    axes.set_xlabel(x_label, fontsize=FONT, color=INK)
    label_counts(axes, next(iter(curves.values())).labels.tolist())
    axes.margins(x=0.02)
    label_curve_ends(axes, curves, styles)


def style_axes(axes: Axes) -> None:
    """Horizontal lines to read values by, no box, quiet ticks."""
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    axes.tick_params(labelsize=FONT - 1, color="#999999", labelcolor="#444444", length=3)
    axes.tick_params(axis="y", length=0)


def label_counts(axes: Axes, counts: Sequence[float]) -> None:
    """Ticks at the label counts themselves if they are few whole numbers."""
    few = len(counts) <= 7 and all(count == round(count) for count in counts)
    steps = [1, 2, 2.5, 5, 10]
    axes.xaxis.set_major_locator(FixedLocator(list(counts)) if few else MaxNLocator(nbins=7, steps=steps))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")


def label_curve_ends(axes: Axes, curves: dict[str, Curve], styles: dict[str, dict[str, Any]]) -> None:
    """The name of each curve to the right of where its mean ends, without overlap."""
    low, high = axes.get_ylim()
    box = axes.get_window_extent()  # pixels at the figure's own dpi, as the font's size below
    gap = 1.28 * FONT * axes.figure.dpi / 72 / box.height
    heights = [(curve.mean[-1] - low) / (high - low) for curve in curves.values()]
    x_end = max(curve.labels[-1] for curve in curves.values())
    x_low, x_high = axes.get_xlim()
    end = (x_end - x_low) / (x_high - x_low)
    for name, wanted, placed in zip(curves, heights, spread(heights, gap, 0.0, 1.0), strict=True):
        colour = styles[name]["color"]
        line = {"color": colour, "linewidth": 0.8, "alpha": 0.6, "clip_on": False, "transform": axes.transAxes}
        axes.plot([end + 0.012, end + 0.035], [wanted, placed], **line)
        axes.text(end + 0.042, placed, name, color=colour, fontsize=FONT, va="center", transform=axes.transAxes)
    axes.set(xlim=(x_low, x_high), ylim=(low, high))


def line_styles(sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """A colour for each cell; the line changes where the palette starts over. Baselines are grey."""
    styles: dict[str, dict[str, Any]] = {}
    n_baselines = n_others = 0
    for section in sections:
        for name in section.curves:
            if name in styles:
                continue
            if name in section.baselines.values():
                styles[name] = {"color": BASELINE, "linestyle": STYLES[(1 + n_baselines) % len(STYLES)], "zorder": 2}
                n_baselines += 1
            else:
                style = STYLES[n_others // len(PALETTE) % len(STYLES)]
                styles[name] = {"color": PALETTE[n_others % len(PALETTE)], "linestyle": style, "zorder": 3}
                n_others += 1
    return styles
