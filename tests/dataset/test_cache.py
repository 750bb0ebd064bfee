"""The cache: what is stored, when it is trusted, and that processes do not get in each other's way."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alframe.dataset import cache as cache_module
from alframe.dataset.cache import cache_folder, cached, default_cache, fingerprint, part, sha256
from alframe.errors import DataError
from alframe.images import ImageSet


def some_images(n: int = 5) -> ImageSet:
    pixels = np.arange(n * 3 * 4 * 4, dtype=np.uint8).reshape(n, 3, 4, 4)
    return ImageSet(pixels, np.arange(n) % 2, ("a", "b"), np.arange(n) % 3, tuple(f"{i}.png" for i in range(n)))


class Builder:
    """Counts how often it is asked to build."""

    def __init__(self, images: ImageSet | None = None, skipped: tuple[str, ...] = ()) -> None:
        self.images, self.skipped, self.calls = images or some_images(), skipped, 0

    def __call__(self, allocate):
        self.calls += 1
        pixels = allocate(self.images.pixels.shape)
        pixels[:] = self.images.pixels
        whole = self.images
        return ImageSet(pixels, whole.labels, whole.classes, whole.groups, whole.names), self.skipped


def load(cache: Path, build, parameters: dict | None = None, source: str = "v1") -> ImageSet:
    return cached(cache, "things", parameters or {"size": 4}, source, build)


def test_what_was_built_comes_back_from_a_read_only_map(tmp_path):
    build = Builder()
    for _ in range(2):
        images = load(tmp_path, build)
        assert isinstance(images.pixels, np.memmap)
        assert not images.pixels.flags.writeable
        np.testing.assert_array_equal(images.pixels, build.images.pixels)
        np.testing.assert_array_equal(images.labels, build.images.labels)
        np.testing.assert_array_equal(images.groups, build.images.groups)
        assert (images.names, images.classes) == (build.images.names, build.images.classes)
        assert images.labels.dtype == images.groups.dtype == np.int64
    assert build.calls == 1


def test_the_manifest_says_what_is_inside_and_how_it_was_made(tmp_path):
    build = Builder()
    load(tmp_path, build)
    folder = cache_folder(tmp_path, "things", {"size": 4}, "v1")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"]["pixels"] == hashlib.sha256(build.images.pixels.tobytes()).hexdigest()
    assert manifest["sha256"]["labels"] == hashlib.sha256(build.images.labels.astype(np.int64).tobytes()).hexdigest()
    assert manifest["shape"] == [5, 3, 4, 4]
    assert manifest["classes"] == ["a", "b"]
    assert (manifest["name"], manifest["parameters"], manifest["source"]) == ("things", {"size": 4}, "v1")
    assert manifest["names"] == list(build.images.names)


def test_groups_and_names_may_be_missing_and_pixels_need_not_be_allocated(tmp_path):
    whole = some_images()
    images = load(tmp_path, lambda allocate: (ImageSet(whole.pixels, whole.labels, whole.classes), ()))
    assert images.groups is None
    assert images.names is None
    np.testing.assert_array_equal(images.pixels, whole.pixels)


def test_a_build_may_fill_only_a_part_of_what_it_allocated(tmp_path):
    def build(allocate):
        pixels = allocate((5, 3, 4, 4))
        pixels[:2] = 7
        return ImageSet(pixels[:2], np.array([0, 1]), ("a", "b")), ()

    for _ in range(2):
        images = load(tmp_path, build)
        assert images.pixels.shape == (2, 3, 4, 4)
        assert (images.pixels == 7).all()


def test_other_parameters_or_another_source_are_another_folder(tmp_path):
    build = Builder()
    load(tmp_path, build)
    load(tmp_path, build, parameters={"size": 5})
    load(tmp_path, build, source="v2")
    assert build.calls == 3
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


def truncate(folder: Path) -> None:
    with (folder / "pixels.npy").open("r+b") as file:
        file.truncate(200)


def change_a_label(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    np.save(folder / "labels.npy", 1 - labels)


def lose_a_manifest_key(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shape"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGE = {
    "no pixels": lambda folder: (folder / "pixels.npy").unlink(),
    "no labels": lambda folder: (folder / "labels.npy").unlink(),
    "no groups": lambda folder: (folder / "groups.npy").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "torn manifest": lambda folder: (folder / "manifest.json").write_text('{"name": '),
    "incomplete manifest": lose_a_manifest_key,
    "cut-off pixels": truncate,
    "changed labels": change_a_label,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    build = Builder()
    load(tmp_path, build)
    damage(cache_folder(tmp_path, "things", {"size": 4}, "v1"))
    images = load(tmp_path, build)
    np.testing.assert_array_equal(images.pixels, build.images.pixels)
    np.testing.assert_array_equal(images.labels, build.images.labels)
    assert build.calls == 2
    load(tmp_path, build)
    assert build.calls == 2


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def fail(allocate):
        allocate((5, 3, 4, 4))
        raise DataError("Expected better.")

    with pytest.raises(DataError, match="Expected better"):
        load(tmp_path, fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert len(load(tmp_path, Builder())) == 5


def test_skipped_files_are_told_at_every_load(tmp_path, caplog):
    build = Builder(skipped=("x/1.png", "x/2.png"))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="alframe"):
            load(tmp_path, build)
        assert "skipped 2 broken files" in caplog.text
        assert "x/1.png" in caplog.text


PROCESS = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from alframe.dataset.cache import cached
from alframe.images import ImageSet

cache, die = Path(sys.argv[1]), sys.argv[2] == "die"

def build(allocate):
    pixels = allocate((5, 3, 4, 4))
    with open(cache / "builds", "a") as log:
        log.write("x")
    pixels[:3] = 1
    if die:
        pixels.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    pixels[:] = 1
    return ImageSet(pixels, np.zeros(5, int), ("a", "b")), ()

(cache / f"ready{os.getpid()}").touch()
while not die and len(list(cache.glob("ready*"))) < 2:
    time.sleep(0.01)
images = cached(cache, "things", {"size": 4}, "v1", build)
print(int(images.pixels.sum()))
"""


def start(cache: Path, how: str) -> subprocess.Popen[str]:
    root = str(Path(cache_module.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(cache), how],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_build_killed_halfway_is_not_trusted_and_its_leftovers_go(tmp_path):
    process = start(tmp_path, "die")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    halfway = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(halfway) == 1
    assert halfway[0].name.startswith(".things-")
    images = load(tmp_path, Builder())
    np.testing.assert_array_equal(images.pixels, some_images().pixels)
    assert not halfway[0].exists()


def test_of_two_racing_processes_one_builds_and_both_read(tmp_path):
    racing = [start(tmp_path, "race") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in racing]
    assert [process.returncode for process in racing] == [0, 0]
    assert [int(output) for output in outputs] == [5 * 3 * 4 * 4] * 2
    assert (tmp_path / "builds").read_text() == "x"


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"writable cache folder .*file.*ALFRAME_CACHE"):
        load(tmp_path / "file", Builder())


def test_the_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ALFRAME_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("ALFRAME_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "alframe"


def test_the_fingerprint_sees_names_sizes_and_times(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    files = [tmp_path / "b", tmp_path / "a"]
    before = fingerprint(tmp_path, files)
    assert fingerprint(tmp_path, reversed(files)) == before
    seen = {before, fingerprint(tmp_path, files[:1])}
    os.utime(tmp_path / "a", ns=(1, 1))
    seen.add(fingerprint(tmp_path, files))
    (tmp_path / "a").write_text("123")
    os.utime(tmp_path / "a", ns=(1, 1))
    seen.add(fingerprint(tmp_path, files))
    (tmp_path / "a").rename(tmp_path / "c")
    seen.add(fingerprint(tmp_path, [tmp_path / "b", tmp_path / "c"]))
    assert len(seen) == 5


def test_the_hash_of_an_array_is_that_of_its_bytes():
    array = np.random.default_rng(0).integers(0, 256, (3000, 2, 3, 3)).astype(np.uint8)
    assert sha256(array) == hashlib.sha256(array.tobytes()).hexdigest()
    assert sha256(array.transpose(0, 2, 3, 1)) == hashlib.sha256(array.transpose(0, 2, 3, 1).tobytes()).hexdigest()


def test_a_part_is_the_set_itself_when_it_is_all_of_it(tmp_path):
    images = load(tmp_path, Builder())
    assert part(images, np.arange(5)) is images


@pytest.mark.parametrize("limit", [1 << 30, 1], ids=["in memory", "mapped"])
def test_a_part_holds_the_chosen_images_in_order(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(cache_module, "IN_MEMORY_BYTES", limit)
    images = load(tmp_path, Builder())
    chosen = part(images, np.array([3, 1]))
    np.testing.assert_array_equal(chosen.pixels, some_images().pixels[[3, 1]])
    np.testing.assert_array_equal(chosen.labels, [1, 1])
    np.testing.assert_array_equal(chosen.groups, [0, 1])
    assert chosen.names == ("3.png", "1.png")
    assert isinstance(chosen.pixels, np.memmap) == (limit == 1)


def test_mapped_parts_of_relabelled_images_are_not_mixed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "IN_MEMORY_BYTES", 1)
    images = load(tmp_path, Builder())
    other = ImageSet(images.pixels, 1 - images.labels, images.classes)
    indices = np.array([0, 2])
    assert part(images, indices).labels.tolist() == [0, 0]
    assert part(other, indices).labels.tolist() == [1, 1]
