"""The queried images of a round as one small JPEG beside the stored query, so that a report can show them without the data."""

import math
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from alframe.record.files import replacing

MAX_IMAGES = 64
COLUMNS = 8
SIDE = 64  # pixels of the longer side, at most


def write_contact_sheet(
    path: Path, images: UInt8[np.ndarray, "q ch h w"], side: int = SIDE, comment: str | None = None
) -> None:
    """Write the first 64 of `images` in order, at most `side` pixels a side, in rows of eight equal tiles, atomically.

    The sheet is always eight tiles wide, so that the number of images is enough to locate each of them. The same images
    give the same bytes. `comment`: a text in the file's header.
    """
    shown = images[:MAX_IMAGES]
    height, width = shown.shape[2:]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # JPEG works on blocks of 8 pixels: tiles of whole blocks do not bleed into each other
    tile = tuple(8 * math.ceil(length / 8) for length in size)
    sheet = Image.new("RGB", (COLUMNS * tile[0], math.ceil(len(shown) / COLUMNS) * tile[1]), "white")
    for i, image in enumerate(shown):
        corner = (i % COLUMNS) * tile[0] + (tile[0] - size[0]) // 2, i // COLUMNS * tile[1] + (tile[1] - size[1]) // 2
        # channel by channel with averaging first (reducing_gap): a third of the time, no visible difference
        resize = partial(Image.Image.resize, size=size, resample=Image.Resampling.BILINEAR, reducing_gap=1.0)
        planes = [resize(Image.fromarray(channel)) for channel in image[:3]]
        sheet.paste(Image.merge("RGB", planes if len(planes) == 3 else planes[:1] * 3), corner)
    with replacing(path) as temporary:
        sheet.save(temporary, "JPEG", quality=80, subsampling=0, **({"comment": comment} if comment else {}))
