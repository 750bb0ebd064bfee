"""Three rounds on photographs of magnetic tiles, labelled in spreadsheets by a script that plays the person; then handed over."""

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from alframe.annotator.sheet import read_sheet
from alframe.cli import execute
from alframe.config.overrides import load
from alframe.dataset.decode import decode_file
from alframe.errors import DataError, Waiting
from alframe.handover.cli import export_main, predict_main

REPOSITORY = Path(__file__).parents[2]
TILES = REPOSITORY.parent / "shared" / "data" / "magnetic_tile"
SCRIPT = REPOSITORY / "scripts" / "play_person.py"
OPTIONS = [
    "annotator=queue",
    "dataset=magnetic_tile",
    f"dataset.root={TILES}",
    "dataset.size=32",
    "dataset.pool_size=400",
    "dataset.test_size=120",
    "model=small_cnn",
    "model.width=8",
    "uncertainty=point",
    "strategy=margin",
    "trainer.epochs=1",
    "trainer.min_steps=20",
    "trainer.warmup=0",
    "budget.initial=40",
    "budget.query_size=12",
    "budget.rounds=3",
    "run.checkpoint=true",
    "run.tensorboard=false",
    "progress=false",
    "threads=1",
    "device=cpu",
]
SHARES = {"wrong": 0.1, "typo": 0.1, "unsure": 0.1, "skip": 0.1, "bad image": 0.1}
SAVED = [  # in the order of the rounds
    {"newline": "\r\n"},
    {"separator": ";", "encoding": "cp1252", "newline": "\r\n"},
    {"separator": "\t", "encoding": "utf-16"},
    {},
]
BY_LIBREOFFICE = [{"libreoffice": "csv"}, {"separator": ";", "libreoffice": "xlsx"}, {"libreoffice": "ods"}, {}]

needs_tiles = pytest.mark.skipif(not TILES.is_dir(), reason=f"needs {TILES}")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("play_person", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "play_person", module)  # its dataclasses look themselves up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFRAME_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def walk(script, workplace):
    """`walk(name, saved)`: launches until the run is finished, the person between them; the run's folder, and the errors told."""

    def walk(name, saved):
        plan = load([*OPTIONS, f"run.root={workplace / 'runs'}", f"run.name={name}"])
        told = []
        for _ in range(12):
            try:
                execute(plan)
                return plan.folder, told
            except DataError as error:
                told.append(str(error))
            except Waiting:
                pass
            round = len(list((plan.folder / "queue").glob("round_*.csv"))) - 1
            script.play(plan.folder, SHARES, round, script.Saved(**saved[round]))
        raise AssertionError("the run did not finish")

    return walk


@pytest.fixture(scope="module")
def walked(walk):
    return walk("by_script", SAVED)


def lines_of(path):
    return [
        {key: value for key, value in json.loads(text).items() if not key.endswith("_s")}
        for text in path.read_text().splitlines()
    ]


@needs_tiles
def test_three_rounds_keep_every_answer_and_tell_every_mistake(walked):
    run, told = walked
    rounds, ledger = lines_of(run / "rounds.jsonl"), lines_of(run / "ledger.jsonl")
    assert [line["labels"] for line in rounds] == [40, 52, 64, 76]
    assert len({(line["round"], line["id"]) for line in ledger}) == len(ledger) == 76
    said = [row.answer for path in sorted((run / "queue").glob("*.csv")) for row in read_sheet(path)[0]]
    classes = json.loads((run / "provenance.json").read_text())["classes"]
    assert [line.get("answer") or classes[line["label"]] for line in ledger] == [
        word.replace(" ", "_") if word == "bad image" else word for word in said
    ]
    assert {"unsure", "skip", "bad image"} <= set(said)
    assert sum(text.count(" ?!") for text in told) >= 5
    assert all("row " in line for text in told for line in text.splitlines() if " ?!" in line)


@needs_tiles
def test_the_labels_are_the_folders_that_the_files_lie_in_but_for_the_wrong_ones(walked):
    run, _ = walked
    names = {}
    for path in sorted((run / "queue").glob("*.csv")):
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw.startswith(b"\xff\xfe") else "utf-8-sig")
        separator = next(sign for sign in "\t;," if sign in text.split("\n")[0])
        names |= {row["id"]: row["image"] for row in csv.DictReader(text.splitlines(), delimiter=separator)}
    classes = json.loads((run / "provenance.json").read_text())["classes"]
    labelled = [line for line in lines_of(run / "ledger.jsonl") if line["label"] is not None]
    right = [Path(names[line["id"]]).parent.name == classes[line["label"]] for line in labelled]
    assert 0.75 < np.mean(right) < 1


@needs_tiles
@pytest.mark.skipif(shutil.which("soffice") is None, reason="needs LibreOffice")
def test_libreoffice_changes_nothing(walk, walked):
    run, told = walk("by_libreoffice", BY_LIBREOFFICE)
    assert len(told) == len(walked[1])
    for name in ("ledger.jsonl", "rounds.jsonl"):
        assert lines_of(run / name) == lines_of(walked[0] / name)


@needs_tiles
def test_the_onnx_model_agrees_and_a_new_folder_is_predicted(walked, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    run, out, photos = walked[0], tmp_path / "inspector", tmp_path / "photos"
    assert export_main([str(run), "--out", str(out), "--images"]) == 0
    assert "are reproduced exactly" in capsys.readouterr().out
    for folder in sorted(TILES.iterdir()):
        for file in sorted(folder.glob("*.jpg"))[:7]:
            (photos / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, photos / folder.name)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    table = tmp_path / "today.csv"
    assert predict_main([str(out), str(photos), "--out", str(table), "--all"]) == 1  # one file is broken
    assert "skipped" in capsys.readouterr().err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(photos.glob("*/*.jpg"))) > 30
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["checks"]["onnx"]["images"] == 100
    classes, shape = manifest["model"]["classes"], tuple(manifest["model"]["shape"])
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    images = np.stack([decode_file(Path(row["path"]), shape) for row in rows])
    (expected,) = session.run(None, {"images": images})
    found = np.array([[float(row[f"p({name})"]) for name in classes] for row in rows])
    assert np.abs(found - expected).max() < 1e-4
    assert [row["class"] for row in rows] == [classes[best] for best in found.argmax(axis=1)]
    usable = lines_of(run / "rounds.jsonl")[-1]["usable"]
    with (out / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) == usable == len(list((out / "images").glob("*/*.png")))


def test_any_run_can_be_played(script, workplace, tmp_path, capsys):
    """Drawn surfaces, JSON lines: typos are refused, and corrected when the person is played again."""
    plan = load([
        "annotator=queue", "annotator.format=jsonl", "dataset.pool_size=60", "dataset.test_size=40", "dataset.size=16", "model.width=4",
        "uncertainty=point", "strategy=random", "trainer.epochs=1", "trainer.min_steps=6", "trainer.warmup=0", "budget.initial=20",
        "budget.query_size=5", "budget.rounds=1", "run.tensorboard=false", "progress=false", "threads=1", "device=cpu",
        f"run.root={tmp_path}",
    ])  # fmt: skip
    play = [str(plan.folder), "--typo", "0.3", "--wrong", "0.2"]
    with pytest.raises(Waiting):
        execute(plan)
    assert script.main(play) == 0
    with pytest.raises(DataError, match=r" \?!'"):
        execute(plan)
    assert script.main(play) == 0
    with pytest.raises(Waiting):
        execute(plan)
    assert script.main([str(plan.folder)]) == 0
    execute(plan)
    told = capsys.readouterr().out
    assert "round_000.jsonl: " in told
    assert "corrected" in told
    pool = plan.dataset.load(plan.cache).pool
    truth = dict(zip(pool.ids, pool.labels.tolist(), strict=True))
    right = [line["label"] == truth[line["id"]] for line in lines_of(plan.folder / "ledger.jsonl")]
    assert len(right) == 25
    assert right.count(False) == int(told.split(" wrong")[0].split()[-1])


def test_a_folder_that_is_no_run_is_told(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 1
    assert "with files to fill, got none" in capsys.readouterr().err
