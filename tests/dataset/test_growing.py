"""A folder that photos come into: what is recognised, what is left out, and that a history survives being cut off anywhere."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import die

import alframe.dataset.history
import alframe.dataset.photos
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError, DataError, RunFolderError
from alframe.record.layout import HISTORY, PIXELS

COUNTS = {"good": 6, "scratch": 4, "unlabelled": 8}


def photo(path: Path, number: int) -> Path:
    """A grey picture that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (10, 8)).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    number = 0
    for folder, n in COUNTS.items():
        for i in range(n):
            photo(tmp_path / "photos" / folder / f"{i}.png", number)
            number += 1
    return tmp_path / "photos"


@pytest.fixture
def open_(root, tmp_path):
    """`open_(size=...)`: the history in tmp_path/run, as a new process finds it."""
    return lambda **options: ImageFolder(root, **{"size": 8, **options}).growing(tmp_path / "run")


@pytest.fixture
def begun(open_):
    growing = open_()
    growing.refresh(0)
    growing.notes()
    return growing


def index_of(data, name):
    return data.pool.names.index(name)


def test_the_first_look_finds_labelled_test_and_unlabelled_photos(open_, root):
    growing = open_()
    assert growing.refresh(0)
    data = growing.data()
    assert data.pool.classes == ("good", "scratch")
    assert len(data.test) == 2  # a quarter of the ten in class folders
    assert len(data.pool) == 16
    assert data.grown == (16,)
    assert set(data.pool.labels) == {-1}
    given = {data.pool.names[index]: data.pool.classes[label] for index, (label, round) in data.folder_labels.items()}
    assert len(given) == 8
    assert all(name.split("/")[0] == label for name, label in given.items())
    assert [name.split("/")[0] for name in data.test.names] == [data.test.classes[c] for c in data.test.labels]
    for images in (data.pool, data.test):
        for pixels, name in zip(images.pixels, images.names, strict=True):
            expected = np.asarray(Image.open(root / name).resize((8, 8), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(pixels[0], expected)
    assert growing.notes() == [f"{root}: 18 photos, 10 of them in class folders, 2 of these the test set"]


def test_new_photos_come_behind_the_others_and_are_read_once(begun, open_, root, monkeypatch):
    before = begun.data().pool.ids
    photo(root / "unlabelled" / "000.png", 100)
    photo(root / "scratch" / "late.png", 101)
    assert begun.refresh(1)
    assert begun.notes() == [f"{root}: 2 new"]
    data = begun.data()
    assert data.pool.ids[:16] == before
    assert data.grown == (16, 18)
    assert data.folder_labels[index_of(data, "scratch/late.png")] == (1, 1)
    monkeypatch.setattr(alframe.dataset.photos, "file_digest", lambda file: pytest.fail(f"{file} was read again"))
    again = open_()
    assert not again.refresh(1)
    assert not again.refresh(2)
    assert again.data().pool.ids == data.pool.ids
    assert again.data().pool.names == data.pool.names


def test_a_round_that_is_settled_knows_no_later_photos(begun, open_, root):
    photo(root / "unlabelled" / "new.png", 100)
    again = open_()
    assert not again.refresh(0)
    assert len(again.data().pool) == 16
    assert again.refresh(0, again=True)
    assert len(again.data().pool) == 17


def test_a_renamed_or_moved_photo_is_the_same_one(begun, root):
    data = begun.data()
    old = index_of(data, "unlabelled/0.png")
    (root / "unlabelled" / "deep").mkdir()
    (root / "unlabelled" / "0.png").rename(root / "unlabelled" / "deep" / "again.png")
    (root / "unlabelled" / "1.png").rename(root / "scratch" / "moved.png")
    begun.refresh(1)
    now = begun.data()
    assert now.pool.ids == data.pool.ids
    assert now.pool.names[old] == "unlabelled/deep/again.png"
    assert now.folder_labels[index_of(now, "scratch/moved.png")] == (1, 1)
    assert not now.gone
    assert begun.notes() == [f"{root}: 1 labelled by their folder, 2 renamed"]


def test_the_same_pixels_in_another_file_are_the_same_photo(begun, root):
    Image.open(root / "unlabelled" / "0.png").save(root / "unlabelled" / "0.bmp")
    (root / "unlabelled" / "0.png").unlink()
    begun.refresh(1)
    data = begun.data()
    assert "unlabelled/0.bmp" in data.pool.names
    assert not data.gone
    assert len(data.pool) == 16


def test_a_photo_that_was_overwritten_is_another_one(begun, root):
    data = begun.data()
    photo(root / "unlabelled" / "0.png", 100)
    begun.refresh(1)
    now = begun.data()
    assert len(now.pool) == 17
    assert now.gone == {index_of(data, "unlabelled/0.png")}


def test_a_deleted_photo_keeps_its_pixels_and_may_come_back(begun, root):
    data = begun.data()
    index = index_of(data, "unlabelled/3.png")
    raw = (root / "unlabelled" / "3.png").read_bytes()
    (root / "unlabelled" / "3.png").unlink()
    begun.refresh(1)
    assert begun.data().gone == {index}
    assert begun.data().pool.ids == data.pool.ids
    begun.refresh(2)
    (root / "unlabelled" / "back.png").write_bytes(raw)
    begun.notes()
    begun.refresh(3)
    assert not begun.data().gone
    assert begun.data().pool.names[index] == "unlabelled/back.png"
    assert begun.notes() == [f"{root}: 1 renamed, 1 back"]


def test_copies_are_in_the_pool_once_and_test_images_never(begun, root):
    test = begun.data().test.names[0]
    shutil.copy(root / "unlabelled" / "0.png", root / "unlabelled" / "-copy.png")
    shutil.copy(root / test, root / "unlabelled" / "seen.png")
    (root / test).rename((root / test).with_name("another name.png"))  # nothing to say of
    begun.refresh(1)
    assert len(begun.data().pool) == 16
    assert begun.notes() == [
        "left out 1 photo already in the test set, the first is unlabelled/seen.png; they are not queried",
        "left out 1 photo identical to another photo, the first is unlabelled/-copy.png; each is in the pool once",
    ]


def test_copies_of_labelled_photos_are_told_at_the_first_look(open_, root):
    shutil.copy(root / "scratch" / "0.png", root / "unlabelled" / "copy.png")
    growing = open_()
    growing.refresh(0)
    assert len(growing.data().pool) + len(growing.data().test) == 18
    assert "the first is unlabelled/copy.png" in growing.notes()[1]


def test_a_photo_that_is_still_being_copied_is_skipped_and_looked_at_again(begun, root):
    whole = photo(root / "elsewhere.png", 100).read_bytes()
    late = root / "unlabelled" / "late.png"
    for n_bytes in (0, 40, len(whole) // 2):
        late.write_bytes(whole[:n_bytes])
        begun.refresh(1, again=True)
        assert len(begun.data().pool) == 16
        (told,) = begun.notes()
        assert "skipped 1 unreadable photo (perhaps not fully copied yet), the first is unlabelled/late.png (" in told
    late.write_bytes(whole)
    begun.refresh(2)
    assert len(begun.data().pool) == 17


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_round(begun, root, monkeypatch):
    late = photo(root / "unlabelled" / "late.png", 100)
    decode = alframe.dataset.photos.decode_file

    def and_touch(file, shape, white):
        os.utime(late, ns=(1, 1))
        return decode(file, shape, white)

    monkeypatch.setattr(alframe.dataset.photos, "decode_file", and_touch)
    begun.refresh(1)
    assert len(begun.data().pool) == 16
    assert "(still being written)" in begun.notes()[0]
    begun.refresh(2)
    assert len(begun.data().pool) == 17


def test_broken_photos_at_the_first_look(open_, root):
    for name in ("unlabelled/empty.png", "unlabelled/text.jpg"):
        (root / name).write_bytes(b"" if "empty" in name else b"no image")
    growing = open_()
    growing.refresh(0)
    assert len(growing.data().pool) == 16
    assert "skipped 2 unreadable photos" in growing.notes()[1]


def test_broken_labelled_photos_are_all_told_at_once(open_, root):
    for name in ("good/a.png", "scratch/b.png"):
        (root / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"good/a\.png \(not an image\), scratch/b\.png \(not an image\); fix"):
        open_().refresh(0)
    growing = open_(skip_broken=True)
    growing.refresh(0)
    assert "skipped 2 unreadable labelled photos" in growing.notes()[1]


def test_other_files_are_passed_over(open_, root):
    (root / "unlabelled" / "camera.json").write_text("{}")
    (root / "good" / "notes.txt").write_text("all fine")
    growing = open_()
    growing.refresh(0)
    assert len(growing.notes()) == 1


@pytest.mark.parametrize("how", ["named", "empty folders", "test folder"])
def test_without_a_label_the_classes_are_named_by_the_config_or_by_folders(root, tmp_path, how):
    for name in ("good", "scratch"):
        (root / "test").mkdir(exist_ok=True)
        shutil.move(root / name, root / "test" / name)
        if how == "empty folders":
            (root / name).mkdir()
    if how != "test folder":
        shutil.rmtree(root / "test")
    growing = ImageFolder(root, size=8, classes=["scratch", "good"] if how == "named" else None).growing(
        tmp_path / "run"
    )
    growing.refresh(0)
    data = growing.data()
    assert data.pool.classes == (("scratch", "good") if how == "named" else ("good", "scratch"))
    assert len(data.pool) == 8
    assert len(data.test) == (10 if how == "test folder" else 0)
    assert not data.folder_labels


def test_no_class_at_all_says_what_to_do(root, tmp_path):
    for name in ("good", "scratch"):
        shutil.rmtree(root / name)
    with pytest.raises(
        DataError, match=r"got none; make a folder for each beside unlabelled/ .*dataset\.classes=\[good,defect\]"
    ):
        ImageFolder(root, size=8).growing(tmp_path / "run").refresh(0)


def test_a_class_folder_that_the_config_does_not_name_is_told(begun, open_, root, tmp_path):
    photo(root / "oil stain" / "1.png", 100)
    with pytest.raises(DataError, match=r"among dataset\.classes \(good, scratch\), got oil stain; add it there"):
        ImageFolder(root, size=8, classes=["good", "scratch"]).growing(tmp_path / "other").refresh(0)
    begun.refresh(1)
    assert len(begun.data().pool) == 16
    assert (
        "left out 1 photo in a folder that is none of the run's classes, the first is oil stain/1.png"
        in begun.notes()[0]
    )


def test_train_and_test_folders_may_stand_beside_the_unlabelled_one(root, tmp_path):
    for name in ("good", "scratch"):
        for part in ("train", "test"):
            (root / part).mkdir(exist_ok=True)
        shutil.copytree(root / name, root / "train" / name)
        (root / "train" / name / "0.png").unlink()
        for file in list((root / name).glob("*.png")):
            if file.name != "0.png":
                file.unlink()
        shutil.move(root / name, root / "test" / name)
    growing = ImageFolder(root, size=8).growing(tmp_path / "run")
    growing.refresh(0)
    data = growing.data()
    assert sorted(data.test.names) == ["test/good/0.png", "test/scratch/0.png"]
    assert len(data.folder_labels) == 8
    photo(root / "test" / "good" / "late.png", 100)
    (root / "unlabelled" / "0.png").rename(root / "test" / "good" / "moved.png")
    growing.notes()
    growing.refresh(1)
    assert growing.data().test.ids == data.test.ids
    assert growing.data().gone == {index_of(data, "unlabelled/0.png")}
    assert growing.notes()[1:] == [
        "left out 2 photos added to test/ after the start, the first is test/good/late.png; the test set stays as it was when the run started"
    ]


def test_a_photo_in_two_places_that_contradict_is_an_error(open_, root):
    shutil.copy(root / "good" / "0.png", root / "scratch" / "same.png")
    with pytest.raises(DataError, match=r"the same photo as good/0\.png and scratch/same\.png; delete the wrong copy"):
        open_().refresh(0)


def test_an_empty_folder_is_an_error(tmp_path):
    for name in ("a", "b", "unlabelled"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"Expected photos in .*unlabelled or in class folders beside it, got none"):
        ImageFolder(tmp_path / "photos").growing(tmp_path / "run").refresh(0)


def test_options_of_a_fixed_pool_are_refused(open_):
    with pytest.raises(ConfigError, match=r"dataset\.pool_size=null for a growing pool, got 5"):
        open_(pool_size=5)


def test_late_photos_of_another_size_wait_where_sizes_are_kept(root, tmp_path):
    growing = ImageFolder(root, size=None).growing(tmp_path / "run")
    growing.refresh(0)
    assert growing.data().pool.shape == (1, 10, 8)
    growing.notes()
    Image.new("L", (20, 20)).save(root / "unlabelled" / "large.png")
    growing.refresh(1)
    assert "large.png (20x20 pixels, but the others have 10x8; set dataset.size)" in growing.notes()[0]


def test_labels_by_folders_are_seen_between_rounds(begun, root):
    data = begun.data()
    (root / "unlabelled" / "5.png").rename(root / "good" / "checked.png")
    labels = begun.labels_now()
    assert labels[index_of(data, "unlabelled/5.png")] == 0
    assert len(labels) == 9
    assert begun.data().folder_labels == data.folder_labels


@pytest.mark.parametrize("damage", ["pixels gone", "pixels short", "pixels other", "history"])
def test_damage_is_told(begun, open_, tmp_path, damage):
    pixels, history = tmp_path / "run" / PIXELS, tmp_path / "run" / HISTORY
    if damage == "pixels gone":
        pixels.unlink()
    elif damage == "pixels short":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "pixels other":
        raw = bytearray(pixels.read_bytes())
        raw[-1] ^= 1
        pixels.write_bytes(raw)
    else:
        lines = history.read_text().splitlines()
        lines[2] = lines[2][:-5]
        history.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFolderError, match=f"pool\\.{'jsonl' if damage == 'history' else 'bin'}"):
        open_().data()


@pytest.mark.parametrize("kill", ["pixels", "history", "half of the history"])
@pytest.mark.parametrize("round", [0, 1])
def test_killed_while_photos_are_taken_in(open_, root, tmp_path, kill, round):
    """The next launch finds what was settled, and takes in the rest as if nothing had been."""
    expected = ImageFolder(root, size=8).growing(tmp_path / "undisturbed")
    expected.refresh(0)
    if round:
        open_().refresh(0)
        photo(root / "unlabelled" / "new.png", 100)
        expected.refresh(1)
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(open_, round, kill, tmp_path / "run"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    growing = open_()
    growing.refresh(round)
    data, wanted = growing.data(), expected.data()
    assert data.pool.ids == wanted.pool.ids
    assert data.test.ids == wanted.test.ids
    assert data.folder_labels == wanted.folder_labels
    assert data.grown == wanted.grown
    assert (tmp_path / "run" / HISTORY).read_text() == (tmp_path / "undisturbed" / HISTORY).read_text()
    assert (tmp_path / "run" / PIXELS).read_bytes() == (tmp_path / "undisturbed" / PIXELS).read_bytes()


def _killed(open_, round, kill, folder):
    growing = open_()
    fsync, before = os.fsync, (folder / HISTORY).stat().st_size if (folder / HISTORY).exists() else 0
    calls = []

    def deadly(descriptor):
        calls.append(1)
        if kill == "pixels" or len(calls) == 2:
            if kill == "half of the history":
                size = (folder / HISTORY).stat().st_size
                os.truncate(folder / HISTORY, before + (size - before) // 2)
            die()
        fsync(descriptor)

    os.fsync = deadly
    growing.refresh(round)


def test_without_a_run_the_photos_of_now_are_loaded(root, tmp_path, caplog):
    cache = tmp_path / "cache"
    data = ImageFolder(root, size=8).load(cache)
    assert len(data.pool) == 16
    assert data.grown == (16,)
    photo(root / "unlabelled" / "new.png", 100)
    (root / "unlabelled" / "broken.png").touch()
    with caplog.at_level(logging.WARNING, logger="alframe"):
        again = ImageFolder(root, size=8).load(cache)
    assert again.pool.ids[:16] == data.pool.ids
    assert len(again.pool) == 17
    assert again.content_hash != data.content_hash
    assert again.at_start.content_hash == data.at_start.content_hash
    assert "broken.png" in caplog.text
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    (folder / PIXELS).unlink()
    assert len(ImageFolder(root, size=8).load(cache).pool) == 17


def test_events_are_plain_lines(begun, root, tmp_path):
    lines = [json.loads(text) for text in (tmp_path / "run" / HISTORY).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begun", *["arrived"] * 18, "settled"]
    assert [line["test"] for line in lines[1:-1]] == [True] * 2 + [False] * 16


def test_a_folder_that_is_empty_all_at_once_is_an_error(begun, root):
    """More likely a drive that is not mounted: nothing is gone because of that."""
    before = begun.history.path.read_bytes()
    for path in root.iterdir():
        shutil.rmtree(path)
    with pytest.raises(DataError, match=r"Expected the earlier photos in .*, got none; restore the folder"):
        begun.refresh(1)
    assert begun.history.path.read_bytes() == before


def test_a_drive_that_holds_the_unlabelled_photos_alone_may_be_gone(begun, root):
    before = begun.history.path.read_bytes()
    shutil.rmtree(root / "unlabelled")
    with pytest.raises(DataError, match=r"Expected the folder .*unlabelled, which existed before, got none"):
        begun.refresh(1)
    assert begun.history.path.read_bytes() == before
    (root / "unlabelled").mkdir()
    begun.refresh(1)
    assert len(begun.data().gone) == 8


def test_new_photos_that_come_into_two_class_folders_have_no_label(begun, root):
    photo(root / "good" / "new.png", 100)
    shutil.copy(root / "good" / "new.png", root / "scratch" / "too.png")
    photo(root / "unlabelled" / "other.png", 101)
    shutil.copy(root / "unlabelled" / "other.png", root / "scratch" / "sorted.png")
    begun.refresh(1)
    data = begun.data()
    assert len(data.pool) == 18
    assert index_of(data, "good/new.png") not in data.folder_labels
    assert data.folder_labels[index_of(data, "scratch/sorted.png")] == (1, 1)
    for pixels, name in zip(data.pool.pixels[16:], data.pool.names[16:], strict=True):
        expected = np.asarray(Image.open(root / name).resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pixels[0], expected)
    assert "left out 1 photo in folders of two classes, the first is scratch/too.png" in " ".join(begun.notes())
