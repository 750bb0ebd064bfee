"""How much the purchases of strategies overlap: Jaccard indices, as numbers and as a figure."""

import math
from itertools import combinations

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from alframe.console import shorten
from alframe.report.chapters.blocks import Block, Paragraph, Picture
from alframe.report.chapters.figure import FONT, INK
from alframe.report.read.section import Bought, Section


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


def blocks(section: Section, bought: Bought) -> list[Block]:
    """The matrix as a figure, and a warning for each pair of cells with the same purchases; empty without two cells of a common seed."""
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
    same = [
        f"{a} and {b} bought the same images in all common seeds; one of them adds nothing to this comparison."
        for (i, a), (j, b) in combinations(enumerate(names), 2)
        if matrix[i, j] == 1
    ]
    alt = "Overlap of purchases: " + ", ".join(
        f"{a} and {b} {matrix[i, j]:.2f}" for (i, a), (j, b) in combinations(enumerate(names), 2) if i < 4 and j < 4
    )
    caption = f"Images queried by both divided by images queried by either (Jaccard index), mean over the common seeds. Initial images are not counted.{chance}"
    return [
        Picture("overlap", lambda: figure(names, matrix), alt, caption),
        *(Paragraph(text, "warning") for text in same),
    ]


def figure(names: list[str], matrix: Float[np.ndarray, "s s"]) -> Figure:
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
