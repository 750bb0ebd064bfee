"""Where files lie is no part of what a run is: spelled otherwise, moved, or beside a folder of the same name."""

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from alframe.annotator.cli import main as queue_command
from alframe.cli import launch, resume
from alframe.config.overrides import load
from alframe.config.plan import cell_name
from alframe.errors import RunFolderError, Waiting
from alframe.handover.cli import export_main, predict_main

OPTIONS = [
    "annotator=queue", "dataset=image_folder", "dataset.size=8", "dataset.augmentation=null", "dataset.normal=null", "model.width=4",
    "trainer.epochs=1", "trainer.min_steps=6", "uncertainty=point", "strategy=entropy", "budget.initial=6", "budget.query_size=4",
    "budget.rounds=1", "run.tensorboard=false", "progress=false", "threads=1", "device=cpu", "cache=cache",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(folder: Path, seed: int = 0, *, growing: bool = False) -> Path:
    """24 photos of two classes, dark and light; or all of them unlabelled."""
    rng = np.random.default_rng(seed)
    for number in range(24):
        light = number % 2
        place = folder / ("unlabelled" if growing else ("dark", "light")[light])
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(110 * light, 110 * light + 140, (8, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}_{('dark', 'light')[light]}.png")
    for name in ("dark", "light"):
        (folder / name).mkdir(exist_ok=True)
    return folder


def waits(root, *more: str) -> str:
    with pytest.raises(Waiting) as waiting:
        launch(*OPTIONS, f"dataset.root={root}", *more)
    return str(waiting.value)


def answer(folder: Path) -> None:
    """Fill every sheet of the run by the photos' names."""
    for path in (folder / "queue").glob("round_*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "answer": Path(row["image"]).stem.split("_")[1]} for row in rows)


def the_run() -> Path:
    (run,) = Path("runs").glob("*/*/seed=0")
    return run


def digest(folder: Path) -> str:
    """Of all files but the lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


@pytest.mark.parametrize("growing", [False, True], ids=["labelled", "growing"])
def test_a_run_goes_on_however_its_folder_is_spelled_and_wherever_it_was_moved(here, growing):
    root = photos(here / "photos", growing=growing)
    assert "6 of 6 answers of round 0" in waits("photos")
    assert the_run().parent.parent.name == "photos"
    assert "photos" not in the_run().parent.name
    assert "6 of 6 answers of round 0" in waits("photos/")
    answer(the_run())
    assert "4 of 4 answers of round 1" in waits(root)
    answer(the_run())
    (here / "disk").mkdir()
    moved = root.rename(here / "disk" / "photos")
    lines = launch(*OPTIONS, f"dataset.root={moved}")
    assert [line["labels"] for line in lines] == [6, 10]
    assert load([*OPTIONS, f"dataset.root={root}"]).folder == Path(the_run())


def test_a_run_of_renamed_photos_is_named_where_another_would_begin(here, capsys):
    photos(here / "photos")
    waits("photos")
    answer(the_run())
    waits("photos")
    run = the_run().resolve()
    Path("photos").rename("pictures")
    capsys.readouterr()
    assert "6 of 6" in waits("pictures")
    told = capsys.readouterr().err
    assert f"{run} has answers of people about 6 of these images" in told
    answer(run)
    assert resume([str(run), "dataset.root=pictures"]) == 0
    assert "budget spent" in (run / "rounds.jsonl").read_text()


@pytest.mark.parametrize("growing", [False, True], ids=["labelled", "growing"])
def test_another_folder_of_the_same_name_is_told_and_the_run_is_not_touched(here, growing):
    photos(here / "a" / "photos", growing=growing)
    photos(here / "b" / "photos", seed=1, growing=growing)
    waits("a/photos")
    before = digest(the_run())
    with pytest.raises(RunFolderError, match="photos|data that this run started with"):
        launch(*OPTIONS, "dataset.root=b/photos")
    assert digest(the_run()) == before
    assert "6 of 6" in waits("a/photos")
    waits("b/photos", "run.name=of b")


def test_growing_photos_may_be_moved_while_some_are_deleted(here):
    root = photos(here / "photos", growing=True)
    waits(root)
    answer(the_run())
    (here / "disk").mkdir()
    moved = root.rename(here / "disk" / "photos")
    for path in sorted((moved / "unlabelled").glob("*.png"))[:8]:
        path.unlink()
    assert "4 of 4 answers of round 1" in waits(moved)


def test_a_run_stays_in_the_folder_that_an_earlier_version_gave_it(here):
    photos(here / "photos")
    waits("photos")
    overrides = [*OPTIONS, "dataset.root=photos"]
    plan = load(overrides)
    quiet = (
        "run",
        "cache",
        "device",
        "threads",
        "progress",
        "budget.rounds",
        "annotator.new_classes",
        "dataset.size_warning",
    )
    former = Path("runs/image_folder") / cell_name(plan.identity["choices"], overrides, quiet) / "seed=0"
    assert "dataset.root=photos" in cell_name(plan.identity["choices"], ["dataset.root=photos"], quiet)
    former.parent.mkdir(parents=True)
    the_run().rename(former)
    shutil.rmtree("runs/photos")
    assert load(overrides).folder == former
    answer(former)
    assert "4 of 4 answers of round 1" in waits("photos")


def test_data_of_a_finished_run_may_lie_elsewhere_for_export_and_predict_and_queue(here, capsys):
    photos(here / "photos")
    waits("photos")
    run = the_run()
    answer(run)
    waits("photos")
    Path("photos").rename("pictures")
    assert queue_command(["export", str(run), "open.csv", "--root", "pictures"]) == 0
    with open("open.csv", encoding="utf-8-sig", newline="") as file:
        assert all(Path(row["image"]).is_file() for row in csv.DictReader(file))
    answer(run)
    assert resume([str(run), "dataset.root=pictures"]) == 0
    Path("pictures").rename("again")
    assert export_main([str(run), "--no-onnx"]) == 1
    assert "Expected dataset.root to be" in capsys.readouterr().err
    assert export_main([str(run), "--no-onnx", "--root", "again"]) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    assert predict_main([str(run), "again/dark", "--root", "again"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 13


def test_arrays_are_named_by_their_file(here):
    np.savez("parts.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 0, 1]))
    assert load(["dataset=arrays", "dataset.root=parts.npz"]).folder.parts[:2] == ("runs", "parts")
    assert load(["dataset=arrays", "dataset.root=parts.npz", "run.name=mine"]).folder.parts[1] == "mine"


def test_a_file_of_weights_is_named_by_its_content_and_compared_by_it(here):
    model = ["model=torchvision", "model.name=squeezenet1_0"]
    weights = torchvision.models.squeezenet1_0().state_dict()
    torch.save(weights, "one.pth")
    torch.save({**weights, "features.0.bias": torch.ones(96)}, "two.pth")
    shutil.copy("one.pth", "copy.pth")
    folders = {name: load([*model, f"model.weights={name}.pth"]).folder for name in ("one", "copy", "two")}
    assert folders["one"] == folders["copy"] != folders["two"]
    assert "one.pth" not in str(folders["one"])
    plan = load([*model, "model.weights=copy.pth"])
    may = plan.declared.may_become
    assert may("model.weights", "one.pth", "copy.pth")
    assert not may("model.weights", "one.pth", "DEFAULT")
    assert not may("model.weights", None, "DEFAULT")
    assert not may("resolved.weights", "a", "b")


def test_a_folder_of_target_images_is_named_by_its_last_name(here):
    for name in ("lineA", "lineB"):
        (here / name).mkdir()
    base = ["strategy=epig"]
    one, same, other, pool = (
        load([*base, *more]).folder
        for more in (["query.target=lineA"], [f"query.target={here}/lineA/"], ["query.target=lineB"], [])
    )
    assert one == same
    assert len({one, other, pool}) == 3
    may = load([*base, "query.target=lineA"]).declared.may_become
    assert may("query.target", "lineA", "/moved/lineA")
    assert not may("query.target", "pool", "lineA")


# -- fewer rounds than planned --------------------------------------------------------------------------------------------


def test_fewer_rounds_are_a_stop_and_more_go_on_where_it_was(here, capsys):
    photos(here / "photos")
    five = [*OPTIONS, "dataset.root=photos", "budget.rounds=3"]
    for _ in range(2):
        with pytest.raises(Waiting):
            launch(*five)
        answer(the_run())
    with pytest.raises(Waiting):
        launch(*five)  # asks the questions of round 2
    two = launch(*OPTIONS, "dataset.root=photos", "budget.rounds=1")
    assert [line["labels"] for line in two] == [6, 10]
    assert two[-1]["stopped"] == "budget spent"
    assert export_main([str(the_run()), "--no-onnx"]) == 0
    assert launch(*OPTIONS, "dataset.root=photos", "budget.rounds=1") == two
    assert "finished already (budget spent)" in capsys.readouterr().out

    fewer = launch(*OPTIONS, "dataset.root=photos", "budget.rounds=0")  # than there are
    assert fewer == two
    answer(the_run())
    rest = launch(*five[:-1], "budget.rounds=2")
    assert [line["labels"] for line in rest] == [6, 10, 14], "the questions that were open when it stopped"
    assert rest[:1] == two[:1]


def test_a_stop_while_questions_are_open_is_a_stop_too(here):
    photos(here / "photos")
    with pytest.raises(Waiting):
        launch(*OPTIONS, "dataset.root=photos", "budget.rounds=2")
    answer(the_run())
    with pytest.raises(Waiting):
        launch(*OPTIONS, "dataset.root=photos", "budget.rounds=2")
    (only,) = launch(*OPTIONS, "dataset.root=photos", "budget.rounds=0")
    assert only["stopped"] == "budget spent"
