"""The report on one run that people labelled: how good, what is wrong, what was found; not a word of seeds or baselines."""

import json

import pytest
from PIL import Image
from rich.console import Console

from alframe.report.cli import summarize
from alframe.report.read.section import sections

WRONG = [
    {"image": "test/bad/a.png", "label": 1, "predicted": 0, "probability": 0.93},
    {"image": "test/ok/b.png", "label": 0, "predicted": 1, "probability": 0.61},
]
ABOUT_A_STUDY = ("seed", "baseline", "random as", "grave", "verdict", "paired", "p (Holm)", "strategy, ")


@pytest.fixture
def labelled(write_run, write_ledger, tmp_path):
    """`labelled(values, confusion, ...)`: a run of six rounds whose queries find a defect in every other image, random ones in none."""

    def write(
        values=(0.6, 0.7, 0.8, 0.85, 0.88, 0.9),
        confusion=((55, 5), (6, 14)),
        mistakes=WRONG,
        normal=("good",),
        **of_run,
    ):
        of_run = {"metric": "test/auroc", "more": {"people/anna/images": 1}, "annotator": "queue"} | of_run
        folder = write_run(values=values, options={"dataset.root": str(tmp_path / "photos")}, **of_run)
        write_ledger(folder)
        provenance = json.loads((folder / "provenance.json").read_text()) | {"normal": normal}
        (folder / "provenance.json").write_text(json.dumps(provenance))
        path = folder / "ledger.jsonl"
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        for line in lines:
            if line["kind"] == "initial" or line["rank"] < 2:
                line |= {"source": "random", "label": 0}
        path.write_text("".join(json.dumps(line | {"annotator": "anna"}) + "\n" for line in lines))
        stage = folder / f"queries/round_{len(values) - 1:03d}.json"
        evaluation = {"confusion": confusion, "classes": ["good", "defective"], "mistakes": mistakes}
        held_out = {"confusion": [[20, 0], [0, 2]], "classes": ["good", "defective"], "mistakes": []}
        stage.write_text(json.dumps({**json.loads(stage.read_text()), "evaluation": evaluation, "held_out": held_out}))
        return folder

    return write


def report(folder, out):
    console = Console(file=(out.parent / "console.txt").open("w"), width=10_000)
    summarize([folder], out, console)
    console.file.close()
    return (out / "report.md").read_text(), (out / "report.html").read_text(), (out.parent / "console.txt").read_text()


def test_it_says_how_good_the_model_is_and_what_was_found(labelled, tmp_path):
    text, _, console = report(labelled(), tmp_path / "report")
    good = "On 80 test images, it finds 14 of 20 defects (70 %, 48 to 85 %) and calls 5 of 60 good ones (8 %, 4 to 18 %) a defect. AUROC 0.900 [0.783, 0.955]."
    assert f"How good is the model? {good}" in text.replace("\\", "")
    assert good in console
    assert "On 22 validation images, drawn at random, it finds 2 of 2 defects (100 %, 34 to 100 %)" in text
    assert "150 images asked about or labelled by folder: 130 good, 20 defective." in text
    assert "the strategy chose, 20 of 40 (50 %, 35 to 65 %) are defects; of those drawn at random, 0 of 110" in text
    assert text.startswith("# photos: labelled by people")


def test_nothing_is_said_of_seeds_and_baselines(labelled, tmp_path):
    text, html, console = report(labelled(), tmp_path / "report")
    said = text.split("## How to read this")[0]
    for word in ABOUT_A_STUDY:
        assert word not in said.replace(str(tmp_path), "").replace("/seed=0", "")
        assert word not in console.split("Written to")[0].replace("/seed=0", "")
    assert "How good is the model?" in html


def test_it_names_the_images_that_the_model_gets_wrong_and_shows_them(labelled, tmp_path):
    folder = labelled()
    text, html, _ = report(folder, tmp_path / "report")
    assert "**11 of 80 test images, the surest first**" in text
    assert "| test/bad/a.png | defective | good | 0.93 |\n| test/ok/b.png | good | defective | 0.61 |" in text
    assert "None of the 22 validation images, drawn at random." in text
    assert 'src="data:image/jpeg' not in html
    (tmp_path / "photos/test/bad").mkdir(parents=True)
    Image.new("I;16", (400, 300), 30_000).save(tmp_path / "photos/test/bad/a.png")
    text, html, _ = report(folder, tmp_path / "report")
    assert html.count('src="data:image/jpeg') == 1
    assert "a.png: defective" in html


def test_more_labels_bring_what_the_slope_of_the_last_rounds_says(labelled, tmp_path):
    labels = [10, 20, 40, 80, 160, 320]
    text, *_ = report(labelled((0.5, 0.5, 0.6, 0.7, 0.8, 0.9), labels=labels), tmp_path / "report")
    assert "Over the last 4 rounds (40 to 320 labels) AUROC went from 0.600 to 0.900. At this slope, 640 labels instead of 320 would change it by about +0.100 (+0.100 to +0.100)." in text.replace("\\", "")  # fmt: skip
    text, *_ = report(labelled((0.5, 0.5, 0.6, 0.58, 0.62, 0.59), study="flat"), tmp_path / "flat")
    assert "That is no clear slope" in text
    text, *_ = report(labelled((0.5, 0.6), study="short"), tmp_path / "short")
    assert "at least four measured rounds to say; so far there are 2." in text


@pytest.mark.parametrize(
    ("confusion", "told"),
    [
        (((30, 2), (0, 0)), "it calls 2 of 32 good ones (6 %, 2 to 20 %) a defect. None of them is a defect"),
        (((30, 2), (1, 2)), "it finds 2 of 3 defects (67 %, 21 to 94 %) and calls 2 of 32 good ones (6 %, 2 to 20 %) a defect."),
    ],
)  # fmt: skip
def test_few_defects_have_no_auroc(labelled, tmp_path, confusion, told):
    text, *_ = report(labelled(confusion=confusion, mistakes=[]), tmp_path / "report")
    assert told in text
    assert "AUROC 0.9" not in text.split("What was found?")[0]
    assert "their names were not recorded" in text


def test_a_run_that_waits_for_people_is_reported_with_the_round_that_is_measured(labelled, tmp_path):
    folder = labelled()
    rounds = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(rounds[:-1]))
    (section,), left = sections([tmp_path])
    assert section.is_one_by_people
    assert not left
    assert section.runs[0].rounds[-1]["test/auroc"] == 0.9
    assert not section.runs[0].finished
    (folder / "rounds.jsonl").write_text("")
    (folder / "queries/round_000.json").unlink()
    with pytest.raises(Exception, match="no round is finished"):
        sections([tmp_path])


def test_where_nothing_is_a_defect_it_says_how_often_the_model_is_right(labelled, tmp_path):
    text, *_ = report(labelled(normal=None), tmp_path / "report")
    assert "On 80 test images, it is right about 69 of 80 (86 %, 77 to 92 %)." in text
    assert "150 images asked about or labelled by folder: 130 good, 20 defective.\n" in text
    assert "defects" not in text.split("## How to read this")[0]


def test_without_any_measure_the_rest_is_said(labelled, tmp_path):
    folder = labelled(metric="usable", values=(100, 110, 120, 130, 140, 150))
    for path in (folder / "queries").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "evaluation": None, "held_out": None}))
    text, _, console = report(folder, tmp_path / "report")
    assert "Nothing was measured: there are no test or validation images yet." in console
    assert "20 of 40 (50 %, 35 to 65 %) are defects" in text
    assert "That takes test images (in test/<class>) or validation images" in console
    assert "usable" not in text
    assert "defects found by labels." in text


def test_damaged_counts_are_not_read(labelled, tmp_path):
    folder = labelled()
    stage = folder / "queries/round_005.json"
    for broken in ([[1, 2], [3]], "x", [[0, 0], [0, 0]], None):
        whole = json.loads(stage.read_text())
        whole["evaluation"]["confusion"] = whole["held_out"]["confusion"] = broken
        stage.write_text(json.dumps(whole))
        text, *_ = report(folder, tmp_path / "report")
        assert "Nothing was measured" in text


def test_runs_of_several_seeds_are_compared_as_ever(labelled, tmp_path):
    for seed in (0, 1, 2):
        labelled(seed=seed)
    text, *_ = report(tmp_path / "study", tmp_path / "report")
    assert "How good is the model?" not in text
    assert "Nothing to compare: there is only one strategy." in text
