"""Decoding: one stated policy for every kind of file, one clear line for every bad one."""

import io
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alframe.dataset import decode
from alframe.dataset.decode import decode_files, read_head
from alframe.errors import DataError

RNG = np.random.default_rng(0)


def save(folder: Path, name: str, array: np.ndarray | Image.Image, **options: object) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(folder / name, **options)
    return folder / name


def grey(h: int = 8, w: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (h, w)).astype(np.uint8)


def colour(h: int = 8, w: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (h, w, 3)).astype(np.uint8)


def one(file: Path, size: int | None = None, channels: int | None = None) -> np.ndarray:
    return decode_files([file], size=size, channels=channels).pixels[0]


def test_pixels_come_back_as_they_are_in_the_order_of_the_files(tmp_path):
    arrays = [colour() for _ in range(7)]
    files = [save(tmp_path, f"{i}.png", array) for i, array in enumerate(arrays)][::-1]
    decoded = decode_files(files, size=None)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, np.stack(arrays[::-1]).transpose(0, 3, 1, 2))
    assert decoded.kept.tolist() == list(range(7))
    assert decoded.skipped == ()


def test_grey_files_have_one_channel_and_colour_files_three(tmp_path):
    assert one(save(tmp_path, "g.png", grey())).shape == (1, 8, 8)
    assert one(save(tmp_path, "c.png", colour())).shape == (3, 8, 8)


def test_colour_becomes_grey_by_luma_and_grey_colour_by_repetition(tmp_path):
    array = colour()
    luma = (array @ np.array([299, 587, 114])) / 1000
    got = one(save(tmp_path, "c.png", array), channels=1)
    assert np.abs(got[0].astype(float) - luma).max() <= 1
    array = grey()
    got = one(save(tmp_path, "g.png", array), channels=3)
    np.testing.assert_array_equal(got, np.repeat(array[None], 3, axis=0))


def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path):
    array = np.array([[0, 128, 129, 257], [1000, 4095, 32768, 65535]], dtype=np.uint16)
    for name in ("deep.png", "deep.tif"):
        got = one(save(tmp_path, name, array))
        np.testing.assert_array_equal(got[0], np.rint(array / 65535 * 255))


def test_the_orientation_tag_is_applied(tmp_path):
    array = np.add.outer(np.arange(0, 96, 16), np.arange(0, 150, 15)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    for name in ("turned.png", "turned.jpg"):
        file = save(tmp_path, name, array, exif=exif)
        assert (read_head(file).height, read_head(file).width) == (10, 6)
        assert np.abs(one(file)[0].astype(int) - np.rot90(array, -1)).max() <= 4


def test_palettes_are_looked_up(tmp_path):
    array = colour()
    image = Image.fromarray(array).quantize(64)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(one(save(tmp_path, "palette.png", image)), expected)
    array = grey() // 64 * 64
    image = Image.fromarray(array).quantize(4)
    file = save(tmp_path, "grey_palette.png", image)
    assert one(file).shape == (1, 8, 8)
    assert np.abs(one(file)[0].astype(int) - array).max() <= 1


def test_transparency_is_laid_over_white(tmp_path):
    array = np.dstack([colour(), np.full((8, 8), 255, np.uint8)])
    array[:4, :, 3] = 0
    for name, image in {
        "rgba.png": Image.fromarray(array),
        "la.png": Image.fromarray(array).convert("LA"),
        "pa.png": Image.fromarray(array).quantize(16),
    }.items():
        got = one(save(tmp_path, name, image))
        assert (got[:, :4] == 255).all(), name
        assert not (got[:, 4:] == 255).all(), name
    assert one(tmp_path / "la.png").shape[0] == 1


def test_black_and_white_files_become_0_and_255(tmp_path):
    array = grey() > 127
    np.testing.assert_array_equal(one(save(tmp_path, "bw.png", Image.fromarray(array)))[0], array * 255)


def test_resizing_makes_a_square_and_averages_what_it_reduces(tmp_path):
    stripes = np.tile(
        np.array([0, 255], np.uint8), (64, 64)
    )  # one pixel black, one white: an aliased 8x8 would be all black
    got = one(save(tmp_path, "stripes.png", stripes), size=8)
    assert got.shape == (1, 8, 8)
    assert np.abs(got.astype(int) - 127).max() <= 16
    assert one(save(tmp_path, "wide.png", grey(6, 30)), size=12).shape == (1, 12, 12)


def test_large_jpeg_files_give_what_a_full_decode_gives(tmp_path):
    y, x = np.mgrid[:400, :600]
    photo = Image.fromarray(((np.sin(x / 37) + np.cos(y / 23) + 2) * 60).astype(np.uint8))
    file = save(tmp_path, "photo.jpg", photo, quality=95)
    full = np.asarray(Image.open(file).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(one(file, size=32)[0] - full).max() <= 3


def test_of_several_frames_the_first_is_taken(tmp_path):
    first, second = grey(), grey()
    file = save(tmp_path, "frames.tif", Image.fromarray(first), save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_array_equal(one(file)[0], first)


def damaged(folder: Path) -> dict[str, Path]:
    buffer = io.BytesIO()
    Image.fromarray(colour(64, 64)).save(buffer, "PNG")
    png = buffer.getvalue()
    Image.fromarray(colour(64, 64)).save(buffer := io.BytesIO(), "JPEG")
    jpeg = buffer.getvalue()
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = png[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    content = {
        "empty.png": b"",
        "text.png": b"these are not pixels",
        "short.png": png[: len(png) // 2],
        "short.jpg": jpeg[: len(jpeg) // 2],
        "head_only.png": png[:40],
        "bomb.png": bomb,
        "flipped.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    save(folder, "float.tif", Image.fromarray(np.ones((64, 64), np.float32)))
    return {name: folder / name for name in [*content, "float.tif"]}


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize(
    "name", ["empty.png", "text.png", "short.png", "short.jpg", "head_only.png", "bomb.png", "flipped.png", "float.tif"]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, size):
    good = save(tmp_path, "good.png", colour(64, 64))
    bad = damaged(tmp_path)[name]
    with pytest.raises(DataError, match=rf"readable images, got .*{re.escape(name)} .*skip_broken=true"):
        decode_files([good, bad], size=size, channels=3)
    decoded = decode_files([good, bad, good], size=size, channels=3, skip_broken=True)
    assert decoded.kept.tolist() == [0, 2]
    assert decoded.skipped == (bad,)
    assert len(decoded.pixels) == 2
    np.testing.assert_array_equal(decoded.pixels[0], decoded.pixels[1])


def test_the_error_says_how_many_more_there_are(tmp_path):
    bad = damaged(tmp_path)
    files = [bad["empty.png"], save(tmp_path, "good.png", colour()), bad["text.png"], bad["short.png"]]
    with pytest.raises(
        DataError, match=r"empty.png \(the file is empty\), .*text.png \(not an image\), .*short.png \(.*; fix"
    ):
        decode_files(files, size=8, channels=3)


def test_of_many_broken_files_twenty_are_named_and_all_are_in_a_list(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(37)]
    for file in files:
        file.write_text("no image")
    with pytest.raises(
        DataError, match=r"19.png \(not an image\) and 17 more \(all 37: (.*broken_images-.*.txt)\); fix"
    ) as told:
        decode_files(files, size=8, channels=3)
    written = Path(re.search(r"all 37: (.*?)\)", str(told.value))[1])
    assert written.read_text().splitlines() == [f"{file} (not an image)" for file in files]
    written.unlink()


def test_a_format_that_an_extra_reads_says_so(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"ftypheic")
    with pytest.raises(
        DataError, match=r"a.heic \(not an image: convert it to .jpg or .png, or pip install 'alframe\[heic\]'\)"
    ):
        decode_files([tmp_path / "a.heic"], size=8, channels=3)


def test_skipping_closes_the_gaps_in_order(tmp_path):
    arrays = [colour() for _ in range(6)]
    files = [save(tmp_path, f"{i}.png", array) for i, array in enumerate(arrays)]
    for i in (0, 3):
        content = files[i].read_bytes()
        files[i].write_bytes(content[: len(content) // 2])  # found out only when decoded: the header is whole
    decoded = decode_files(files, size=None, channels=3, skip_broken=True)
    assert decoded.kept.tolist() == [1, 2, 4, 5]
    expected = np.stack([arrays[i] for i in (1, 2, 4, 5)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(decoded.pixels, expected)


def test_no_readable_file_at_all_is_an_error_even_when_skipping(tmp_path):
    bad = list(damaged(tmp_path).values())
    with pytest.raises(DataError, match=rf"at least one readable image, got none among {len(bad)}"):
        decode_files(bad, size=8, channels=3, skip_broken=True)


def test_mixed_channel_counts_name_one_file_of_each_kind_and_the_way_out(tmp_path):
    files = [save(tmp_path, "g.png", grey()), save(tmp_path, "c.png", colour()), save(tmp_path, "c2.png", colour())]
    with pytest.raises(
        DataError,
        match=r"1 channel in .*g\.png and 3 channels in .*c\.png; set dataset\.channels=1 .*dataset\.channels=3",
    ):
        decode_files(files, size=8)
    assert decode_files(files, size=8, channels=3).pixels.shape == (3, 3, 8, 8)
    assert decode_files(files, size=8, channels=1).pixels.shape == (3, 1, 8, 8)


def test_mixed_sizes_name_one_file_of_each_and_the_way_out(tmp_path):
    files = [save(tmp_path, "a.png", grey(8, 8)), save(tmp_path, "b.png", grey(8, 9))]
    with pytest.raises(DataError, match=r"8x8 pixels in .*a\.png and 8x9 pixels in .*b\.png; set dataset\.size"):
        decode_files(files, size=None)


def test_a_progress_bar_is_shown_for_many_files_on_a_terminal_only(tmp_path, monkeypatch):
    seen = []

    def spy(iterable, title, total, enabled):
        seen.append((title, total, enabled))
        return iter(iterable)

    monkeypatch.setattr(decode, "progress", spy)
    file = save(tmp_path, "a.png", grey())
    files = [save(tmp_path, f"{i}.png", grey()) for i in range(3)]
    decode_files([file], size=8, channels=1)
    monkeypatch.setattr(decode, "PROGRESS_FROM", 2)
    decode_files(files, size=8, channels=1)
    assert seen == [("decoding images", 1, False), ("decoding images", 3, True)]
    assert not sys.stderr.isatty()
