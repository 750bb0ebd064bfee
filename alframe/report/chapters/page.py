"""The order of the report: findings, protocol warnings, a part for each comparison, the runs used, how to read it."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alframe.errors import expect
from alframe.report.chapters import (
    calibration,
    contact_sheets,
    one_run,
    pairwise,
    people,
    purchases,
    results,
    targets,
    timing,
    verdicts,
)
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Table
from alframe.report.chapters.overall import overall
from alframe.report.chapters.phrases import counted
from alframe.report.read.comparison import LeftOut
from alframe.report.read.section import Section

TOPICS: tuple[Callable[[Section, Options], Chapter | None], ...] = (
    results.chapter,
    verdicts.chapter,
    results.budgets,
    targets.chapter,
    pairwise.chapter,
    verdicts.power,
    calibration.chapter,
    purchases.chapter,
    contact_sheets.chapter,
    people.chapter,
    timing.chapter,
)
"""The chapters of a comparison, in order. A topic with nothing to report returns None."""
KEPT_APART = "Runs with different data or budgets are never mixed; each comparison above stands on its own."


@dataclass(frozen=True)
class Part:
    """Chapters under one heading, after its own `blocks`."""

    title: str
    blocks: tuple[Block, ...] = ()
    chapters: tuple[Chapter, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole report. Every picture has a unique name that can be a file name."""

    title: str
    parts: tuple[Part, ...]

    @property
    def pictures(self) -> list[Picture]:
        """Every picture in the order of the page."""
        blocks = [
            b for part in self.parts for group in (part.blocks, *(c.blocks for c in part.chapters)) for b in group
        ]
        return [block for block in blocks if isinstance(block, Picture)]


def assemble(
    sections: Sequence[Section],
    left: Sequence[LeftOut],
    options: Options,
    protocol: Chapter | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """The report on `sections`. `protocol` holds the protocol warnings, `notes` those about the options."""
    several = len(sections) > 1
    first = () if several else _in_short(sections[0], options, (results.curves(sections[0]),))
    by_comparison = tuple(Chapter(one.title, _in_short(one, options)) for one in sections) if several else ()
    compared = [section for section in sections if not section.is_one_by_people]
    serious = [b for b in (protocol.blocks if protocol else ()) if isinstance(b, Paragraph) and b.tone == "bad"]
    pointer = f"{counted(len(serious), 'serious warning')} under Protocol: read {'it' if len(serious) == 1 else 'them'} before relying on any verdict here."
    warned = (*([Paragraph(pointer, "bad")] if serious else []), *(Paragraph(note, "warning") for note in notes))
    parts = [Part("In short", (*first, *warned), by_comparison)]
    if protocol is not None:
        parts.append(Part(protocol.title, protocol.blocks))
    for section in sections:
        if section.is_one_by_people:
            parts.append(Part(section.title if several else "In detail", (), one_run.chapters(section, options)))
            continue
        chapters = tuple(chapter for topic in TOPICS if (chapter := topic(section, options)) is not None)
        shown = (results.curves(section),) if several else ()  # a single comparison shows them under In short
        parts.append(Part(section.title, (Paragraph(f"{results.heading(section)}."), *shown), chapters))
    together = overall(sections, options)
    if together is not None:
        parts.append(Part(together.title, together.blocks))
    parts.append(Part("What was used", (), _used(sections, left, options.out)))
    alone = (one_run.HOW_TO_READ,) if len(compared) < len(sections) else ()
    reading = (*((results.HOW_TO_READ,) if compared else ()), *alone, *((KEPT_APART,) if several else ()))
    parts.append(Part("How to read this", tuple(map(Paragraph, reading))))
    runs = counted(sum(len(section.runs) for section in sections), "run")
    one = f"{sections[0].title}: {runs} compared" if compared else one_run.title(sections[0])
    title = f"{len(sections)} comparisons, {runs}" if several else one
    return Page(title, _named(parts, several))


def out_of_range(sections: Sequence[Section], options: Options) -> list[str]:
    """A note for each label count of `--at` that a comparison does not reach. Raises `ConfigError` if none reaches it."""
    spans = {section.title: section.range for section in sections}
    for at in options.at:
        expect(
            any(low <= at <= high for low, high in spans.values()),
            f"Expected label counts of --at within those of the runs, got {at:,}; choose from "
            + "; ".join(f"{low:,} to {high:,} ({title})" for title, (low, high) in spans.items())
            + ".",
        )
    return [
        f"{title} is not compared at {at:,} labels: its runs share {low:,} to {high:,}."
        for title, (low, high) in spans.items()
        for at in options.at
        if not low <= at <= high
    ]


def _in_short(section: Section, options: Options, between: Sequence[Block] = ()) -> tuple[Block, ...]:
    """Whether it paid off, and the verdict on each strategy; of one run that people labelled, how good its model is."""
    if section.is_one_by_people:
        return one_run.in_short(section)
    headline = filter(None, (verdicts.headline(section, options),))
    return (*headline, *between, *verdicts.verdict_sentences(section, options))


def _used(sections: Sequence[Section], left: Sequence[LeftOut], out: Path) -> tuple[Chapter, ...]:
    used: tuple[tuple[str, ...], ...] = tuple(
        (section.title, name, str(seed), relative(run.folder, out))
        for section in sections
        for name, seeds in section.cells.items()
        for seed, run in seeds.items()
    )
    rows = tuple((relative(item.folder, out), item.reason) for item in left)
    columns: tuple[str, ...] = ("comparison", "strategy", "seed", "folder")
    if all(section.is_one_by_people for section in sections):
        columns, used = ("data", "folder"), tuple((row[0], row[-1]) for row in used)
    runs = Chapter(f"Used: {len(used)}", (Table(columns, used),), folded=True)
    others = Chapter(f"Not used, or only in part: {len(left)}", (Table(("folder", "reason"), rows),))
    return (runs, others) if left else (runs,)


def _named(parts: Sequence[Part], several: bool) -> tuple[Part, ...]:
    """Pictures renamed to unique file names: with `several` comparisons a topic draws one for each."""
    taken: set[str] = set()

    def rename(blocks: tuple[Block, ...], title: str) -> tuple[Block, ...]:
        return tuple(replace(b, name=free(b.name, title)) if isinstance(b, Picture) else b for b in blocks)

    def free(name: str, title: str) -> str:
        stem = "_".join(filter(None, (slug(name), slug(title.lower())[:40] if several else ""))) or "figure"
        names = (stem, *(f"{stem}_{k}" for k in range(2, 10_000)))
        taken.add(name := next(name for name in names if name not in taken))
        return name

    named = []
    for part in parts:
        chapters = tuple(replace(chapter, blocks=rename(chapter.blocks, part.title)) for chapter in part.chapters)
        named.append(replace(part, blocks=rename(part.blocks, part.title), chapters=chapters))
    return tuple(named)


def slug(name: str) -> str:
    """Letters, digits, dashes and underscores: safe in a file name and in a label."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")


def relative(folder: Path, out: Path) -> str:
    """The path of `folder` as seen from `out`."""
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
