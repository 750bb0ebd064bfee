"""Images stored as arrays: an .npz file, or a folder of .npy files."""

import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from alframe.dataset.augment import Augmentation
from alframe.dataset.cache import Allocate, cached, fingerprint
from alframe.dataset.normal import GUESS, Normal, with_normal
from alframe.dataset.split import Sampled
from alframe.errors import DataError
from alframe.images import Augment, Data, ImageSet, rows_at_once
from alframe.part import Change, moved

Layout = Literal["auto", "nhw", "nhwc", "nchw"]
T = TypeVar("T")

WHAT = "an .npz file with the arrays images and labels, or a folder with images.npy and labels.npy"
HOW = "save one with np.savez('data.npz', images=images, labels=labels) and set dataset.root=data.npz"
AUGMENTATION = Augmentation(flip=True, vertical_flip=False, crop=2, brightness=0.0)
UNREADABLE = (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Arrays(Sampled):
    """Arrays `images` and `labels` (optional: `test_images` with `test_labels`, `classes`) as uint8 [n, c, h, w], c = 1 or 3.

    Images: uint8, uint16 (scaled by 255 / 65535) or float in [0, 1] (scaled by 255), laid out as `layout`: nhw, nhwc, nchw, or
    auto if the shape is unambiguous. Labels: integers >= 0. `classes` names them (else the file's `classes`, else the
    numbers up to the largest label). Without test arrays, `test_share` of each class is the test set, fixed by
    `split_seed`. Raises DataError for a missing file or array, NaN, values or labels out of range, and unsuitable shapes.
    """

    root: str | Path | None = None
    name: str = "arrays"
    layout: Layout = "auto"
    classes: list[str] | None = None
    test_share: float = 0.25
    augmentation: Augment | None = AUGMENTATION
    normal: Normal = field(default=GUESS, kw_only=True)

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved}

    def load(self, cache: Path) -> Data:
        arrays = _Arrays(self.root)
        classes = self.classes
        if classes is None and "classes" in arrays:
            classes = [str(name) for name in arrays["classes"]]
        images = self._images(cache, arrays, "", classes)
        if "test_images" in arrays:
            pool, test = self.limit(images, self._images(cache, arrays, "test_", list(images.classes)))
        else:
            pool, test = self.divide(images, images.labels, self.test_share)
        every = np.concatenate([pool.labels, test.labels])
        if classes is None and len(every) and every.min() == 1:
            logging.getLogger("alframe").warning(
                "%s: no image has label 0: the classes seem to be numbered from 1, so class 0 is empty, and with two classes in use there is no "
                "AUROC; subtract 1 from the labels (labels - 1), or name the classes.",
                self.name,
            )
        return with_normal(Data(self.name, pool, test, self.augmentation, self.normalization), self.normal)

    def _images(self, cache: Path, arrays: "_Arrays", prefix: str, classes: list[str] | None) -> ImageSet:
        def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
            labels = check_labels(arrays[f"{prefix}labels"], f"{prefix}labels", classes)
            names = classes if classes is not None else [str(label) for label in range(int(labels.max(initial=0)) + 1)]
            pixels = to_pixels(arrays[f"{prefix}images"], f"{prefix}images", self.layout, allocate)
            return ImageSet(pixels, labels, tuple(names)), ()

        parameters = {"layout": self.layout, "prefix": prefix, "classes": classes}
        return cached(cache, self.name, parameters, arrays.fingerprint, build)


def to_pixels(array: np.ndarray, name: str, layout: Layout, allocate: Allocate) -> np.ndarray:
    """The array as uint8 [n, c, h, w] in memory from `allocate`. Raises DataError as `Arrays` says."""
    axes = _axes(array.shape, name, layout)
    kind = array.dtype.kind
    if array.dtype not in (np.uint8, np.uint16) and kind != "f":
        raise DataError(
            f"Expected {name} of uint8, uint16 or float in [0, 1], got {array.dtype}; convert it with .astype('uint8')."
        )
    if not len(array):
        raise DataError(f"Expected at least one image in {name}, got none.")
    pixels = allocate(tuple(1 if axis is None else array.shape[axis] for axis in axes))
    n_bad, low, high = 0, 0.0, 0.0
    first_bad: tuple[int, ...] = ()
    step = rows_at_once(array)
    for start in range(0, len(array), step):
        block = array[start : start + step]
        if kind == "f":
            bad = ~np.isfinite(block)
            if bad.any():
                place = tuple(int(i) for i in np.argwhere(bad)[0])
                first_bad = first_bad if n_bad else (start + place[0], *place[1:])
                n_bad += int(bad.sum())
                continue
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            block = np.rint(np.clip(block, 0, 1) * 255)
        elif array.dtype == np.uint16:
            block = (block.astype(np.uint32) * 255 + 32767) // 65535
        block = block[:, None] if block.ndim == 3 else block.transpose([axis for axis in axes if axis is not None])
        pixels[start : start + step] = block
    if n_bad:
        raise DataError(
            f"Expected finite pixels in {name}, got {n_bad} NaN or infinite, the first at {name}{list(first_bad)}; fix or drop those images."
        )
    if low < 0 or high > 1:
        raise DataError(
            f"Expected float {name} in [0, 1], got values from {low:g} to {high:g}; scale them, or save them as uint8."
        )
    return pixels


def check_labels(array: np.ndarray, name: str, classes: list[str] | None) -> np.ndarray:
    """int64 [n] labels from 0 to the number of classes - 1. Raises DataError."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"Expected {name} to be a one-dimensional integer array, got {array.dtype} {list(array.shape)}; number the classes from 0."
        )
    end = len(classes) if classes is not None else None
    wrong = np.flatnonzero((array < 0) | (array >= end if end is not None else False))
    if len(wrong):
        upper = f"to {end - 1} ({end} classes)" if end is not None else "on"
        from_1 = (
            "; they seem to be numbered from 1: subtract 1" if end and array.min() == 1 and array.max() == end else ""
        )
        raise DataError(
            f"Expected {name} from 0 {upper}, got {int(array[wrong[0]])} for image {wrong[0]}"
            f"{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}{from_1}; correct the labels or add the missing class names."
        )
    return array.astype(np.int64)


def _axes(shape: tuple[int, ...], name: str, layout: Layout) -> tuple[int | None, ...]:
    """Which axis of the array is n, c, h and w; None for a channel axis to be added."""
    choices: dict[str, tuple[int | None, ...]] = {"nhw": (0, None, 1, 2), "nhwc": (0, 3, 1, 2), "nchw": (0, 1, 2, 3)}
    fitting = [
        known
        for known, axes in choices.items()
        if len(known) == len(shape) and (axes[1] is None or shape[axes[1]] in (1, 3)) and layout in ("auto", known)
    ]
    if len(fitting) == 1:
        return choices[fitting[0]]
    if fitting:
        raise DataError(
            f"Expected {name} with an unambiguous layout, got shape {list(shape)}; set dataset.layout=nhwc or dataset.layout=nchw."
        )
    wanted = "[n, h, w], [n, h, w, c] or [n, c, h, w]" if layout == "auto" else f"[{', '.join(layout)}]"
    raise DataError(
        f"Expected {name} as {wanted} with c = 1 or 3, got {list(shape)}; reshape it, or drop the extra channels."
    )


class _Arrays:
    """The named arrays of an .npz file or of a folder of .npy files, read when asked for."""

    def __init__(self, where: str | Path | None) -> None:
        if where is None:
            raise DataError(f"Expected dataset.root to be {WHAT}, got null; {HOW}.")
        self.root = root = Path(where).expanduser().resolve()
        if not root.exists():
            raise DataError(f"Expected dataset.root to be {WHAT}, got {root} (no such file); {HOW}.")
        if root.is_dir():
            self.names = sorted(path.stem for path in root.glob("*.npy"))
            self.fingerprint = fingerprint(root, root.glob("*.npy"))
        else:
            self.names = self._npz(lambda opened: list(opened.files), f"dataset.root to be {WHAT}")
            self.fingerprint = fingerprint(root.parent, [root])

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise DataError(
                f"Expected an array named {name} in {self.root}, got {', '.join(self.names) or 'no array'}; {HOW}."
            )
        if not self.root.is_dir():
            return self._npz(lambda opened: opened[name], f"a readable array {name}")
        try:
            return np.load(self.root / f"{name}.npy", mmap_mode="r")
        except UNREADABLE as error:
            raise DataError(f"Expected a readable array {name}, got {self.root} ({error}); {HOW}.") from error

    def _npz(self, get: Callable[[Any], T], what: str) -> T:
        try:
            with self.root.open("rb") as stream, np.lib.npyio.NpzFile(stream) as opened:
                return get(opened)
        except UNREADABLE as error:
            raise DataError(f"Expected {what}, got {self.root} ({error}); {HOW}.") from error
