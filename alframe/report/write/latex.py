"""`results.tex`: the table of each comparison for a paper; needs `\\usepackage{booktabs}`."""

from collections.abc import Sequence
from pathlib import Path

from alframe.record.files import write_atomically
from alframe.report.chapters import results
from alframe.report.chapters.blocks import Table
from alframe.report.chapters.page import slug
from alframe.report.read.section import Section

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "…": r"\ldots{}", "✗": r"$\times$", '"': "''",
}  # fmt: skip


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
