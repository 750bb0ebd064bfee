"""Labels as a table and as a folder of images."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alframe.cli import execute
from alframe.config.overrides import load
from alframe.errors import PoolError, Waiting
from alframe.handover.export import export
from alframe.handover.labels import folder_names, labelled, write_images, write_table
from alframe.handover.trained import retrieve
from alframe.record.layout import Layout

ODD = ['a, "b"', "grün ✓", "x;y"]


def test_every_class_has_a_folder_of_its_own_that_any_file_system_takes():
    names = folder_names(["good", "a/b", "..", ".hidden", "Good", "GOOD", "", "end.", "a%2Fb", "tab\t", "grün", 'q"?'])
    assert names == [
        "good",
        "a%2Fb",
        "%2E%2E",
        "%2Ehidden",
        "Good%2",
        "GOOD%3",
        "%",
        "end%2E",
        "a%252Fb",
        "tab%09",
        "grün",
        "q%22%3F",
    ]
    assert len({name.casefold() for name in names}) == len(names)


def test_table_and_images_say_what_the_ledger_says(photos, workplace, tmp_path):
    root = photos(dict.fromkeys(ODD, 12))
    plan = load(
        [
            "dataset=image_folder", f"dataset.root={root}", "dataset.size=16", "model.width=4", "trainer.min_steps=4",
            "trainer.epochs=1", "uncertainty=point", "strategy=random", "budget.initial=9", "budget.query_size=4",
            "budget.rounds=1", "budget.validation=0.3", "run.tensorboard=false", f"run.root={tmp_path / 'runs'}", "threads=1",
        ]
    )  # fmt: skip
    execute(plan)
    trained = retrieve(plan.folder, progress=False)
    pool = trained.experiment.data.pool
    ledger = [json.loads(text) for text in (plan.folder / "ledger.jsonl").read_text().splitlines()]

    found = labelled(trained)
    files = write_images(tmp_path / "images", found, pool, pool.classes, False)
    write_table(tmp_path / "labels.csv", found, pool.classes, files)
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    said = {
        (line["id"], pool.classes[line["label"]], line["annotator"], str(line["round"]), line["kind"])
        for line in ledger
    }
    assert {(row["id"], row["label"], row["annotator"], row["round"], row["kind"]) for row in rows} == said
    assert len(rows) == len(ledger) == 13
    assert {row["kind"] for row in rows} == {"initial", "query", "validation"}
    for row in rows:
        assert row["label"] == row["name"].split("/")[0], "the name is the path below the dataset's root"
        assert (root / row["name"]).is_file()
        pixels = pool.pixels[pool.ids.index(row["id"])]
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["file"])), pixels[0])


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_class_that_was_found_after_the_round_is_among_the_labels_but_not_in_the_model(
    checkpoint, photos, workplace, tmp_path
):
    root = photos({"bad": 16, "good": 16})
    options = [
        "dataset=image_folder", f"dataset.root={root}", "dataset.size=16", "model.width=4", "trainer.min_steps=4",
        "trainer.epochs=1", "uncertainty=point", "strategy=random", "budget.initial=8", "budget.query_size=4", "budget.rounds=3",
        "run.tensorboard=false", f"run.root={tmp_path / 'runs'}", "threads=1", "annotator=queue", f"run.checkpoint={checkpoint}",
        "annotator.unsure=soft",
    ]  # fmt: skip
    plan, named = load(options), "annotator.new_classes=[scratch]"

    def launch_and_answer(answer, *more):
        with pytest.raises(Waiting):
            execute(load([*options, *more]))
        path = max((plan.folder / "queue").glob("round_*.csv"))
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["answer"] = answer(row)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    launch_and_answer(lambda row: "good?" if row["rank"] == "1" else Path(row["image"]).parent.name)
    launch_and_answer(lambda row: "new: scratch" if row["rank"] == "1" else "bad")
    with pytest.raises(PoolError, match="scratch"):
        execute(load(options))
    launch_and_answer(lambda row: "good", named)
    planned = Layout(plan.folder).planned(0)
    stored = json.loads(planned.read_text())
    for question in stored["questions"]:
        question["probs"] = None  # as of a network that has seen one class
    planned.write_text(json.dumps({**stored, "evaluation": None}))  # and has no test images
    export(retrieve(plan.folder, progress=False), tmp_path / "out", images=True, with_onnx=False, say=lambda _: None)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["model"]["run"]["round"] == 0
    assert manifest["model"]["classes"] == ["bad", "good"]
    with (tmp_path / "out/labels.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels.count("scratch") == len(list((tmp_path / "out/images/scratch").iterdir())) == 1
    with pytest.raises(Waiting):
        execute(load([*options, named]))
    trained = retrieve(plan.folder, progress=False)
    assert (trained.round, trained.experiment.data.pool.n_classes) == (1, 3)


def test_what_several_people_said_counts_as_it_did_in_training(photos, workplace, tmp_path):
    """Three people an image, one of them mostly wrong, and a class that two of them found."""
    root = photos({"bad": 12, "good": 12})
    options = [
        "dataset=image_folder", f"dataset.root={root}", "dataset.size=16", "model.width=4", "trainer.min_steps=4",
        "trainer.epochs=1", "uncertainty=point", "strategy=random", "budget.initial=8", "budget.query_size=4", "budget.rounds=1",
        "run.tensorboard=false", f"run.root={tmp_path / 'runs'}", "threads=1", "annotator=queue",
        "annotator.people=[anna,bob,cora]", "annotator.per_image=3", "annotator.new_classes=[scratch]",
    ]  # fmt: skip
    plan = load(options)
    pool = plan.dataset.load(plan.cache).pool
    truth = {id: pool.classes[label] for id, label in zip(pool.ids, pool.labels, strict=True)}
    for _ in range(3):
        try:
            execute(load(options))
            break
        except Waiting:
            newest = max(path.name.split(".")[0] for path in (plan.folder / "queue").glob("round_*.csv"))
            for path in (plan.folder / "queue").glob(f"{newest}.*.csv"):
                with path.open(encoding="utf-8-sig", newline="") as file:
                    rows = list(csv.DictReader(file))
                for row in rows:
                    answer = "scratch" if row["rank"] == "1" else truth[row["id"]]
                    row["answer"] = "good" if ".cora." in path.name else answer
                with path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
    trained = retrieve(plan.folder, progress=False)
    assert trained.difference == 0
    assert trained.experiment.data.pool.classes == ("bad", "good", "scratch")
    found = labelled(trained)
    assert len(found) == 12
    names = {one.id: trained.experiment.data.pool.classes[one.label] for one in found}
    assert sorted(names.values()).count("scratch") == 2
    assert all(name in ("scratch", truth[id]) for id, name in names.items())
    assert {one.annotator for one in found if names[one.id] != "scratch"} == {"anna; bob; cora"}


def test_images_that_people_were_not_sure_of_have_probabilities_and_no_folder(photos, workplace, tmp_path):
    root = photos({"bad": 12, "good": 12})
    options = [
        "dataset=image_folder", f"dataset.root={root}", "dataset.size=16", "model.width=4", "trainer.min_steps=4",
        "trainer.epochs=1", "uncertainty=point", "strategy=random", "budget.initial=8", "budget.query_size=4", "budget.rounds=0",
        "run.tensorboard=false", f"run.root={tmp_path / 'runs'}", "threads=1", "annotator=queue", "annotator.unsure=soft",
    ]  # fmt: skip
    plan = load(options)
    with pytest.raises(Waiting):
        execute(plan)
    path = plan.folder / "queue" / "round_000.csv"
    answers = ["good", "bad", "good?", "unsure", "bad", "good", "skip", "bad"]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**row, "answer": answer} for row, answer in zip(csv.DictReader(file), answers, strict=True)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    execute(load(options))
    trained = retrieve(plan.folder, progress=False)
    assert trained.difference == 0
    found = labelled(trained)
    pool = trained.experiment.data.pool
    files = write_images(tmp_path / "images", found, pool, pool.classes, False)
    write_table(tmp_path / "labels.csv", found, pool.classes, files)
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        written = {row["id"]: row for row in csv.DictReader(file)}
    assert [written[row["id"]]["label"] for row in rows if row["answer"] in ("good", "bad")] == [
        "good", "bad", "bad", "good", "bad",
    ]  # fmt: skip
    lean, bare = (written[rows[place]["id"]] for place in (2, 3))
    assert [json.loads(row["probabilities"]) for row in (lean, bare)] == [
        {"bad": 0.3, "good": 0.7}, {"bad": 0.5, "good": 0.5},
    ]  # fmt: skip
    for row in written.values():
        assert (row["label"] == "") == (row["file"] == "") == (row["probabilities"] != "") == (row in (lean, bare))
    assert rows[6]["id"] not in written
