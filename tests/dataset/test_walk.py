"""The one search for image files: links are followed once, junk is not entered, and what is passed over is told."""

import os

import pytest

from alframe.dataset.files import load_unlabelled
from alframe.dataset.walk import described, list_files, list_folders
from alframe.handover.predict import find


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root, pattern="**/*"):
    return [file.relative_to(root).as_posix() for file in list_files(root, pattern)]


def test_links_are_followed_and_loops_end(tmp_path):
    far = touch(tmp_path / "far", "one.png", "deep/two.png")
    root = touch(tmp_path / "root", "a/own.png")
    (root / "a/batch2").symlink_to(far)
    (root / "a/again").symlink_to(far / "deep")  # reached by two ways: once
    (far / "deep/up").symlink_to(tmp_path / "far")
    (root / "loop").symlink_to(root)
    (root / "file.png").symlink_to(far / "one.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert names(root) == ["a/again/two.png", "a/batch2/one.png", "a/own.png", "file.png"]
    assert list_folders(root) == ["a"]


def test_links_up_are_not_followed(tmp_path):
    root = touch(tmp_path / "root", "a/own.png", "b/other.png")
    (root / "a/up").symlink_to("..")
    (root / "a/top").symlink_to(tmp_path)
    assert names(root / "a") == ["own.png"]
    (tmp_path / "by_link").symlink_to(root / "a")
    assert names(tmp_path / "by_link") == ["own.png"]


@pytest.mark.parametrize(
    "junk",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_SM.jpg", "__MACOSX/._a.jpg", "$RECYCLE.BIN/a.jpg", ".thumbnails/a.jpg", "Thumbs.db",
        "#recycle/a.jpg", "System Volume Information/a.jpg", ".hidden.png", "desktop.ini", "sub/@EADIR/x.jpg", "SYNOPHOTO_THUMB_M.jpg",
        "lost+found/a.png", "@Recycle/a.png", "photo.jpg@SynoEAStream",
    ],
)  # fmt: skip
def test_what_others_leave_in_a_folder_is_no_image(tmp_path, junk):
    touch(tmp_path, junk, "sub/photo.jpg")
    assert names(tmp_path) == ["sub/photo.jpg"]
    assert list_folders(tmp_path) == ["sub"]


def test_the_runs_of_a_study_are_no_class(tmp_path):
    touch(
        tmp_path, "good/a.png", "runs/photos/cell/seed=0/config.yaml", "runs/photos/cell/seed=0/queries/round_000.jpg"
    )
    assert list_folders(tmp_path) == ["good"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*", ["a.png", "b.jpg", "x/c.png", "x/y/d[1].png"]),
        ("**/*.png", ["a.png", "x/c.png", "x/y/d[1].png"]),
        ("*.png", ["a.png"]),
        ("x/*", ["x/c.png"]),
        ("x/**/*.png", ["x/c.png", "x/y/d[1].png"]),
        ("?.*", ["a.png", "b.jpg"]),
        ("**/[ac].png", ["a.png", "x/c.png"]),
        ("nothing", []),
    ],
)
def test_patterns_are_those_of_pathlib(tmp_path, pattern, found):
    touch(tmp_path, "a.png", "b.jpg", "x/c.png", "x/y/d[1].png")
    assert names(tmp_path, pattern) == found
    assert found == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file())


def test_a_folder_of_links_is_predicted_and_targeted(tmp_path, make_images):
    from PIL import Image

    far = tmp_path / "far"
    far.mkdir()
    Image.new("L", (6, 6)).save(far / "a.png")
    links = tmp_path / "links"
    links.mkdir()
    (links / "cam1").symlink_to(far)
    assert find([links])[0] == [links / "cam1/a.png"]
    assert len(load_unlabelled(links, make_images(4, 0, side=6), tmp_path / "cache")) == 1


def test_what_is_passed_over_is_told_with_a_way_out(tmp_path):
    touch(tmp_path, "a.HEIC", "b.heic", "c.dng", "notes.txt", "d")
    assert described(list_files(tmp_path)) == [
        "1 without an ending",
        "1 .dng (convert to .png or .jpg)",
        "2 .heic (pip install 'alframe[heic]', or convert to .jpg)",
        "1 .txt",
    ]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert list_files(tmp_path / "nowhere") == []
    assert os.listdir(tmp_path) == []
