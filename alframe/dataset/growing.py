"""A growing pool: every photo that ever arrived in a folder, in order of arrival, stored with its pixels.

A photo is identified by its content: renamed it is the same one, and duplicates are in the pool once. Indices are append-only.
The pool of a round is fixed before anything is computed from it. Deleted photos that people labelled are still trained on.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alframe.dataset.decode import listed
from alframe.dataset.history import ARRIVED, AT_START, BACK, GONE, LABELLED, RENAMED, Event, History, Stat
from alframe.dataset.normal import with_normal
from alframe.dataset.photos import Photo, PhotoFolder
from alframe.dataset.split import stratified_split
from alframe.errors import DataError, RunFolderError
from alframe.images import UNKNOWN, Data, content_digest


class Growing:
    """The pool that `photos` arrive in, with its history in `folder`. One process at a time may call `refresh`.

    Raises RunFolderError for a damaged history. With `repair` false nothing is written, and unsettled events are skipped.
    """

    def __init__(self, folder: Path, photos: PhotoFolder, *, repair: bool = True) -> None:
        self.photos, self.history = photos, History(folder, repair=repair)
        self._notes: list[str] = []
        self._size_is_checked = False
        self._passed_over: tuple[str, ...] = ()
        self._reported: set[str] = set()

    def data(self) -> Data:
        """All photos that have arrived; pixels are mapped. Raises RunFolderError if the pixels do not match the history."""
        history, whole, n = self.history, self.history.image_set(), self.history.n_test
        pool = whole.rows(n, len(whole))
        data = Data(
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
            passed_over=self._passed_over,
        )
        if not self._size_is_checked:
            self._size_is_checked = True
            self.photos.warn_of_losses(data)
        return with_normal(data, self.photos.normal)

    def refresh(self, round: int, *, again: bool = False) -> bool:
        """Scan the folder before `round`, unless that round is settled already (or `again`); returns whether anything changed.

        `notes` then describes the changes. Raises DataError for a folder that no run can start with, or without photos.
        """
        history = self.history
        if self.photos.grows:
            self._passed_over = self.photos.passed_over()
        if round <= history.last and not again:
            return False
        with history.open_pixels() as file:
            events = self._changes(round, file) if history.images else self._start(round, file)
            file.flush()
            os.fsync(file.fileno())
        if events or round != history.last:
            history.settle(round, events)
        self._note(events)
        return bool(events)

    def check_place(self, before: str | Path) -> None:
        """Raise RunFolderError if the photos are to be found elsewhere than `before`, and most of them are not there."""
        if Path(before).expanduser().resolve() == self.photos.path:
            return
        left = {row for row, image in enumerate(self.history.images) if not image.gone}
        found = left & set(self._recognise(self.photos.listing())[0])
        if 2 * len(found) < len(left):
            raise RunFolderError(
                f"Expected the photos of the run that began with {before}, got {len(found)} of these {len(left)} in {self.photos.path}; "
                "give the folder that they are in now, or start a run of other photos under a run.name of its own."
            )

    def notes(self) -> list[str]:
        """The new messages since the last call, one line each."""
        notes, self._notes = self._notes, []
        return notes

    def labels_now(self) -> dict[int, int]:
        """The class of each photo's current folder, by index in the pool; photos that are not in the pool are skipped."""
        history = self.history
        places, _ = self._recognise(self.photos.listing())
        found = {row - history.n_test: self._label_of(of) for row, of in places.items() if row >= history.n_test}
        return {index: label for index, label in found.items() if label != UNKNOWN}

    def _recognise(self, listing: Sequence[Photo]) -> tuple[dict[int, list[Photo]], list[Photo]]:
        """The files of each known image, and the files with unknown content."""
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
        """The class of the folders of a photo's copies; -1 for none, or for two different ones."""
        names = self._classes_of(places)
        return self.history.classes.index(names.pop()) if len(names) == 1 else UNKNOWN

    def _classes_of(self, places: Iterable[Photo]) -> set[str]:
        names = {str(photo.class_name) for photo in places if not photo.is_test}
        return names & set(self.history.classes)

    def _changes(self, round: int, file: BinaryIO) -> list[Event]:
        """The photos that are new, renamed, labelled, gone or back since the last scan. Unreadable files are reported and
        tried again in the next round.
        """
        listing = self.photos.listing()
        if not listing:  # an unmounted drive is more likely than that every photo was deleted
            raise DataError(
                f"Expected the earlier photos in {self.photos.path}, got none; restore the folder, or put one photo there."
            )
        unlabelled = self.photos.path / self.photos.unlabelled
        if not unlabelled.is_dir():
            raise DataError(
                f"Expected the folder {unlabelled}, which existed before, got none; create it again (it may be empty)."
            )
        known = {photo: photo.class_name is None or photo.class_name in self.history.classes for photo in listing}
        places, unknown = self._recognise([photo for photo in listing if known[photo]])
        n = len(self.history.images)
        events = self._arrivals(round, [photo for photo in unknown if not photo.is_test], file, places)
        for row in range(self.history.n_test, n):
            events += self._moved(round, row, [photo for photo in places.get(row, []) if not photo.is_test])
        foreign = [photo for photo in listing if not known[photo]]
        self._report("in a folder that is none of the run's classes", foreign, "they are not queried")
        late = [photo for photo in unknown if photo.is_test]
        late += [photo for row, of in places.items() for photo in of if photo.is_test and row >= self.history.n_test]
        self._report("added to test/ after the start", late, "the test set stays as it was when the run started")
        self._report_copies(places)
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
                f"skipped {_counted(len(broken), 'unreadable photo')} (perhaps not fully copied yet), the first is {broken[0]}; "
                "the next round tries again"
            )
        return events

    def _moved(self, round: int, row: int, places: Sequence[Photo]) -> list[Event]:
        """The events of a known image, from its current places."""
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

    def _start(self, round: int, file: BinaryIO) -> list[Event]:
        """The labelled photos, some of them the test set, then the others. Unreadable labelled ones raise one error together."""
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
                f"Expected a readable photo for labelling or training in {self.photos.path}, got none; put some there."
            )
        self._report_copies(places)
        return events

    def _labelled(self, photos: Sequence[Photo]) -> tuple[list[tuple[Photo, str, str]], list[np.ndarray]]:
        """The labelled photos without duplicates, with hashes of content and file; and their pixels. Some become test images."""
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
                    f"Expected each photo in one folder of {self.photos.path}, got the same photo as {first.name} and {photo.name}; "
                    "delete the wrong copy."
                )
            if first is photo:
                pixels.append(result[0])
        if broken and not self.photos.skip_broken:
            raise DataError(
                f"Expected readable labelled photos in {self.photos.path}, got {listed(broken)}; fix or remove them, "
                "or set dataset.skip_broken=true."
            )
        if broken:
            self._notes.append(
                f"skipped {_counted(len(broken), 'unreadable labelled photo')}, the first is {broken[0]}"
            )
        found = list(kept.values())
        if found and not any(photo.is_test for photo, _, _ in found):
            labels = np.array([self.history.classes.index(str(photo.class_name)) for photo, _, _ in found])
            for number in stratified_split(labels, self.photos.test_share, self.photos.split_seed)[1]:
                photo, *hashes = found[number]
                found[number] = (replace(photo, is_test=True), *hashes)
        return found, pixels

    def _note(self, events: Sequence[Event]) -> None:
        """Summarise the events in one line."""
        first = bool(events) and events[0]["event"] == AT_START
        words = {
            ARRIVED: "photos" if first else "new",
            LABELLED: "labelled by their folder",
            RENAMED: "renamed",
            GONE: "gone",
            BACK: "back",
        }
        counts = {kind: sum(event["event"] == kind for event in events) for kind in words}
        parts = [f"{count} {words[kind]}" for kind, count in counts.items() if count]
        if first:
            n_labelled = sum(image.label != UNKNOWN for image in self.history.images)
            parts.append(f"{n_labelled or 'none'} of them in class folders")
            parts += [f"{self.history.n_test} of these the test set"] if self.history.n_test else []
        if parts:
            self._notes.insert(0, f"{self.photos.path}: {', '.join(parts)}")

    def _report(self, what: str, photos: Sequence[Photo], consequence: str) -> None:
        """Add a line about files that are left out; each file is reported once per launch."""
        fresh = [photo.name for photo in photos if photo.name not in self._reported]
        self._reported |= set(fresh)
        if fresh:
            self._notes.append(
                f"left out {_counted(len(fresh), 'photo')} {what}, the first is {fresh[0]}; {consequence}"
            )

    def _report_copies(self, places: dict[int, list[Photo]]) -> None:
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
        self._report("already in the test set", tests, "they are not queried")
        self._report("in folders of two classes", torn, "they count as unlabelled until one copy is deleted")
        self._report("identical to another photo", copies, "each is in the pool once")


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
