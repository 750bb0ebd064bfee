"""Run a preset, as `alframe experiment=PRESET` does, and lay what came out beside the published numbers.

    python scripts/reproduce.py cifar10_low                        # run (or go on with) it, then the table
    python scripts/reproduce.py repeated_mnist seed=0,1 threads=1  # overrides as for alframe
    python scripts/reproduce.py repeated_mnist --only-report       # from the run folders that are there
    python scripts/reproduce.py --list

The published numbers are in published.yaml beside this file. Exit code: 0, or 1 after one line for each mistake or failed run.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alframe.area import area_under_curve
from alframe.cli import main as alframe
from alframe.config.overrides import load
from alframe.config.schema import CONFIGS
from alframe.errors import AlframeError, ConfigError, RunFolderError, did_you_mean
from alframe.report.read.comparison import Comparison, LeftOut, compare, read_runs
from alframe.report.read.run import Run

PUBLISHED = Path(__file__).with_name("published.yaml")
METRIC = "test/accuracy"
HEADER = ("measure", "strategy", "ours", "our seeds", "published", "their seeds", "difference", "in sd")
HOW_TO_READ = """Both are {statistic} ± standard deviation over seeds. The difference is ours - theirs; *in sd* divides it by the standard deviation
over seeds: the root mean square of both where both are known, else the one that is. *Area* is the mean height of the curve of test
accuracy over those labels (on an equal grid the AUBC). *Labels to* is the fewest at which a seed's test accuracy reaches that; a seed
that never does counts as more than all its labels."""


@dataclass(frozen=True)
class Target:
    """One published number of a strategy."""

    measure: str
    value: float
    deviation: float | None = None


@dataclass(frozen=True)
class Row:
    """Ours beside theirs. `ours` are by seed; infinite where a number of labels was not enough, absent where nothing fits."""

    measure: str
    strategy: str
    ours: tuple[float, ...]
    target: Target | None
    seeds: int | None
    statistic: str
    reason: str = ""

    @property
    def middle(self) -> float:
        return getattr(statistics, self.statistic)(self.ours)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over our seeds, where there are two and all are finite."""
        return statistics.stdev(self.ours) if len(self.ours) > 1 and all(map(math.isfinite, self.ours)) else None

    @property
    def difference(self) -> float | None:
        known = self.ours and self.target and math.isfinite(self.middle)
        return self.middle - self.target.value if known and self.target else None

    @property
    def in_sd(self) -> float | None:
        """The difference in standard deviations over seeds; None where no deviation is known or it is 0."""
        theirs = self.target.deviation if self.target else None
        squares = [value**2 for value in (self.deviation, theirs) if value is not None]
        scale = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
        return None if self.difference is None or scale == 0 else self.difference / scale

    def cells(self) -> tuple[str, ...]:
        ours = _number(self.middle, self.deviation, self.measure) if self.ours else f"– ({self.reason})"
        theirs = _number(self.target.value, self.target.deviation, self.measure) if self.target else "–"
        difference = "–" if self.difference is None else f"{self.difference:+{_format(self.measure)}}"
        in_sd = "–" if self.in_sd is None else f"{self.in_sd:+.1f}"
        seeds = "–" if self.seeds is None or not self.target else str(self.seeds)
        return self.measure, self.strategy, ours, str(len(self.ours)), theirs, seeds, difference, in_sd


@dataclass
class Report:
    """All tables of a preset, and what they rest on."""

    preset: str
    about: dict[str, Any]
    tables: list[tuple[str, list[Row]]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.preset}", ""]
        if self.about:
            lines += [f"Published: {self.about['source']}. Checked: {self.about['checked']}.", ""]
            lines += [f"Differs: {self.about['differs']}.", ""]
        else:
            lines += ["No published number is known for this preset.", ""]
        for title, rows in self.tables:
            lines += [f"### {title}", "", *_table(HEADER, [row.cells() for row in rows]), ""]
        lines += [HOW_TO_READ.format(statistic=self.about.get("statistic", "mean"))]
        lines += ["", *(f"Not used, or only in part: {item.folder}: {item.reason}" for item in self.left_out)]
        return "\n".join(lines).rstrip() + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    arguments, more = _parser().parse_known_args(argv)
    overrides = [*arguments.overrides, *more]
    try:
        published = read_published()
        if arguments.list or arguments.preset is None:
            print("\n".join(listing(published)))
            return 0
        check(arguments.preset, overrides)
        about = published.get(arguments.preset, {})
        failed = False if arguments.only_report else run(arguments.preset, overrides, about)
        text = report(arguments.preset, study_folder(arguments.preset, overrides), about).markdown()
        print(f"\n{text}", end="")
        if arguments.write:
            arguments.write.write_text(text, encoding="utf-8")
    except (AlframeError, OSError) as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    return int(failed)


def read_published(path: Path = PUBLISHED) -> dict[str, dict[str, Any]]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(entries, dict), f"{path} holds a mapping by preset"
    return entries


def presets() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def check(preset: str, overrides: Iterable[str]) -> None:
    """Raise `ConfigError` for an unknown preset, or an override that is none."""
    known = presets()
    if preset not in known:
        hint = did_you_mean(preset, known, otherwise=";")
        raise ConfigError(f"Expected a preset, got {preset!r}{hint} The presets are {', '.join(known)}.")
    wrong = [text for text in overrides if "=" not in text and not text.startswith("~")]
    if wrong:
        raise ConfigError(f"Expected overrides like threads=1 after the preset, got {wrong[0]!r}; see --help.")


def listing(published: dict[str, dict[str, Any]]) -> list[str]:
    """A line a preset with published numbers, then those without."""
    lines = []
    for preset, about in published.items():
        numbers = sum(len(entry["values"]) for entry in about["numbers"])
        lines.append(f"{preset}: {numbers} numbers, {about['source']}")
    return [*lines, f"Without published numbers: {', '.join(name for name in presets() if name not in published)}"]


def run(preset: str, overrides: Sequence[str], about: dict[str, Any]) -> bool:
    """Run the preset's sweep and the commands beside it, each as `alframe` does; True if one of them failed.

    Where a strategy is asked for, that alone is run.
    """
    asked = any(text.startswith("strategy=") for text in overrides)
    failed = False
    for more in [[], *([] if asked else about.get("also", []))]:
        sys.argv = ["alframe", f"experiment={preset}", *more, *overrides]
        failed |= alframe() != 0
    return failed


def study_folder(preset: str, overrides: Iterable[str]) -> Path:
    """Where the runs of a preset lie."""
    return load([f"experiment={preset}", *(text for text in overrides if text.startswith("run."))]).folder.parents[1]


def report(preset: str, folder: Path, about: dict[str, Any]) -> Report:
    """The tables of the runs in `folder`: one for all runs that may be compared. Raises `RunFolderError` where there is none."""
    if not folder.is_dir():
        raise RunFolderError(f"Expected runs of {preset} in {folder}, got none; run it first, without --only-report.")
    runs, left_out = read_runs([folder])
    if not runs:
        raise RunFolderError(
            f"Expected finished runs of {preset} in {folder}, got none; the same command goes on with them."
        )
    comparisons, twice = compare(runs)
    tables = [(comparison.title, rows_of(comparison, about)) for comparison in comparisons]
    return Report(preset, about, tables, [*left_out, *twice])


def rows_of(comparison: Comparison, about: dict[str, Any]) -> list[Row]:
    """A row for each measure and cell; without published numbers, the area and the accuracy at the end."""
    entries = about.get("numbers")
    if entries is None:
        runs = [run for by_seed in comparison.cells.values() for run in by_seed.values()]
        counts = [[line["labels"] for line in run.rounds] for run in runs]
        low, high = max(labels[0] for labels in counts), min(labels[-1] for labels in counts)
        entries = [{"measure": "area", "from": low, "to": high}, {"measure": "accuracy", "at": high}]
    rows = []
    for entry in entries:
        for name, by_seed in comparison.cells.items():
            first = next(iter(by_seed.values()))
            options = first.options
            if any(options.get(key) != value for key, value in entry.get("overrides", {}).items()):
                continue
            value = entry.get("values", {}).get(first.choices["strategy"])
            number, deviation = value if isinstance(value, list) else (value, None)
            ours = [measured(run, entry) for run in by_seed.values()]
            reason = next((text for text in ours if isinstance(text, str)), "")
            rows.append(
                Row(
                    _name(entry),
                    name,
                    tuple(x for x in ours if not isinstance(x, str)),
                    None if number is None else Target(_name(entry), number, deviation),
                    about.get("seeds"),
                    about.get("statistic", "mean"),
                    reason,
                )
            )
    return rows


def measured(run: Run, entry: dict[str, Any]) -> float | str:
    """What `entry` measures of a run, or why it cannot be said."""
    labels = [line["labels"] for line in run.rounds]
    values = [line[METRIC] for line in run.rounds]
    if entry["measure"] == "labels":
        return next((float(n) for n, value in zip(labels, values, strict=True) if value >= entry["to"]), math.inf)
    low, high = (entry["at"], entry["at"]) if entry["measure"] == "accuracy" else (entry["from"], entry["to"])
    if labels[0] > low or labels[-1] < high:
        return f"we have {labels[0]} to {labels[-1]} labels"
    if entry["measure"] == "accuracy":
        return float(np.interp(low, labels, values))
    grid = sorted({low, high, *(n for n in labels if low <= n <= high)})
    return area_under_curve(grid, np.interp(grid, labels, values).tolist())


def _name(entry: dict[str, Any]) -> str:
    return {
        "area": "area, {from:,} to {to:,} labels",
        "accuracy": "accuracy at {at:,} labels",
        "labels": "labels to {to}",
    }[entry["measure"]].format(**entry)


def _format(measure: str) -> str:
    return ".0f" if measure.startswith("labels") else ".4f" if measure.startswith("area") else ".3f"


def _number(value: float, deviation: float | None, measure: str) -> str:
    if math.isinf(value):
        return "not reached"
    shown = f"{value:{_format(measure)}}"
    return shown if deviation is None else f"{shown} ± {deviation:{_format(measure)}}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown that is aligned for reading as it is."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reproduce.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("preset", metavar="PRESET", nargs="?", help="a file in configs/experiment")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="as for alframe: seed=0,1 threads=1 run.root=/data"
    )
    parser.add_argument("--list", action="store_true", help="presets with published numbers")
    parser.add_argument("--only-report", action="store_true", help="run nothing: use the run folders that are there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there too, as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
