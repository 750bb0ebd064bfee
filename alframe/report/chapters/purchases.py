"""What the strategies bought: images found, class balance, overlap, answers that could not be used."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy import stats

from alframe.console import shorten
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.figure import FONT, INK, columns_of, finish_curves, line_styles, plot_curves, stacked_bars
from alframe.report.chapters.results import mean_std
from alframe.report.read.section import Bought, Section
from alframe.report.statistics.curves import Curve, thinned

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A4FBF", "#F0E442", "#8C6D31", "#B5B5B5")
PANEL = (2.3, 1.75)  # inches
MAX_CLASSES = 10
"""Classes shown by name in the class balance; the rarer ones are added up."""


def chapter(section: Section, options: Options) -> Chapter | None:
    """None if no ledger can be read."""
    bought = section.bought()
    if not bought:
        return None
    blocks: list[Block] = []
    if n_unread := len(section.runs) - sum(map(len, bought.values())):
        unread = f"{n_unread} of {len(section.runs)} ledgers are missing or damaged and left out of this chapter."
        blocks.append(Paragraph(unread, "warning"))
    blocks += _discovery(section, bought)
    blocks += _balance(section, bought)
    blocks += _overlap(section, bought)
    return Chapter("What was bought", tuple(blocks))


def _answers(bought: Bought) -> Iterator[dict[str, Any]]:
    return (line for seeds in bought.values() for lines in seeds.values() for line in lines)


def wanted_classes(section: Section, bought: Bought) -> tuple[int, ...]:
    """The defects; without known normal classes the rarest among all labelled purchases; empty if no answer has a label."""
    run = section.runs[0]
    counts = Counter(line["label"] for line in _answers(bought) if line["label"] is not None)
    if not counts:
        return ()
    if run.normal_classes is not None:
        n_known = len(run.classes if run.normal is None else run.answerable)
        return tuple(c for c in range(n_known) if c not in run.normal_classes)
    return (min(counts, key=lambda label: (counts[label], label)),)


def discovered(bought: Bought, wanted: tuple[int, ...]) -> dict[str, Curve]:
    """How many images of the classes `wanted` are among the first x answers, for x from 1 to what all seeds of a cell have."""
    curves = {}
    for name, seeds in bought.items():
        n = min(map(len, seeds.values()))
        found = np.array(
            [np.cumsum([line["label"] in wanted for line in lines[:n]]) for lines in seeds.values()], dtype=float
        )
        curves[name] = Curve(name, tuple(seeds), np.arange(1, n + 1, dtype=float), found)
    return curves


def _discovery(section: Section, bought: Bought) -> list[Block]:
    wanted = wanted_classes(section, bought)
    if not wanted:
        return [Paragraph("No answer has a label.", "warning")]
    curves, several = discovered(bought, wanted), len(wanted) > 1
    word = "defects" if several else section.class_name(wanted[0])
    images = "defects" if several else f"images of class {word}"
    rows = []
    for name, seeds in bought.items():
        unusable = [sum(line["label"] is None for line in lines) for lines in seeds.values()]
        sizes = [len(lines) for lines in seeds.values()]
        found, n = curves[name].finals, np.array(sizes)
        count = f"{found.mean():,.1f}" + (f" ± {found.std(ddof=1):,.1f}" if len(found) > 1 else "")
        share = f"{100 * (found / len(curves[name].labels)).mean():.1f} %"
        rows.append((name, f"{n.mean():,.10g}", count, share, f"{np.mean(unusable):,.10g}"))
    which = "" if section.runs[0].normal_classes else " It is the rarest class among all purchases."
    if several:
        which = f" Defects are {', '.join(map(section.class_name, wanted))}."
    columns = ("strategy", "labels bought", f"{word} found", "share", "without a label")
    alt = f"Number of {images} found by labels bought, for {', '.join(curves)}"
    unusable_note = "Every answer had a label."
    if any(line["label"] is None for line in _answers(bought)):
        unusable_note = "Answers without a label are paid for but cannot be trained on."
    if any("target" in line for line in _answers(bought)):
        unusable_note += " Unsure answers were still used for training, as soft labels."
    note = f"Means over the seeds, initial images included.{which} {unusable_note}"
    drawn = {name: thinned(curve, 60) for name, curve in curves.items()}
    caption = f"The discovery curve: {images} found, by labels bought."
    picture = Picture("discovery", lambda: discovery_figure(section, drawn, f"{word} found"), alt, caption)
    return [Table(columns, tuple(rows), note=note), picture]


def class_shares(seeds: dict[int, list[dict[str, Any]]], n_classes: int) -> Float[np.ndarray, "t c"]:
    """The share of each class among the usable answers of each purchase, 0 the initial one; mean over seeds, NaN without usable answers."""
    last = max(int(line["round"]) for lines in seeds.values() for line in lines)
    counts = np.zeros((len(seeds), last + 1, n_classes))
    for i, lines in enumerate(seeds.values()):
        for line in lines:
            if line["label"] is not None and 0 <= line["label"] < n_classes:
                counts[i, line["round"], line["label"]] += 1
    total = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, math.nan), where=total > 0)
    usable = (total[..., 0] > 0).sum(axis=0)
    mean: np.ndarray = np.nansum(shares, axis=0) / np.maximum(usable, 1)[:, None]
    mean[usable == 0] = math.nan
    return mean


def evenness(labels: Sequence[int], n_classes: int) -> float:
    """Entropy of the labels' distribution over log(n_classes): 1 where all classes are equally frequent, 0 for one class alone."""
    return float(stats.entropy(list(Counter(labels).values())) / math.log(n_classes)) if n_classes > 1 else 1.0


def _balance(section: Section, bought: Bought) -> list[Block]:
    highest = max((line["label"] for line in _answers(bought) if line["label"] is not None), default=0)
    n = max(len(section.runs[0].classes), 1 + highest)
    if n < 2:
        return []
    shares = {name: class_shares(seeds, n) for name, seeds in bought.items()}
    rows = []
    for name, seeds in bought.items():
        by_seed = [
            [line["label"] for line in lines if line["kind"] == "query" and line["label"] is not None]
            for lines in seeds.values()
        ]
        even = np.array([evenness(labels, n) for labels in by_seed if labels])
        common = Counter(label for labels in by_seed for label in labels)
        shares_of = ((section.class_name(label), 100 * n_of / common.total()) for label, n_of in common.most_common(1))
        most = "".join(f"{word} ({percent:.0f} %)" for word, percent in shares_of)
        missed = np.mean([n - len(set(labels)) for labels in by_seed])
        rows.append((name, mean_std(even) if len(even) else "", most, f"{missed:,.10g}"))
    columns = ("strategy", "evenness of classes", "most frequent class", "classes never queried")
    random = [name for name in bought if section.cells[name][min(bought[name])].choices["strategy"] == "random"]
    note = "Queried images only. Evenness is the entropy of the classes over its maximum: 1 is a balanced purchase."
    note += f" {random[0]} draws uniformly, so its row estimates the pool." if random else ""
    names = [section.class_name(c) for c in range(n)]
    alt = f"Shares of the classes in each purchase, one panel for each of {', '.join(bought)}"
    caption = "Classes of each purchase as shares, mean over the seeds; purchase 0 is the initial one."
    picture = Picture("classes", lambda: balance_figure(shares, names, MAX_CLASSES), alt, caption)
    return [picture, Table(columns, tuple(rows), note=note)]


def discovery_figure(section: Section, curves: dict[str, Curve], words: str) -> Figure:
    """The count found by labels bought, the mean over seeds with its band, each curve named at its end."""
    styles = line_styles([section])
    right = 0.35 + 0.072 * max(map(len, curves))
    width, height = 5.6 + right, 3.4
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.75 / width, 0.55 / height, 4.85 / width, 2.65 / height))
    plot_curves(axes, curves, styles)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    finish_curves(axes, curves, styles, "labels bought", shorten(words, 34))
    return figure


def balance_figure(shares: dict[str, Float[np.ndarray, "t c"]], names: list[str], most: int) -> Figure:
    """One panel per cell, one bar per purchase, split by class. Beyond `most` classes the rarest are merged."""
    if len(names) > most:
        order = np.argsort(-np.nanmean(np.concatenate(list(shares.values())), axis=0), kind="stable")
        named, rest = order[: most - 1], order[most - 1 :]
        shares = {cell: np.column_stack([of[:, named], of[:, rest].sum(axis=1)]) for cell, of in shares.items()}
        names = [*(names[c] for c in named), f"{len(rest)} others"]
    columns = columns_of(len(shares))
    rows = math.ceil(len(shares) / columns)
    shown = [shorten(name, 22) for name in names]
    width = max(4.6, columns * PANEL[0] + 0.6)
    n_keys = max(1, int((width - 0.3) / (0.5 + 0.085 * max(map(len, shown)))))
    legend = 0.22 * math.ceil(len(shown) / n_keys) + 0.15
    height = rows * (PANEL[1] + 0.35) + 0.35 + legend
    figure = Figure(figsize=(width, height), facecolor="white")
    for i, (cell, found) in enumerate(shares.items()):
        x = 0.6 + (i % columns) * PANEL[0]
        y = height - legend - 0.25 - (i // columns) * (PANEL[1] + 0.35) - PANEL[1] + 0.25
        axes = figure.add_axes((x / width, y / height, (PANEL[0] - 0.25) / width, (PANEL[1] - 0.25) / height))
        stacked_bars(axes, cell, found, PALETTE, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelleft=i % columns == 0)
        if i + columns >= len(shares):
            axes.set_xlabel("purchase", fontsize=FONT, color=INK)
    keys = [Patch(color=colour, label=name) for name, colour in zip(shown, PALETTE, strict=False)]
    figure.legend(handles=keys, loc="upper left", ncols=n_keys, frameon=False, fontsize=FONT - 0.5, handlelength=1,
                  bbox_to_anchor=(0.3 / width, 1))  # fmt: skip
    return figure


def jaccard(a: set[int], b: set[int]) -> float:
    """Size of the intersection over that of the union, in [0, 1]; NaN of two empty sets."""
    return len(a & b) / len(a | b) if a or b else math.nan


def jaccard_by_chance(n_a: int, n_b: int, n_pool: int) -> float:
    """The approximate Jaccard index of two independent random draws of `n_a` and `n_b` from `n_pool` images."""
    shared = n_a * n_b / n_pool
    return shared / (n_a + n_b - shared)


def overlap(bought: Bought) -> Float[np.ndarray, "s s"]:
    """Mean Jaccard index of the images queried by each pair of cells over their common seeds; NaN without one, 1 on the diagonal."""
    queried = {
        name: {seed: {line["index"] for line in lines if line["kind"] == "query"} for seed, lines in seeds.items()}
        for name, seeds in bought.items()
    }
    matrix = np.eye(len(queried))
    for (i, a), (j, b) in combinations(enumerate(queried.values()), 2):
        both = [jaccard(a[seed], b[seed]) for seed in a.keys() & b.keys() if a[seed] or b[seed]]
        matrix[i, j] = matrix[j, i] = np.mean(both) if both else math.nan
    return matrix


def _overlap(section: Section, bought: Bought) -> list[Block]:
    """The matrix as a overlap_figure, and a warning for each pair of cells with the same purchases; empty without two cells of a common seed."""
    matrix, names = overlap(bought), list(bought)
    if len(names) < 2 or np.isnan(matrix[~np.eye(len(names), dtype=bool)]).all():
        return []
    n_pool = next((run.n_pool for run in section.runs if run.n_pool), None)
    sizes = [sum(line["kind"] == "query" for line in lines) for seeds in bought.values() for lines in seeds.values()]
    n_left = (n_pool or 0) - min(len(lines) for seeds in bought.values() for lines in seeds.values()) + min(sizes)
    chance = (
        f" Two random draws of {max(sizes):,} images would have an index of about {jaccard_by_chance(max(sizes), max(sizes), n_left):.2f}."
        if n_left > 0
        else ""
    )
    shared = {(i, j): f"{names[i]} and {names[j]}" for i, j in combinations(range(len(names)), 2)}
    shown = (f"{both} {matrix[place]:.2f}" for place, both in shared.items() if max(place) < 4)
    alt = f"Overlap of purchases: {', '.join(shown)}"
    caption = f"Images queried by both divided by images queried by either (Jaccard index), mean over the common seeds. Initial images are not counted.{chance}"
    same = "bought the same images in all common seeds; one of them adds nothing to this comparison."
    warned = [Paragraph(f"{both} {same}", "warning") for place, both in shared.items() if matrix[place] == 1]
    return [Picture("overlap", lambda: overlap_figure(names, matrix), alt, caption), *warned]


def overlap_figure(names: list[str], matrix: Float[np.ndarray, "s s"]) -> Figure:
    """One square per pair of cells, below the diagonal, with its number."""
    n = len(names)
    shown = [shorten(name, 34) for name in names]
    cell = max(0.36, min(0.62, 6 / n))
    left, below = 0.3 + 0.08 * max(map(len, shown[1:])), 0.25 + 0.08 * max(map(len, shown[:-1]))
    side = cell * (n - 1)
    width, height = left + side + 0.9, side + below + 0.15
    drawn = Figure(figsize=(width, height), facecolor="white")
    axes = drawn.add_axes((left / width, below / height, side / width, side / height))
    lower = np.where(np.tri(n, k=-1, dtype=bool), matrix, math.nan)[1:, :-1]
    highest = max(0.1, np.nanmax(lower))
    picture = axes.imshow(lower, cmap="Blues", vmin=0, vmax=highest)
    for i, j in np.argwhere(~np.isnan(lower)):
        dark = lower[i, j] > 0.55 * highest
        axes.text(j, i, f"{lower[i, j]:.2f}", ha="center", va="center", fontsize=FONT - 1 if cell >= 0.5 else FONT - 3,
                  color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(range(n - 1), shown[:-1], rotation=90, fontsize=FONT)
    axes.set_yticks(range(n - 1), shown[1:], fontsize=FONT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = drawn.add_axes(((left + side + 0.15) / width, below / height, 0.12 / width, side / height))
    drawn.colorbar(picture, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=FONT - 2, length=0)
    return drawn
