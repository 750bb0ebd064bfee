"""The report's files and its table on the console."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from alframe.report.curves import Difference
from alframe.report.read import LeftOut
from alframe.report.summary import Section, metrics

MAX_SHOWN = 8
HOW_TO_READ = """\
*At the end* is the value at the last label count, *area* the area under the learning curve divided by the range of labels,
that is the curve's mean height; both as mean ± standard deviation over the seeds. Differences are paired by seed; p is of a two-sided
paired t-test, Holm-corrected over all tests of the table, and asked for only where three seeds are common. *Better* and *worse* are
said at the 5 % level after correction; *cannot tell* means that these seeds do not show a difference, not that there is none."""


def to_console(section: Section, console: Console) -> None:
    """A table with a line a cell, and the section's notes. Lines are never cut or wrapped: a log has no edge."""
    console.print()
    _line(console, Text.assemble((section.title, "bold"), f" · {heading(section)}"))
    columns, rows = table_of(section)
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns) - 1)]
    _line(console, Text(f"{_aligned(columns[:-1], widths)}   {columns[-1]}", style="bold"))
    for row in rows:
        verdict = row[-1]
        style = "green" if verdict.startswith("better") else "red" if verdict.startswith("worse") else ""
        numbers = _aligned(row[:-1], widths)
        _line(console, Text.assemble(numbers, "   ", (verdict, style)))
    for note in section.notes:
        _line(console, Text(note, style="yellow"))


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The name to the left, the numbers to the right."""
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "   ".join([cells[0].ljust(widths[0]), *numbers])


def heading(section: Section) -> str:
    """What is compared, over which labels, and what all runs share, in one line."""
    low, high = section.range
    shared = ", ".join(f"{group} {name}" for group, name in section.common.items())
    direction = "lower" if section.lower_is_better else "higher"
    over = f"{low:,} to {high:,} labels" if low < high else f"at {low:,} labels"
    return f"{section.metric} ({direction} is better), {over}" + (f"; {shared}" if shared else "")


def table_of(section: Section) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of the table, as text; the verdict is the last column."""
    columns = ["strategy", "seeds", f"at {section.range[1]:,} labels", "area"]
    compared = bool(section.against)
    if compared:
        names = set(section.baselines.values())
        baseline = names.pop() if len(names) == 1 else "baseline"
        columns += [f"end − {baseline}", f"area − {baseline}"]
    rows = []
    for name, curve in section.curves.items():
        row = [name, str(len(curve.seeds)), _mean_std(curve.finals), _mean_std(curve.areas)]
        versus = section.against.get(name)
        if compared:
            row += [_signed(versus.final), _signed(versus.area)] if versus else ["", ""]
        is_baseline = name in section.baselines.values()
        rows.append([*row, versus.verdict if versus else "baseline" if is_baseline else "not compared"])
    return [*columns, "verdict"], rows


def left_out_to_console(left: Sequence[LeftOut], console: Console) -> None:
    """What was not used, or not in full, and why; a long list is cut, report.md has all of it."""
    if not left:
        return
    lines = [
        f"Not used, or not in full: {len(left)}",
        *(f"  {item.folder}: {item.reason}" for item in left[:MAX_SHOWN]),
    ]
    if len(left) > MAX_SHOWN:
        lines.append(f"  and {len(left) - MAX_SHOWN} more, listed in report.md")
    console.print()
    for line in lines:
        _line(console, Text(line, style="yellow"))


def markdown(sections: Sequence[Section], left: Sequence[LeftOut], out: Path) -> None:
    """`report.md`: a table for each comparison, the figure, what was used and what was left out."""
    n_runs = sum(len(section.runs) for section in sections)
    text = [f"# Learning curves of {n_runs} run{'s' if n_runs != 1 else ''}", "", "![Learning curves](curves.png)", ""]
    for section in sections:
        columns, rows = table_of(section)
        text += [f"## {section.title}", "", f"{heading(section)}.", ""]
        text += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        text += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        text += ["", *(f"- {note}" for note in section.notes), *([""] if section.notes else [])]
    text += ["## How to read this", "", HOW_TO_READ, ""]
    if len(sections) > 1:
        text += ["Runs with different data or budgets are never mixed; each comparison above stands for itself.", ""]
    text += ["## Runs", "", f"Used: {n_runs}.", ""]
    text += [f"- `{_below(run.folder, out)}`" for section in sections for run in section.runs]
    if left:
        text += ["", f"Not used, or not in full: {len(left)}.", ""]
        text += [f"- `{_below(item.folder, out)}`: {item.reason}" for item in left]
    (out / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def tables(sections: Sequence[Section], out: Path) -> None:
    """`results.csv`: a row a cell, the table in full precision. `rounds.csv`: a row a round of every run used, with all its metrics."""
    columns = "comparison,cell,metric,first_labels,last_labels,seeds,final_mean,final_std,area_mean,area_std,baseline"
    paired = [f"{what}_{value}" for what in ("final", "area") for value in ("difference", "p", "p_holm")]
    results: list[list[object]] = [[*columns.split(","), "common_seeds", *paired, "verdict"]]
    for section in sections:
        for name, curve in section.curves.items():
            row: list[object] = [section.title, name, section.metric, *section.range, len(curve.seeds)]
            row += [curve.finals.mean(), _std(curve.finals), curve.areas.mean(), _std(curve.areas)]
            if versus := section.against.get(name):
                row += [versus.baseline, versus.final.n]
                row += [value for test in (versus.final, versus.area) for value in (test.mean, test.p, test.p_holm)]
                row += [versus.verdict]
            results.append([*row, *[None] * (len(results[0]) - len(row))])
    _csv(out / "results.csv", results)
    names = metrics(run for section in sections for run in section.runs)
    rounds: list[list[object]] = [["comparison", "cell", "seed", "folder", "round", "labels", *names]]
    for section in sections:
        for name, seeds in section.cells.items():
            for run in seeds.values():
                start = [section.title, name, run.seed, _below(run.folder, out)]
                for line in run.rounds:
                    rounds.append([*start, line.get("round"), line["labels"], *(line.get(key) for key in names)])
    _csv(out / "rounds.csv", rounds)


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _below(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _mean_std(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {_std(values):.3f}" if len(values) > 1 else "")


def _signed(test: Difference) -> str:
    if math.isnan(test.mean):
        return ""
    return f"{test.mean:+.3f}" + (f" (p {_p(test.p_holm)})" if test.p_holm is not None else "")


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
