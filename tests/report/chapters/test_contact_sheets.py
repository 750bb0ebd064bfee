"""The queried images in the report, from the sheets that runs keep."""

import io

import numpy as np
import pytest
from PIL import Image

from alframe.record.contact_sheet import write_contact_sheet
from alframe.report.chapters.blocks import Options, Strip
from alframe.report.chapters.contact_sheets import chapter, cut
from alframe.report.read.section import sections


def sheet(path, levels, channels=1, size=64):
    write_contact_sheet(path, np.stack([np.full((channels, size, size), level, dtype=np.uint8) for level in levels]))
    return path.read_bytes()


def the_section(tmp_path):
    (section,), _ = sections([tmp_path])
    return section


def strips(section):
    found = chapter(section, Options())
    return [block for block in found.blocks if isinstance(block, Strip)] if found else []


@pytest.mark.parametrize(("n", "size"), [(1, 64), (8, 28), (9, 64), (64, 8)])
def test_what_a_run_writes_the_report_cuts_in_rank_order(tmp_path, n, size):
    levels = [(37 * k) % 250 for k in range(n)]
    tiles, _ = cut(sheet(tmp_path / "a.jpg", levels, size=size), n, n)
    assert len(tiles) == n
    for tile, level in zip(tiles, levels, strict=True):
        with Image.open(io.BytesIO(tile)) as image:
            assert image.mode == "L"
            assert image.getpixel((image.width // 2, image.height // 2)) == pytest.approx(level, abs=4)


def test_coloured_tiles_stay_coloured(tmp_path):
    image = np.zeros((1, 3, 64, 64), dtype=np.uint8)
    image[:, 0] = 200
    write_contact_sheet(tmp_path / "a.jpg", image)
    with Image.open(io.BytesIO(cut((tmp_path / "a.jpg").read_bytes(), 1, 1)[0][0])) as tile:
        assert tile.mode == "RGB"
        assert tile.getpixel((32, 32))[0] > 150 + tile.getpixel((32, 32))[1]


def test_a_sheet_of_another_number_of_images_is_refused(tmp_path):
    content = sheet(tmp_path / "a.jpg", [0] * 8, size=8)
    with pytest.raises(ValueError, match="Expected a contact sheet of 60 images"):
        cut(content, 60, 24)


def test_first_middle_and_last_query_of_the_lowest_seed_with_answers(write_run, write_ledger, tmp_path):
    for seed in (3, 1):
        folder = write_run("bald", seed, values=[0.5] * 6, labels=[4, 6, 8, 10, 12, 14])
        write_ledger(folder, predicted=1)
        for round in range(5):
            sheet(folder / "queries" / f"round_{round:03d}.jpg", [0, 0])
    found = strips(the_section(tmp_path))
    assert [strip.title for strip in found] == [
        "bald, seed 1, asked at 4 labels", "bald, seed 1, asked at 8 labels", "bald, seed 1, asked at 12 labels"
    ]  # fmt: skip
    assert [caption for _, caption in found[0].thumbnails] == ["good ✗", "defective"]


def test_the_sheet_of_evidence_follows_and_says_its_scale(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("bald", values=(0.5, 0.6), labels=[2, 4]))
    for name, side, text in (("round_000", 64, None), ("round_000_evidence", 128, "evidence from 0 to 4")):
        pictures = np.zeros((2, 3, side, side), dtype=np.uint8)
        write_contact_sheet(folder / "queries" / f"{name}.jpg", pictures, side, text)
    plain, evidence = strips(the_section(tmp_path))
    assert evidence.title == f"{plain.title}: evidence from 0 to 4"
    assert [caption for _, caption in evidence.thumbnails] == [caption for _, caption in plain.thumbnails]
    with Image.open(io.BytesIO(evidence.thumbnails[0][0])) as tile:
        assert tile.size == (128, 128)


def test_unanswered_images_are_called_so(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("bald", values=(0.5, 0.6), labels=[2, 4]), [[0, 1], [None, 1]])
    sheet(folder / "queries" / "round_000.jpg", [0, 0])
    (strip,) = strips(the_section(tmp_path))
    assert [caption for _, caption in strip.thumbnails] == ["no answer", "defective"]


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_damaged_and_missing_sheets_are_passed_over(write_run, write_ledger, tmp_path, content):
    folder = write_ledger(write_run("random"))
    other = write_ledger(write_run("bald"))
    sheet(other / "queries" / "round_000.jpg", [0] * 10)
    if content is not None:
        (folder / "queries" / "round_000.jpg").write_bytes(content)
    assert [strip.title for strip in strips(the_section(tmp_path))] == ["bald, seed 0, asked at 100 labels"]


def test_damaged_stage_files_are_passed_over(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("random"))
    sheet(folder / "queries" / "round_000.jpg", [0] * 10)
    for text in ("", "[1, 2]", '{"questions": [{"rank": 1}]}', '{"questions": null}'):
        (folder / "queries" / "round_000.json").write_text(text)
        assert strips(the_section(tmp_path)) == []


def test_without_sheets_there_is_no_chapter(write_run, write_ledger, tmp_path):
    write_ledger(write_run("random"))
    assert chapter(the_section(tmp_path), Options()) is None


def test_no_more_than_24_images_in_a_strip(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("random", values=(0.5, 0.6), labels=[10, 90]))
    sheet(folder / "queries" / "round_000.jpg", [0] * 80)
    (strip,) = strips(the_section(tmp_path))
    assert len(strip.thumbnails) == 24
