"""Who labelled: how much, how fast and how reliably."""

from alframe.labels.consensus import agreement, by_question, vote
from alframe.labels.tally import Work, tally
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Table
from alframe.report.read.section import Section

COLUMNS = {
    "images": "images",
    "seconds": "seconds each",
    "gold": "gold correct",
    "repeat": "repeats consistent",
    "agreement": "agreement",
}
NOTE = (
    "Seconds: mean over timed answers. Gold: hidden images with a class that others had settled. Repeats: the person's own images from "
    "earlier rounds. Unsure counts as wrong in both. Agreement: the share of other people's answers to the same image that match. "
    "All numbers cover whole runs."
)


def chapter(section: Section, options: Options) -> Chapter | None:
    """None if no people were asked."""
    cells = {name: [run for run in seeds.values() if run.by_people] for name, seeds in section.cells.items()}
    cells = {name: runs for name, runs in cells.items() if runs}
    if not cells:
        return None
    rows: list[tuple[str, ...]] = []
    blocks: list[Block] = []
    for name, runs in cells.items():
        work: dict[str, Work] = {}
        votes = []
        for run in runs:
            answers = run.answers()
            for person, done in tally(answers, run.answerable).items():
                work[person] = work.get(person, Work()) + done
            for lines in by_question(answers).values():
                votes.append([v for v in (vote(line, run.answerable) for line in lines.values()) if v is not None])
        rows += [(f"{name} · {person}" if len(cells) > 1 else person, *_cells(done)) for person, done in work.items()]
        if agreed := agreement(votes):
            kappa = f", kappa {agreed['kappa']:.2f}" if "kappa" in agreed else ""
            pairs = f"{100 * agreed['pairs']:.0f} % of the answer pairs on the same image agree{kappa}."
            blocks.append(Paragraph(f"{name}: {pairs}"))
    return Chapter("Who labelled", (Table(("person", *COLUMNS.values()), tuple(rows), note=NOTE), *blocks))


def _cells(work: Work) -> tuple[str, ...]:
    numbers = work.numbers
    shown = {"images": f"{work.images:,}", "seconds": f"{numbers.get('seconds', 0):,.3g}"}
    shown |= {
        key: f"{100 * numbers.get(key, 0):.0f} % of {of:,}"
        for key, of in (("gold", work.gold), ("repeat", work.repeat))
    }
    shown["agreement"] = f"{100 * numbers.get('agreement', 0):.0f} %"
    return tuple(shown[key] if key in numbers else "–" for key in COLUMNS)
