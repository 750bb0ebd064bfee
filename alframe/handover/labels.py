"""The labelled images: a table, and a folder of images with one subfolder per class."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from alframe.console import progress
from alframe.handover.trained import Line, Trained
from alframe.images import ImageSet
from alframe.labels.consensus import CHECKS, COUNTS_FROM, corrections
from alframe.names import printable
from alframe.restore import labelled_at

COLUMNS = ("id", "name", "label", "annotator", "round", "kind")
FILE, SOFT = "file", "probabilities"
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]|^[. ]|[. ]$')
"""Characters that some file systems do not allow in folder names; a leading dot would hide the folder."""


@dataclass(frozen=True)
class Labelled:
    """One labelled image: `index` in the pool, `label` as used in training, its annotators and round.

    If people were not sure, `soft` is used in training instead, and `label` is UNKNOWN if there is no class.
    """

    index: int
    id: str
    name: str
    label: int
    annotator: str
    round: int
    kind: str
    soft: tuple[float, ...] = ()


def labelled(trained: Trained) -> list[Labelled]:
    """Every labelled image of the ledger by round and rank, including validation images, later rounds and corrections."""
    pool = trained.experiment.data.pool
    answers: dict[int, list[Line]] = {}
    for line in trained.ledger:
        if line.get("label") is not None and line.get("kind") not in CHECKS:
            answers.setdefault(line["index"], []).append(line)
    last = max((max(line.get("round", 0), line.get(COUNTS_FROM, 0)) for line in trained.ledger), default=0)
    corrected = {index: line for (_, index), line in corrections(trained.ledger).items()}
    known = labelled_at(trained.experiment, trained.ledger, trained.rules, last)
    found = []
    for part in (known.training, known.validation):
        every_soft = [()] * len(part) if part.soft_labels is None else part.soft_labels.tolist()
        for index, label, probs in zip(part.rows.tolist(), part.labels.tolist(), every_soft, strict=True):
            soft = tuple(probs) if max(probs, default=1) < 1 else ()
            lines = [corrected[index]] if index in corrected else [] if soft else answers.get(index, [])
            lines = lines or [line for line in trained.ledger if line["index"] == index and line["kind"] not in CHECKS]
            who = dict.fromkeys(str(line.get("annotator", "")) for line in lines)
            first = lines[0]
            name = pool.names[index] if pool.names is not None else ""
            origin = "; ".join(who), int(first["round"]), str(first["kind"])
            found.append(Labelled(index, pool.ids[index], name, label, *origin, soft))
    return sorted(found, key=lambda one: one.round)


def write_table(path: Path, labels: Sequence[Labelled], classes: Sequence[str], files: Sequence[str] | None) -> None:
    """Write `labels.csv`: one line per labelled image; `files`, if set, is the column of their copies.

    If people were not sure of some images, there is a column of probabilities (JSON, by class), and the label may be empty.
    """
    soft = any(one.soft for one in labels)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *([SOFT] if soft else []), *([FILE] if files is not None else [])])
        for place, one in enumerate(labels):
            row = [
                one.id,
                printable(one.name),
                classes[one.label] if one.label >= 0 else "",
                one.annotator,
                one.round,
                one.kind,
            ]
            of_class = {name: round(p, 4) for name, p in zip(classes, one.soft, strict=False)}
            row += [json.dumps(of_class, ensure_ascii=False) if one.soft else ""] if soft else []
            writer.writerow([*row, files[place]] if files is not None else row)


def write_images(
    folder: Path, labels: Sequence[Labelled], images: ImageSet, classes: Sequence[str], show_progress: bool
) -> list[str]:
    """Write each labelled image as the network sees it to `folder`/<class>/<id>.png.

    Returns the paths relative to the parent of `folder`; "" for an image without a class.
    """
    names = folder_names(classes)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = []
    for one in progress(labels, "writing images", enabled=show_progress):
        if one.label < 0:
            files.append("")
            continue
        path, pixels = folder / names[one.label] / f"{one.id}.png", images.pixels[one.index]
        Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))).save(path)
        files.append(path.relative_to(folder.parent).as_posix())
    return files


def folder_names(classes: Sequence[str]) -> list[str]:
    """A portable folder name for each class: unsafe characters as %XX, and names that differ only in case made different."""
    names: list[str] = []
    for wanted in classes:
        name = UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), wanted)[:200] or "%"
        taken = {other.casefold() for other in names}
        tries = (name if number == 1 else f"{name}%{number}" for number in range(1, len(classes) + 1))
        names.append(next(each for each in tries if each.casefold() not in taken))
    return names
