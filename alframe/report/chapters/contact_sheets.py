"""The queried images as thumbnails: one strip per strategy and round."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from alframe.record.layout import Layout
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Strip
from alframe.report.read.run import Run
from alframe.report.read.section import Section

COLUMNS, MAX_ON_SHEET, MAX_SIDE = 8, 64, 128
"""How `queries/round_###.jpg` and `round_###_evidence.jpg` are laid out: rows of eight equal tiles, in rank order."""
MAX_SHOWN, MAX_IN_CHAPTER = 24, 600


def chapter(section: Section, options: Options) -> Chapter | None:
    """The first, middle and last query of each cell's lowest seed with contact sheets; None if no run has any."""
    sheets = {
        name: found
        for name, seeds in section.cells.items()
        if (found := _sheets(list(seeds.values()), section.range[1]))
    }
    files = [
        (name, run, round, sheet)
        for name, (run, paths) in sheets.items()
        for round, path in paths
        for sheet in (path, Layout(run.folder).evidence_sheet(round))
        if sheet.is_file()
    ]
    shown = max(8, min(MAX_SHOWN, MAX_IN_CHAPTER // max(1, len(files))))
    strips = tuple(filter(None, (_strip(section, *file, shown) for file in files)))
    intro = "The first images of each query in order of preference, with the answers. A cross marks images that the network had assigned to another class. Where a run drew maps, the same images follow with what made them be asked for in colour: the evidence for a defect or class, or the distance to other images."
    return Chapter("Contact sheets", (Paragraph(intro), *strips), folded=True) if strips else None


def _sheets(runs: list[Run], high: int) -> tuple[Run, list[tuple[int, Path]]] | None:
    """The first run with contact sheets and its first, middle and last one, by round."""
    for run in runs:
        paths = [(round, Layout(run.folder).contact_sheet(round)) for round in run.rounds_until(high)]
        paths = [(round, path) for round, path in paths if path.is_file()]
        if paths:
            return run, [paths[i] for i in sorted({0, len(paths) // 2, len(paths) - 1})]
    return None


def _strip(section: Section, name: str, run: Run, round: int, path: Path, shown: int) -> Strip | None:
    """None if there is no sheet, or sheet and questions do not match or cannot be read."""
    try:
        asked = run.stage(round).get("questions") or []
        questions = sorted(asked, key=lambda question: question["rank"])[:MAX_ON_SHEET]
        tiles, of = cut(path.read_bytes(), len(questions), shown)
        captions = [_caption(section, run, question) for question in questions[:shown]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    labels = next(line["labels"] for line in run.rounds if line.get("round") == round)
    which = "" if section.is_one_by_people else f"{name}, seed {run.seed}, "
    return Strip(
        f"{which}asked at {labels:,} labels{of and f': {of}'}",
        tuple(zip(tiles, captions, strict=True)),
    )


def cut(sheet: bytes, n_images: int, shown: int) -> tuple[list[bytes], str]:
    """The first `shown` of the `n_images` tiles of a contact sheet, each as a JPEG, and what the sheet says of them.

    Raises ValueError if the sheet has another number.
    """
    with Image.open(io.BytesIO(sheet)) as picture:
        rows = -(-n_images // COLUMNS)
        width, height = picture.width // COLUMNS, picture.height // max(rows, 1)
        if n_images == 0 or picture.width % COLUMNS or picture.height % rows or not 8 <= height <= MAX_SIDE:
            raise ValueError(
                f"Expected a contact sheet of {n_images} images, got {picture.width} x {picture.height} pixels."
            )
        of = picture.info.get("comment", b"").decode("utf-8", errors="replace")
        pixels = picture.convert("RGB")
    red, *others = pixels.split()
    grey = all(ImageChops.difference(red, other).getbbox() is None for other in others)
    tiles = []
    for i in range(min(n_images, shown)):
        x, y = i % COLUMNS * width, i // COLUMNS * height
        file = io.BytesIO()
        tile = pixels.crop((x, y, x + width, y + height))
        (tile.convert("L") if grey else tile).save(file, "JPEG", quality=80)
        tiles.append(file.getvalue())
    return tiles, of


def _caption(section: Section, run: Run, question: dict[str, Any]) -> str:
    answer = run.labels.get(question["index"])
    if answer is None:
        return "no answer"
    probs = question.get("probs") or []
    wrong = bool(probs) and max(range(len(probs)), key=probs.__getitem__) != answer
    return section.class_name(answer) + (" ✗" if wrong else "")
