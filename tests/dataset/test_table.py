"""Images that a table lists: a CSV file as spreadsheets write it, or columns from Python."""

import numpy as np
import pytest
from PIL import Image

import alframe
from alframe.annotator.queue import Queue
from alframe.budget import Budget
from alframe.dataset.table import Table
from alframe.errors import DataError, Waiting

LABELS = ["good", "bad", "good", "good", "bad", "good", "good", "bad", "good", "good", "bad", "good"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve images whose first pixel is their number, and a table of them: the last four are the test set."""
    monkeypatch.setenv("ALFRAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "imgs").mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(tmp_path / f"imgs/p{i}.png")
    write(tmp_path, [("path", "label", "split"), *rows()])
    return tmp_path


def rows(labels=LABELS):
    return [(f"imgs/p{i}.png", label, "Testing" if i >= 8 else "train") for i, label in enumerate(labels)]


def write(folder, lines, separator=",", encoding="utf-8"):
    (folder / "parts.csv").write_text("".join(separator.join(line) + "\n" for line in lines), encoding)


def load(folder, **options):
    return Table(root=folder / "parts.csv", size=8, **options).load(folder / "cache")


def numbers(images):
    return (images.pixels[:, 0, 0, 0] // 10).tolist()


@pytest.mark.parametrize(
    ("names", "separator", "encoding"),
    [
        (("path", "label", "split"), ",", "utf-8"),
        (("File", "Class", "Subset"), ";", "utf-8-sig"),
        (("image_path", "category", "fold"), "\t", "utf-16"),
    ],
)
def test_columns_separators_and_encodings_are_found(folder, names, separator, encoding):
    write(folder, [names, *rows()], separator, encoding)
    data = load(folder)
    assert numbers(data.pool) == list(range(8))
    assert numbers(data.test) == [8, 9, 10, 11]
    assert data.pool.classes == ("bad", "good")
    assert [data.pool.classes[label] for label in data.pool.labels] == LABELS[:8]
    assert data.normal == (1,)
    assert data.original(3) == folder / "imgs/p3.png"
    assert not data.folder_labels


def test_columns_can_be_named_and_classes_ordered(folder):
    write(folder, [("a", "b", "label"), *[(path, label, "x") for path, label, _ in rows()]])
    data = load(folder, path_column="a", label_column="b", classes=["good", "bad"])
    assert data.pool.classes == ("good", "bad")
    assert len(data.pool) == 9
    assert np.bincount(data.test.labels).tolist() == [2, 1]


def test_a_corrected_label_is_other_data(folder):
    before = load(folder)
    write(folder, [("path", "label", "split"), *rows(["bad", *LABELS[1:]])])
    after = load(folder)
    assert after.pool.labels[0] == 0 != before.pool.labels[0]
    assert after.content_hash != before.content_hash


def test_rows_without_a_label_are_for_people_and_the_others_are_known(folder, make_experiment, tmp_path):
    write(folder, [("path", "label", "split"), *rows([label if i % 2 else "" for i, label in enumerate(LABELS)])])
    data = load(folder, classes=["good", "bad"])
    assert data.folder_labels == {1: (1, 0), 3: (0, 0), 5: (0, 0), 7: (1, 0)}
    with pytest.raises(Waiting):
        alframe.run(
            make_experiment(data=data, annotator=Queue(), budget=Budget(initial=5, query_size=1, rounds=1)),
            tmp_path / "run",
        )
    asked = (tmp_path / "run/queue/round_000.csv").read_text("utf-8-sig")
    assert sum(f"p{i}.png" in asked for i in (0, 2, 4, 6)) >= 1
    assert not any(f"p{i}.png" in asked for i in (1, 3, 5, 7))


def test_columns_from_python_are_the_same_data(folder, monkeypatch):
    monkeypatch.chdir(folder)
    columns = {name: [row[i] for row in rows()] for i, name in enumerate(("file", "kind", "part"))}
    data = alframe.from_table(columns, path="file", label="kind", split="part", size=8)
    assert data.content_hash == load(folder).content_hash
    data = alframe.from_table({**columns, "kind": [None, float("nan"), *LABELS[2:]]}, path="file", label="kind", size=8)
    assert sorted(data.pool.labels.tolist()).count(-1) == 2
    with pytest.raises(DataError, match="a column 'path' in the table, got file, kind, part"):
        alframe.from_table(columns)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([("paths", "label"), ("a.png", "x")], "a column path in .* got paths, label; set dataset.path_column=paths."),
        (
            [("path", "label"), ("a.png", "x"), ("b.png", "y")],
            r"got 2 that do not \(.*a.png, .*b.png\); correct the paths",
        ),
        ([("path", "label"), ("imgs/p1.png", "x"), ("imgs/p2.png", "x")], "two or more classes in .* got x;"),
        ([("path", "label"), ("imgs/p1.png", "x"), ("imgs/p1.png", "y")], "several for .*p1.png"),
        ([("path", "label", "split"), ("imgs/p1.png", "x", "tset"), ("imgs/p2.png", "y", "")], "got 'tset'"),
        ([("path", "label"), ("imgs/p1.png", "x", "y")], "Expected 2 cells in row 2 of .*, got 3"),
        ([("path", "label")], "Expected rows with images in .* got none"),
        ([], "got an empty file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(folder, lines, told):
    write(folder, lines)
    with pytest.raises(DataError, match=told) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_other_labels_than_named_are_told(folder):
    with pytest.raises(DataError, match=r"among dataset.classes \(god, bad\), got 'good'; did you mean 'god'\?"):
        load(folder, classes=["god", "bad"])
    with pytest.raises(DataError, match=r"nope.csv, which is no file"):
        Table(root=folder / "nope.csv").load(folder / "cache")
