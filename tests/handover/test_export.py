"""The folder that `alframe export` writes: whole or not at all, and what lies in it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alframe.errors import RunFolderError
from alframe.handover import onnx
from alframe.handover.cli import export_main
from alframe.handover.export import export, sha256
from alframe.handover.predictor import load
from alframe.handover.trained import retrieve

ENSEMBLE = ["uncertainty=ensemble", "uncertainty.members=2"]
DROPOUT = ["uncertainty=mc_dropout", "uncertainty.draws=4"]
has_onnx = pytest.mark.skipif(bool(onnx.missing()), reason="onnx is not installed")


def quietly(run, out, **options):
    return export(retrieve(run, progress=False), out, say=lambda _: None, **{"with_onnx": False, **options})


def test_an_export_holds_model_labels_images_and_their_digests(make_run, tmp_path, capsys):
    run = make_run(*ENSEMBLE)
    assert export_main([str(run), "--out", str(tmp_path / "out"), "--images", "--no-onnx"]) == 0
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "README.txt",
        "images",
        "labels.csv",
        "manifest.json",
        "model.safetensors",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"] == {name: sha256(out / name) for name in ("README.txt", "labels.csv", "model.safetensors")}
    assert manifest["labelled"] == 25 == len(list(out.glob("images/*/*.png")))
    assert manifest["model"]["run"]["metrics_differ_by"] == 0.0
    assert len(manifest["mean"]) == 3
    assert "2 networks, 2 draws" in (out / "README.txt").read_text()
    told = capsys.readouterr().out
    assert "from its checkpoint; its test metrics are reproduced exactly" in told
    assert f"Written to {out}" in told
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing is left beside it"
    assert (out.stat().st_mode & 0o777, (out / "model.safetensors").stat().st_mode & 0o777) == (0o755, 0o644)


def test_the_default_place_is_in_the_run_and_the_run_goes_on_as_before(make_run, copy_of):
    run = copy_of(make_run(*DROPOUT))
    assert export_main([str(run), "--no-onnx"]) == 0
    assert (run / "export" / "model.safetensors").is_file()
    assert retrieve(run, progress=False).difference == 0.0


def test_a_folder_with_files_is_refused_and_only_an_export_is_overwritten(make_run, tmp_path):
    run = make_run(*DROPOUT)
    out = tmp_path / "out"
    out.mkdir()
    quietly(run, out)  # empty is free
    first = (out / "model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="empty folder"):
        quietly(run, out)
    quietly(run, out, overwrite=True, images=True)
    assert (out / "images").is_dir()
    assert (out / "model.safetensors").read_bytes() == first, "the same run gives the same bytes"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="got notes.txt"):
        quietly(run, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(RunFolderError, match="which is a file"):
        quietly(run, out / "notes.txt", overwrite=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "labels.csv").write_text("mine")
    with pytest.raises(RunFolderError, match="no manifest.json"):
        quietly(run, foreign, overwrite=True)


def test_what_fails_leaves_nothing_and_says_one_line(make_run, copy_of, tmp_path, capsys):
    place = tmp_path / "place"
    place.mkdir()
    run = copy_of(make_run(*DROPOUT))
    lines = (run / "rounds.jsonl").read_text().splitlines()
    (run / "rounds.jsonl").write_text("\n".join([lines[0], lines[1].replace('"test/nll": ', '"test/nll": 9')]) + "\n")
    assert export_main([str(run), "--out", str(place / "out"), "--no-onnx"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Expected to reproduce the test metrics of round 1")
    assert error.count("\n") == 1
    assert not list(place.iterdir())
    assert export_main([str(run), "--out", str(place / "out"), "--no-onnx", "--accept-difference"]) == 0

    (tmp_path / "file").write_text("")
    assert export_main([str(make_run(*DROPOUT)), "--out", str(tmp_path / "file" / "out"), "--no-onnx"]) == 1
    assert "choose another with --out" in capsys.readouterr().err
    assert export_main([str(tmp_path), "--out", str(place / "none")]) == 1
    assert "Expected the folder of a run" in capsys.readouterr().err


def test_an_unfinished_run_is_exported_and_said_so(make_run, copy_of, tmp_path, capsys):
    run = copy_of(make_run(*DROPOUT))
    (run / "rounds.jsonl").write_text((run / "rounds.jsonl").read_text().splitlines()[0] + "\n")
    assert export_main([str(run), "--out", str(tmp_path / "out"), "--no-onnx"]) == 0
    assert "round 0 of an unfinished run, 20 labels" in capsys.readouterr().out
    assert "not finished" in (tmp_path / "out" / "README.txt").read_text()
    rows = (tmp_path / "out" / "labels.csv").read_text().splitlines()
    assert len(rows) == 1 + 25, "labels bought after the exported round are there too"


@pytest.mark.slow
@has_onnx
@pytest.mark.parametrize(
    ("options", "gives"),
    [
        (ENSEMBLE, "the mean over 2 networks"),
        (DROPOUT, "deterministic network"),
        (
            [*DROPOUT, "uncertainty.temperature=true", "budget.validation=0.3", "dataset.normalization=image"],
            "deterministic network",
        ),
        (["model=frozen", "model.input_size=32", "model.average_over=turns"], "the posterior mean"),
        (
            [
                *("model=frozen", "model.input_size=null", "dataset.size=56", "model.average_over=flips"),
                *("model.tiles=2", "trainer=sgd", "uncertainty=point"),
            ],
            "the network",
        ),
    ],
    ids=["ensemble", "mc_dropout", "tempered", "bayes_linear on turns", "a network on tiles and flips"],
)
def test_onnx_gives_pytorchs_probabilities_for_any_number_of_images(options, gives, make_run, tmp_path, capsys):
    import onnxruntime

    if "model=frozen" in options:
        pytest.importorskip("efficientnet_lite_pytorch")
    run = make_run(*options)
    assert export_main([str(run), "--out", str(tmp_path / "out")]) == 0
    assert gives in capsys.readouterr().out
    checks = json.loads((tmp_path / "out" / "manifest.json").read_text())["checks"]["onnx"]
    assert checks["images"] == 40
    assert checks["max_abs_difference"] <= 1e-4

    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["good", "defective"]
    predictor = load(Path(tmp_path / "out" / "model.safetensors"), torch.device("cpu"))
    images = np.random.default_rng(5).integers(0, 256, (9, *predictor.spec.shape)).astype(np.uint8)
    prediction = predictor.predict(torch.from_numpy(images))
    wanted = prediction.mean_log_probs if predictor.averages else prediction.point_log_probs
    for n in (1, 9):
        (found,) = session.run(None, {"images": images[:n]})
        np.testing.assert_allclose(found, wanted[:n].exp().numpy(), atol=1e-5)


@pytest.mark.slow
@has_onnx
def test_an_onnx_file_that_disagrees_is_an_error(make_run, tmp_path):
    from alframe.errors import DataError

    quietly(make_run(*DROPOUT), tmp_path / "one", with_onnx=True)
    quietly(make_run(*DROPOUT, "seed=1"), tmp_path / "other")
    other = load(tmp_path / "other" / "model.safetensors", torch.device("cpu"))
    images = np.random.default_rng(5).integers(0, 256, (9, 3, 16, 16)).astype(np.uint8)
    with pytest.raises(DataError, match="within 0.0001 of PyTorch's"):
        onnx.difference(tmp_path / "one" / "model.onnx", other, images)
