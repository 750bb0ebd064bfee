"""What spreadsheets make of a CSV file, undone."""

from pathlib import Path

import pytest

from alframe.annotator.sheet import COLUMNS, Row, read_sheet, seconds_of, write_sheet
from alframe.annotator.words import parse_answer
from alframe.errors import DataError

ROWS = [
    {"rank": 1, "id": "ab-0", "image": "images/a.png", "reason": "good 0.51, bad 0.49; entropy 0.69", "answer": "good"},
    {"rank": 2, "id": "cd-0", "image": "images/ä b.png", "reason": "x", "answer": "bad"},
]
EXPECTED = [Row(2, "ab-0", "good"), Row(3, "cd-0", "bad")]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "round_001.csv"
    write_sheet(path, ROWS)
    return path


def saved(path, separator, newline, encoding, *, sep_line=False, extra=""):
    """As a spreadsheet writes it: every cell again, quoted where it must be."""
    import csv
    import io

    with path.open(encoding="utf-8-sig", newline="") as file:
        records = list(csv.reader(file))
    text = io.StringIO()
    text.write(f"sep={separator}{newline}" if sep_line else "")
    csv.writer(text, delimiter=separator, lineterminator=newline).writerows(records)
    path.write_bytes((text.getvalue() + extra.replace("\n", newline)).encode(encoding))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_separators_line_ends_and_encodings(path, separator, newline, encoding):
    saved(path, separator, newline, encoding)
    assert read_sheet(path) == (EXPECTED, [])


@pytest.mark.parametrize("name", ["utf8", "german_cp1252", "utf16_tab"])
def test_files_that_libreoffice_saved(name):
    """LibreOffice 7.4: with quotes round every text; through a workbook in German, plain `7` for `007`; as UTF-16 with tabs."""
    rows, mistakes = read_sheet(Path(__file__).parent / "data" / f"libreoffice_{name}.csv")
    assert mistakes == []
    assert [row.id for row in rows] == [
        "1e50000000000000-0", "1234567890123456-0", "0000000000000012-0", "00e1230000000000-1", "dec2024000000000-0",
    ]  # fmt: skip
    meant = [parse_answer(row.answer, ("good", "Öl, Fleck", "007")) for row in rows]
    assert [one.label for one in meant] == [0, 1, 2, None, None]
    assert [one.answer or one.text for one in meant[3:]] == ["skip", "new_class"]
    assert meant[4].text == "Grat"
    assert [seconds_of(row.seconds) for row in rows] == [2.5, 0, 12, 0, 0.8]


def test_empty_rows_and_columns_at_the_end_and_a_line_that_names_the_separator(path):
    saved(path, ";", "\r\n", "utf-8-sig", extra=";;;;;;;;;;;\n\n;;;\n")
    assert read_sheet(path) == (EXPECTED, [])
    write_sheet(path, ROWS)
    saved(path, ";", "\r\n", "utf-8-sig", sep_line=True)
    assert read_sheet(path) == ([Row(3, "ab-0", "good"), Row(4, "cd-0", "bad")], [])


def test_columns_may_move_and_others_may_come(path):
    path.write_text(' Answer ,notes,ID\n"good",a note,ab-0\n')
    assert read_sheet(path) == ([Row(2, "ab-0", "good")], [])


def test_cells_cut_off_at_the_end_of_a_row_are_empty(path):
    path.write_text("id,image,answer\nab-0\n")
    assert read_sheet(path) == ([Row(2, "ab-0", "")], [])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "got 'an empty file'"),
        ("image,answer\na,good\n", "a row of column names with id and answer in row 1"),
        ("id,answer,answer\nab-0,good,bad\n", "one column answer"),
        ("id,answer\nab-0,go\0od\n", "."),
    ],
)
def test_no_such_table(path, content, told):
    path.write_text(content)
    if "\0" in content:  # whichever way this Python reads it, nothing is guessed
        try:
            rows, _ = read_sheet(path)
        except DataError:
            return
        assert rows[0].answer != "good"
        return
    with pytest.raises(DataError, match=told):
        read_sheet(path)


def test_more_cells_than_columns_are_a_mistake_by_row(path):
    path.write_text("id,answer\nab-0,good\ncd-0,bad,really\n")
    rows, mistakes = read_sheet(path)
    assert rows == [Row(2, "ab-0", "good")]
    assert mistakes == ["row 3: Expected 2 cells, got 3; a cell that holds the separator needs quotes around it."]


def test_no_cell_is_a_formula_and_numbers_have_the_comma_of_their_country(tmp_path):
    rows = [
        {
            "id": "a-0",
            "image": "=x.png",
            "prediction": "=1+1",
            "probability": "0.369",
            "score": "-0.5",
            "reason": "-, x",
        }
    ]
    write_sheet(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8-sig").splitlines()[1] == (
        """,a-0,./=x.png,'=1+1,0.369,-0.5,"'-, x",,,,"""
    )
    write_sheet(tmp_path / "a.csv", rows, ";")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8-sig").splitlines()[1] == (
        """;a-0;./=x.png;'=1+1;0,369;-0,5;'-, x;;;;"""
    )


def test_a_line_of_json_ends_at_a_line_feed_alone(tmp_path):
    path = tmp_path / "round_001.jsonl"
    write_sheet(path, [{"id": "a-0", "prediction": "a\u2028b", "answer": "a\u2028b"}])
    assert read_sheet(path) == ([Row(1, "a-0", "a\u2028b")], [])


def test_json_lines(tmp_path):
    path = tmp_path / "round_001.jsonl"
    write_sheet(path, ROWS)
    assert read_sheet(path) == ([Row(1, "ab-0", "good"), Row(2, "cd-0", "bad")], [])
    path.write_text('{"id": "ab-0", "answer": null, "seconds": 3.5}\n\n{"id": 1}\nno\n')
    rows, mistakes = read_sheet(path)
    assert rows == [Row(1, "ab-0", "", "", "3.5")]
    assert [m[:6] for m in mistakes] == ["row 3:", "row 4:"]


def test_the_file_says_that_it_is_utf_8_and_has_every_column(path):
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf" + ",".join(COLUMNS).encode() + b"\n")


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("12", 12.0), ("2.5", 2.5), ("2,5", 2.5)])
def test_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["-1", "fast", "nan", "inf"])
def test_seconds_that_are_none(text):
    with pytest.raises(DataError, match="number >= 0"):
        seconds_of(text)
