"""Grey values of 10 and 12 bits in files of 16: told, and brought to 8 bits by where white is."""

import numpy as np
import pytest
from PIL import Image

from alframe.dataset.decode import decode_file, deepest, shallow
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError


def save(folder, name, values):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint16)).save(folder / f"{name}.png")
    return folder / f"{name}.png"


@pytest.mark.parametrize("white", [1023, 4095, 65535, 1000])
def test_values_are_rounded_in_proportion_to_white(tmp_path, white):
    values = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(64, 64)
    file = save(tmp_path, "a", values)
    exact = np.minimum(values / np.float64(white), 1) * 255
    assert np.abs(decode_file(file, (1, 64, 64), white)[0] - exact).max() <= 0.5 + 1e-9
    assert np.array_equal(decode_file(file, (1, 64, 64)), decode_file(file, (1, 64, 64), 65535))


@pytest.mark.parametrize(
    ("largest", "told"),
    [
        (
            1000,
            "end at 1,000 of 65,535 (3 looked at), which leaves 4 of 256 grey levels: set dataset.white=1023 (or auto)",
        ),
        (4095, "which leaves 16 of 256 grey levels: set dataset.white=4095"),
        (16000, "dataset.white=16383"),
    ],
)
def test_few_grey_levels_are_told(tmp_path, largest, told):
    files = [save(tmp_path, i, [[0, largest - i], [3, 4]]) for i in range(3)]
    assert told in shallow(files)
    assert deepest(files) == largest


def test_of_other_files_nothing_is_said(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "8bit.png")
    (tmp_path / "broken.png").write_text("no image")
    assert shallow([tmp_path / "8bit.png", tmp_path / "broken.png"]) is None
    assert shallow([save(tmp_path, "deep", [[0, 60_000]])]) is None
    assert shallow([]) is None


def photos(root):
    for name in ("good", "bad"):
        for i in range(4):
            save(root / name, i, np.full((4, 4), 100 * i + (500 if name == "bad" else 0)))
    return root


def test_a_folder_is_read_up_to_white_and_auto_finds_it(tmp_path, caplog):
    root = photos(tmp_path / "photos")
    plain = ImageFolder(root=root, size=4).load(tmp_path / "cache")
    assert "set dataset.white=1023 (or auto)" in caplog.text
    assert plain.pool.pixels.max() <= 3
    caplog.clear()
    auto = ImageFolder(root=root, size=4, white="auto").load(tmp_path / "cache")
    assert "white is 800, the largest value of all files" in caplog.text
    assert {*auto.pool.pixels.flatten().tolist(), *auto.test.pixels.flatten().tolist()} == {
        0,
        32,
        64,
        96,
        159,
        191,
        223,
        255,
    }
    fixed = ImageFolder(root=root, size=4, white=800).load(tmp_path / "cache")
    assert fixed.content_hash == auto.content_hash


def test_a_growing_pool_takes_a_number(tmp_path, caplog):
    root = photos(tmp_path / "photos")
    save(root / "unlabelled", "x", np.full((4, 4), 400))
    ImageFolder(root=root, size=4).load(tmp_path / "cache")
    assert "set dataset.white=1023, which becomes white" in caplog.text
    data = ImageFolder(root=root, size=4, white=800).load(tmp_path / "cache")
    assert 128 in data.pool.pixels
    with pytest.raises(
        ConfigError, match="a number for dataset.white with a growing pool, got auto; 12-bit cameras end at 4095"
    ):
        ImageFolder(root=root, size=4, white="auto").load(tmp_path / "cache2")


@pytest.mark.parametrize("options", [{"white": 0}, {"white": 70_000}, {"max_pixels": 0}])
def test_values_out_of_range_are_told(options):
    with pytest.raises(ConfigError, match=f"dataset.{next(iter(options))}"):
        ImageFolder(**options)
