"""Decode image files to one uint8 array, by a fixed policy.

Orientation: the EXIF tag is applied. Size: stretched to `size`, a side or [height, width] (PIL's bilinear filter,
antialiased when reducing); "auto" is `auto_size`; None keeps the size, which all files must share. Depth: 16-bit grey is scaled by 255 / 65535 (or
255 / white) and rounded (never stretched to its own range); of 16-bit colour PIL keeps the high byte. Palettes are resolved; transparent pixels
are blended with white. Colour becomes grey by ITU-R 601-2 luma, grey becomes colour by repetition. Only the first frame is used.
"""

import math
import os
import statistics
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alframe.console import progress
from alframe.dataset.cache import Allocate
from alframe.errors import DataError

POLICY = 1  # part of the cache key of decoded files: raise it with every change that affects a pixel
PROGRESS_FROM = 500  # files
MAX_NAMED = 20
WHITE = 65535  # of 16-bit grey, unless dataset.white says otherwise
SHALLOW = 0.25  # of the range of 16 bits: files that stay below it lose most of their grey levels
DEPTHS = (1023, 4095, 16383)  # the largest values of 10, 12 and 14 bits
CHUNK = 256  # files submitted to the threads at once
ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)  # EXIF tag, and its values for images rotated by 90 degrees

# What PIL raises for files that are not images, are truncated, or declare a wrong size.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

T = TypeVar("T")
LIMIT = Image.MAX_IMAGE_PIXELS
warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # large photos are usual; beyond the limit is an error
Size = int | list[int] | Literal["auto"] | None
"""Of decoded images: the side of a square, [height, width], "auto" by the files' own sizes, or None to keep them."""
AUTO_PIXELS = 320 * 320
LEAST_KEPT = 0.25  # share of the median photo's pixels; a run says so where a size keeps fewer
LARGEST_STRETCH = 1.5  # change of the aspect ratio that is named then
SAMPLE = 64  # files whose headers tell the usual size


@cache
def endings() -> frozenset[str]:
    """The endings of files that can be decoded, in lower case; with the extra `heic` its own too."""
    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return frozenset(Image.registered_extensions())


@dataclass(frozen=True)
class Decoded:
    """`pixels`: uint8 [m, c, h, w] of the readable files; `kept`: their positions in the list; `skipped`: the other files."""

    pixels: np.ndarray
    kept: np.ndarray
    skipped: tuple[Path, ...]


@dataclass(frozen=True)
class Head:
    """From a file's header: channels of the decoded image (1 or 3), height and width (upright)."""

    channels: int
    height: int
    width: int


def decode_files(
    files: Sequence[Path],
    *,
    size: Size,
    channels: Literal[1, 3] | None = None,
    skip_broken: bool = False,
    allocate: Allocate | None = None,
    white: int = WHITE,
) -> Decoded:
    """Decode `files` in order, on all cores; `channels` None uses the channel count that all of them share.

    Raises DataError for truncated, empty and non-image files (unless `skip_broken`), for mixed channel counts with `channels`
    None, for mixed sizes with `size` None, and if no file is readable.
    """
    broken: dict[int, str] = {}
    shape = common_shape(files, size, channels, broken, skip_broken=skip_broken)
    readable = [i for i in range(len(files)) if i not in broken]
    whole = (len(readable), *shape)
    pixels = allocate(whole) if allocate else np.empty(whole, np.uint8)

    def decode(row: int) -> None:
        pixels[row] = decode_file(files[readable[row]], shape, white)

    late: dict[int, str] = {}
    rows = list(_each([files[i] for i in readable], decode, "decoding images", late, skip_broken))
    if late:  # close the gaps in place: the array may be larger than memory
        for row, source in enumerate(rows):
            pixels[row] = pixels[source]
        pixels = pixels[: len(rows)]
    kept = np.array([readable[row] for row in rows], dtype=np.int64)
    return Decoded(pixels, kept, tuple(files[i] for i in sorted(set(range(len(files))) - set(kept))))


def common_shape(
    files: Sequence[Path],
    size: Size,
    channels: Literal[1, 3] | None,
    broken: dict[int, str],
    *,
    skip_broken: bool,
) -> tuple[int, int, int]:
    """(channels, height, width) of the decoded images; files are read only if an option is None.

    Unreadable ones are added to `broken`. Raises DataError as `decode_files` does.
    """
    fixed = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else None
    if fixed is not None and channels is not None:
        return channels, fixed[0], fixed[1]
    heads = _each(files, lambda i: read_head(files[i]), "reading headers", broken, skip_broken)
    if size is None:
        _expect_one(files, heads, lambda h: f"{h.height}x{h.width} pixels", "size", "dataset.size=64, for instance")
    if channels is None:
        advice = "dataset.channels=1 (all grey) or dataset.channels=3 (all colour)"
        _expect_one(files, heads, lambda h: f"{h.channels} channel{'s' * (h.channels > 1)}", "channel count", advice)
    head = next(iter(heads.values()))
    height, width = fixed or (auto_size(list(heads.values())) if size == "auto" else (head.height, head.width))
    return channels or head.channels, height, width


def auto_size(heads: Sequence[Head]) -> tuple[int, int]:
    """Height and width for photos with these headers: their median size, reduced to at most `AUTO_PIXELS`, in multiples of 8.

    The aspect ratio is that of the median photo; others are stretched to it.
    """
    height, width = _median_size(heads)
    factor = min(1.0, math.sqrt(AUTO_PIXELS / (height * width)))
    return max(8, round(height * factor / 8) * 8), max(8, round(width * factor / 8) * 8)


def lost_pixels(files: Sequence[Path], shape: tuple[int, ...]) -> str | None:
    """What decoding to `shape` loses and what to write instead; by the headers of up to `SAMPLE` files, spread over all.

    None if at least `LEAST_KEPT` of the median photo's pixels are kept, and for sizes of `AUTO_PIXELS` or more: a user chose those.
    """
    some = files[:: math.ceil(len(files) / SAMPLE) or 1]
    heads = [head for head, _ in attempts(some, lambda i: read_head(some[i])) if head is not None]
    if not heads:
        return None
    (height, width), (h, w) = _median_size(heads), shape[1:]
    kept, stretch = h * w / (height * width), (w / h) / (width / height)
    if kept >= LEAST_KEPT or h * w >= AUTO_PIXELS:
        return None
    aspect = f" and changes their aspect ratio by a factor of {max(stretch, 1 / stretch):.1f}"
    auto = " x ".join(map(str, auto_size(heads)))
    return (
        f"dataset.size keeps {100 * kept:.2g} % of the photos' pixels{aspect if max(stretch, 1 / stretch) > LARGEST_STRETCH else ''}: most are "
        f"{height:.0f} x {width:.0f} (height x width), reduced to {h} x {w}. Small defects may vanish: set dataset.size=auto (here {auto}) or "
        "dataset.size=[height,width], and model.input_size=null with model=frozen; dataset.size_warning=false turns this warning off."
    )


def deepest(files: Sequence[Path]) -> int | None:
    """The largest value in the 16-bit grey ones of these files; None if there are none that can be read."""
    values = [value for value, _ in attempts(files, lambda i: _largest(files[i])) if value is not None]
    return max(values) if values and max(values) >= 0 else None


def _largest(file: Path) -> int:
    with Image.open(file) as image:
        return int(np.asarray(image).max()) if image.mode.startswith("I") else -1


def shallow(files: Sequence[Path], *, grows: bool = False) -> str | None:
    """What is lost of 16-bit grey files that use few of their values, and what to write instead; by up to 16 of them.

    Of a pool that `grows` the largest value is not known yet.
    """
    some = files[:: math.ceil(len(files) / 16) or 1]
    found = deepest(some)
    if found is None or found > SHALLOW * WHITE:
        return None
    depth = next((depth for depth in DEPTHS if found <= depth), WHITE // 4)
    return (
        f"the values of 16-bit photos end at {found:,} of {WHITE:,} ({len(some)} looked at), which leaves {found * 255 // WHITE + 1} of 256 grey "
        f"levels: set dataset.white={depth}{'' if grows else ' (or auto)'}, which becomes white."
    )


def accept_pixels(most: int | None) -> None:
    """Let files have up to `most` pixels, as this process reads them from now on; None: PIL's limit, about 179 million."""
    Image.MAX_IMAGE_PIXELS = LIMIT if most is None else math.ceil(most / 2)  # PIL refuses twice as many


def most_pixels() -> int:
    """How many pixels a file may have."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def _median_size(heads: Sequence[Head]) -> tuple[float, float]:
    height, width = (float(statistics.median(getattr(head, side) for head in heads)) for side in ("height", "width"))
    return height, width


def read_head(file: Path) -> Head:
    """Channels and upright size, without decoding. Raises one of UNREADABLE."""
    with Image.open(file) as image:
        # PIL decodes a whole PNG to search for a tag after the pixels; there are none in practice.
        tags = {} if image.format == "PNG" and "exif" not in image.info else image.getexif()
        width, height = reversed(image.size) if tags.get(ORIENTATION) in SIDEWAYS else image.size
        return Head(1 if _is_grey(image) else 3, height, width)


def decode_file(file: Path, shape: tuple[int, int, int], white: int = WHITE) -> np.ndarray:
    """uint8 [c, h, w] of one file under the policy above; 16-bit grey from `white` on is white. Raises one of UNREADABLE."""
    channels, height, width = shape
    with Image.open(file) as opened:
        # JPEG can be decoded at 1/2, 1/4 or 1/8: several times faster, and still four times the target size.
        opened.draft(opened.mode, (4 * width, 4 * height))
        image = upright_8_bit(opened, white)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def upright_8_bit(image: Image.Image, white: int = WHITE) -> Image.Image:
    """Oriented, without palette or transparency, 8 bits deep: mode L, RGB, or another colour mode that converts to them."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()} do not fit 16 bits")
        values = np.minimum(values, white).astype(np.uint32)
        return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no stated range; convert the file, or use dataset=arrays")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB") if image.mode in ("P", "PA") else image


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P" and image.palette is not None:
        colours = np.frombuffer(image.palette.tobytes(), np.uint8)
        colours = colours.reshape(-1, len(image.palette.mode))[:, :3]
        return bool((colours == colours[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _expect_one(
    files: Sequence[Path], heads: dict[int, Head], say: Callable[[Head], str], what: str, option: str
) -> None:
    examples: dict[str, Path] = {}
    for i, head in heads.items():
        examples.setdefault(say(head), files[i])
    if len(examples) > 1:
        got = " and ".join(f"{value} in {file}" for value, file in list(examples.items())[:2])
        raise DataError(f"Expected images of one {what}, got {got}; set {option}.")


def _each(
    files: Sequence[Path], work: Callable[[int], T], title: str, broken: dict[int, str], skip_broken: bool
) -> dict[int, T]:
    """`work(i)` in threads for every file, by i in order. Unreadable ones are added to `broken`, or raise a DataError."""
    results: dict[int, T] = {}
    outcomes = progress(attempts(files, work), title, total=len(files), enabled=len(files) > PROGRESS_FROM)
    for i, (result, why) in enumerate(outcomes):
        if why:
            broken[i] = why
        else:
            results[i] = cast(T, result)
    if broken and not skip_broken:
        named = [f"{files[i]} ({broken[i]})" for i in sorted(broken)]
        raise DataError(
            f"Expected readable images, got {listed(named)}; "
            "fix or remove them (or set dataset.skip_broken=true where the dataset has that option)."
        )
    if not results:
        raise DataError(
            f"Expected at least one readable image, got none among {len(files)} files; the first is {files[0]}."
        )
    return results


def listed(broken: Sequence[str]) -> str:
    """The first twenty of files that cannot be read, each with its reason; of more, all of them in a file that is named."""
    if len(broken) <= MAX_NAMED:
        return ", ".join(broken)
    with tempfile.NamedTemporaryFile(
        "w", prefix="broken_images-", suffix=".txt", delete=False, errors="backslashreplace"
    ) as file:
        file.write("".join(f"{one}\n" for one in broken))
    return f"{', '.join(broken[:MAX_NAMED])} and {len(broken) - MAX_NAMED} more (all {len(broken)}: {file.name})"


def attempts(files: Sequence[Path], work: Callable[[int], T]) -> Iterator[tuple[T | None, str]]:
    """`work(i)` of every file in order, in threads with bounded prefetch: (result, "") or (None, why it is unreadable)."""

    endings()  # all formats are known from now on

    def attempt(i: int) -> tuple[T | None, str]:
        try:
            if files[i].stat().st_size == 0:
                return None, "the file is empty"
            return work(i), ""
        except UnidentifiedImageError:
            how = ": convert it to .jpg or .png, or pip install 'alframe[heic]'"
            return None, f"not an image{how if files[i].suffix.lower() in ('.heic', '.heif') else ''}"
        except Image.DecompressionBombError:
            option = "dataset.max_pixels (alframe predict: --max-pixels)"
            return None, f"more than {most_pixels():,} pixels: if that is right, set {option}"
        except UNREADABLE as error:
            return None, str(error) or type(error).__name__

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for start in range(0, len(files), CHUNK):
            yield from threads.map(attempt, range(start, min(start + CHUNK, len(files))))
