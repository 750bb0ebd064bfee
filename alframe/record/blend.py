"""Maps drawn over images: what lies above the low end of a scale glows, the rest of the image is grey."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from alframe.images import rgb

COLOURS = np.array([[101, 21, 110], [188, 55, 84], [237, 105, 37], [251, 180, 26], [252, 255, 164]], dtype=np.float32)
"""From the low end of the scale to the high one: matplotlib's inferno from 0.3 on, whose lightness grows evenly."""
OPAQUE = 0.85  # share of the colour at the high end; it grows from 0 at the low end
LEAST = 0.5  # the high end of a scale of evidence, at least: where nothing is found, noise must not glow


def scale_of(maps: Iterable[np.ndarray], *, distances: bool = False) -> tuple[float, float]:
    """The common scale of some maps: up to the 90th percentile of the images' largest values, and above only the colour of it.

    From 0, for only evidence in favour is shown; for `distances`, never negative, from the 80th percentile of all.
    """
    maps = list(maps)
    high = float(np.quantile([one.max() for one in maps], 0.9))
    low = float(np.quantile(np.concatenate([one.ravel() for one in maps]), 0.8)) if distances else 0.0
    return low, max(high, low + (1e-6 if distances else LEAST))


def blend(image: Image.Image, values: Float[np.ndarray, "h w"], scale: tuple[float, float]) -> Image.Image:
    """The image in grey with its map over it, both of the image's size."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    fitted = Image.fromarray(values.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    low, high = scale
    share = ((np.asarray(fitted) - low) / (high - low)).clip(0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(share, stops, channel) for channel in COLOURS.T], axis=-1)
    alpha = OPAQUE * share[..., None] ** 0.75
    return Image.fromarray(((1 - alpha) * grey + alpha * colour).round().astype(np.uint8))


def blended(
    images: UInt8[np.ndarray, "q ch h w"], maps: Float[np.ndarray, "q h2 w2"], scale: tuple[float, float], side: int
) -> UInt8[np.ndarray, "q 3 h3 w3"]:
    """`blend` of each, with `side` pixels on the longer side."""
    height, width = images.shape[2:]
    size = max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width)))
    pictures = [
        blend(rgb(image).resize(size, Image.Resampling.BILINEAR), one, scale)
        for image, one in zip(images, maps, strict=True)
    ]
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
