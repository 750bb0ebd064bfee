"""A pool that grows: every photo that ever came into a folder, in the order of arrival, kept with its pixels.

In a run folder `pool.jsonl` is the pool's history, a line an event, and `pool.bin` holds the decoded images, test images first. A
photo is known by its content: under another name it is the same one, and of two copies one is in the pool. Indices are append-only.
What happened up to a line `settled` is what a round knows: a run that is killed and goes on meanwhile finds the same pool, however
many photos came since. Photos may be deleted: those that people labelled are trained on all the same.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alframe.dataset.photos import Photo, PhotoFolder
from alframe.dataset.split import stratified_split
from alframe.errors import DataError, RunFolderError
from alframe.images import UNKNOWN, Data, ImageSet, content_digest
from alframe.storage import read_jsonl, write_atomically

HISTORY, PIXELS = "pool.jsonl", "pool.bin"
BEGUN, ARRIVED, RENAMED, LABELLED, GONE, BACK, SETTLED = (
    "begun", "arrived", "renamed", "labelled", "gone", "back", "settled",
)  # fmt: skip

Event = dict[str, Any]
Stat = tuple[str, int, int]
"""Name, size and time of a file: what is as it was need not be read again."""


@dataclass(frozen=True)
class Kept:
    """A photo that came in: where it lies or lay, the class of its folder (or -1), and whether it is there no more."""

    id: str
    name: str
    label: int
    gone: bool = False


class Growing:
    """The history in `folder` of a pool that `photos` come into. One process at a time may call `take_in`.

    Raises RunFolderError for a damaged history. With `mend` false nothing is written, and what was not settled is passed over.
    """

    def __init__(self, folder: Path, photos: PhotoFolder, *, mend: bool = True) -> None:
        self.folder, self.photos = folder, photos
        self.images: list[Kept] = []
        self.n_test = 0
        self.shape: tuple[int, ...] = ()
        self.classes: tuple[str, ...] = ()
        self.given: dict[int, tuple[int, int]] = {}
        self.notes: list[str] = []
        self._settled: list[tuple[int, int]] = []  # round, images
        self._rows: dict[str, int] = {}  # by id, and by digest of a file
        self._seen: dict[Stat, int] = {}
        self._told: set[str] = set()
        lines = read_jsonl(self.history, ("event", "round"), mend=mend)
        whole = max((i for i, line in enumerate(lines, 1) if line["event"] == SETTLED), default=0)
        if mend and whole < len(lines):  # killed while it took photos in: no round knows of these
            write_atomically(self.history, "".join(json.dumps(line) + "\n" for line in lines[:whole]))
        for line in lines[:whole]:
            self._apply(line)
        self._check_pixels()

    @property
    def history(self) -> Path:
        return self.folder / HISTORY

    def data(self) -> Data:
        """All that came in so far; pixels are mapped. Raises RunFolderError where they are not those that came in."""
        pixels = np.memmap(self.folder / PIXELS, np.uint8, "r", shape=(len(self.images), *self.shape))
        whole = ImageSet(
            pixels,
            np.array([image.label for image in self.images], dtype=np.int64),
            self.classes,
            names=tuple(image.name for image in self.images),
        )
        n = self.n_test
        pool = whole.rows(n, len(whole))
        if pool.ids != [image.id for image in self.images[n:]]:
            raise RunFolderError(
                f"Expected the images of {self.history} in {self.folder / PIXELS}, got others; restore the folder from a backup."
            )
        return Data(
            self.photos.name,
            replace(pool, labels=np.full(len(pool), UNKNOWN)),
            whole.rows(0, n),
            self.photos.augmentation,
            self.photos.normalization,
            None if self.photos.root is None else Path(self.photos.root).expanduser().resolve(),
            grown=tuple(sorted({count - n for _, count in self._settled})),
            gone=frozenset(row - n for row, image in enumerate(self.images) if image.gone),
            given=dict(self.given),
        )

    def take_in(self, round: int, *, again: bool = False) -> bool:
        """Look at the folder for what `round` is to know, unless that is settled already (or `again`); whether anything changed.

        `notes` then say in words what did. Raises DataError for a folder that no run can begin with.
        """
        if self._settled and round <= self._settled[-1][0] and not again:
            return False
        is_settled = bool(self._settled) and self._settled[-1][0] == round
        with self._pixels() as file:
            events = self._changes(round, file) if self.images else self._begin(round, file)
            file.flush()
            os.fsync(file.fileno())
        if is_settled and not events:
            return False
        events.append({"round": round, "event": SETTLED, "images": len(self.images)})
        self._apply(events[-1])
        with self.history.open("a", encoding="utf-8") as history:
            history.write("".join(json.dumps(event) + "\n" for event in events))
            history.flush()
            os.fsync(history.fileno())
        self._note(events)
        return len(events) > 1

    def told(self) -> list[str]:
        """What there is to say since the last call, a line each."""
        notes, self.notes = self.notes, []
        return notes

    def labels_now(self) -> dict[int, int]:
        """By index in the pool the class of the folder that a photo lies in by now; photos that are not in the pool are passed over."""
        places, _ = self._recognise(self.photos.listing())
        found = {row - self.n_test: self._label_of(of) for row, of in places.items() if row >= self.n_test}
        return {index: label for index, label in found.items() if label != UNKNOWN}

    # -- what the folder holds -----------------------------------------------------------------------------------------

    def _recognise(self, listing: Sequence[Photo]) -> tuple[dict[int, list[Photo]], list[Photo]]:
        """The files by the image that they hold, and those that hold none that is known."""
        fresh = [photo for photo in listing if _stat(photo) not in self._seen]
        for photo, digest in self.photos.digests(fresh):
            if digest is not None and digest in self._rows:
                self._seen[_stat(photo)] = self._rows[digest]
        places: dict[int, list[Photo]] = {}
        unknown = []
        for photo in listing:
            row = self._seen.get(_stat(photo))
            if row is None:
                unknown.append(photo)
            else:
                places.setdefault(row, []).append(photo)
        return places, unknown

    def _label_of(self, places: Iterable[Photo]) -> int:
        """The class that the folders of a photo's copies give it; -1 for none, or for two."""
        names = {photo.class_name for photo in places if not photo.is_test and photo.class_name in self.classes}
        return self.classes.index(str(names.pop())) if len(names) == 1 else UNKNOWN

    def _changes(self, round: int, file: Any) -> list[Event]:
        """What is new, renamed, labelled, gone or back since the last time. Files that cannot be read are told, and looked at again."""
        listing = self.photos.listing()
        if not listing:  # a drive that is not mounted, more likely than that every photo was deleted
            raise DataError(
                f"Expected the photos in {self.photos.path} that were there before, got none at all; give the folder back, or put one photo there."
            )
        known = {photo: photo.class_name is None or photo.class_name in self.classes for photo in listing}
        places, unknown = self._recognise([photo for photo in listing if known[photo]])
        n = len(self.images)
        events = self._arrivals(round, [photo for photo in unknown if not photo.is_test], file, places)
        for row in range(self.n_test, n):
            events += self._moved(round, row, [photo for photo in places.get(row, []) if not photo.is_test])
        foreign = [photo for photo in listing if not known[photo]]
        self._tell("in a folder of none of the run's classes", foreign, "nobody is asked about them")
        late = [photo for photo in unknown if photo.is_test]
        self._tell("that came into test/ late", late, "the test set stays as it was when the run began")
        self._tell_copies(places)
        return events

    def _arrivals(self, round: int, photos: Sequence[Photo], file: Any, places: dict[int, list[Photo]]) -> list[Event]:
        events, broken = [], []
        for photo, result, why in self.photos.decoded(photos, self.shape):  # type: ignore[arg-type]
            if result is None:
                broken.append(f"{photo.name} ({why})")
                continue
            pixels, digest = result
            content = content_digest(pixels)
            if content not in self._rows:
                file.write(np.ascontiguousarray(pixels).tobytes())
                label = self._label_of([photo])
                events.append(self._applied(_arrived(round, photo, f"{content}-0", digest, label)))
            self._seen[_stat(photo)] = self._rows[digest] = self._rows[content]
            places.setdefault(self._rows[content], []).append(photo)
        if broken:
            self.notes.append(
                f"skipped {_counted(len(broken), 'photo')} that cannot be read and may still be copied, the first is {broken[0]}; "
                "the next round looks again"
            )
        return events

    def _moved(self, round: int, row: int, places: Sequence[Photo]) -> list[Event]:
        """What became of an image that was there, by where it lies now."""
        image, index, events = self.images[row], row - self.n_test, []
        if not places:
            return [] if image.gone else [self._applied({"round": round, "event": GONE, "index": index})]
        if image.gone:
            events.append({"round": round, "event": BACK, "index": index})
        if image.name not in [photo.name for photo in places]:
            events.append({"round": round, "event": RENAMED, "index": index, **_file(places[0])})
        label = self._label_of(places)
        if label not in (UNKNOWN, image.label):
            events.append({"round": round, "event": LABELLED, "index": index, "label": label})
        return [self._applied(event) for event in events]

    # -- how it begins -------------------------------------------------------------------------------------------------

    def _begin(self, round: int, file: Any) -> list[Event]:
        """The labelled photos, of which some are the test set, then the others. Broken ones with a label are an error, all told."""
        classes, listing = self.photos.named_classes(), self.photos.listing()
        if not listing:
            raise DataError(
                f"Expected photos in {self.photos.path / self.photos.unlabelled} or in class folders beside it, got none; put some there."
            )
        shape = self.photos.shape(listing)
        events = [self._applied({"round": round, "event": BEGUN, "shape": list(shape), "classes": list(classes)})]
        kept, pixels = self._labelled([p for p in listing if p.class_name is not None])
        for number in np.argsort([not photo.is_test for photo, _, _ in kept], kind="stable"):
            photo, content, digest = kept[number]
            file.write(np.ascontiguousarray(pixels[number]).tobytes())
            label = self.classes.index(str(photo.class_name))
            events.append(self._applied(_arrived(round, photo, f"{content}-0", digest, label)))
        places: dict[int, list[Photo]] = {}
        events += self._arrivals(round, [p for p in listing if p.class_name is None], file, places)
        if len(self.images) == self.n_test:
            raise DataError(
                f"Expected a photo to ask about or to learn from in {self.photos.path}, got none that can be read; put some there."
            )
        self._tell_copies(places)
        return events

    def _labelled(self, photos: Sequence[Photo]) -> tuple[list[tuple[Photo, str, str]], list[np.ndarray]]:
        """The labelled photos, each content once, with hashes of content and file; and their pixels. Some become test images."""
        kept: dict[str, tuple[Photo, str, str]] = {}
        pixels, broken = [], []
        for photo, result, why in self.photos.decoded(photos, self.shape):  # type: ignore[arg-type]
            if result is None:
                broken.append(f"{photo.name} ({why})")
                continue
            content = content_digest(result[0])
            first = kept.setdefault(content, (photo, content, result[1]))[0]
            if first.class_name != photo.class_name or first.is_test != photo.is_test:
                raise DataError(
                    f"Expected each photo in one place of {self.photos.path}, got the same one as {first.name} and {photo.name}; "
                    "delete it where it does not belong."
                )
            if first is photo:
                pixels.append(result[0])
        if broken and not self.photos.skip_broken:
            raise DataError(
                f"Expected labelled photos that can be read in {self.photos.path}, got {', '.join(broken)}; mend or remove them, "
                "or set dataset.skip_broken=true."
            )
        if broken:
            self.notes.append(
                f"skipped {_counted(len(broken), 'labelled photo')} that cannot be read, the first is {broken[0]}"
            )
        found = list(kept.values())
        if found and not any(photo.is_test for photo, _, _ in found):
            labels = np.array([self.classes.index(str(photo.class_name)) for photo, _, _ in found])
            for number in stratified_split(labels, self.photos.test_share, self.photos.split_seed)[1]:
                photo, *hashes = found[number]
                found[number] = (replace(photo, is_test=True), *hashes)
        return found, pixels

    # -- history and pixels --------------------------------------------------------------------------------------------

    def _applied(self, event: Event) -> Event:
        self._apply(event)
        return event

    def _apply(self, event: Event) -> None:
        """What an event does to what is known; the same when it happens and when it is read again."""
        kind = event["event"]
        if kind == BEGUN:
            self.shape, self.classes = tuple(event["shape"]), tuple(event["classes"])
        elif kind == SETTLED:
            self._settled.append((event["round"], event["images"]))
        elif kind == ARRIVED:
            label = UNKNOWN if event["label"] is None else event["label"]
            row = len(self.images)
            self.images.append(Kept(event["id"], event["name"], label))
            self.n_test += event["test"]
            self._rows[event["file"]] = self._rows[event["id"].rsplit("-", 1)[0]] = row
            self._seen[event["name"], event["size"], event["mtime_ns"]] = row
            if label != UNKNOWN and not event["test"]:
                self.given[row - self.n_test] = (label, event["round"])
        else:
            self._change(event["index"], event)

    def _change(self, index: int, event: Event) -> None:
        row, kind = index + self.n_test, event["event"]
        if kind == RENAMED:
            self.images[row] = replace(self.images[row], name=event["name"])
            self._seen[event["name"], event["size"], event["mtime_ns"]] = row
        elif kind == LABELLED:
            self.images[row] = replace(self.images[row], label=event["label"])
            self.given[index] = (event["label"], event["round"])
        else:
            self.images[row] = replace(self.images[row], gone=kind == GONE)

    def _pixels(self) -> Any:
        """The file of pixels, open at the end of what is settled."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / PIXELS
        path.touch()
        file = path.open("r+b")
        file.truncate(self._n_bytes)
        file.seek(self._n_bytes)
        return file

    @property
    def _n_bytes(self) -> int:
        return len(self.images) * int(np.prod(self.shape, dtype=np.int64)) if self.images else 0

    def _check_pixels(self) -> None:
        path = self.folder / PIXELS
        if self.images and (not path.is_file() or path.stat().st_size < self._n_bytes):
            raise RunFolderError(
                f"Expected {self._n_bytes} bytes of images in {path}, got fewer; restore the folder from a backup, or start again with run.overwrite=true."
            )

    # -- words ---------------------------------------------------------------------------------------------------------

    def _note(self, events: Sequence[Event]) -> None:
        """What happened, in a line."""
        first = events[0]["event"] == BEGUN
        words = {
            ARRIVED: "photos" if first else "new",
            LABELLED: "labelled by their folder",
            RENAMED: "renamed",
            GONE: "gone",
            BACK: "back",
        }
        counts = {kind: sum(event["event"] == kind for event in events) for kind in words}
        told = [f"{count} {words[kind]}" for kind, count in counts.items() if count]
        if first:
            n_labelled = sum(image.label != UNKNOWN for image in self.images)
            told.append(f"{n_labelled or 'none'} of them in class folders")
            told += [f"{self.n_test} of these the test set"] if self.n_test else []
        if told:
            self.notes.insert(0, f"{self.photos.path}: {', '.join(told)}")

    def _tell(self, what: str, photos: Sequence[Photo], then: str) -> None:
        """A line on files that are left out, each told once a launch."""
        fresh = [photo.name for photo in photos if photo.name not in self._told]
        self._told |= set(fresh)
        if fresh:
            self.notes.append(f"left out {_counted(len(fresh), 'photo')} {what}, the first is {fresh[0]}; {then}")

    def _tell_copies(self, places: dict[int, list[Photo]]) -> None:
        n = self.n_test
        tests = [
            photo
            for row, of in places.items()
            if row < n
            for photo in of
            if photo.name != self.images[row].name and not photo.is_test
        ]
        copies = [photo for row, of in places.items() if row >= n for photo in of[1:]]
        self._tell("that are test images too", tests, "nobody is asked about those")
        self._tell("whose pixels another one has", copies, "each is in the pool once")


def _arrived(round: int, photo: Photo, id: str, digest: str, label: int) -> Event:
    return {
        "round": round,
        "event": ARRIVED,
        "id": id,
        **_file(photo),
        "file": digest,
        "label": None if label == UNKNOWN else label,
        "test": photo.is_test,
    }


def _file(photo: Photo) -> Event:
    return {"name": photo.name, "size": photo.size, "mtime_ns": photo.mtime_ns}


def _stat(photo: Photo) -> Stat:
    return photo.name, photo.size, photo.mtime_ns


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"
