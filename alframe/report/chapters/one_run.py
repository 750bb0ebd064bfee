"""One run that people labelled: how good the model is, what it gets wrong, what was found, and what more labels would bring."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from alframe.labels.consensus import FROM_FOLDER
from alframe.record.layout import Layout
from alframe.report.chapters import contact_sheets, people
from alframe.report.chapters.blocks import Block, Chapter, Options, Paragraph, Picture, Strip, Table
from alframe.report.chapters.figure import FONT, INK, PALETTE, style_axes
from alframe.report.chapters.phrases import counted, metric_words, value
from alframe.report.read.evidence import mapping
from alframe.report.read.run import Run
from alframe.report.read.section import UNMEASURED, Section
from alframe.report.statistics.single import Interval, area_interval, share_interval, slope

HOW_TO_READ = """\
Intervals are at 95 %: Wilson's for shares, Newcombe's for AUROC. They say how far these images can tell, if they are like those to come. \
Ranking metrics of fewer than 5 defects have none. What more labels would bring is a straight line through the later half of the rounds over the \
logarithm of the labels; all rounds are measured on much the same images, so it is a hint and no promise. One run does not tell whether another \
way of choosing would have been better: that takes a study with an oracle, several seeds and random as the baseline."""
SETS = {"test": "test images", "validation": "validation images, drawn at random"}
MAX_SHOWN = 24
SIDE = 160  # pixels of a photo that was got wrong


@dataclass(frozen=True)
class Measured:
    """What a set of images (test or validation) says about the last network: counts by true and predicted class."""

    which: str
    confusion: np.ndarray
    classes: tuple[str, ...]
    defects: tuple[int, ...]
    auroc: float | None
    mistakes: tuple[dict[str, Any], ...]

    @property
    def n(self) -> int:
        return int(self.confusion.sum())

    @property
    def is_defect(self) -> np.ndarray:
        return np.isin(np.arange(len(self.classes)), self.defects)


def measured(run: Run) -> list[Measured]:
    """The sets that the last round was measured on and whose counts are stored; those with more images first."""
    last = run.rounds[-1]
    stage, found = run.stage(last.get("round", -1)), []
    for which, key in (("test", "evaluation"), ("validation", "held_out")):
        try:
            of = stage[key]
            confusion, classes = np.array(of["confusion"], dtype=int), tuple(map(str, of["classes"]))
            mistakes = tuple(one for one in of.get("mistakes", ()) if _is_mistake(one, len(classes)))
        except (KeyError, TypeError, ValueError):
            continue
        if confusion.shape != (len(classes), len(classes)) or confusion.sum() < 1:
            continue
        normal = _normal(run)
        defects = () if normal is None else tuple(c for c in range(len(classes)) if c not in normal)
        auroc = last.get(f"{which}/auroc")
        found.append(Measured(which, confusion, classes, defects, auroc, mistakes))
    return sorted(found, key=lambda one: -one.n)


def _normal(run: Run) -> tuple[int, ...] | None:
    """The classes that are no defects, if somebody said or their names do: of cats and dogs neither is."""
    return None if run.normal is None else run.normal_classes


def _is_mistake(one: Any, n_classes: int) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("image"), str)
        and all(isinstance(one.get(key), int) and 0 <= one[key] < n_classes for key in ("label", "predicted"))
        and isinstance(one.get("probability"), int | float)
    )


def title(section: Section) -> str:
    """The folder with the photos, else the dataset."""
    dataset = section.runs[0].config.get("dataset")
    root = dataset.get("root") if isinstance(dataset, dict) else None
    return f"{(Path(root).name if isinstance(root, str) else '') or section.title}: labelled by people"


def in_short(section: Section) -> tuple[Block, ...]:
    """How good, what was found, what more labels would bring: a sentence or two each, and the curve."""
    run = section.runs[0]
    good = [
        Paragraph(f"{'How good is the model? ' if i == 0 else ''}{how_good(one)}", big=i == 0)
        for i, one in enumerate(measured(run))
    ]
    good = good or [
        Paragraph(
            "How good is the model? Nothing was measured: there are no test or validation images yet.", "warning", True
        )
    ]
    return (
        *good,
        Paragraph(_found(section)),
        Paragraph(_more(section)),
        curve(section),
    )


def how_good(one: Measured) -> str:
    """Defects found and false alarms, or accuracy, with intervals and the number of images."""
    of = f"On {one.n:,} {SETS[one.which]}"
    if not one.defects:
        return f"{of}, it is right about {shown_share(int(np.trace(one.confusion)), one.n)}."
    rows, is_defect = one.confusion.sum(axis=1), one.is_defect
    n_defects, n_normal = int(rows[is_defect].sum()), int(rows[~is_defect].sum())
    found = int(one.confusion[is_defect][:, is_defect].sum())
    alarms = int(one.confusion[~is_defect][:, is_defect].sum())
    parts = []
    if n_defects:
        parts.append(f"finds {shown_share(found, n_defects, 'defects')}")
    if n_normal:
        parts.append(f"calls {shown_share(alarms, n_normal, 'good ones')} a defect")
    text = f"{of}, it {' and '.join(parts)}."
    if not n_defects:
        return f"{text} None of them is a defect, so nothing is known about finding them."
    interval = None if one.auroc is None else area_interval(one.auroc, n_defects, n_normal)
    return f"{text} AUROC {one.auroc:.3f} [{value(interval[0])}, {value(interval[1])}]." if interval else text


def shown_share(k: int, n: int, of: str = "") -> str:
    """`12 of 14 defects (86 %, 60 to 96 %)`: the share and its interval."""
    low, high = share_interval(k, n)
    return f"{k:,} of {n:,}{' ' * bool(of)}{of} ({100 * k / n:.0f} %, {100 * low:.0f} to {100 * high:.0f} %)"


def _found(section: Section) -> str:
    """How many images of each class are labelled, and how many defects the strategy found beside random draws."""
    run = section.runs[0]
    lines = [line for line in run.ledger if line["label"] is not None]
    classes = run.answerable
    counts = {name: sum(line["label"] == c for line in lines) for c, name in enumerate(classes)}
    labels = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "none"
    text = f"What was found? {counted(len(run.ledger), 'image')} asked about or labelled by folder: {labels}."
    normal = _normal(run)
    if normal is None:
        return text
    asked = [line for line in run.ledger if line["kind"] != FROM_FOLDER]
    at_random = [line for line in asked if line.get("source") == "random" or line["kind"] == "validation"]
    chosen = [line for line in asked if line["kind"] == "query" and line.get("source") != "random"]
    hits, by_chance = ([line["label"] not in (*normal, None) for line in some] for some in (chosen, at_random))
    if chosen:
        text += f" Of the images that the strategy chose, {shown_share(sum(hits), len(hits))} are defects"
        text += f"; of those drawn at random, {shown_share(sum(by_chance), len(by_chance))}." if by_chance else "."
    return text


def _more(section: Section) -> str:
    """What twice the labels would bring, by the slope of the last rounds."""
    run, metric = section.runs[0], section.metric
    words, asks = metric_words(metric), "What would more labels bring? "
    if metric == UNMEASURED:
        return f"{asks}That takes test images (in test/<class>) or validation images (budget.validation=0.2, from the start of a run)."
    labels, values = run.points(metric)
    found = slope(labels, values)
    if found is None:
        return f"{asks}It takes at least four measured rounds to say; so far there {'is' if len(labels) == 1 else 'are'} {len(labels)}."
    by, interval = found
    n = max(4, -(-len(labels) // 2))
    text = f"{asks}Over the last {n} rounds ({labels[-n]:,.0f} to {labels[-1]:,.0f} labels) {words} went from {value(values[-n])} to {value(values[-1])}. "
    low, high = (f"{edge:+.3f}".replace("-", "−") for edge in interval)
    if interval[0] <= 0 <= interval[1]:
        return f"{text}That is no clear slope: {2 * labels[-1]:,.0f} labels instead of {labels[-1]:,.0f} would change it by {low} to {high}."
    change = f"{by:+.3f}".replace("-", "−")
    return f"{text}At this slope, {2 * labels[-1]:,.0f} labels instead of {labels[-1]:,.0f} would change it by about {change} ({low} to {high})."


def chapters(section: Section, options: Options) -> tuple[Chapter, ...]:
    """Round by round, the mistakes, what was asked, who labelled."""
    run = section.runs[0]
    several = (
        _rounds(section),
        _mistakes(run),
        contact_sheets.chapter(section, options),
        people.chapter(section, options),
    )
    return tuple(chapter for chapter in several if chapter is not None)


def _rounds(section: Section) -> Chapter:
    run, normal = section.runs[0], _normal(section.runs[0])
    metrics = [key for key in _METRICS if any(key in line for line in run.rounds)]
    rows = []
    for line in run.rounds:
        defects = _n_defects(run, line)
        cells = [value(float(line[key])) if isinstance(line.get(key), int | float) else "–" for key in metrics]
        rows.append((str(line.get("round", "")), f"{line['labels']:,}", *([f"{defects:,}"] if normal else []), *cells))
    columns = ("round", "labels", *(["defects found"] if normal else []), *map(metric_words, metrics))
    note = "Measured before the round's questions were asked. Defects found includes the photos in class folders."
    return Chapter("Round by round", (Table(columns, tuple(rows), note=note),))


_METRICS = ("test/accuracy", "test/balanced_accuracy", "test/auroc", "validation/accuracy")
"""Not the ranking of validation images: too few of them are defects."""


def _mistakes(run: Run) -> Chapter | None:
    """The images that the last network gets wrong, the surest first; None if no counts are stored."""
    sets = measured(run)
    if not sets:
        return None
    blocks: list[Block] = []
    for one in sets:
        n_wrong = one.n - int(np.trace(one.confusion))
        if not n_wrong:
            blocks.append(Paragraph(f"None of the {one.n:,} {SETS[one.which]}.", "good"))
            continue
        title = f"{n_wrong:,} of {one.n:,} {SETS[one.which]}, the surest first"
        rows = [
            (each["image"], one.classes[each["label"]], one.classes[each["predicted"]], f"{each['probability']:.2f}")
            for each in one.mistakes
        ]
        if rows:
            thumbnails = [
                (picture, f"{Path(row[0]).name}: {row[1]}")
                for row in rows[:MAX_SHOWN]
                if (picture := _picture(run, row[0]))
            ]
            blocks += [Strip(title, tuple(thumbnails), SIDE)] if thumbnails else []
            blocks.append(Table(("image", "is", "predicted", "probability"), tuple(rows), "" if thumbnails else title))
        else:
            blocks.append(Paragraph(f"{title}: their names were not recorded."))
    blocks.append(
        Paragraph(
            "A label that is wrong is corrected by alframe queue import RUN FILE --correct, or by moving the photo to another class folder."
        )
    )
    return Chapter("Which images it gets wrong", tuple(blocks))


def _picture(run: Run, name: str) -> bytes | None:
    """A photo as a small JPEG, from where it was when the run began or the queue shows it; None if it is not there any more."""
    dataset = run.config.get("dataset")
    root = dataset.get("root") if isinstance(dataset, dict) else None
    shown = (mapping(place / "images.json") or {} for place in Layout(run.folder).places())
    paths = [Path(root) / name] if isinstance(root, str) else []
    paths += [Path(path) for known in shown for id, path in known.items() if id == name and isinstance(path, str)]
    for path in paths:
        try:
            with Image.open(path) as opened:
                opened.draft("RGB", (2 * SIDE, 2 * SIDE))
                picture: Image.Image = ImageOps.exif_transpose(opened)
                if picture.mode.startswith("I"):
                    values = np.asarray(picture).astype(float)
                    picture = Image.fromarray((values * 255 / max(1.0, float(values.max()))).astype(np.uint8))
                picture = picture.convert("RGB")
            picture.thumbnail((SIDE, SIDE))
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=85)
            return file.getvalue()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return None


def curve(section: Section) -> Picture:
    """The metric by labels, with the interval of every round where the images behind it are known; without one, the defects."""
    words = _words(section)
    alt = f"{words} by labels; the table round by round has the numbers"
    bars = "" if section.metric == UNMEASURED else " Bars are 95 % intervals, where the numbers of images allow one."
    return Picture("curves", lambda: _figure(section), alt, f"{words} by labels.{bars}")


def _words(section: Section) -> str:
    if section.metric != UNMEASURED:
        return metric_words(section.metric)
    return "defects found" if _normal(section.runs[0]) else "labels with a class"


def _n_defects(run: Run, line: dict[str, Any]) -> int:
    """How many of the answers before a round was measured are defects."""
    known = [one["label"] for one in run.ledger if one["round"] <= line.get("round", -1)]
    return sum(label not in (*(_normal(run) or ()), None) for label in known)


def _figure(section: Section) -> Figure:
    run, metric = section.runs[0], section.metric
    labels, values = run.points(metric)
    if metric == UNMEASURED:
        values = [float(_n_defects(run, line)) for line in run.rounds if line.get(metric) is not None]
    bars = [_interval_at(run, line, metric) for line in run.rounds if line.get(metric) is not None]
    figure = Figure(figsize=(6.4, 3.4), facecolor="white")
    axes = figure.add_axes((0.11, 0.17, 0.86, 0.72))
    axes.plot(labels, values, color=PALETTE[0], marker="o", markersize=4, linewidth=1.8)
    for x, interval in zip(labels, bars, strict=False):
        if interval is not None:
            axes.plot([x, x], interval, color=PALETTE[0], linewidth=1.2, alpha=0.5)
    style_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(_words(section), loc="left", fontsize=FONT + 1, color=INK)
    axes.set_xlabel("labels", fontsize=FONT, color=INK)
    return figure


def _interval_at(run: Run, line: dict[str, Any], metric: str) -> Interval | None:
    """The interval of a round's AUROC or accuracy."""
    which, _, name = metric.partition("/")
    at = replace(run, rounds=[line])
    one = next((found for found in measured(at) if found.which == which), None)
    if one is None or name not in ("auroc", "accuracy"):
        return None
    if name == "accuracy":
        return share_interval(int(np.trace(one.confusion)), one.n)
    rows = one.confusion.sum(axis=1)
    return area_interval(float(line[metric]), int(rows[one.is_defect].sum()), int(rows[~one.is_defect].sum()))
