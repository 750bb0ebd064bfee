"""`results.csv` and `rounds.csv`: the numbers in full precision; `results.tex`: for a paper, needs `\\usepackage{booktabs}`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from alframe.record.files import write_atomically
from alframe.report.chapters import results
from alframe.report.chapters.blocks import Table
from alframe.report.chapters.page import relative, slug
from alframe.report.chapters.results import std
from alframe.report.read.section import Section, metrics

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "…": r"\ldots{}", "✗": r"$\times$", '"': "''",
}  # fmt: skip


def csv_tables(sections: Sequence[Section], out: Path) -> list[Path]:
    """`results.csv`: one row per cell. `rounds.csv`: one row per round of every run used, with all its metrics."""
    columns = "comparison,cell,metric,first_labels,last_labels,seeds,final_mean,final_std,area_mean,area_std,baseline"
    numbers = ("difference", "low", "high", "effect", "test", "p", "p_holm")
    paired = [f"{what}_{value}" for what in ("final", "area") for value in numbers]
    results: list[list[object]] = [[*columns.split(","), "common_seeds", *paired, "verdict"]]
    for section in sections:
        for name, curve in section.curves.items():
            row: list[object] = [section.title, name, section.metric, *section.range, len(curve.seeds)]
            row += [curve.finals.mean(), std(curve.finals), curve.areas.mean(), std(curve.areas)]
            if versus := section.against.get(name):
                row += [versus.baseline, versus.final.n]
                for test in (versus.final, versus.area):
                    row += [
                        test.mean,
                        *(test.interval or (None, None)),
                        test.effect,
                        test.test or None,
                        test.p,
                        test.p_holm,
                    ]
                row += [versus.verdict]
            results.append([*row, *[None] * (len(results[0]) - len(row))])
    names = metrics(run for section in sections for run in section.runs)
    rounds: list[list[object]] = [["comparison", "cell", "seed", "folder", "round", "labels", *names]]
    for section in sections:
        for name, seeds in section.cells.items():
            for run in seeds.values():
                start = [section.title, name, run.seed, relative(run.folder, out)]
                for line in run.rounds:
                    rounds.append([*start, line.get("round"), line["labels"], *(line.get(key) for key in names)])
    return [_csv(out / "results.csv", results), _csv(out / "rounds.csv", rounds)]


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_atomically(path, text.getvalue())


def latex(sections: Sequence[Section], out: Path) -> Path:
    """A `table` for each comparison, with caption and label."""
    head = "% Needs \\usepackage{booktabs}. Made by alframe-report.\n\n"
    tables = []
    for section in sections:
        caption = f"{section.title}: {results.heading(section)}. Mean ± standard deviation over the seeds."
        label = f"tab:{slug(section.title.lower())}"
        tables += [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}", rf"\label{{{label}}}"]
        tables += [tabular(results.table(section)), r"\end{table}", ""]
    return write_atomically(out / "results.tex", head + "\n".join(tables))


def escape(text: str) -> str:
    """Text escaped for LaTeX, in one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def tabular(table: Table) -> str:
    """The table alone, set with booktabs: words aligned left, numbers right."""
    sides = ["l" if table.has_words(i) else "r" for i in range(len(table.columns))]
    rows = [" & ".join(map(escape, row)) + r" \\" for row in table.rows]
    head = " & ".join(map(escape, table.columns)) + r" \\"
    begin = rf"\begin{{tabular}}{{{''.join(sides)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])
