"""Every image that ever arrived in a pool, in order of arrival, with its pixels: two append-only files.

One has a line per event, the other the decoded images, test images first. Lines after the last `settled` line are removed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alframe.errors import RunFolderError
from alframe.images import UNKNOWN, ImageSet
from alframe.record.files import append_synced, read_jsonl, write_atomically
from alframe.record.layout import Layout

AT_START, ARRIVED, RENAMED, LABELLED, GONE, BACK, SETTLED = (
    "begun", "arrived", "renamed", "labelled", "gone", "back", "settled",
)  # fmt: skip

Event = dict[str, Any]
Stat = tuple[str, int, int]
"""Name, size and time of a file: an unchanged file is not read again."""


@dataclass(frozen=True)
class PoolImage:
    """An image that arrived: its file's stat, the class of its folder (or -1), and whether it has been deleted."""

    id: str
    file: Stat
    label: int
    gone: bool = False

    @property
    def name(self) -> str:
        return self.file[0]


class History:
    """The files in `folder`. One process at a time may write; with `repair` false nothing is written. Raises RunFolderError for damage.

    `rows` maps the content of an image or the digest of its file to a position in `images`; `seen` maps the stat of a file
    when it was last read. `folder_labels` maps an index in the pool to the class of its folder and the round.
    """

    def __init__(self, folder: Path, *, repair: bool) -> None:
        self.folder, self.path, self.pixels = folder, Layout(folder).history, Layout(folder).pixels
        self.images: list[PoolImage] = []
        self.n_test = 0
        self.shape: tuple[int, ...] = ()
        self.classes: tuple[str, ...] = ()
        self.folder_labels: dict[int, tuple[int, int]] = {}
        self.settled: list[tuple[int, int]] = []  # round, images
        self.rows: dict[str, int] = {}
        self.seen: dict[Stat, int] = {}
        lines = read_jsonl(self.path, ("event", "round"), repair=repair)
        whole = max((i for i, line in enumerate(lines, 1) if line["event"] == SETTLED), default=0)
        if repair and whole < len(lines):
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines[:whole]))
        for line in lines[:whole]:
            self.happened(line)
        if self.images and (not self.pixels.is_file() or self.pixels.stat().st_size < self._n_bytes):
            raise RunFolderError(
                f"Expected {self._n_bytes} bytes of images in {self.pixels}, got fewer; restore the folder from a backup, or start over with run.overwrite=true."
            )

    @property
    def last(self) -> int:
        """The last round whose pool is settled; -1 before the first."""
        return self.settled[-1][0] if self.settled else -1

    def image_set(self) -> ImageSet:
        """All images, test images first; pixels are mapped. Raises RunFolderError if they do not match the history."""
        pixels = np.memmap(self.pixels, np.uint8, "r", shape=(len(self.images), *self.shape))
        labels = np.array([image.label for image in self.images], dtype=np.int64)
        whole = ImageSet(pixels, labels, self.classes, names=tuple(image.name for image in self.images))
        if whole.ids != [image.id for image in self.images]:
            raise RunFolderError(
                f"Expected the images of {self.path} in {self.pixels}, got others; restore the folder from a backup."
            )
        return whole

    def open_pixels(self) -> BinaryIO:
        """The file of pixels, positioned for writing after the settled images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pixels.touch()
        file = self.pixels.open("r+b")
        file.truncate(self._n_bytes)
        file.seek(self._n_bytes)
        return file

    @property
    def _n_bytes(self) -> int:
        return len(self.images) * int(np.prod(self.shape, dtype=np.int64)) if self.images else 0

    def settle(self, round: int, events: Sequence[Event]) -> None:
        """Write `events`, already applied, and mark the pool of `round` as settled. Their pixels are on the disk already."""
        last = self.happened({"round": round, "event": SETTLED, "images": len(self.images)})
        append_synced(self.path, "".join(json.dumps(event) + "\n" for event in [*events, last]))

    def happened(self, event: Event) -> Event:
        """Apply an event to the state, both when it happens and when it is read again."""
        kind = event["event"]
        if kind == AT_START:
            self.shape, self.classes = tuple(event["shape"]), tuple(event["classes"])
        elif kind == SETTLED:
            self.settled.append((event["round"], event["images"]))
        elif kind == ARRIVED:
            row, label = len(self.images), UNKNOWN if event["label"] is None else event["label"]
            self.images.append(PoolImage(event["id"], _file(event), label))
            self.n_test += event["test"]
            self.rows[event["file"]] = self.rows[event["id"].rsplit("-", 1)[0]] = self.seen[_file(event)] = row
            if label != UNKNOWN and not event["test"]:
                self.folder_labels[row - self.n_test] = (label, event["round"])
        else:
            row = event["index"] + self.n_test
            change: dict[str, Any] = {"gone": kind == GONE}
            if kind == RENAMED:
                change = {"file": _file(event)}
                self.seen[_file(event)] = row
            elif kind == LABELLED:
                change = {"label": event["label"]}
                self.folder_labels[event["index"]] = (event["label"], event["round"])
            self.images[row] = replace(self.images[row], **change)
        return event


def _file(event: Event) -> Stat:
    return event["name"], event["size"], event["mtime_ns"]
