"""Decode once: every source becomes a folder of memory-mapped uint8 arrays, identified by a hash of its inputs."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from alframe.errors import DataError
from alframe.images import ImageSet, reserve, rows_at_once

FORMAT = 1  # of the folder; part of the key
IN_MEMORY_BYTES = 1 << 30  # a subset up to this size is copied to memory, a larger one to a separate cache folder

Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""`allocate(shape) -> uint8 array to fill`, called at most once: a file in the cache, so that a build needs little memory."""

Build = Callable[[Allocate], tuple[ImageSet, tuple[str, ...]]]
"""Decodes the images; also returns the names of the files that were skipped as broken."""


def default_cache() -> Path:
    """$ALFRAME_CACHE if set, else ~/.cache/alframe. Everything in it may be deleted and is then rebuilt."""
    return Path(os.environ.get("ALFRAME_CACHE") or "~/.cache/alframe").expanduser()


def sha256(array: np.ndarray) -> str:
    """SHA-256 of the array's bytes in C order, in hexadecimal; a memory map is read in pieces."""
    digest = hashlib.sha256()
    step = rows_at_once(array)
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).data)
    return digest.hexdigest()


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the sorted relative paths, sizes and modification times (ns), so added and edited files change it."""
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def cache_folder(cache: Path, name: str, parameters: dict[str, Any], source: str) -> Path:
    """`<cache>/<name>-<16 hex digits>`, the digits a hash of the decode `parameters` and of the `source`'s fingerprint."""
    key = json.dumps([FORMAT, name, parameters, source], sort_keys=True)  # ASCII, whatever the names
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def cached(cache: Path, name: str, parameters: dict[str, Any], source: str, build: Build) -> ImageSet:
    """The images of `build`, mapped read-only from their cache folder, which is built first if missing or damaged.

    It is built under a lock in a temporary folder and renamed when complete. Skipped files are logged at every load. Raises
    DataError if the cache cannot be written, and whatever `build` raises.
    """
    folder = cache_folder(cache, name, parameters, source)
    opened = _open(folder)
    if opened is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                opened = _open(folder)
                if opened is None:
                    _write(folder, {"name": name, "parameters": parameters, "source": source}, build)
                    opened = _open(folder)
        except OSError as error:
            raise DataError(
                f"Expected a writable cache folder {cache}, got: {error}; free some disk space or set $ALFRAME_CACHE to another folder."
            ) from error
    assert opened is not None, f"{folder} was written and cannot be read"
    images, skipped = opened
    if skipped:
        logging.getLogger("alframe").warning(
            "%s: skipped %d broken file%s, the first is %s", name, len(skipped), "s" * (len(skipped) > 1), skipped[0]
        )
    return images


def part(images: ImageSet, indices: np.ndarray) -> ImageSet:
    """The images at `indices`: the set itself if that is all of it in order, else a copy (in memory, or mapped if large)."""
    if np.array_equal(indices, np.arange(len(images))):
        return images
    n_bytes = len(indices) * int(np.prod(images.shape))
    if n_bytes <= IN_MEMORY_BYTES or not isinstance(images.pixels, np.memmap):
        return images.take(indices)
    whole = Path(str(images.pixels.filename)).parent

    def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
        pixels = allocate((len(indices), *images.shape))
        step = rows_at_once(images.pixels)
        for start in range(0, len(indices), step):
            pixels[start : start + step] = images.pixels[indices[start : start + step]]
        groups = None if images.groups is None else images.groups[indices]
        names = None if images.names is None else tuple(images.names[i] for i in indices)
        return ImageSet(pixels, images.labels[indices], images.classes, groups, names), ()

    parameters = {"indices": sha256(indices), "labels": sha256(images.labels), "classes": images.classes}
    return cached(whole.parent, f"{whole.name}-part", parameters, whole.name, build)


def _open(folder: Path) -> tuple[ImageSet, tuple[str, ...]] | None:
    """The images and the skipped files of a cache folder, or None if a file is missing or differs from its manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if any((folder / file).stat().st_size != size for file, size in manifest["bytes"].items()):
            return None
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
        groups = np.load(folder / "groups.npy") if "groups.npy" in manifest["bytes"] else None
        if list(pixels.shape) != manifest["shape"] or sha256(labels) != manifest["sha256"]["labels"]:
            return None
        names = None if manifest["names"] is None else tuple(manifest["names"])
        return ImageSet(pixels, labels, tuple(manifest["classes"]), groups, names), tuple(manifest["skipped"])
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, DataError):
        return None


def _write(folder: Path, manifest: dict[str, Any], build: Build) -> None:
    """Build beside `folder` and rename. Called under the lock, so that leftovers of earlier builds can be deleted."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scratch = building / "scratch.npy"
        mapped: list[np.memmap] = []

        def allocate(shape: tuple[int, ...]) -> np.ndarray:
            mapped.append(np.lib.format.open_memmap(scratch, "w+", np.uint8, shape))
            reserve(scratch)
            return mapped[0]

        images, skipped = build(allocate)
        arrays = {"labels": images.labels.astype(np.int64)}
        if images.groups is not None:
            arrays["groups"] = images.groups.astype(np.int64)
        for name, array in arrays.items():
            np.save(building / f"{name}.npy", array)
        if mapped and images.pixels is mapped[0]:
            mapped[0].flush()
            scratch.rename(building / "pixels.npy")
        else:  # not allocated, or only a part of it was filled
            np.save(building / "pixels.npy", images.pixels)
            scratch.unlink(missing_ok=True)
        manifest |= {
            "shape": list(images.pixels.shape),
            "classes": list(images.classes),
            "names": None if images.names is None else list(images.names),
            "skipped": list(skipped),
            "sha256": {"pixels": sha256(images.pixels), "labels": sha256(arrays["labels"])},
            "bytes": {file.name: file.stat().st_size for file in sorted(building.glob("*.npy"))},
        }
        (building / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in building.iterdir():  # synced before the rename, because a renamed folder is trusted
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        building.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
