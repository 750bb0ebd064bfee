"""What every dataset leaf promises, over every YAML in configs/dataset."""

import importlib
import inspect
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from beartype.door import is_bearable
from PIL import Image
from tests_support import leaves

from alframe.dataset.cache import cache_folder, default_cache
from alframe.dataset.torchvision_sets import FILES, TorchvisionSet
from alframe.images import Data

REPOSITORY = Path(__file__).parents[2]
LEAVES = leaves("dataset")
SHARED = REPOSITORY.parent / "shared" / "data"
ROOTS = {"mvtec_ad": SHARED / "mvtec_ad_256" / "screw", "magnetic_tile": SHARED / "magnetic_tile"}
REPEATED_AT_SOURCE = {"fashion_mnist", "magnetic_tile"}  # the same pixels more than once


def build(node: Any, **options: Any) -> Any:
    """A YAML node as an object: the class that `_target_` names, called with the other keys."""
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    module, name = node["_target_"].rsplit(".", 1)
    arguments = {key: build(value) for key, value in node.items() if key != "_target_"}
    return getattr(importlib.import_module(module), name)(**arguments | options)


def read(leaf: Path) -> dict[str, Any]:
    return yaml.safe_load(leaf.read_text())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, and small data for the leaves that take any: `photos/` with class folders, `photos.csv`, `parts` and `data.npz`."""
    folder, rng = tmp_path_factory.mktemp("contract"), np.random.default_rng(0)
    for name in ("bad", "good", "odd"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.jpg")
    lines = [f"{file.relative_to(folder)},{file.parent.name}" for file in sorted(folder.rglob("*.jpg"))]
    (folder / "photos.csv").write_text("\n".join(["path,label", *lines]))
    if find_spec("datasets"):
        _as_hugging_face(folder)
    np.savez(folder / "data.npz", images=rng.integers(0, 256, (40, 20, 20)).astype(np.uint8), labels=np.arange(40) % 4)
    return folder


def _as_hugging_face(folder: Path) -> None:
    import datasets

    files = sorted(map(str, folder.rglob("*.jpg")))
    columns = {"image": files, "label": [Path(file).parent.name for file in files]}
    whole = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    whole.class_encode_column("label").save_to_disk(folder / "parts")


@pytest.fixture(scope="module", params=LEAVES, ids=lambda leaf: leaf.stem)
def dataset(request: pytest.FixtureRequest, workplace: Path) -> tuple[str, Any, Path]:
    """The leaf's name, the dataset at a size that loads fast, and its cache; skipped where the data is not at hand."""
    leaf: Path = request.param
    name, node, cache = leaf.stem, read(leaf), workplace / "cache"
    any_data = {"image_folder": "photos", "arrays": "data.npz", "table": "photos.csv", "hugging_face": "parts"}
    roots = {leaf: workplace / where for leaf, where in any_data.items()} | ROOTS
    made = build(node, **({"root": roots[name]} if name in roots else {}))
    if isinstance(made, TorchvisionSet):
        cache = default_cache()
        if not cache_folder(cache, f"{name}-train", {}, FILES).is_dir():
            pytest.skip(f"{name} is not in the cache")
        made = replace(made, download=False)
    if name == "elpv" and find_spec("elpv_dataset") is None:
        pytest.skip("elpv-dataset is not installed")
    if name in roots and not roots[name].exists():
        pytest.skip(f"{roots[name]} is not there")
    return name, made, cache


@pytest.fixture(scope="module")
def data(dataset: tuple[str, Any, Path]) -> Data:
    _, made, cache = dataset
    return made.load(cache)


def test_there_are_leaves():
    assert {leaf.stem for leaf in LEAVES} >= {"defects", "elpv", "cifar10", "mvtec_ad", "image_folder", "arrays"}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_spells_out_all_arguments_with_their_defaults_types(leaf):
    assert leaf.read_text().startswith("# ")
    node = read(leaf)
    module, name = node["_target_"].rsplit(".", 1)
    signature = inspect.signature(getattr(importlib.import_module(module), name), eval_str=True)
    assert set(node) - {"_target_"} == set(signature.parameters)
    for key, value in node.items():
        if key != "_target_":
            assert is_bearable(build(value), signature.parameters[key].annotation), f"{key}={value!r}"


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_of_its_own_name_holds_the_defaults_of_its_class(leaf):
    if leaf.stem != "magnetic_tile":  # an image folder with values of its own
        node = read(leaf)
        assert build(node) == build({"_target_": node["_target_"]})


def test_pool_and_test_are_uint8_images_with_labels_in_range(data):
    for images in (data.pool, data.test):
        assert images.pixels.dtype == np.uint8
        assert images.pixels.ndim == 4
        assert images.pixels.shape[1] in (1, 3)
        assert images.labels.dtype == np.int64
        assert images.labels.min() >= 0
        assert images.labels.max() < images.n_classes
        assert images.groups is None or images.groups.dtype == np.int64
        assert images.names is None or len(set(images.names)) == len(images)


def test_both_splits_hold_every_class(data):
    everything = set(range(data.pool.n_classes))
    assert set(data.pool.labels) == everything
    assert set(data.test.labels) == everything
    assert len(set(data.pool.classes)) == len(data.pool.classes)


def test_pool_and_test_share_no_image(dataset, data):
    contents = [{name.split("-")[0] for name in images.ids} for images in (data.pool, data.test)]
    if dataset[0] in REPEATED_AT_SOURCE:
        assert len(contents[0] & contents[1]) < 0.01 * len(data.test)
    else:
        assert not contents[0] & contents[1]
    if data.pool.names is not None:
        assert not set(data.pool.names) & set(data.test.names)


def test_the_same_arguments_give_the_same_split(dataset, data):
    _, made, cache = dataset
    again = made.load(cache)
    assert again.pool.content_hash == data.pool.content_hash
    assert again.test.content_hash == data.test.content_hash
    assert again.pool.names == data.pool.names


def test_a_smaller_pool_is_a_part_of_the_pool(dataset, data):
    _, made, cache = dataset
    n = len(data.pool) // 2
    small = replace(made, pool_size=n).load(cache)
    assert len(small.pool) == n
    assert set(small.pool.labels) == set(data.pool.labels)
    assert {name.split("-")[0] for name in small.pool.ids} <= {name.split("-")[0] for name in data.pool.ids}
    assert small.test.content_hash == data.test.content_hash


def test_augmentation_keeps_shape_and_type_and_draws_from_its_generator_alone(data):
    images = torch.from_numpy(np.array(data.pool.pixels[:16]))
    first, second = (data.augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
    assert data.normalization in ("pool", "image")
