"""The photos of a sheet on one page for the browser, large enough to judge, numbered as the sheet's rows."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alframe.console import progress
from alframe.dataset.decode import WHITE, attempts, upright_8_bit
from alframe.names import printable
from alframe.record.files import replacing

SIDE, SIDE_OF_NEAREST = 480, 120  # pixels of the longer side, at most
SMALL = 200  # a photo below this side is enlarged by whole pixels, not blurred

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }}
body {{ margin: 1rem auto; max-width: 110rem; padding: 0 1rem }}
h1 {{ font-size: 1.3rem; margin: 0 }} p {{ margin: .2rem 0 }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); margin-top: 1rem }}
figure {{ border: 1px solid #8886; border-radius: 8px; display: flex; flex-direction: column; margin: 0; overflow: hidden; break-inside: avoid }}
figure > a, figure > em {{ background: #8883; display: grid; place-items: center; height: 20rem }}
figure > a > img {{ width: 100%; height: 20rem; object-fit: contain }} img.small {{ image-rendering: pixelated }}
figcaption {{ padding: .5rem .7rem }} .name, .why {{ overflow-wrap: anywhere }}
.number {{ font-size: 1.5rem; font-weight: 700; margin-right: .4rem }} .guess {{ float: right; font-weight: 600; margin-top: .4rem }}
.name, .why, .like {{ display: block; font-size: .85rem; opacity: .8 }} .like {{ align-items: center; display: flex; gap: .5rem; margin-top: .3rem }}
.like img {{ max-height: 4rem; max-width: 6rem }}
@media print {{ main {{ grid-template-columns: repeat(3, 1fr) }} figure > a, figure > a > img {{ height: 14rem }} }}
</style></head><body><h1>{title}</h1><p>{about}</p><main>
"""


def photo_page(sheet: Path) -> Path:
    """The page of a sheet: beside it, with its name."""
    return sheet.with_suffix(".html")


def write_photo_page(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write the photos of `rows` (of a sheet, in its order) as one page that needs no other files, atomically.

    The files are a row's `image` and `nearest`, absolute. Each tile has the row's rank, the photo (a click opens the file),
    its name, and what the row says of it: prediction, reason, nearest labelled image. A photo that cannot be read is named,
    with the reason. A few hundred reduced photos are held in memory at a time.
    """
    about = f"{len(rows)} photos. The number is the sheet's column rank. A click opens the photo itself."
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(HEAD.format(title=escape(title), about=about))
        file.writelines(_tiles(rows))
        file.write("</main></body></html>\n")


def _tiles(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    photos = [row["image"] or None for row in rows]
    shown = (_shown(photos, SIDE), _shown([row.get("nearest") or None for row in rows], SIDE_OF_NEAREST))
    every = progress(zip(rows, photos, *shown, strict=True), "drawing the photos", total=len(rows))
    for row, photo, (picture, why), (nearest, _) in every:
        name = escape(printable(photo.name)) if photo else f"no file: {row['id']}"
        body = f'<a href="{photo.as_uri()}" target="_blank">{picture}</a>' if photo and picture else f"<em>{why}</em>"
        guess = f"{row['prediction']} {float(row['probability']):.2f}" if row.get("prediction") else ""
        like = f'<span class="like">{nearest} the most similar labelled photo</span>' if nearest else ""
        yield (
            f'<figure>{body}<figcaption><span class="number">{row["rank"]}</span><span class="guess">{escape(guess)}</span>'
            f'<span class="name">{name}</span><span class="why">{escape(row.get("reason", ""))}</span>'
            f"{like}</figcaption></figure>\n"
        )


def _shown(files: Sequence[Path | None], side: int) -> Iterator[tuple[str, str]]:
    """An `img` of each file with at most `side` pixels a side, or nothing and why."""
    there = [file for file in files if file is not None]
    outcomes = attempts(there, lambda i: _img(there[i], side))
    for file in files:
        tag, why = next(outcomes) if file is not None else ("", "no photo")
        yield tag or "", f"cannot be shown: {escape(why)}" if why else ""


def _img(file: Path, side: int) -> str:
    with Image.open(file) as opened:
        opened.draft("RGB", (2 * side, 2 * side))
        white = (
            max(1, int(np.asarray(opened).max())) if opened.mode.startswith("I") else WHITE
        )  # to be seen at any depth
        image = upright_8_bit(opened, white).convert("RGB")
    image.thumbnail((side, side), reducing_gap=2.0)
    small = max(image.size) < SMALL
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG" if small else "JPEG", quality=88)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind, how = ("png", 'class="small" ') if small else ("jpeg", "")
    return f'<img {how}alt="" src="data:image/{kind};base64,{data}">'
