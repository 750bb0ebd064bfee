"""`alframe predict`: apply a trained model to image files, decoded like the dataset's; one CSV line per image."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alframe.config.parts import pick_device
from alframe.console import progress as bar
from alframe.dataset.decode import attempts, decode_file, endings, read_head, upright_8_bit
from alframe.dataset.walk import described, list_files
from alframe.errors import DataError, RunFolderError
from alframe.handover.export import MANIFEST, MODEL, sha256
from alframe.handover.predictor import BATCH, SAME, Predictor, Spec, load
from alframe.handover.trained import capture, retrieve
from alframe.model.evidence import NO_MAPS, shown_classes
from alframe.names import printable
from alframe.record.blend import blend, scale_of
from alframe.record.layout import Layout, runs_below
from alframe.scores import bald, entropy

Say = Callable[[str], None]
ANY_DEFECT = "p(any defect)"
Batch = Sequence[tuple[Path, np.ndarray]]
LONGEST = 1024  # pixels of the longer side of a photo with its map, at most


def predictor_of(
    source: Path,
    root: Path | None = None,
    *,
    device: str | None = None,
    progress: bool = True,
    accept: bool = False,
    say: Say = print,
) -> Predictor:
    """The model of an export, or of a run (from its checkpoint, or retrained; `root`: where its images are now).

    Raises `DataError` for a damaged export, `RunFolderError` for any other folder, and what `retrieve` and `capture` raise.
    """
    if (source / MODEL).is_file() or (source / MANIFEST).is_file():
        _check_digest(source)
        return load(source / MODEL, pick_device(device or "auto"))
    if Layout(source).config.is_file():
        trained = retrieve(source, root, device=device, progress=progress, accept=accept)
        say(f"{source}: round {trained.round}, {trained.how}; use alframe export to keep the model")
        spec, tensors = capture(trained)
        return Predictor(spec, tensors, trained.learner.device)
    below = runs_below(source)
    hint = (
        f"it contains runs, such as {below[0]}"
        if below
        else "name a folder written by alframe export, or runs/<study>/<cell>/seed=<s>"
    )
    raise RunFolderError(f"Expected the folder of an export or of a run, got {source}; {hint}.")


def _check_digest(folder: Path) -> None:
    """Raise `DataError` if the weights do not match the manifest of the export."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected, found = manifest["files"][MODEL], sha256(folder / MODEL)
    except FileNotFoundError as error:
        if Path(str(error.filename)).name == MANIFEST:
            return  # only the weights were copied: they contain everything that is needed
        raise DataError(f"Expected an export with {MODEL}, got {folder} without it; copy it again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Expected the manifest of an export in {folder / MANIFEST}, got a damaged one ({type(error).__name__}); copy it again."
        ) from error
    if expected != found:
        raise DataError(
            f"Expected {folder / MODEL} to match its manifest (SHA-256 {str(expected)[:12]}), got another file ({found[:12]}); "
            "copy the export again."
        )


def find(paths: Sequence[Path], apart: Path | None = None) -> tuple[list[Path], list[Path]]:
    """The image files, each once, in the order of `paths`, with folders searched recursively; and the skipped other files.

    What lies in the folder `apart` is neither.
    """
    files: dict[Path, None] = {}
    skipped: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        for file in list_files(path):
            if apart is not None and Path(os.path.abspath(file)).is_relative_to(os.path.abspath(apart)):
                continue
            if file.suffix.lower() in endings():
                files[file] = None
            else:
                skipped.append(file)
    return list(files), skipped


def predict(
    predictor: Predictor,
    paths: Sequence[Path],
    stream: TextIO,
    *,
    every_class: bool = False,
    maps: Path | None = None,
    progress: bool = True,
    say: Say = print,
) -> int:
    """Write one line per image in and below `paths`; returns the number of unreadable ones, which `say` reports.

    `maps`: a folder for a copy of each photo with the evidence for its most likely defect over it (for its class, if nobody
    said what defects are), drawn after the last line; what lies in it is not predicted. Until then a map of a few kilobytes
    is kept of each photo.

    The columns: path; class (the most likely); probability (of that class, the mean over the draws); entropy of the mean,
    in nats; bald (disagreement of the draws, in nats) with more than one draw; with `every_class` the probability of each,
    and of any defect if the model knows several classes of defects or of normal images.
    """
    files, skipped = find(paths, maps)
    if skipped:
        say(
            f"skipped {len(skipped)} files that are no images ({', '.join(described(skipped))}), the first: {skipped[0]}"
        )
    spec = predictor.spec
    writer = csv.writer(stream, lineterminator="\n")
    columns = ["path", "class", "probability", "entropy", *(["bald"] if predictor.uncertainty.n_draws > 1 else [])]
    writer.writerow(
        [
            *columns,
            *([f"p({name})" for name in spec.classes] if every_class else []),
            *([ANY_DEFECT] if every_class and _several(spec) else []),
        ]
    )
    broken = 0
    drawn: list[tuple[Path, np.ndarray]] = []

    def readable() -> Iterator[tuple[Path, np.ndarray]]:
        nonlocal broken
        outcomes = zip(files, attempts(files, lambda i: _decoded(files[i], predictor)), strict=True)
        for file, (pixels, why) in bar(outcomes, "predicting", total=len(files), enabled=progress):
            if pixels is not None:
                yield file, pixels
            else:
                broken += 1
                say(f"skipped {file}: {why}")

    images = readable()
    while batch := list(islice(images, BATCH)):
        rows, classes = _rows(predictor, batch, every_class)
        writer.writerows(rows)
        if maps is not None:
            found = predictor.evidence(_stacked(batch), classes)
            if found is None:
                say(NO_MAPS)
                maps = None
            else:
                drawn += [(file, one.numpy()) for (file, _), one in zip(batch, found, strict=True)]
    if maps is not None and drawn:
        stream.flush()
        try:
            _draw(maps, drawn, predictor.spec, say)
        except OSError as error:
            say(
                f"no maps: {maps} cannot be written, or a photo cannot be read again ({error}); the predictions are complete"
            )
            broken += 1
    if broken or not files:
        say(f"predicted {len(files) - broken} of {len(files)} images")
    return broken if files else 1


def _several(spec: Spec) -> bool:
    """Whether the probability of a defect is not that of one class."""
    return spec.defects is not None and len(spec.classes) > 2


def _decoded(file: Path, predictor: Predictor) -> np.ndarray:
    """uint8 [c, h, w] as the dataset decodes it. Raises one of UNREADABLE."""
    shape = predictor.spec.shape
    if predictor.spec.resize == SAME:
        head = read_head(file)
        if (head.height, head.width) != shape[1:]:
            raise ValueError(f"{head.height} x {head.width} pixels, but the network takes {shape[1]} x {shape[2]}")
    return decode_file(file, shape)


def _stacked(batch: Batch) -> Tensor:
    return torch.from_numpy(np.stack([pixels for _, pixels in batch]))


def _rows(predictor: Predictor, batch: Batch, every_class: bool) -> tuple[list[list[Any]], Tensor]:
    """The lines of a batch, and the classes whose evidence is shown."""
    prediction = predictor.predict(_stacked(batch))
    if torch.isnan(prediction.log_probs).any():
        raise DataError(
            f"Expected finite predictions, got NaN for {batch[0][0]} or one of the next {len(batch) - 1} images; the weights are damaged, export the run again."
        )
    scores = [
        entropy(prediction.log_probs),
        *([bald(prediction.log_probs)] if predictor.uncertainty.n_draws > 1 else []),
    ]
    lines = []
    numbers, probs = torch.stack(scores, dim=1).tolist(), prediction.mean_log_probs.exp().tolist()
    for (file, _), row, p in zip(batch, numbers, probs, strict=True):
        best = int(np.argmax(p))
        shown = [p[best], *row, *(p if every_class else [])]
        if every_class and _several(predictor.spec):
            shown.append(sum(p[c] for c in predictor.spec.defects or ()))
        lines.append([printable(file), predictor.spec.classes[best], *(f"{max(value, 0.0):.6f}" for value in shown)])
    return lines, shown_classes(prediction.mean_log_probs, predictor.spec.defects)


def _draw(folder: Path, drawn: Sequence[tuple[Path, np.ndarray]], spec: Spec, say: Say) -> None:
    """The photos below `folder` as below what is common to all paths, at their own aspect, with their maps on one scale."""
    scale = scale_of(values for _, values in drawn)
    places = {os.path.abspath(file): (file, values) for file, values in drawn}
    common = os.path.commonpath([os.path.dirname(place) for place in places])
    for place, (file, values) in places.items():
        with Image.open(file) as opened:
            opened.draft(opened.mode, (LONGEST, LONGEST))
            photo = upright_8_bit(opened)
            photo.thumbnail((LONGEST, LONGEST))
            path = folder / os.path.relpath(place, common)
            path.parent.mkdir(parents=True, exist_ok=True)
            blend(photo, values, scale).save(path.with_name(f"{path.name}.jpg"), quality=90)
    of = "its class" if spec.defects is None else "its most likely defect"
    say(
        f"{folder}: {len(places)} maps of the evidence in a photo for {of}, in logits from 0 (grey) to {scale[1]:.3g} (bright)"
    )
