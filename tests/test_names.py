"""File names that are no text: hashed and opened as the bytes that they are, escaped where text is written."""

import csv
import json
import os
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from PIL import Image

import alframe
from alframe.annotator.queue import Queue
from alframe.budget import Budget
from alframe.config.overrides import load
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError, Waiting
from alframe.names import is_text, printable

ODD = os.fsdecode(b"caf\xe9 \xff.png")


@pytest.mark.parametrize(
    ("name", "shown"), [(ODD, r"caf\xe9 \xff.png"), ("ünï ✓.png", "ünï ✓.png"), ("a\\b.png", "a\\b.png"), ("", "")]
)
def test_bytes_that_are_no_text_are_escaped_and_the_rest_stays(name, shown):
    assert printable(name) == shown
    assert is_text(name) == (name == shown)
    assert printable(name).encode() == shown.encode()


@pytest.fixture
def photos(tmp_path):
    """Two classes, one of an odd name, and unlabelled photos of odd names."""
    rng = np.random.default_rng(0)
    for folder in ("unlabelled", "ok", os.fsdecode(b"b\xe9d")):
        for i in range(6):
            file = tmp_path / "photos" / folder / ODD.replace(" ", f"{i}")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(stream, "PNG")
    return tmp_path / "photos"


def test_a_run_on_such_photos_asks_about_them_by_names_that_open(photos, make_experiment, tmp_path):
    data = ImageFolder(root=photos, size=8).load(tmp_path / "cache")
    assert data.pool.classes == (r"b\xe9d", "ok")
    assert sum(printable(name) != name for name in data.pool.names) == len(data.pool)
    assert data.content_hash == ImageFolder(root=photos, size=8).load(tmp_path / "cache").content_hash
    budget = Budget(initial=12, query_size=1, rounds=1)
    with pytest.raises(Waiting):
        alframe.run(make_experiment(data=data, annotator=Queue(), budget=budget), tmp_path / "run")
    sheet = (tmp_path / "run/queue/round_000.csv").read_text("utf-8-sig")
    rows = list(csv.DictReader(sheet.splitlines()))
    assert rows
    for row in rows:
        assert row["image"].startswith("file:///")
        assert os.path.isfile(unquote_to_bytes(urlsplit(row["image"]).path))
    assert r"caf\xe9" in (tmp_path / "run/queue/round_000.html").read_text("utf-8")
    known = json.loads((tmp_path / "run/queue/images.json").read_text("utf-8"))
    assert all(os.path.isfile(path) for path in known.values())


def test_without_unlabelled_photos_they_are_read_too(photos, tmp_path):
    for file in (photos / "unlabelled").iterdir():
        file.unlink()
    (photos / "unlabelled").rmdir()
    data = ImageFolder(root=photos, size=8).load(tmp_path / "cache")
    assert len(data.pool) + len(data.test) == 12
    assert data.original(0).is_file()


def test_an_option_that_is_no_text_is_told():
    with pytest.raises(
        ConfigError, match=r"are UTF-8, got 'dataset.root=ph\\xe9'; rename the folder or file, or make a link"
    ):
        load([os.fsdecode(b"dataset.root=ph\xe9")])
