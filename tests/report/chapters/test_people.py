"""The chapter on those who labelled."""

import json

from alframe.report.chapters.blocks import Options, Paragraph, Table
from alframe.report.chapters.people import chapter
from alframe.report.cli import summarize
from alframe.report.read.section import sections


def labelled(folder):
    """Makes the ledger of `folder` anna's; bob answers the first three images too, and is wrong on one of two known ones."""
    path = folder / "ledger.jsonl"
    lines = [json.loads(text) | {"annotator": "anna", "time_s": 4.0} for text in path.read_text().splitlines()]
    second = [{**line, "annotator": "bob", "label": 1, "time_s": 0.0} for line in lines[:3]]
    checks = [
        {**lines[i], "annotator": "bob", "kind": "gold", "label": 1, "expected": i, "time_s": 9.0} for i in (0, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *second, *checks]))
    return len(lines)


def test_everyone_has_a_row_with_what_is_known_of_them(write_run, write_ledger, tmp_path):
    folders = [write_ledger(write_run(seed=seed, more={"people/anna/images": 1}, annotator="queue")) for seed in (0, 1)]
    n = [labelled(folder) for folder in folders]
    (section,), _ = sections([tmp_path])
    table, paragraph = chapter(section, Options()).blocks
    assert isinstance(table, Table)
    assert table.columns == ("person", "images", "seconds each", "gold correct", "repeats consistent", "agreement")
    assert table.rows == (
        ("anna", f"{sum(n)}", "4", "–", "–", "33 %"),
        ("bob", "6", "9", "50 % of 4", "–", "33 %"),
    )
    assert isinstance(paragraph, Paragraph)
    assert "33 % of the answer pairs on the same image agree, kappa -0.50" in paragraph.text


def test_a_simulated_annotator_is_nobody(write_run, write_ledger, tmp_path):
    write_ledger(write_run())
    (section,), _ = sections([tmp_path])
    assert chapter(section, Options()) is None


def test_the_chapter_is_in_the_report(write_run, write_ledger, tmp_path):
    labelled(write_ledger(write_run(more={"people/anna/images": 1}, annotator="queue")))
    summarize([tmp_path], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "### Who labelled" in text
    assert "| bob | 3 | 9 | 50 % of 2 | – | 33 % |" in text
