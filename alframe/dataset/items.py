"""Data sets that are indexed: torchvision's, torch's, and any other sequence of (image, label)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from alframe.console import progress
from alframe.dataset.arrays import AUGMENTATION
from alframe.dataset.cache import Allocate
from alframe.dataset.decode import upright_8_bit
from alframe.dataset.normal import GUESS, Normal, with_normal
from alframe.dataset.split import stratified_split
from alframe.errors import DataError
from alframe.images import Augment, Data, ImageSet

MANY = 2000  # items from which on a bar is shown
Item = Callable[[int], tuple[Any, Any]]
"""`item(i)`: the image and the label of item i."""


def from_dataset(
    dataset: Any,
    test: Any = None,
    *,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    test_share: float = 0.25,
    split_seed: int = 0,
    augmentation: Augment | None = AUGMENTATION,
    normal: Normal = GUESS,
    name: str | None = None,
) -> Data:
    """The data of a torchvision-like data set: `len(dataset)`, and `dataset[i]` gives (image, label), all read into memory.

    Images are of PIL, arrays [h, w] or [h, w, c], or tensors [c, h, w]; uint8, or float in [0, 1]. They are resized to `size`
    pixels, a side or (height, width); None: all have one size. Labels are whole numbers from 0. `classes` names them (None: as
    `dataset.classes` does, else the numbers). Without `test`, another such data set, `test_share` of each class is the test set.
    Raises DataError for items of another kind.
    """
    named = classes if classes is not None else getattr(dataset, "classes", None)
    pool = read_items(_items(dataset), len(dataset), named, size, channels)
    if test is None:
        rest, chosen = stratified_split(pool.labels, test_share, split_seed)
        pool, held = pool.take(rest), pool.take(chosen)
    else:
        held = read_items(_items(test), len(test), pool.classes, pool.shape[1:], pool.shape[0])
    of = name or type(dataset).__name__.lower()
    return with_normal(Data(of, pool, held, augmentation), normal)


def _items(dataset: Any) -> Item:
    def item(i: int) -> tuple[Any, Any]:
        found = dataset[i]
        if not (isinstance(found, tuple | list) and len(found) >= 2):
            raise DataError(
                f"Expected (image, label) from item {i} of the data set, got {type(found).__name__}; return both."
            )
        return found[0], found[1]

    return item


def read_items(
    item: Item,
    n: int,
    classes: Sequence[str] | None,
    size: int | Sequence[int] | None,
    channels: int | None,
    allocate: Allocate | None = None,
) -> ImageSet:
    """The images and labels of `n` items, in order; see `from_dataset`. `channels` None: those of the first image."""
    if n < 1:
        raise DataError("Expected at least one item in the data set, got none; give one with images.")
    pixels: np.ndarray | None = None
    labels = np.empty(n, np.int64)
    for i in progress(range(n), "reading images", n, n > MANY):
        image, labels[i] = _image(item(i)[0], i), _label(item(i)[1], i)
        if pixels is None:
            height, width = image.height, image.width
            if size is not None:
                height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
            shape = (n, channels or (1 if image.mode == "L" else 3), height, width)
            pixels = allocate(shape) if allocate else np.empty(shape, np.uint8)
        image = image.convert("L" if pixels.shape[1] == 1 else "RGB")
        if image.size != (width, height):
            if size is None:
                raise DataError(
                    f"Expected images of one size, {height} x {width}, got {image.height} x {image.width} in item {i}; give a size."
                )
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        array = np.asarray(image)
        pixels[i] = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    assert pixels is not None
    names = [str(name) for name in classes] if classes is not None else [str(i) for i in range(int(labels.max()) + 1)]
    return ImageSet(pixels, labels, tuple(names))


def _image(image: Any, i: int) -> Image.Image:
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    if isinstance(image, np.ndarray):
        if image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1:
            image = np.rint(image * 255).astype(np.uint8)
        image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise DataError(
                f"Expected an image [h, w] or [h, w, 3] (a tensor: [c, h, w]) of uint8 or of floats in [0, 1] in item {i}, got "
                f"{image.dtype} {list(image.shape)} from {image.min():g} to {image.max():g}; leave out a normalising transform."
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return upright_8_bit(image)
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            return upright_8_bit(opened)
    raise DataError(
        f"Expected an image of PIL, an array or a tensor in item {i}, got {type(image).__name__}; return one."
    )


def _label(label: Any, i: int) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or number != label:
        raise DataError(
            f"Expected a whole number from 0 on as the label of item {i}, got {label!r}; number the classes."
        )
    return number
