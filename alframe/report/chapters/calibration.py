"""Whether predicted probabilities can be trusted: reliability at the end, ECE and NLL by labels."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alframe.report.chapters.blocks import Chapter, Options, Picture, Table
from alframe.report.chapters.figure import FONT, INK, label_counts, line_styles, plot_curves, style_axes
from alframe.report.chapters.results import mean_std
from alframe.report.read.run import Run
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Curve, on_grid

METRICS = {"test/ece": ("ECE", "expected calibration error"), "test/nll": ("NLL", "negative log-likelihood (nats)")}
MIN_IMAGES = 10
"""Bins with fewer test images, over all seeds, are not drawn: their accuracy is noise."""

Bins = Float[np.ndarray, "3 m"]


def chapter(section: Section, options: Options) -> Chapter | None:
    """None if the runs have neither ECE, NLL nor stored evaluations."""
    low, high = map(float, section.range)
    curves: dict[str, dict[str, Curve]] = {}
    for metric in METRICS:  # for the cells where every run has it over all the section's labels
        points = {name: {s: run.points(metric) for s, run in seeds.items()} for name, seeds in section.cells.items()}
        whole = {
            name: found
            for name, found in points.items()
            if all(labels and labels[0] <= low and labels[-1] >= high for labels, _ in found.values())
        }
        curves |= {metric: on_grid(whole, low, high)} if whole else {}
    pooled = {name: _pooled(list(seeds.values()), section) for name, seeds in section.cells.items()}
    bins = {name: sums for name, sums in pooled.items() if sums is not None}
    if not curves and not bins:
        return None
    alt = "Calibration: " + ", ".join(
        [*(["accuracy by confidence"] if bins else []), *(f"{METRICS[m][1]} by labels" for m in curves)]
    )
    caption = (
        f"Left: the accuracy of the test images whose top probability falls into a bin, pooled over the seeds at "
        f"{section.range[1]:,} labels. Below the diagonal the model is overconfident. "
        if bins
        else ""
    ) + "Lower is better for both errors."
    picture = Picture("calibration", lambda: _figure(section, curves, bins), alt, caption)
    return Chapter("Calibration", (_table(section, curves, bins), picture))


def _pooled(runs: list[Run], section: Section) -> Bins | None:
    """Images, summed confidence and summed accuracy of each bin, over the seeds, at the last label count that all runs have."""
    total: Any = None
    for run in runs:
        at = run.rounds_until(section.range[1])
        stage: Any = run.stage(at[-1]) if at else {}
        try:
            reliability = stage["evaluation"]["reliability"]
            count, confidence, accuracy = (
                np.array(reliability[key], float) for key in ("count", "confidence", "accuracy")
            )
            bins = np.stack([count, count * np.nan_to_num(confidence), count * np.nan_to_num(accuracy)])
        except (KeyError, TypeError, ValueError):
            continue
        if total is not None and bins.shape != total.shape:
            return None
        total = bins if total is None else total + bins
    return total if total is not None and total[0].sum() > 0 else None


def _table(section: Section, curves: dict[str, dict[str, Curve]], bins: dict[str, Bins]) -> Table:
    columns = ["strategy", *(f"{METRICS[metric][0]} at {section.range[1]:,} labels" for metric in curves)]
    columns += ["mean confidence", "accuracy", "confidence − accuracy"] if bins else []
    rows = []
    for name in section.cells:
        row = [name, *(mean_std(found[name].finals) if name in found else "" for found in curves.values())]
        if bins and name in bins:
            n, confidence, accuracy = bins[name].sum(axis=1)
            row += [
                f"{confidence / n:.3f}",
                f"{accuracy / n:.3f}",
                f"{(confidence - accuracy) / n:+.3f}".replace("-", "−"),
            ]
        rows.append((*row, *[""] * (len(columns) - len(row))))
    note = "A positive difference means that the model is overconfident." if bins else ""
    return Table(tuple(columns), tuple(rows), note=note)


def _figure(section: Section, curves: dict[str, dict[str, Curve]], bins: dict[str, Bins]) -> Figure:
    styles = line_styles([section])
    n_panels = len(curves) + bool(bins)
    names = list(section.cells)
    width, panel, legend = 3.75 * n_panels, 2.75, 0.3 * -(-len(names) // max(1, int(3.75 * n_panels / 1.7))) + 0.15
    height = panel + 0.95 + legend
    figure = Figure(figsize=(width, height), facecolor="white")
    for i, what in enumerate([*(["reliability"] if bins else []), *curves]):
        axes = figure.add_axes(((3.75 * i + 0.7) / width, 0.55 / height, 2.85 / width, panel / height))
        if what == "reliability":
            shown = [sums[:, sums[0] >= MIN_IMAGES] for sums in bins.values()]
            least = math.floor(10 * min(float((sums[1:] / sums[0]).min(initial=1)) for sums in shown)) / 10
            axes.plot([least, 1], [least, 1], color="#999999", linewidth=1)
            for name, (count, confidence, accuracy) in zip(bins, shown, strict=True):
                style: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 3.5, **styles[name]}
                axes.plot(confidence / count, accuracy / count, **style)
            title, x_label = "accuracy by confidence", "top probability"
        else:
            plot_curves(axes, curves[what], styles)
            label_counts(axes, next(iter(curves[what].values())).labels.tolist())
            axes.set_ylim(bottom=0)
            title, x_label = METRICS[what][1], "labels bought"
        style_axes(axes)
        axes.set_title(title, loc="left", fontsize=FONT + 0.5, color=INK)
        axes.set_xlabel(x_label, fontsize=FONT, color=INK)
    lines = [Line2D([], [], linewidth=1.8, **{**styles[name], "zorder": 1}) for name in names]
    columns = max(1, min(len(names), int(width / 1.7)))
    figure.legend(
        lines, names, loc="upper left", ncols=columns, frameon=False, fontsize=FONT, bbox_to_anchor=(0.3 / width, 1)
    )
    return figure
