"""What a comparison cost: seconds of each stage by round, and the totals with the labels."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from alframe.report.chapters.blocks import Chapter, Options, Picture, Table
from alframe.report.chapters.figure import FONT, INK, columns_of, stacked_bars
from alframe.report.read.run import Run, number
from alframe.report.read.section import Section

STAGES = {"fit": "#0072B2", "evaluate": "#56B4E9", "pool": "#009E73", "select": "#D55E00", "annotate": "#CC79A7"}
PANEL = (2.3, 1.75)  # inches


def chapter(section: Section, options: Options) -> Chapter | None:
    """None if no round records seconds."""
    seconds = {name: _seconds(list(seeds.values())) for name, seeds in section.cells.items()}
    if not any(found.sum() > 0 for found in seconds.values()):
        return None
    alt = f"Seconds of {', '.join(STAGES)} in each round, one panel for each of {', '.join(seconds)}"
    caption = "Mean seconds over the seeds, by round. Annotate is the wait for answers; a simulated annotator answers at once."
    return Chapter("Cost and time", (_table(section, options), Picture("time", lambda: _figure(seconds), alt, caption)))


def _seconds(runs: list[Run]) -> np.ndarray:
    """Mean seconds [round, stage] over the runs that reached the round; 0 where a stage has none."""
    n = max(len(run.rounds) for run in runs)
    total, count = np.zeros((n, len(STAGES))), np.zeros((n, 1))
    for run in runs:
        total[: len(run.rounds)] += _of(run)
        count[: len(run.rounds)] += 1
    return total / count


def _of(run: Run) -> np.ndarray:
    return np.array([[number(line.get(f"{stage}_s")) for stage in STAGES] for line in run.rounds])


def _table(section: Section, options: Options) -> Table:
    rows = []
    for name, seeds in section.cells.items():
        sums = np.array([_of(run).sum(axis=0) for run in seeds.values()]).mean(axis=0)
        labels = np.mean([run.rounds[-1]["labels"] for run in seeds.values()])
        rounds = np.mean([len(run.rounds) for run in seeds.values()])
        cost = f"{labels * options.label_cost:,.10g}"
        rows.append((name, f"{rounds:g}", f"{labels:,.10g}", cost, *map(_duration, (sums.sum(), *sums))))
    columns = ("strategy", "rounds", "labels", "cost of labels", "total time", *STAGES)
    note = f"Per run, mean over the seeds. A label costs {options.label_cost:g} (--label-cost)."
    return Table(columns, tuple(rows), note=note)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.05 or seconds == 0 else "< 0.1 s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _figure(seconds: dict[str, np.ndarray]) -> Figure:
    columns = columns_of(len(seconds))
    rows = math.ceil(len(seconds) / columns)
    width, height = max(5.4, columns * PANEL[0] + 0.6), rows * (PANEL[1] + 0.35) + 0.75
    figure = Figure(figsize=(width, height), facecolor="white")
    highest = max(found.sum(axis=1).max() for found in seconds.values())
    for i, (name, found) in enumerate(seconds.items()):
        x, y = 0.6 + (i % columns) * PANEL[0], height - 0.35 - (1 + i // columns) * (PANEL[1] + 0.35) + 0.1
        axes = figure.add_axes((x / width, y / height, (PANEL[0] - 0.25) / width, (PANEL[1] - 0.25) / height))
        stacked_bars(axes, name, found, STAGES.values(), highest)
        axes.set_ylim(0, 1.03 * highest)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.tick_params(labelleft=i % columns == 0)
        if i % columns == 0:
            axes.set_ylabel("seconds", fontsize=FONT, color=INK)
        if i + columns >= len(seconds):
            axes.set_xlabel("round", fontsize=FONT, color=INK)
    handles = [Patch(color=colour, label=stage) for stage, colour in STAGES.items()]
    figure.legend(handles=handles, loc="upper left", ncols=len(STAGES), frameon=False, fontsize=FONT - 0.5, handlelength=1,
                  bbox_to_anchor=(0.3 / width, 1))  # fmt: skip
    return figure
