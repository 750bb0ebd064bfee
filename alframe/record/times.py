"""The stages of a round, their times, and the table and figure that show them."""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alframe.console import duration

STAGES = {
    "data": "#E69F00",
    "fit": "#0072B2",
    "evaluate": "#56B4E9",
    "pool": "#009E73",
    "select": "#D55E00",
    "annotate": "#CC79A7",
    "record": "#7A4FBF",
    "other": "#B5B5B5",
}
"""The stages with their colours. `data` is the time to read, augment and normalise images, subtracted from the other stages."""


@dataclass
class Spent:
    """The time of a stage: seconds without the preparation of its images (`data_s`), and the number of images."""

    seconds: float = 0.0
    data_s: float = 0.0
    images: int = 0


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        name: {key: sum(line["stages"][name][key] for line in rounds) for key in ("seconds", "data_s", "images")}
        for name in STAGES
    }
    return with_rates({"total_s": sum(line["total_s"] for line in rounds), "stages": stages})


def with_rates(line: dict[str, Any]) -> dict[str, Any]:
    """Add the `share` of the total of each stage, and `images_per_s` (with data preparation) for stages with images."""
    for stage in line["stages"].values():
        stage["share"] = stage["seconds"] / line["total_s"]
        if stage["images"]:
            stage["images_per_s"] = stage["images"] / (stage["seconds"] + stage["data_s"])
    return line


def stages_table(rounds: list[dict[str, Any]], whole: dict[str, Any]) -> list[str]:
    """One line per round with the seconds of its stages; then the totals, their shares, and images per second."""

    def row(head: str, total: str, cells: list[str]) -> str:
        return "  ".join([f"{head:>8}", f"{total:>8}", *(f"{cell:>8}" for cell in cells)]).rstrip()

    def seconds(head: str, line: dict[str, Any]) -> str:
        return row(head, f"{line['total_s']:.2f}", [f"{line['stages'][name]['seconds']:.2f}" for name in STAGES])

    totals = [whole["stages"][name] for name in STAGES]
    return [
        "seconds of each stage (data: reading, augmenting and normalising images, not counted in fit, evaluate, pool and annotate)",
        row("round", "total", list(STAGES)),
        *(seconds(str(line["round"]), line) for line in rounds),
        seconds("all", whole),
        row("share", "", [f"{100 * stage['share']:.1f} %" for stage in totals]),
        row("images/s", "", [f"{stage['images_per_s']:,.0f}" if "images_per_s" in stage else "" for stage in totals]),
    ]


def stages_figure(rounds: list[dict[str, Any]]) -> Figure:
    """One bar per round, split into its stages in order, with the round's seconds at the end."""
    bar = max(0.06, min(0.45, 12 / len(rounds)))  # inches
    height = 1.1 + bar * len(rounds)
    figure = Figure(figsize=(9, height), dpi=150, facecolor="white")
    axes = figure.add_axes((0.07, 0.5 / height, 0.83, bar * len(rounds) / height))
    numbers = [line["round"] for line in rounds]
    lefts = [0.0] * len(rounds)
    longest = max(line["total_s"] for line in rounds)
    for name, colour in STAGES.items():
        widths = [line["stages"][name]["seconds"] for line in rounds]
        share = sum(widths) / sum(line["total_s"] for line in rounds)
        label = f"{name} {100 * share:.1f} %"
        axes.barh(numbers, widths, left=lefts, color=colour, height=0.8, label=label)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    if bar >= 0.2:
        for line in rounds:
            text = duration(line["total_s"])
            axes.text(line["total_s"] + 0.008 * longest, line["round"], text, va="center", fontsize=8.5)
    axes.set(xlabel="seconds", ylabel="round", xlim=(0, 1.01 * longest), ylim=(numbers[-1] + 0.6, numbers[0] - 0.6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    axes.tick_params(axis="y", length=0)
    figure.legend(ncols=4, loc="upper left", bbox_to_anchor=(0.06, 1), frameon=False, fontsize=8.5, handlelength=1.2)
    return figure
