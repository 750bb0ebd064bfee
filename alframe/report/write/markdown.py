"""The report's files: Markdown, figures, and tables of numbers. Each is whole or not there."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alframe.report.chapters.blocks import Block, Paragraph, Picture, Strip, Table
from alframe.report.chapters.figure import Drawn, learning_curves, render
from alframe.report.chapters.page import Page, below
from alframe.report.chapters.results import std
from alframe.report.read.section import Section, metrics

FIGURES = "figures"
SHARP = 200  # dots an inch of curves.png, which goes onto slides
MARKS = {"good": "**+** ", "bad": "**−** ", "warning": "**!** "}


def put(path: Path, content: str | bytes) -> Path:
    """Write a file so that whoever reads it meanwhile finds the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def figures(page: Page, sections: Sequence[Section], out: Path) -> tuple[dict[str, Drawn], list[Path]]:
    """Draw every picture of the page, once, into `figures/`, and all learning curves together as `curves.png` and `curves.svg`."""
    drawn = {
        picture.name: render(picture.draw, SHARP if picture.name == "curves" else 150) for picture in page.pictures
    }
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        put(out / FIGURES / f"{name}.png", figure.png)
        put(out / FIGURES / f"{name}.svg", figure.svg)
    together = (
        drawn["curves"]
        if len(sections) == 1 and "curves" in drawn
        else render(lambda: learning_curves(sections), SHARP)
    )
    return drawn, [put(out / "curves.png", together.png), put(out / "curves.svg", together.svg)]


def markdown(page: Page, drawn: Mapping[str, Drawn], out: Path) -> Path:
    """`report.md`: the page as text, with its figures as PNG."""
    text = [f"# {escape(page.title)}", ""]
    if "curves" not in drawn:  # several comparisons
        text += ["![Learning curves](curves.png)", ""]
    for part in page.parts:
        text += [f"## {escape(part.title)}", ""]
        text += [line for block in part.blocks for line in _lines(block)]
        for chapter in part.chapters:
            text += [f"### {escape(chapter.title)}", ""]
            text += [line for block in chapter.blocks for line in _lines(block)]
    return put(out / "report.md", "\n".join(text).rstrip() + "\n")


def escape(text: str) -> str:
    """Text as Markdown shows it unchanged, in one line. Underscores within words are left alone: they mean nothing there."""
    text = re.sub(r"([\\`*\[\]])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(block: Block) -> list[str]:
    match block:
        case Paragraph():
            text = f"**{escape(block.text)}**" if block.big else escape(block.text)
            return [f"{MARKS.get(block.tone, '')}{text}", ""]
        case Table():
            return _table(block)
        case Picture():
            caption = [escape(block.caption), ""] if block.caption else []
            return [f"![{escape(block.alt)}]({FIGURES}/{block.name}.png)", "", *caption]
        case Strip():
            return [f"- {escape(block.title)}: {len(block.thumbnails)} images, shown in report.html"]


def _table(table: Table) -> list[str]:
    title = [f"**{escape(table.title)}**", ""] if table.title else []
    rows = [
        "| " + " | ".join(escape(cell).replace("|", "\\|") for cell in row) + " |"
        for row in (table.columns, *table.rows)
    ]
    under = "|" + "".join("---|" if table.has_words(i) else "---:|" for i in range(len(table.columns)))
    note = [escape(table.note), ""] if table.note else []
    return [*title, rows[0], under, *rows[1:], "", *note]


def tables(sections: Sequence[Section], out: Path) -> list[Path]:
    """`results.csv`: a row a cell, the table in full precision. `rounds.csv`: a row a round of every run used, with all its metrics."""
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
                start = [section.title, name, run.seed, below(run.folder, out)]
                for line in run.rounds:
                    rounds.append([*start, line.get("round"), line["labels"], *(line.get(key) for key in names)])
    return [_csv(out / "results.csv", results), _csv(out / "rounds.csv", rounds)]


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return put(path, text.getvalue())
