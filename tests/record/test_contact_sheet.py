"""The queried images of a round as one small JPEG."""

import numpy as np
import pytest
from PIL import Image

from alframe.record.contact_sheet import COLUMNS, write_contact_sheet


def flat(levels, channels=3, height=64, width=64):
    """Images of one grey each."""
    return np.stack([np.full((channels, height, width), level, dtype=np.uint8) for level in levels])


@pytest.mark.parametrize(
    ("shape", "tile"), [((1, 28, 28), (32, 32)), ((3, 300, 100), (24, 64)), ((3, 100, 300), (64, 24))]
)
def test_tiles_are_at_most_64_pixels_a_side_and_whole_blocks(tmp_path, shape, tile):
    write_contact_sheet(tmp_path / "a.jpg", np.zeros((9, *shape), dtype=np.uint8))
    with Image.open(tmp_path / "a.jpg") as sheet:
        assert sheet.size == (COLUMNS * tile[0], 2 * tile[1])


def test_images_stand_in_their_order_eight_in_a_row(tmp_path):
    levels = [20 * k for k in range(11)]
    write_contact_sheet(tmp_path / "a.jpg", flat(levels))
    with Image.open(tmp_path / "a.jpg") as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    centres = [pixels[64 * (k // 8) + 32, 64 * (k % 8) + 32] for k in range(11)]
    assert centres == pytest.approx(levels, abs=3)
    assert pixels[96, 64 * 3 + 32 :].min() > 250  # the rest of the last row is white


def test_no_more_than_64_images_and_the_same_bytes_every_time(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(70, 3, 64, 64), dtype=np.uint8)
    write_contact_sheet(tmp_path / "a.jpg", images)
    write_contact_sheet(tmp_path / "b.jpg", images[:64])
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as sheet:
        assert sheet.size == (512, 512)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]
