"""The posterior of a run's last round, got back from its checkpoint or from its ledger, and what is handed over of it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from alframe.errors import ConfigError, DataError, RunFolderError
from alframe.handover import predictor
from alframe.handover.predictor import Spec
from alframe.handover.trained import capture, retrieve
from alframe.learner import TEST

CPU = torch.device("cpu")
CASES = {
    "point": ["uncertainty=point"],
    "mc_dropout": ["uncertainty=mc_dropout", "uncertainty.draws=4"],
    "tempered": [
        "uncertainty=mc_dropout",
        "uncertainty.draws=4",
        "uncertainty.temperature=true",
        "budget.validation=0.3",
    ],
    "ensemble": ["uncertainty=ensemble", "uncertainty.members=2"],
    "laplace": ["uncertainty=laplace", "uncertainty.draws=4"],
    "snapshot": ["uncertainty=snapshot", "uncertainty.cycles=2"],
    "tta": ["uncertainty=tta", "uncertainty.draws=3"],
    "exposure": ["uncertainty=point", "dataset.normalization=image"],
    "frozen": ["model=frozen", "model.input_size=32", "trainer=sgd", "uncertainty=mc_dropout", "uncertainty.draws=4"],
    "frozen_bayes_linear": ["model=frozen", "model.input_size=32"],
    "frozen_tta": ["model=frozen", "model.input_size=32", "uncertainty=tta", "uncertainty.draws=2"],
    "frozen_tiles": [
        "model=frozen",
        "model.input_size=32",
        "dataset.size=64",
        "model.tiles=[1,2]",
        "model.average_over=flips",
        "uncertainty=tta",
        "uncertainty.draws=2",
    ],
    "unfrozen": ["model=frozen", "model.input_size=32", "model.freeze_until=1", "trainer=sgd", "uncertainty=point"],
    "torchvision": ["model=torchvision", "model.name=mobilenet_v2", "uncertainty=mc_dropout", "uncertainty.draws=2"],
}


def rewrite_last_round(run, **values):
    *before, last = (run / "rounds.jsonl").read_text().splitlines()
    (run / "rounds.jsonl").write_text("\n".join([*before, json.dumps({**json.loads(last), **values})]) + "\n")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def learner_says(trained):
    rows = torch.arange(len(trained.experiment.data.test))
    return torch.cat(
        [p.log_probs for p in trained.learner.predictions(TEST, rows, posterior=trained.learner.fitted)]
    ).exp()


def file_says(path, trained):
    loaded = predictor.load(path, CPU)
    images = torch.from_numpy(trained.experiment.data.test.pixels.copy())
    return torch.cat([loaded.predict(batch).log_probs for batch in images.split(predictor.BATCH)]).exp()


@pytest.mark.parametrize("case", CASES)
def test_checkpoint_ledger_and_exported_file_all_predict_like_the_run(case, make_run, copy_of, tmp_path):
    if "frozen" in case:
        pytest.importorskip("efficientnet_lite_pytorch")
    run = make_run(*CASES[case])
    before = contents(run)
    kept = retrieve(run, progress=False)
    assert (kept.how, kept.difference, kept.round) == ("from its checkpoint", 0.0, 1)

    bare = copy_of(run)
    shutil.rmtree(bare / "checkpoint")
    again = retrieve(bare, progress=False)
    assert "retrained it" in again.how
    assert again.difference == 0.0
    assert torch.equal(learner_says(again), learner_says(kept))

    spec, tensors = capture(kept)
    path = tmp_path / "model.safetensors"
    predictor.save(path, spec, tensors)
    torch.testing.assert_close(file_says(path, kept), learner_says(kept), rtol=0, atol=1e-6)
    assert contents(run) == before, "a run's folder is read, never written"


def test_the_description_lies_in_the_header_as_plain_text(make_run, tmp_path):
    run = make_run(*CASES["point"])
    trained = retrieve(run, progress=False)
    predictor.save(tmp_path / "m.safetensors", *capture(trained))
    spec = predictor.load(tmp_path / "m.safetensors", CPU).spec
    assert spec.classes == ("good", "defective")
    assert (spec.shape, spec.resize, spec.normalization) == ((3, 16, 16), "stretch", "pool")
    assert spec.model["_target_"] == "alframe.model.small_cnn.SmallCNN"
    assert spec.model["width"] == 4
    assert spec.run["labels"] == 25
    assert spec.run["test"]["accuracy"] == trained.line["test/accuracy"]
    assert load_file(tmp_path / "m.safetensors")["front.mean"].shape == (1, 3, 1, 1)


@pytest.mark.parametrize("kept", [(0, 1, 2), (1,), ()])
def test_a_warm_start_is_followed_back_to_the_weights_that_are_there(kept, make_run, copy_of):
    run = copy_of(make_run("trainer.warm_start=true", "budget.rounds=2", "run.name=longer", *CASES["point"]))
    for round in range(3):
        path = run / "checkpoint" / f"round_{round:03d}.safetensors"
        if round not in kept:
            path.unlink(missing_ok=True)
    trained = retrieve(run, progress=False)
    assert trained.difference == 0.0
    expected = {(0, 1, 2): "from its checkpoint", (1,): "retrained it", (): "retrained rounds 0 to 2"}
    assert expected[kept] in trained.how


def test_an_unfinished_run_gives_its_last_committed_round_and_leaves_torn_lines_alone(make_run, copy_of):
    run = copy_of(make_run("budget.rounds=2", "run.name=longer", *CASES["point"]))
    shutil.rmtree(run / "checkpoint")
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    with (run / "ledger.jsonl").open("a") as file:
        file.write('{"id": "torn')
    before = contents(run)
    trained = retrieve(run, progress=False)
    assert (trained.round, trained.stopped, trained.difference) == (1, False, 0.0)
    assert contents(run) == before


def test_metrics_that_do_not_come_out_again_are_an_error_unless_accepted(make_run, copy_of):
    run = copy_of(make_run(*CASES["point"]))
    stored = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])["test/nll"]
    rewrite_last_round(run, **{"test/nll": stored + 0.25})
    with pytest.raises(RunFolderError, match=f"nll {stored:.4f}, but rounds.jsonl has {stored + 0.25:.4f}"):
        retrieve(run, progress=False)
    assert retrieve(run, progress=False, accept=True).difference == pytest.approx(0.25 / max(1, stored + 0.25))


def test_other_data_than_the_ledger_is_about_are_refused(make_run, copy_of):
    run = copy_of(make_run(*CASES["point"]))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  seed: 0\n", "  seed: 7\n", 1))
    with pytest.raises(RunFolderError, match="the data has changed since"):
        retrieve(run, progress=False)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_checkpoint_is_named(damage, make_run, copy_of):
    run = copy_of(make_run(*CASES["point"]))
    path = run / "checkpoint" / "round_001.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_file({"0.other": torch.zeros(1)}, path)
    with pytest.raises(RunFolderError, match="round_001.safetensors") as error:
        retrieve(run, progress=False)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_run_or_have_no_round_say_so(make_run, copy_of, tmp_path):
    with pytest.raises(RunFolderError, match="Expected the folder of a run"):
        retrieve(tmp_path, progress=False)
    run = copy_of(make_run(*CASES["point"]))
    (run / "rounds.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="without; resume it first"):
        retrieve(run, progress=False)
    (run / "rounds.jsonl").write_text("{}\nnot json\n{}\n")
    with pytest.raises(RunFolderError, match=r"line 1 of .*rounds.jsonl"):
        retrieve(run, progress=False)


def test_a_file_of_others_can_name_no_code_but_classes_of_the_right_kind(make_run, tmp_path):
    trained = retrieve(make_run(*CASES["point"]), progress=False)
    spec, tensors = capture(trained)
    path = tmp_path / "m.safetensors"
    for node in (
        {"_target_": "os.system", "command": f"touch {tmp_path / 'pwned'}"},
        {"_target_": "alframe.record.files.write_atomically", "path": str(tmp_path / "pwned"), "text": ""},
        {"_target_": "pathlib.Path"},
        {"_target_": "no.such.thing"},
        {},
    ):
        predictor.save(path, Spec(**{**vars(spec), "model": node}), tensors)
        with pytest.raises(ConfigError, match="network"):
            predictor.load(path, CPU)
    assert not (tmp_path / "pwned").exists()


def test_later_formats_and_weights_of_other_networks_are_refused(make_run, tmp_path):
    trained = retrieve(make_run(*CASES["point"]), progress=False)
    spec, tensors = capture(trained)
    path = tmp_path / "m.safetensors"
    for changed, message in (
        ({"format": 99}, "format 1 or earlier"),
        ({"model": {**spec.model, "width": 5}}, "weights of the exported networks"),
        ({"members": 2}, "weights of the exported networks"),
    ):
        predictor.save(path, Spec(**{**vars(spec), **changed}), tensors)
        with pytest.raises(DataError, match=message) as error:
            predictor.load(path, CPU)
        assert "\n" not in str(error.value)
