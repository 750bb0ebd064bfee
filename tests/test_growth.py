"""A pool that photos come into, from the command's own code: a person, played by a script, labels in spreadsheets; files come, move and go."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import die, die_after_half_a_line, on_call

from alframe.annotator.cli import main as queue_command
from alframe.annotator.queue import Sheets
from alframe.cli import execute
from alframe.config.overrides import load
from alframe.config.plan import Plan
from alframe.dataset.growing import Growing
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError, DataError, RunFolderError, Waiting
from alframe.handover.cli import export_main, predict_main
from alframe.labels.ledger import Ledger
from alframe.model.base import Model
from alframe.model.frozen import FeatureHead
from alframe.record.record import Record
from alframe.report.cli import main as report_command
from alframe.session import Session

OPTIONS = [
    "annotator=queue", "dataset=image_folder", "dataset.size=8", "dataset.normalization=pool", "dataset.augmentation=null",
    "model.width=4", "trainer.epochs=1", "trainer.min_steps=6", "trainer.warmup=0", "uncertainty=point", "strategy=entropy",
    "budget.initial=6", "budget.query_size=4", "budget.rounds=3", "run.tensorboard=false", "progress=false", "threads=1", "device=cpu",
]  # fmt: skip
CLASSES = ("dark", "light")
TILES = Path(__file__).parents[2] / "shared" / "data" / "magnetic_tile"
CLASSES_OF_TILES = ("Blowhole", "Fray", "Free")


class Factory:
    """A folder of photos, dark or light by their number, and a run over it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.root, self.number = folder, folder / "photos", 0
        (self.root / "unlabelled").mkdir(parents=True)
        self.options: dict[str, str] = {}
        self.choose(
            *OPTIONS, f"dataset.root={self.root}", f"run.root={folder / 'runs'}", f"cache={folder / 'cache'}", *options
        )

    def choose(self, *options: str) -> None:
        self.options |= dict(option.split("=", 1) for option in options)
        self.__dict__.pop("plan", None)

    @cached_property
    def plan(self) -> Plan:
        return load([f"{key}={value}" for key, value in self.options.items()])

    def photos(self, n: int, where: str = "unlabelled") -> list[Path]:
        """New photos; their names say the class."""
        made = []
        for _ in range(n):
            light = self.number % 2 if where == "unlabelled" else CLASSES.index(where.split("/")[-1])
            values = (
                np.random.default_rng(self.number).integers(110 * light, 110 * light + 140, (8, 8)).astype(np.uint8)
            )
            path = self.root / where / f"{self.number:03d}_{CLASSES[light]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
            made.append(path)
            self.number += 1
        return made

    @property
    def run(self) -> Path:
        (found,) = (self.folder / "runs").glob("*/*/seed=0")
        return found

    def launch(self) -> bool:
        """Whether the run is finished now."""
        try:
            execute(self.plan)
        except Waiting:
            return False
        return True

    def finish(self) -> None:
        while not self.launch():
            self.answer()

    def sheet(self) -> Path:
        return sorted((self.run / "queue").glob("round_*.csv"))[-1]

    def rows(self) -> list[dict[str, str]]:
        with self.sheet().open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def answer(self, say=lambda row: Path(row["image"]).stem.split("_")[1]) -> None:
        rows = [{**row, "answer": row["answer"] or say(row)} for row in self.rows()]
        with self.sheet().open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def lines(self, name: str) -> list[dict]:
        return [json.loads(text) for text in (self.run / name).read_text().splitlines()]

    def result(self) -> list[list[dict]]:
        """Ledger and rounds, without seconds."""
        return [
            [{key: value for key, value in line.items() if not key.endswith("_s")} for line in self.lines(name)]
            for name in ("ledger.jsonl", "rounds.jsonl")
        ]

    def asked(self) -> set[str]:
        """Names of the files in the newest sheet."""
        return {Path(row["image"]).name for row in self.rows()}


@pytest.fixture
def factory(tmp_path):
    """Eight labelled photos, of which two are the test set, and twenty without a label."""
    made = Factory(tmp_path / "factory")
    for name in CLASSES:
        made.photos(4, name)
    made.photos(20)
    return made


@pytest.fixture
def bare(tmp_path):
    """`bare(...)`: twelve photos, no label, and the classes in the config."""

    def bare(*options: str, n: int = 12) -> Factory:
        made = Factory(tmp_path / "bare", "dataset.classes=[dark,light]", "budget.initial=0", *options)
        made.photos(n)
        return made

    return bare


def test_labels_of_folders_are_the_beginning_and_people_are_asked_for_the_rest(factory, capsys):
    factory.choose("budget.initial=10")
    with pytest.raises(Waiting, match=r"Waiting for 4 of 4 answers of round 0"):
        execute(factory.plan)
    given = factory.lines("ledger.jsonl")
    assert [(line["annotator"], line["kind"], line["round"]) for line in given] == [("folder", "given", 0)] * 6
    assert len(factory.rows()) == 4  # of budget.initial=10
    assert "warning: only 2 test images, so accuracy is uncertain by about 35 points" in capsys.readouterr().err
    for _ in range(2):
        factory.answer()
        assert not factory.launch()
    (first,) = factory.lines("rounds.jsonl")
    assert (first["labels"], first["usable"], first["train"]) == (10, 10, 10)
    assert "test/accuracy" in first


def test_photos_that_come_between_rounds_can_be_asked_about(factory):
    while not factory.launch():
        factory.answer()
        late = factory.photos(30)  # more than there were: some are picked
    asked = {line["id"] for line in factory.lines("ledger.jsonl")}
    arrived = {line["id"]: line for line in factory.lines("pool.jsonl") if line["event"] == "arrived"}
    assert {arrived[id]["round"] for id in asked} >= {0, 1, 2}
    assert len(late) == 30
    assert [line["labels"] for line in factory.lines("rounds.jsonl")] == [6, 10, 14, 18]
    assert json.loads((factory.run / "provenance.json").read_text())["n_pool"] == 26 + 60  # when the last launch began
    assert factory.lines("rounds.jsonl")[-1]["stopped"] == "budget spent"
    assert queue_command(["status", str(factory.run)]) == 0


def test_late_photos_are_answered_by_a_file_that_is_imported(factory, tmp_path):
    factory.launch()
    factory.answer()
    for path in (factory.root / "unlabelled").iterdir():
        path.unlink()
    factory.photos(5)  # behind all that the run's provenance counts
    factory.launch()
    factory.answer()
    filled = factory.sheet().rename(tmp_path / "filled.csv")
    assert queue_command(["import", str(factory.run), str(filled)]) == 0
    assert {line["index"] for line in factory.lines("ledger.jsonl") if line["round"] == 2} <= set(range(26, 31))
    assert sum(line["round"] == 2 for line in factory.lines("ledger.jsonl")) == 4


def test_a_finished_run_that_is_given_more_rounds_begins_with_the_photos_of_now(factory):
    factory.choose("budget.rounds=1")
    factory.launch()
    factory.answer()
    assert factory.launch()
    for path in (factory.root / "unlabelled").iterdir():
        path.unlink()
    factory.photos(5)
    assert factory.launch()  # finished: nothing is looked at
    factory.choose("budget.rounds=2")
    assert not factory.launch()
    assert {int(name[:3]) for name in factory.asked()} <= set(range(28, 33))
    factory.answer()
    assert factory.launch()
    assert [line["labels"] for line in factory.lines("rounds.jsonl")] == [6, 10, 14]


def test_the_pool_of_a_waiting_round_is_the_one_it_began_with(factory):
    factory.launch()
    before = factory.sheet().read_bytes()
    factory.photos(5)
    factory.launch()
    assert factory.sheet().read_bytes() == before
    assert sum(line["event"] == "arrived" for line in factory.lines("pool.jsonl")) == 28


def test_a_deleted_photo_is_not_asked_about_and_a_labelled_one_is_trained_on(factory):
    factory.launch()
    labelled = [factory.run / "queue" / row["image"] for row in factory.rows()]
    factory.answer()
    for path in labelled:
        path.unlink()
    kept = sorted((factory.root / "unlabelled").iterdir())[:6]
    for path in (factory.root / "unlabelled").iterdir():
        if path not in kept:
            path.unlink()
    for _ in range(2):
        factory.launch()
        factory.answer()
    assert len(factory.rows()) == 2
    factory.launch()
    gone = {line["index"] for line in factory.lines("pool.jsonl") if line["event"] == "gone"}
    assert len(gone) == 14
    late = {line["index"] for line in factory.lines("ledger.jsonl") if line["round"] > 1}
    assert late
    assert not late & gone
    assert factory.lines("rounds.jsonl")[1]["train"] == 10


def test_a_photo_that_is_moved_to_a_class_folder_answers_the_question_about_it(factory):
    factory.launch()
    first = factory.rows()[0]
    path = (factory.run / "queue" / first["image"]).resolve()
    path.rename(factory.root / "light" / path.name)
    with pytest.raises(Waiting, match=r"Waiting for 3 of 4 answers of round 1"):
        execute(factory.plan)
    line = factory.lines("ledger.jsonl")[-1]
    assert (line["id"], line["annotator"], line["kind"], line["label"]) == (first["id"], "folder", "query", 1)
    factory.answer(lambda row: "" if row["id"] == first["id"] else Path(row["image"]).stem.split("_")[1])
    assert not factory.launch()
    assert sum(line["round"] == 1 for line in factory.lines("ledger.jsonl")) == 4
    assert sum(line["id"] == first["id"] for line in factory.lines("ledger.jsonl")) == 1


def test_a_folder_is_one_of_the_people_whose_answers_an_image_needs_and_says_it_once(factory):
    factory.choose("annotator.people=[anna,bob]", "annotator.per_image=2")
    factory.launch()
    path = (factory.run / "queue" / factory.rows()[0]["image"]).resolve()
    path.rename(factory.root / "light" / path.name)
    for _ in range(2):
        factory.launch()
    (line,) = (line for line in factory.lines("ledger.jsonl") if line["round"] == 1)
    assert (line["annotator"], line["label"]) == ("folder", 1)


def test_labels_of_folders_are_no_answers_that_overwriting_would_lose(factory):
    factory.launch()
    factory.choose("run.overwrite=true")
    assert not factory.launch()
    factory.answer()
    with pytest.raises(RunFolderError, match="Expected a run without answers from people"):
        execute(factory.plan)


def test_photos_moved_by_hand_are_labels_of_the_next_round(factory, capsys):
    factory.launch()
    asked = factory.asked()
    moved = next(path for path in sorted((factory.root / "unlabelled").iterdir()) if path.name not in asked)
    factory.answer()
    moved.rename(factory.root / "dark" / moved.name)
    factory.launch()
    (line,) = (line for line in factory.lines("ledger.jsonl") if line["annotator"] == "folder" and line["round"] == 1)
    assert (line["kind"], line["label"]) == ("given", 0)
    assert f"{factory.root}: 1 labelled by their folder, 1 renamed" in capsys.readouterr().out


def test_a_photo_that_is_moved_to_another_class_corrects_its_label(factory, capsys):
    factory.launch()
    row = factory.rows()[0]
    path = (factory.run / "queue" / row["image"]).resolve()
    said = path.stem.split("_")[1]
    factory.answer()
    factory.launch()
    path.rename(factory.root / next(name for name in CLASSES if name != said) / path.name)
    factory.answer()
    factory.launch()
    told = " ".join(capsys.readouterr().out.split())
    assert "has been moved to the folder of another class: their labels are corrected from now on" in told
    lines = [line for line in factory.lines("ledger.jsonl") if line["id"] == row["id"]]
    first, other = CLASSES.index(said), 1 - CLASSES.index(said)
    assert [(line["label"], line["annotator"], line.get("counts_from")) for line in lines] == [
        (first, "person", None),
        (other, "folder", 2),
    ]
    labels = [line["labels"] for line in factory.lines("rounds.jsonl")]
    factory.finish()
    assert len([line for line in factory.lines("ledger.jsonl") if line["id"] == row["id"]]) == 2, "once is enough"
    assert [line["labels"] for line in factory.lines("rounds.jsonl")][: len(labels)] == labels
    assert export_main([str(factory.run), "--no-onnx"]) == 0  # reproduces the last round's metrics
    (exported,) = (
        line
        for line in csv.DictReader((factory.run / "export" / "labels.csv").read_text().splitlines())
        if line["id"] == row["id"]
    )
    assert (exported["label"], exported["annotator"]) == (CLASSES[other], "folder")


def test_a_photo_that_a_person_corrected_is_not_corrected_back_by_the_folder_it_lies_in(factory, capsys, tmp_path):
    factory.photos(3, "light")
    factory.launch()
    given = next(line for line in factory.lines("ledger.jsonl") if line["label"] == 1)
    (tmp_path / "boss.csv").write_text(f"id,answer\n{given['id']},dark\n")
    assert (
        queue_command(["import", str(factory.run), str(tmp_path / "boss.csv"), "--correct", "--annotator", "boss"]) == 0
    )
    assert "1 correction recorded" in capsys.readouterr().out
    factory.finish()
    lines = [line for line in factory.lines("ledger.jsonl") if line["id"] == given["id"]]
    assert [(line["label"], line["annotator"]) for line in lines] == [(1, "folder"), (0, "boss")]
    assert "1 photo (light/" in " ".join(capsys.readouterr().out.split())


def test_a_photo_that_is_gone_while_it_is_asked_about_is_shown_from_the_run(factory):
    factory.launch()
    first, second, third, *_ = (factory.run / "queue" / row["image"] for row in factory.rows())
    first.resolve().unlink()
    Image.new("L", (8, 8)).save(third)  # the camera begins again at the same number
    second.resolve().rename(second.with_name("other name.png").resolve())
    with pytest.raises(Waiting, match=r"deleted, renamed or overwritten since then \(3\): .*queue/images, by id"):
        execute(factory.plan)
    shown = {path.stem for path in (factory.run / "queue" / "images").iterdir()}
    assert shown == {row["id"] for row in factory.rows()[:3]}
    overwritten = Image.open(factory.run / "queue" / "images" / f"{factory.rows()[2]['id']}.png")
    assert np.asarray(overwritten).any()
    factory.answer()
    assert not factory.launch()
    assert factory.lines("rounds.jsonl")[0]["train"] == 6
    assert len(factory.lines("ledger.jsonl")) == 10


def test_the_nearest_photo_is_shown_where_it_lies_by_now(factory):
    """All were shown before, and then sorted by hand."""
    factory.launch()
    factory.answer()
    index = factory.run / "queue" / "images.json"
    arrived = [line["id"] for line in factory.lines("pool.jsonl") if line["event"] == "arrived"]
    index.write_text(json.dumps(dict.fromkeys(arrived, "../where it lay.png")))
    factory.launch()
    shown = [factory.run / "queue" / row[column] for row in factory.rows() for column in ("image", "nearest")]
    assert len(shown) == 8
    assert all(path.is_file() for path in shown)


def test_the_oracle_is_refused_before_a_photo_is_read(factory):
    factory.choose("annotator=oracle")
    with pytest.raises(ConfigError, match=r"Expected people to label unlabelled photos, .*annotator=queue"):
        execute(factory.plan)
    assert not (factory.run / "pool.jsonl").exists()


def test_no_label_at_all_and_no_test_set(bare, capsys, tmp_path):
    made = bare("budget.validation=0.5", "strategy=core_set", "run.checkpoint=true", "run.tensorboard=true", n=20)
    while not made.launch():
        made.answer()
        made.photos(2)
    output = capsys.readouterr()
    assert "warning: no test images: metrics are computed on the validation images" in " ".join(output.err.split())
    rounds = made.lines("rounds.jsonl")
    assert [line["labels"] for line in rounds] == [0, 4, 8, 12]
    assert not [key for line in rounds for key in line if key.startswith("test/")]
    assert "validation/accuracy" in rounds[-1]
    assert f"{rounds[-1]['validation/accuracy']:.3f}" in output.out
    assert report_command([str(tmp_path / "bare" / "runs")]) == 0
    assert export_main([str(made.run), "--images", "--out", str(tmp_path / "export")]) == 0
    assert "its validation metrics are reproduced exactly" in capsys.readouterr().out
    assert predict_main([str(tmp_path / "export"), str(made.root), "--out", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open() as file:
        assert len(list(csv.DictReader(file))) == made.number


def test_nothing_that_is_measured_is_told_too(bare, capsys, tmp_path):
    made = bare("strategy=core_set", "budget.rounds=1")
    while not made.launch():
        made.answer()
    assert "so nothing is measured; set budget.validation=0.2" in " ".join(capsys.readouterr().err.split())
    assert export_main([str(made.run), "--no-onnx", "--out", str(tmp_path / "export")]) == 0
    assert "no metrics were measured, so nothing is checked" in capsys.readouterr().out


def test_a_query_of_test_images_needs_some(bare):
    made = bare("strategy=epig", "uncertainty=mc_dropout", "query.target=test")
    with pytest.raises(ConfigError, match=r"Expected test images with query.target=test, got none"):
        execute(made.plan)


def test_a_run_that_has_asked_about_every_photo_waits_for_more(bare):
    made = bare("budget.rounds=5", n=6)
    sizes = []
    for _ in range(2):
        assert not made.launch()
        sizes.append(len(made.rows()))
        made.answer()
    assert sizes == [4, 2]
    with pytest.raises(Waiting, match=r"Waiting for photos: .*put new ones into unlabelled/"):
        execute(made.plan)
    assert [line["labels"] for line in made.lines("rounds.jsonl")] == [0, 4, 6]  # the last answers are learned from
    assert not made.launch()
    made.photos(3)
    assert not made.launch()
    assert len(made.rows()) == 3
    made.answer()
    assert made.launch()
    assert [line["labels"] for line in made.lines("rounds.jsonl")] == [0, 4, 6, 6, 9, 9]


def test_a_run_goes_on_while_all_labels_are_one_class(bare, capsys):
    made = bare("strategy=core_set", "budget.rounds=2")

    def finish() -> None:
        while not made.launch():
            made.answer(lambda row: "dark")

    finish()
    assert "Labels so far: 4 dark. The network learns nothing" in capsys.readouterr().out
    assert made.lines("rounds.jsonl")[-1]["train"] == 8


def test_a_late_photo_that_is_nearly_a_test_image_is_told(factory, capsys):
    """The same photo with the light turned up a little: the pixels are others, and it could be trained on."""
    factory.launch()
    factory.answer()
    events = factory.lines("pool.jsonl")
    test = next(event["name"] for event in events if event.get("test"))
    assert "copy in the pool" not in capsys.readouterr().err
    brighter = np.asarray(Image.open(factory.root / test)) + 2
    Image.fromarray(brighter.astype(np.uint8)).save(factory.root / "unlabelled" / "again.png")
    for _ in range(2):  # it comes in between the rounds of the first, and is told when the next begins
        factory.launch()
    told = " ".join(capsys.readouterr().err.split())
    assert "0 test images have an exact copy in the pool, and 1 a near copy" in told
    assert f"(test and pool image {test} and unlabelled/again.png)" in told
    assert json.loads((factory.run / "provenance.json").read_text())["near_duplicates"]["near"] == 1


def test_a_broken_photo_does_not_stop_a_run(factory, capsys):
    factory.launch()
    factory.answer()
    (factory.root / "unlabelled" / "half.png").write_bytes(factory.photos(1)[0].read_bytes()[:60])
    factory.launch()
    assert "the first is unlabelled/half.png (" in " ".join(capsys.readouterr().out.split())
    assert len(factory.lines("rounds.jsonl")) == 1


def test_a_folder_that_has_no_root_any_more_is_told_by_name(factory):
    factory.launch()
    factory.root.rename(factory.folder / "elsewhere")
    with pytest.raises(
        DataError, match=r"Expected dataset.root to be a folder with unlabelled photos, .*photos \(no such folder\)"
    ):
        execute(factory.plan)


def test_a_run_that_began_without_unlabelled_photos_stays_so(factory):
    shutil.move(factory.root / "unlabelled", factory.folder / "later")
    factory.choose("annotator=oracle", "budget.initial=4", "budget.query_size=1", "budget.rounds=1")
    assert factory.launch()
    shutil.move(factory.folder / "later", factory.root / "unlabelled")
    factory.choose("budget.rounds=2")
    with pytest.raises(RunFolderError, match="Expected the data that this run started with"):
        execute(factory.plan)
    assert not (factory.run / "pool.jsonl").exists()


def test_mean_and_deviation_are_those_of_the_first_photos(factory):
    photos = ImageFolder(factory.root, size=8).growing(factory.folder / "alone")
    photos.refresh(0)
    experiment = factory.plan.experiment(photos.data())
    before = experiment.learner(0).normalizer
    factory.photos(9)
    photos.refresh(1)
    grown = replace(experiment, data=photos.data())
    assert len(grown.data.pool) == 35
    after = grown.learner(1).normalizer
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.deviation, after.deviation)
    assert grown.data_hash == experiment.data_hash


def test_features_are_computed_for_the_new_photos_alone(factory):
    class Flattened(Model):
        """A frozen trunk that notes what it is asked to map."""

        on_features = True

        def __init__(self):
            self.mapped = []

        def __call__(self, shape, n_classes):
            return FeatureHead(shape, n_classes, dropout=0.0)

        def prepare(self, images, cache, device, transform=None):
            self.mapped.append(images.names)
            return replace(images, pixels=images.pixels.reshape(len(images), -1).astype(np.float32))

    photos = ImageFolder(factory.root, size=8).growing(factory.folder / "alone")
    photos.refresh(0)
    model = Flattened()
    experiment = replace(factory.plan.experiment(photos.data()), model=model)
    experiment.learner(0)
    factory.photos(2)
    photos.refresh(1)
    photos.refresh(2)
    factory.photos(3)
    photos.refresh(3)
    data = photos.data()
    learner = replace(experiment, data=data).learner(3)
    first, test, *later = model.mapped
    assert later == [first, data.pool.names[26:28], data.pool.names[28:], test]
    assert torch.equal(
        learner.pixels["pool"].take(torch.tensor([27]))[0], torch.tensor(data.pool.pixels[27].reshape(-1)).float()
    )


@pytest.mark.skipif(not TILES.is_dir(), reason=f"{TILES} is not there")
def test_photographs_of_magnetic_tiles_from_a_handful_to_a_model(tmp_path):
    """JPEGs of many sizes; a test set of two photos a class and no other label; half of them come later, one of these in two pieces."""
    made = Factory(tmp_path, "dataset.size=32", "dataset.channels=1", "dataset.normalization=image", "strategy=core_set", "budget.initial=0",
                   "budget.query_size=8", "budget.rounds=2", "trainer.min_steps=20")  # fmt: skip
    truth: dict[str, str] = {}
    for name in ("Free", "Blowhole", "Fray"):
        photos = sorted(TILES.glob(f"MT_{name}/**/*.jpg"))[:14]
        truth |= {photo.name: name for photo in photos}
        (made.root / "test" / name).mkdir(parents=True)
        for number, photo in enumerate(photos):
            shutil.copy(photo, made.root / ("test/" + name if number < 2 else "unlabelled") / photo.name)
    first, *later = sorted((made.root / "unlabelled").iterdir())
    later = later[1::2]
    for photo in later:
        photo.rename(made.folder / photo.name)

    def by_truth(row):
        return truth[Path(row["image"]).name]

    assert not made.launch()
    made.answer(by_truth)
    first.rename(first.with_name("renamed.jpg"))
    truth["renamed.jpg"] = truth[first.name]
    for photo in later[1:]:
        shutil.copy(made.folder / photo.name, photo)
    whole = (made.folder / later[0].name).read_bytes()
    later[0].write_bytes(whole[: len(whole) // 2])
    assert not made.launch()
    later[0].write_bytes(whole)
    made.answer(by_truth)
    assert made.launch()
    events = [(line["event"], line["round"]) for line in made.lines("pool.jsonl")]
    n_late = len(later)
    assert events.count(("arrived", 0)) == 6 + 36 - n_late
    assert events.count(("arrived", 1)) == n_late - 1
    assert events.count(("arrived", 2)) == 1
    assert events.count(("renamed", 1)) == 1
    assert {name for name, _ in events} == {"begun", "arrived", "renamed", "settled"}
    labels = {line["id"]: CLASSES_OF_TILES[line["label"]] for line in made.lines("ledger.jsonl")}
    names = {line["id"]: Path(line["name"]).name for line in made.lines("pool.jsonl") if line["event"] == "arrived"}
    assert len(labels) == 16
    assert all(truth[names[id]] == label for id, label in labels.items())
    assert [line["labels"] for line in made.lines("rounds.jsonl")] == [0, 8, 16]
    assert "recall/Fray" in {key.removeprefix("test/") for key in made.lines("rounds.jsonl")[-1]}


# -- kills: each at one instant of the second launch, while photos come in -----------------------------------------------


def then_die(function):
    return lambda *arguments, **options: (function(*arguments, **options), die())


KILLS = {
    "before photos are taken in": (Session, "_refresh", lambda _: die),
    "pixels are written, and not the history": (Growing, "_changes", then_die),
    "the history is written": (Growing, "_note", lambda _: die),
    "an answer is torn": (Ledger, "append", on_call(3, die_after_half_a_line)),
    "a label of a folder is torn": (Ledger, "append", on_call(6, die_after_half_a_line)),
    "answers are in the ledger": (Record, "commit", lambda _: die),
    "before the query is stored": (Record, "store", lambda _: die),
    "the query is stored, and nobody was asked": (Sheets, "_write", on_call(2, die)),
}
SETTLED = (
    "the history is written",
    "a label of a folder is torn",
    "before the query is stored",
    "the query is stored, and nobody was asked",
)
"""After these the round's pool is settled: photos that come before the next launch are none of its own."""


def play(factory: Factory, kill: str | None = None) -> list[list[dict]]:
    """Launches, before the second of which photos come, go and move; it is killed, and goes on. Then more photos come, or before that."""
    for number in range(1, 6):
        if number == 2:
            factory.photos(6)
            factory.photos(2, "light")
            asked = factory.asked()
            moved, gone, *_ = (
                path for path in sorted((factory.root / "unlabelled").iterdir()) if path.name not in asked
            )
            moved.rename(factory.root / "dark" / moved.name)
            gone.unlink()
            if kill is not None:
                process = multiprocessing.get_context("fork").Process(target=_killed, args=(factory, kill))
                process.start()
                process.join()
                assert process.exitcode == -signal.SIGKILL
                if kill in SETTLED:
                    factory.photos(3)
        if factory.launch():
            return factory.result()
        if number == 2 and kill not in SETTLED:
            factory.photos(3)
        factory.answer()
    raise AssertionError("the run did not finish")


def _killed(factory: Factory, kill: str) -> None:
    owner, name, wrap = KILLS[kill]
    setattr(owner, name, wrap(getattr(owner, name)))
    factory.launch()
    os._exit(3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return play(_with_labels(tmp_path_factory.mktemp("undisturbed") / "factory"))


def _with_labels(folder: Path) -> Factory:
    made = Factory(folder)
    for name in CLASSES:
        made.photos(4, name)
    made.photos(20)
    return made


@pytest.mark.parametrize("kill", KILLS)
def test_killed_at_any_instant_the_run_comes_out_the_same(tmp_path, undisturbed, kill):
    assert play(_with_labels(tmp_path / "factory"), kill) == undisturbed
