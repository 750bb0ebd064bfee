"""The page: whole, alone, and safe from what names hold."""

from html.parser import HTMLParser

import numpy as np
import pytest

from alframe.record.contact_sheet import write_contact_sheet
from alframe.report.chapters.blocks import Chapter, Paragraph, Picture, Strip, Table
from alframe.report.chapters.page import Page, Part
from alframe.report.cli import main
from alframe.report.write.figures import Drawn
from alframe.report.write.pages import _within, html

VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are balanced, and collects tags, attributes and the words between them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def study(write_run, write_ledger, tmp_path):
    """Three strategies, two seeds, with ledgers and contact sheets."""
    for seed in range(2):
        for k, strategy in enumerate(("random", "margin", "bald")):
            folder = write_run(strategy, seed, (0.5, 0.6 + 0.01 * k, 0.7 + 0.01 * seed))
            write_ledger(folder, start=10 * k)
            for round in range(2):
                images = np.full((10, 1, 28, 28), 20 * round, dtype=np.uint8)
                write_contact_sheet(folder / "queries" / f"round_{round:03d}.jpg", images)
    return tmp_path / "study"


def test_the_page_is_balanced_and_needs_no_network_and_no_script(study):
    assert main([str(study)]) == 0
    text = (study / "report.html").read_text()
    page = Reader(text)
    images = page.of("img")
    assert len(images) > 10
    assert all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/") for image in images)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "link" not in {tag for tag, _ in page.tags}
    addresses = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src", "action")
    ]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text


def test_the_contents_lead_to_every_chapter(study):
    assert main([str(study)]) == 0
    page = Reader((study / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {address["href"][1:] for address in page.of("a")} == set(ids)
    words = " ".join(page.words)
    for title in (
        "In short",
        "Results",
        "What was bought",
        "Contact sheets",
        "Cost and time",
        "How to read this",
    ):
        assert title in words


def test_hostile_names_are_shown_as_they_are(write_run, write_ledger, tmp_path):
    classes = ("<script>alert(1)</script>", "a|b_c%d\"e'$x^2$ & \\end{table}")
    for seed in range(2):
        folder = write_run('<b onload="x">|_%$', seed, classes=classes, dataset="<img src=x>")
        write_ledger(folder)
        write_contact_sheet(folder / "queries" / "round_000.jpg", np.zeros((10, 3, 8, 8), dtype=np.uint8))
    assert main([str(tmp_path)]) == 0
    page = Reader((tmp_path / "report.html").read_text())
    assert not page.of("script")
    assert not page.of("b")
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    words = "".join(page.words)
    assert '<b onload="x">|_%$' in words
    assert classes[1] in words
    markdown = (tmp_path / "report.md").read_text()
    assert "<script>" not in markdown
    assert "&lt;img src=x&gt;" in markdown


def test_every_kind_of_block_is_written(tmp_path):
    table = Table(("name", "value"), (("a", "1"), ("b", "2")), title="A table", note="A note", tones=("good", ""))
    strip = Strip("A strip", ((b"jpeg", "a <class>"),))
    picture = Picture("plot", lambda: None, "what it shows", "a caption")
    drawn = Drawn(b"png", b"<svg/>", (5.0, 3.0))
    chapter = Chapter("Everything", (Paragraph("Good news", "good"), table, picture, strip), folded=True)
    html(Page("Title", (Part("Part", (Paragraph("First"),), (chapter,)),)), {"plot": drawn}, tmp_path)
    page = Reader((tmp_path / "report.html").read_text())
    assert {"class": "good"} in page.of("p")
    assert [row.get("class") for row in page.of("tr")] == [None, "good", None]
    assert [image["alt"] for image in page.of("img")] == ["what it shows", "rank 0: a <class>"]
    assert page.of("img")[0]["width"] == "480"
    assert page.of("details")
    words = " ".join(page.words)
    for text in ("Title", "First", "Good news", "A table", "A note", "a caption", "A strip", "a <class>"):
        assert text in words


def test_small_pictures_are_cut_alike_to_what_the_page_can_hold():
    strips = tuple(Strip(f"strip {k}", tuple((b"x" * 100, "") for _ in range(20))) for k in range(5))
    ((_, (chapter,)),) = _within([Part("p", (), (Chapter("c", strips),))], 5_000)
    assert [len(strip.thumbnails) for strip in chapter.blocks] == [10] * 5
    ((_, (chapter,)),) = _within([Part("p", (), (Chapter("c", strips),))], 10_000)
    assert chapter.blocks == strips
