"""The figures of what was bought: discovery curves, classes by purchase."""

import math

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alframe.report.chapters.figure import (
    FONT,
    INK,
    columns_of,
    label_counts,
    looks,
    name_the_ends,
    plain,
    plot_curves,
    shorten,
)
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Curve

CLASSES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A4FBF", "#F0E442", "#8C6D31", "#B5B5B5")
PANEL = (2.3, 1.75)  # inches


def discovery_figure(section: Section, curves: dict[str, Curve], words: str) -> Figure:
    """The count found by labels bought, the mean over seeds with its band, each curve named where it ends."""
    styles = looks([section])
    right = 0.35 + 0.072 * max(map(len, curves))
    width, height = 5.6 + right, 3.4
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.75 / width, 0.55 / height, 4.85 / width, 2.65 / height))
    plot_curves(axes, curves, styles)
    plain(axes)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_ylabel(shorten(words, 34), fontsize=FONT, color=INK)
    axes.set_xlabel("labels bought", fontsize=FONT, color=INK)
    label_counts(axes, next(iter(curves.values())).labels.tolist())
    axes.margins(x=0.02)
    name_the_ends(axes, curves, styles)
    return figure


def balance_figure(shares: dict[str, Float[np.ndarray, "t c"]], names: list[str], most: int) -> Figure:
    """A panel a cell: each purchase a bar of its classes. Beyond `most` classes the rarest are one."""
    order = np.arange(len(names))
    if len(names) > most:
        order = np.argsort(-np.nanmean(np.concatenate(list(shares.values())), axis=0), kind="stable")
        names = [*(names[c] for c in order[: most - 1]), f"{len(names) - most + 1} others"]
    columns = columns_of(len(shares))
    rows = math.ceil(len(shares) / columns)
    shown = [shorten(name, 22) for name in names]
    width = max(4.6, columns * PANEL[0] + 0.6)
    n_keys = max(1, int((width - 0.3) / (0.5 + 0.085 * max(map(len, shown)))))
    legend = 0.22 * math.ceil(len(shown) / n_keys) + 0.15
    height = rows * (PANEL[1] + 0.35) + 0.35 + legend
    figure = Figure(figsize=(width, height), facecolor="white")
    for i, (cell, found) in enumerate(shares.items()):
        x, y = (
            0.6 + (i % columns) * PANEL[0],
            height - legend - 0.25 - (i // columns) * (PANEL[1] + 0.35) - PANEL[1] + 0.25,
        )
        axes = figure.add_axes((x / width, y / height, (PANEL[0] - 0.25) / width, (PANEL[1] - 0.25) / height))
        stacked = found[:, order]
        if len(order) > most:
            stacked = np.column_stack([stacked[:, : most - 1], stacked[:, most - 1 :].sum(axis=1)])
        tops = np.nan_to_num(np.cumsum(stacked, axis=1))
        edges = np.arange(len(found) + 1) - 0.5
        for c, colour in zip(range(len(names)), CLASSES, strict=False):
            baseline = tops[:, c - 1] if c else np.zeros(len(found))
            axes.stairs(tops[:, c], edges, baseline=baseline, fill=True, color=colour)
        axes.vlines(edges, 0, 1, color="white", linewidth=1)
        axes.set_title(shorten(cell, 27), loc="left", fontsize=FONT, color=INK)
        plain(axes)
        axes.set(ylim=(0, 1), xlim=(-0.6, len(found) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelleft=i % columns == 0)
        if i + columns >= len(shares):
            axes.set_xlabel("purchase", fontsize=FONT, color=INK)
    keys = [Patch(color=colour, label=name) for name, colour in zip(shown, CLASSES, strict=False)]
    figure.legend(handles=keys, loc="upper left", ncols=n_keys, frameon=False, fontsize=FONT - 0.5, handlelength=1,
                  bbox_to_anchor=(0.3 / width, 1))  # fmt: skip
    return figure
