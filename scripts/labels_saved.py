"""How many labels a strategy saves to reach the AUROC that random labels end with, and the defects it finds on the way.

    python scripts/labels_saved.py runs/rare_defects --then runs/rare_then

`--then`: a study of random labels first and margin afterwards, the simplest plan, as one more row. A seed that never reaches the
level counts as one query more than it bought, so what it costs is a lower bound. Prints Markdown: the mean of each strategy over
its seeds, and labels saved paired by seed with 95 % t intervals.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from alframe.report.read.comparison import read_runs
from alframe.report.read.run import Run

THEN = "random, then margin"
METRIC = "test/auroc"


def needed(run: Run, level: float) -> float:
    """The fewest labels with which the run reaches `level`."""
    lines = [line for line in run.rounds if line["labels"]]
    reached = [line["labels"] for line in lines if line[METRIC] >= level]
    return float(reached[0] if reached else lines[-1]["labels"] + lines[-1]["labels"] - lines[-2]["labels"])


def area(run: Run, first: int) -> float:
    """The mean height of the curve from `first` labels on."""
    points = [(line["labels"], line[METRIC]) for line in run.rounds if line["labels"] >= first]
    labels, values = np.array(points).T
    return float(np.trapezoid(values, labels) / (labels[-1] - labels[0]))


def found(run: Run, labels: int) -> int:
    """Defects among the first `labels` answers."""
    normal = run.normal_classes or ()
    return sum(line["label"] is not None and line["label"] not in normal for line in run.ledger[:labels])


def interval(values: np.ndarray) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.0f} ± {half:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="labels_saved.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--then", type=Path)
    parser.add_argument("--at", type=int, nargs="+", default=[20, 60, 100, 200])
    options = parser.parse_args()
    cells: dict[str, dict[int, Run]] = {}
    for run in read_runs([options.study])[0]:
        cells.setdefault(run.choices["strategy"], {})[run.seed] = run
    if options.then:
        cells[THEN] = {run.seed: run for run in read_runs([options.then])[0]}
    level = float(np.mean([run.rounds[-1][METRIC] for run in cells["random"].values()]))
    print(f"The level: {level:.3f}, the mean AUROC of random at its end.\n")
    against = [name for name in ("random", THEN) if name in cells]
    head = ["strategy", "area", "labels to the level (median)", *(f"saved against {name}" for name in against)]
    head += [f"AUROC · found at {n}" for n in options.at]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    areas = {name: [area(run, options.at[0]) for run in seeds.values()] for name, seeds in cells.items()}
    for name in sorted(cells, key=lambda name: -np.mean(areas[name])):
        seeds = cells[name]
        row = [name, f"{np.mean(areas[name]):.3f} ± {np.std(areas[name], ddof=1):.3f}"]
        row.append(f"{np.median([needed(run, level) for run in seeds.values()]):.0f}")
        for other in against:
            shared = sorted(seeds.keys() & cells[other].keys())
            saved = np.array([needed(cells[other][seed], level) - needed(seeds[seed], level) for seed in shared])
            row.append("" if other == name else interval(saved))
        for labels in options.at:
            values = [line[METRIC] for run in seeds.values() for line in run.rounds if line["labels"] == labels]
            row.append(f"{np.mean(values):.3f} · {np.mean([found(run, labels) for run in seeds.values()]):.1f}")
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
