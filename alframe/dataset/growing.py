"""A pool that grows: every photo that ever came into a folder, in the order of arrival, kept with its pixels.

A photo is known by its content: under another name it is the same one, and of two copies one is in the pool. Indices are append-only.
What a round knows is settled before anything is computed from it: a run that is killed and goes on meanwhile finds the same pool,
however many photos came since. Photos may be deleted: those that people labelled are trained on all the same.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alframe.dataset.history import (
    ARRIVED,
    AT_START,
    BACK,
    GONE,
    LABELLED,
    RENAMED,
    Event,
    History,
    Stat,
)
from alframe.dataset.photos import Photo, PhotoFolder
from alframe.dataset.split import stratified_split
from alframe.errors import DataError
from alframe.images import UNKNOWN, Data, content_digest


class Growing:
    """The pool that `photos` come into, with its history in `folder`. One process at a time may call `refresh`.

    Raises RunFolderError for a damaged history. With `repair` false nothing is written, and what was not settled is passed over.
    """

    def __init__(self, folder: Path, photos: PhotoFolder, *, repair: bool = True) -> None:
        self.photos, self.history = photos, History(folder, repair=repair)
        self._notes: list[str] = []
        self._named: set[str] = set()

    def data(self) -> Data:
        """All that came in so far; pixels are mapped. Raises RunFolderError where they are not those that came in."""
        history, whole, n = self.history, self.history.image_set(), self.history.n_test
        pool = whole.rows(n, len(whole))
        return Data(
            self.photos.name,
            replace(pool, labels=np.full(len(pool), UNKNOWN)),
            whole.rows(0, n),
            self.photos.augmentation,
            self.photos.normalization,
            None if self.photos.root is None else Path(self.photos.root).expanduser().resolve(),
            grown=tuple(sorted({count - n for _, count in history.settled})),
            gone=frozenset(row - n for row, image in enumerate(history.images) if image.gone),
            folder_labels=dict(history.folder_labels),
            files=tuple(image.file[1:] for image in history.images[n:]),
        )

    def refresh(self, round: int, *, again: bool = False) -> bool:
        """Look at the folder for what `round` is to know, unless that is settled already (or `again`); whether anything changed.

        `notes` then says in words what did. Raises DataError for a folder that no run can begin with, and for one without a photo.
        """
        history = self.history
        if round <= history.last and not again:
            return False
        with history.open_pixels() as file:
            events = self._changes(round, file) if history.images else self._begin(round, file)
            file.flush()
            os.fsync(file.fileno())
        if events or round != history.last:
            history.settle(round, events)
        self._note(events)
        return bool(events)

    def notes(self) -> list[str]:
        """What there is to say since the last call, a line each."""
        notes, self._notes = self._notes, []
        return notes

    def labels_now(self) -> dict[int, int]:
        """By index in the pool the class of the folder that a photo lies in by now; photos that are not in the pool are passed over."""
        history = self.history
        places, _ = self._recognise(self.photos.listing())
        found = {row - history.n_test: self._label_of(of) for row, of in places.items() if row >= history.n_test}
        return {index: label for index, label in found.items() if label != UNKNOWN}

    # -- what the folder holds -----------------------------------------------------------------------------------------

    def _recognise(self, listing: Sequence[Photo]) -> tuple[dict[int, list[Photo]], list[Photo]]:
        """The files by the image that they hold, and those that hold none that is known."""
        history = self.history
        fresh = [photo for photo in listing if _stat(photo) not in history.seen]
        for photo, digest in self.photos.digests(fresh):
            if digest is not None and digest in history.rows:
                history.seen[_stat(photo)] = history.rows[digest]
        places: dict[int, list[Photo]] = {}
        unknown = []
        for photo in listing:
            row = history.seen.get(_stat(photo))
            if row is None:
                unknown.append(photo)
            else:
                places.setdefault(row, []).append(photo)
        return places, unknown

    def _label_of(self, places: Iterable[Photo]) -> int:
        """The class that the folders of a photo's copies give it; -1 for none, or for two."""
        names = self._classes_of(places)
        return self.history.classes.index(names.pop()) if len(names) == 1 else UNKNOWN

    def _classes_of(self, places: Iterable[Photo]) -> set[str]:
        names = {str(photo.class_name) for photo in places if not photo.is_test}
        return names & set(self.history.classes)

    def _changes(self, round: int, file: BinaryIO) -> list[Event]:
        """What is new, renamed, labelled, gone or back since the last time. Files that cannot be read are told, and looked at again."""
        listing = self.photos.listing()
        if not listing:  # a drive that is not mounted, more likely than that every photo was deleted
            raise DataError(
                f"Expected the photos in {self.photos.path} that were there before, got none at all; give the folder back, or put one photo there."
            )
        unlabelled = self.photos.path / self.photos.unlabelled
        if not unlabelled.is_dir():
            raise DataError(
                f"Expected the folder {unlabelled}, which was there before, got none; give it back (it may be empty)."
            )
        known = {photo: photo.class_name is None or photo.class_name in self.history.classes for photo in listing}
        places, unknown = self._recognise([photo for photo in listing if known[photo]])
        n = len(self.history.images)
        events = self._arrivals(round, [photo for photo in unknown if not photo.is_test], file, places)
        for row in range(self.history.n_test, n):
            events += self._moved(round, row, [photo for photo in places.get(row, []) if not photo.is_test])
        foreign = [photo for photo in listing if not known[photo]]
        self._tell("in a folder of none of the run's classes", foreign, "nobody is asked about them")
        late = [photo for photo in unknown if photo.is_test]
        late += [photo for row, of in places.items() for photo in of if photo.is_test and row >= self.history.n_test]
        self._tell("that came into test/ late", late, "the test set stays as it was when the run began")
        self._tell_copies(places)
        return events

    def _arrivals(
        self, round: int, photos: Sequence[Photo], file: BinaryIO, places: dict[int, list[Photo]]
    ) -> list[Event]:
        history, events, broken = self.history, [], []
        found: dict[str, list[tuple[Photo, str]]] = {}  # by content, in the order of the pixels in `file`
        for photo, result, why in self.photos.decoded(photos, history.shape):  # type: ignore[arg-type]
            if result is None:
                broken.append(f"{photo.name} ({why})")
                continue
            pixels, digest = result
            content = content_digest(pixels)
            if content not in history.rows and content not in found:
                file.write(np.ascontiguousarray(pixels).tobytes())
            found.setdefault(content, []).append((photo, digest))
        for content, copies in found.items():
            if content not in history.rows:
                (photo, digest), label = copies[0], self._label_of([photo for photo, _ in copies])
                events.append(history.happened(_arrived(round, photo, f"{content}-0", digest, label)))
            for photo, digest in copies:
                history.seen[_stat(photo)] = history.rows[digest] = history.rows[content]
                places.setdefault(history.rows[content], []).append(photo)
        if broken:
            self._notes.append(
                f"skipped {_counted(len(broken), 'photo')} that cannot be read and may still be copied, the first is {broken[0]}; "
                "the next round looks again"
            )
        return events

    def _moved(self, round: int, row: int, places: Sequence[Photo]) -> list[Event]:
        """What became of an image that was there, by where it lies now."""
        history = self.history
        image, index, events = history.images[row], row - history.n_test, []
        if not places:
            return [] if image.gone else [history.happened({"round": round, "event": GONE, "index": index})]
        if image.gone:
            events.append({"round": round, "event": BACK, "index": index})
        if image.name not in [photo.name for photo in places]:
            events.append({"round": round, "event": RENAMED, "index": index, **_file(places[0])})
        label = self._label_of(places)
        if label not in (UNKNOWN, image.label):
            events.append({"round": round, "event": LABELLED, "index": index, "label": label})
        return [history.happened(event) for event in events]

    # -- how it begins -------------------------------------------------------------------------------------------------

    def _begin(self, round: int, file: BinaryIO) -> list[Event]:
        """The labelled photos, of which some are the test set, then the others. Broken ones with a label are an error, all told."""
        history = self.history
        classes, listing = self.photos.named_classes(), self.photos.listing()
        if not listing:
            raise DataError(
                f"Expected photos in {self.photos.path / self.photos.unlabelled} or in class folders beside it, got none; put some there."
            )
        shape = self.photos.shape(listing)
        events = [history.happened({"round": round, "event": AT_START, "shape": list(shape), "classes": list(classes)})]
        kept, pixels = self._labelled([p for p in listing if p.class_name is not None])
        for number in np.argsort([not photo.is_test for photo, _, _ in kept], kind="stable"):
            photo, content, digest = kept[number]
            file.write(np.ascontiguousarray(pixels[number]).tobytes())
            label = history.classes.index(str(photo.class_name))
            events.append(history.happened(_arrived(round, photo, f"{content}-0", digest, label)))
        places: dict[int, list[Photo]] = {}
        events += self._arrivals(round, [p for p in listing if p.class_name is None], file, places)
        if len(history.images) == history.n_test:
            raise DataError(
                f"Expected a photo to ask about or to learn from in {self.photos.path}, got none that can be read; put some there."
            )
        self._tell_copies(places)
        return events

    def _labelled(self, photos: Sequence[Photo]) -> tuple[list[tuple[Photo, str, str]], list[np.ndarray]]:
        """The labelled photos, each content once, with hashes of content and file; and their pixels. Some become test images."""
        kept: dict[str, tuple[Photo, str, str]] = {}
        pixels, broken = [], []
        for photo, result, why in self.photos.decoded(photos, self.history.shape):  # type: ignore[arg-type]
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
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            raise DataError(
                f"Expected labelled photos that can be read in {self.photos.path}, got {', '.join(broken[:5])}{more}; fix or remove them, "
                "or set dataset.skip_broken=true."
            )
        if broken:
            self._notes.append(
                f"skipped {_counted(len(broken), 'labelled photo')} that cannot be read, the first is {broken[0]}"
            )
        found = list(kept.values())
        if found and not any(photo.is_test for photo, _, _ in found):
            labels = np.array([self.history.classes.index(str(photo.class_name)) for photo, _, _ in found])
            for number in stratified_split(labels, self.photos.test_share, self.photos.split_seed)[1]:
                photo, *hashes = found[number]
                found[number] = (replace(photo, is_test=True), *hashes)
        return found, pixels

    # -- words ---------------------------------------------------------------------------------------------------------

    def _note(self, events: Sequence[Event]) -> None:
        """What happened, in a line."""
        first = bool(events) and events[0]["event"] == AT_START
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
            n_labelled = sum(image.label != UNKNOWN for image in self.history.images)
            told.append(f"{n_labelled or 'none'} of them in class folders")
            told += [f"{self.history.n_test} of these the test set"] if self.history.n_test else []
        if told:
            self._notes.insert(0, f"{self.photos.path}: {', '.join(told)}")

    def _tell(self, what: str, photos: Sequence[Photo], then: str) -> None:
        """A line on files that are left out, each told once a launch."""
        fresh = [photo.name for photo in photos if photo.name not in self._named]
        self._named |= set(fresh)
        if fresh:
            self._notes.append(f"left out {_counted(len(fresh), 'photo')} {what}, the first is {fresh[0]}; {then}")

    def _tell_copies(self, places: dict[int, list[Photo]]) -> None:
        n, images = self.history.n_test, self.history.images
        twice = [(row, photo) for row, of in places.items() for photo in of if photo.name != images[row].name]
        classes = self.history.classes
        tests = [photo for row, photo in twice if row < n and photo.class_name != classes[images[row].label]]
        copies = [photo for row, photo in twice if row >= n and not photo.is_test]
        torn = [
            [photo for photo in of if photo.class_name][-1]
            for row, of in places.items()
            if row >= n and len(self._classes_of(of)) > 1
        ]
        self._tell("that are test images too", tests, "nobody is asked about those")
        self._tell("in folders of two classes", torn, "delete one of the two, until then they say nothing of it")
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
