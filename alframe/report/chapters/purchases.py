"""What the strategies bought: what was found, of which classes it is, how much of it is the same, what could not be used."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from alframe.report.chapters import overlap
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.purchase_figures import balance_figure, discovery_figure
from alframe.report.chapters.results import mean_std
from alframe.report.read.bought import Bought, class_name, purchases
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Curve, thinned

MAX_CLASSES = 10
"""Shown by name in the class balance; the rarer ones are added up."""


def chapter(section: Section, options: Options) -> Chapter | None:
    """None where no ledger can be read."""
    bought = purchases(section)
    if not bought:
        return None
    blocks: list[Block] = []
    if n_unread := len(section.runs) - sum(map(len, bought.values())):
        told = f"{n_unread} of {len(section.runs)} ledgers are missing or damaged and left out of this chapter."
        blocks.append(Paragraph(told, "warning"))
    blocks += _discovery(section, bought)
    blocks += _balance(section, bought)
    blocks += overlap.blocks(section, bought)
    return Chapter("What was bought", tuple(blocks))


def wanted_class(section: Section, bought: Bought) -> int | None:
    """Class 1 of two; of more the rarest among all that was bought with a label; None where no answer holds one."""
    n = len(section.runs[0].classes)
    counts = Counter(
        line["label"]
        for seeds in bought.values()
        for lines in seeds.values()
        for line in lines
        if line["label"] is not None
    )
    if not counts:
        return None
    return 1 if n == 2 else min(counts, key=lambda label: (counts[label], label))


def discovered(bought: Bought, wanted: int) -> dict[str, Curve]:
    """How many images of the class `wanted` are among the first x answers, for x from 1 to what all seeds of a cell have."""
    curves = {}
    for name, seeds in bought.items():
        n = min(map(len, seeds.values()))
        found = np.array(
            [np.cumsum([line["label"] == wanted for line in lines[:n]]) for lines in seeds.values()], dtype=float
        )
        curves[name] = Curve(name, tuple(seeds), np.arange(1, n + 1, dtype=float), found)
    return curves


def _discovery(section: Section, bought: Bought) -> list[Block]:
    wanted = wanted_class(section, bought)
    if wanted is None:
        return [Paragraph("No answer holds a label.", "warning")]
    curves, word = discovered(bought, wanted), class_name(section, wanted)
    rows = []
    for name, seeds in bought.items():
        unusable = [sum(line["label"] is None for line in lines) for lines in seeds.values()]
        sizes = [len(lines) for lines in seeds.values()]
        found, n = curves[name].finals, np.array(sizes)
        rows.append(
            (
                name,
                f"{n.mean():,.10g}",
                _counts(found),
                f"{100 * (found / len(curves[name].labels)).mean():.1f} %",
                f"{np.mean(unusable):,.10g}",
            )
        )
    rarest = "" if len(section.runs[0].classes) == 2 else " It is the rarest class among all that was bought."
    columns = ("strategy", "labels bought", f"{word} found", "share", "without a label")
    alt = f"Number of images of class {word} found by labels bought, for {', '.join(curves)}"
    nothing = all(line["label"] is not None for seeds in bought.values() for lines in seeds.values() for line in lines)
    unusable_note = (
        "Every answer held a label." if nothing else "Answers without a label are bought but cannot be trained on."
    )
    if any("target" in line for seeds in bought.values() for lines in seeds.values() for line in lines):
        unusable_note += " Those that people were unsure of trained with a soft target all the same."
    note = f"Means over the seeds, the initial images included.{rarest} {unusable_note}"
    drawn = {name: thinned(curve, 60) for name, curve in curves.items()}
    picture = Picture(
        "discovery",
        lambda: discovery_figure(section, drawn, f"{word} found"),
        alt,
        f"The discovery curve: images of class {word} found, by labels bought.",
    )
    return [Table(columns, tuple(rows), note=note), picture]


def _counts(values: np.ndarray) -> str:
    return f"{values.mean():,.1f}" + (f" ± {values.std(ddof=1):,.1f}" if len(values) > 1 else "")


def class_shares(seeds: dict[int, list[dict[str, Any]]], n_classes: int) -> Float[np.ndarray, "t c"]:
    """The share of each class among the usable answers of each purchase, 0 the initial one; mean over seeds, NaN where there are none."""
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
    counts = np.array(list(Counter(labels).values()), dtype=float)
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum() / math.log(n_classes)) if n_classes > 1 else 1.0


def _balance(section: Section, bought: Bought) -> list[Block]:
    n = max(
        len(section.runs[0].classes),
        1
        + max(
            (
                line["label"]
                for seeds in bought.values()
                for lines in seeds.values()
                for line in lines
                if line["label"] is not None
            ),
            default=0,
        ),
    )
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
        common = Counter(label for labels in by_seed for label in labels).most_common(1)
        most = (
            f"{class_name(section, common[0][0])} ({100 * common[0][1] / sum(map(len, by_seed)):.0f} %)"
            if common
            else ""
        )
        missed = np.mean([n - len(set(labels)) for labels in by_seed])
        rows.append((name, mean_std(even) if len(even) else "", most, f"{missed:,.10g}"))
    columns = ("strategy", "evenness of classes", "most frequent class", "classes never queried")
    random = next(
        (name for name in bought if section.cells[name][min(bought[name])].choices["strategy"] == "random"), None
    )
    note = "Queried images only. Evenness is the entropy of the classes over its maximum: 1 is a balanced purchase."
    if random:
        note += f" {random} buys as the pool is, so its row estimates the pool."
    names = [class_name(section, c) for c in range(n)]
    alt = f"Shares of the classes in each purchase, a panel for each of {', '.join(bought)}"
    caption = "Classes of each purchase as shares, mean over the seeds; purchase 0 is the initial one."
    picture = Picture("classes", lambda: balance_figure(shares, names, MAX_CLASSES), alt, caption)
    return [picture, Table(columns, tuple(rows), note=note)]
