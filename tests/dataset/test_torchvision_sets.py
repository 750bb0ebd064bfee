"""Torchvision's sets: read once, then taken from the cache; clear words when they cannot be had."""

import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from alframe.dataset.torchvision_sets import Cifar10, Cifar100, FashionMnist, Mnist, Svhn, cached_split
from alframe.errors import ConfigError, DataError

SETS = [Cifar10, Cifar100, FashionMnist, Mnist, Svhn]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_idx(folder: Path, n: int, seed: int) -> None:
    """A small set in the files of MNIST."""
    folder.mkdir(parents=True)
    for prefix, count in (("train", n), ("t10k", n // 2)):
        rng = np.random.default_rng([seed, count])
        pixels, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels.astype(np.uint8)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))


@pytest.mark.parametrize(("leaf", "folder"), [(Mnist, "MNIST"), (FashionMnist, "FashionMNIST")])
def test_torchvision_reads_once_and_the_cache_serves_ever_after(tmp_path, leaf, folder):
    root = tmp_path / "root"
    write_idx(root / folder / "raw", 60, 1)
    first = leaf(root=root, download=False).load(tmp_path / "cache")
    assert first.pool.pixels.shape == (60, 1, 28, 28)
    assert first.test.pixels.shape == (30, 1, 28, 28)
    assert first.pool.n_classes == 10
    assert first.pool.labels.tolist() == [i % 10 for i in range(60)]
    assert isinstance(first.pool.pixels, np.memmap)
    again = leaf(root=tmp_path / "gone", download=False).load(tmp_path / "cache")
    assert again.pool.content_hash == first.pool.content_hash


def test_without_a_root_the_files_are_looked_for_in_the_cache(tmp_path):
    write_idx(tmp_path / "raw" / "MNIST" / "raw", 20, 1)
    assert len(Mnist(download=False).load(tmp_path).pool) == 20


def test_sizes_can_be_limited_by_a_seed_of_their_own(tmp_path):
    write_idx(tmp_path / "raw" / "MNIST" / "raw", 200, 1)
    small = Mnist(download=False, pool_size=50, test_size=20).load(tmp_path)
    assert np.bincount(small.pool.labels).tolist() == [5] * 10
    assert np.bincount(small.test.labels).tolist() == [2] * 10
    assert Mnist(download=False, pool_size=50, split_seed=1).load(tmp_path).pool.ids != small.pool.ids
    with pytest.raises(ConfigError, match="dataset.test_size of at most 100"):
        Mnist(download=False, test_size=101).load(tmp_path)


def test_digits_are_never_mirrored_and_things_are():
    assert not Mnist().augmentation.flip
    assert not Svhn().augmentation.flip
    assert Cifar10().augmentation.flip
    assert FashionMnist().augmentation.flip


@pytest.mark.parametrize("leaf", SETS)
def test_a_missing_root_says_how_to_get_the_data(tmp_path, leaf):
    with pytest.raises(DataError, match=rf"files of {leaf.name} in .*nowhere, got: .*dataset\.download=true"):
        leaf(root=tmp_path / "nowhere", download=False).load(tmp_path / "cache")


@pytest.mark.parametrize("leaf", SETS)
def test_a_download_that_fails_says_what_else_can_be_done(tmp_path, monkeypatch, leaf):
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no way out")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError) as caught:
        leaf().load(tmp_path)
    assert f"Expected the files of {leaf.name}" in str(caught.value)
    assert "dataset.root" in str(caught.value)
    prepared = f"python scripts/prepare_data.py {leaf.name}" in str(caught.value)
    assert prepared == (leaf in (Cifar10, FashionMnist, Mnist))


def test_a_prepared_cache_is_used_without_torchvision(tmp_path, monkeypatch):
    for split, n in (("train", 20), ("test", 10)):
        pixels = np.full((n, 3, 32, 32), n, np.uint8)
        cached_split(
            tmp_path, "cifar10", split, lambda pixels=pixels: (pixels, np.arange(len(pixels)) % 10, "abcdefghij")
        )
    monkeypatch.setattr(Cifar10, "read", None)
    data = Cifar10(root="/nowhere").load(tmp_path)
    assert (len(data.pool), len(data.test)) == (20, 10)
