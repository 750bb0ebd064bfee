"""Which classes are normal: named, known to the dataset, or guessed; and what follows it through a run."""

import io
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from alframe.cli import execute
from alframe.config.overrides import load
from alframe.config.stored import stored_plan
from alframe.console import RoundTable
from alframe.dataset.arrays import Arrays
from alframe.dataset.base import Dataset
from alframe.dataset.defects import Defects
from alframe.dataset.elpv import Elpv
from alframe.dataset.image_folder import ImageFolder
from alframe.dataset.normal import guessed, verdicts_on, with_normal
from alframe.dataset.shift.base import Shifted
from alframe.dataset.shift.imbalance import RareClass
from alframe.dataset.surfaces import KINDS
from alframe.errors import ConfigError, DataError
from alframe.experiment import Experiment
from alframe.images import Data, ImageSet
from alframe.model.small_cnn import SmallCNN
from alframe.record.read import read_provenance, read_rounds
from alframe.report.chapters.blocks import Options, Table
from alframe.report.chapters.purchases import chapter, wanted_classes
from alframe.report.read.section import sections

GUESSES = {
    "defect/ok": "ok",
    "bad/good": "good",
    "NG/OK": "OK",
    "crack/good": "good",
    "ok/crack/dent": "ok",
    "Free/Blowhole": "Free",
    "MT_Blowhole/MT_Free/MT_Uneven": "MT_Free",
    "Ausschuss/Gutteil": "Gutteil",
    "i.O./n.i.O.": "i.O.",
    "IO/NIO": "IO",
    "in Ordnung/nicht in Ordnung": "in Ordnung",
    "Fehler/fehlerfrei": "fehlerfrei",
    "Riss/schlecht": "Riss",  # of two classes the other than the defect
    "bon/défectueux": "bon",
    "conforme/non_conforme": "conforme",
    "buono/difettoso": "buono",
    "bueno/malo": "bueno",
    "良品/不良品": "良品",
    "合格/不合格": "合格",
    "正常/異常": "正常",
    "DefectFree/Defect": "DefectFree",
    "defect/no defect": "no defect",
    "not_ok/ok_1": "ok_1",
    "OK/KO": "OK",
    "crack/good_dark/good_light": "good_dark good_light",
}


def data(classes: str, labels=None) -> Data:
    names = tuple(classes.split("/"))
    labels = np.arange(40) % len(names) if labels is None else labels
    images = ImageSet(np.random.default_rng(0).integers(0, 255, (40, 1, 8, 8)).astype(np.uint8), labels, names)
    return Data("fake", images, images)


@pytest.mark.parametrize(("classes", "normal"), GUESSES.items())
def test_words_say_which_classes_are_normal(classes, normal):
    names = classes.split("/")
    found = guessed(names)
    assert found is not None
    assert " ".join(names[c] for c in found) == normal


@pytest.mark.parametrize(
    "classes",
    ["cat/dog", "0/1", "good/fine", "bad/defect", "crack/dent/defect", "ok/ok_defect/crack", "book/goodyear", "yes/no"],
)
def test_nothing_is_guessed_where_words_do_not_decide(classes):
    assert guessed(classes.split("/")) is None


def test_a_word_counts_only_as_a_whole():
    assert verdicts_on("book") == verdicts_on("badge") == verdicts_on("freeze") == set()


def test_a_dataset_that_knows_its_normal_classes_needs_no_guess(tmp_path):
    kinds = Defects(size=16, pool_size=10, test_size=10, task="kind").load(tmp_path)
    assert (kinds.normal, kinds.defects, kinds.normal_guessed) == ((0,), tuple(range(1, 1 + len(KINDS))), False)


@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")
def test_grades_below_the_threshold_are_normal(tmp_path):
    grades = Elpv(size=16, task="grades").load(tmp_path)
    assert [grades.named(some) for some in (grades.normal, grades.defects)] == [["0", "1/3"], ["2/3", "1"]]
    assert Elpv(size=16, task="grades", normal="0").load(tmp_path).defects == (1, 2, 3)
    assert Elpv(size=16).load(tmp_path).normal == (0,)


def test_the_option_names_the_normal_classes_and_the_rest_are_defects():
    named = with_normal(data("a/b/c"), ["c", "a"])
    assert (named.normal, named.defects, named.normal_guessed) == ((0, 2), (1,), False)
    assert with_normal(data("ok/b"), None).defects is None
    assert with_normal(data("0/1"), 1).normal == (1,)
    assert with_normal(data("guess/b"), "guess").normal == (0,)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("crak", "got 'crak'; did you mean 'crack'? the classes are ok, crack."),
        (["ok", "crack"], "leave at least one as a defect, got all of them"),
        ([], "got none of them"),
    ],
)
def test_a_wrong_name_or_no_defect_is_one_line(option, said):
    with pytest.raises(ConfigError) as error:
        with_normal(data("ok/crack"), option)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_data_with_impossible_normal_classes_are_refused():
    images = data("a/b").pool
    for normal in ((), (2,), (0, 1)):
        with pytest.raises(DataError, match="normal classes from 0 to 1"):
            Data("fake", images, images, normal=normal)


def test_a_class_that_people_name_is_a_defect():
    experiment = Experiment(with_normal(data("dent/ok"), "guess"), SmallCNN)
    assert experiment.with_classes(("dent", "ok", "stain")).data.defects == (0, 2)


def folder_of(root: Path, *classes: str) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def test_a_growing_pool_keeps_them_and_its_cache(tmp_path):
    root = folder_of(tmp_path / "photos", "defect", "ok", "unlabelled")
    loaded = ImageFolder(root, size=16).load(tmp_path / "cache")
    assert (loaded.grown, loaded.normal, loaded.normal_guessed) == ((20,), (1,), True)
    assert ImageFolder(root, size=16, normal="defect").load(tmp_path / "cache").normal == (0,)
    assert len(list((tmp_path / "cache").glob("*.lock"))) == 1


class Fixed(Dataset):
    def __init__(self, data: Data) -> None:
        self.data = data

    def load(self, cache: Path) -> Data:
        return self.data


@pytest.mark.parametrize(
    ("classes", "rare"),
    [("crack/ok", [0]), ("ok/crack", [1]), ("cat/dog", [1]), ("ok/dent/crack", [1, 2]), ("crack/dent/ok", [0, 1])],
)
def test_the_rare_classes_are_the_defects(classes, rare, tmp_path):
    shifted = Shifted(Fixed(with_normal(data(classes), "guess")), RareClass(share=0.2)).load(tmp_path)
    assert np.isin(shifted.pool.labels, rare).mean() == pytest.approx(0.2, abs=0.08)
    assert len(np.unique(shifted.pool.labels)) == len(classes.split("/"))
    assert shifted.normal == with_normal(data(classes), "guess").normal


OPTIONS = [
    "dataset=arrays", "dataset.root=few.npz", "model.width=4", "trainer.epochs=1", "trainer.min_steps=4", "uncertainty=point",
    "strategy=random", "budget.initial=8", "budget.query_size=4", "budget.rounds=1", "run.tensorboard=false", "progress=false",
    "threads=1", "device=cpu", "cache=cache",
]  # fmt: skip


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def save(classes: str) -> None:
        images = data(classes).pool
        np.savez("few.npz", images=images.pixels[:, 0], labels=images.labels, classes=np.array(images.classes))

    return save


def test_a_run_says_its_guess_measures_the_defects_and_the_report_finds_them(arrays, capsys):
    arrays("crack/dent/ok")
    plan = load(OPTIONS)
    lines = execute(plan)
    out = capsys.readouterr().out
    assert "normal: ok; defects: crack, dent (guessed from names; set dataset.normal)" in out
    assert re.search(r"from 1\d images, \d of them defects: read with care\n", out)
    assert {"test/auroc", "test/auprc", "test/cost", "test/recall_at_fpr_5", "test/accuracy"} <= set(lines[-1])
    assert read_provenance(plan.folder)["normal"] == ["ok"]
    (section,), _ = sections([plan.folder])
    assert section.metric == "test/accuracy"
    assert wanted_classes(section, section.bought()) == (0, 1)
    table = next(block for block in chapter(section, Options()).blocks if isinstance(block, Table))
    assert table.columns[2] == "defects found"
    assert "Defects are crack, dent." in table.note


def test_of_two_classes_without_a_word_class_1_is_the_defect_with_one_warning(arrays, capsys):
    arrays("cat/dog")
    execute(load(OPTIONS))
    first = capsys.readouterr().err
    assert first.count("dog counts as the defect") == 1
    assert "start a new run with 'dataset.normal=dog'" in first
    execute(load([*OPTIONS, "budget.rounds=2"]))
    assert "counts as the defect" not in capsys.readouterr().err


def test_a_run_that_began_before_keeps_class_1_as_its_defect(arrays, capsys):
    """Its config and provenance do not have the option."""
    arrays("defect/ok")
    new = load([*OPTIONS, "run.name=new"])
    execute(new)
    old = load([*OPTIONS, "run.name=old", "dataset.normal=null"])
    execute(old)
    config, provenance = old.folder / "config.yaml", old.folder / "provenance.json"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "  normal: " not in line))
    provenance.write_text(json.dumps({k: v for k, v in read_provenance(old.folder).items() if k != "normal"}))
    capsys.readouterr()
    execute(stored_plan(old.folder, **{"budget.rounds": 2}))
    assert "ok counts as the defect" in capsys.readouterr().err
    auroc = [line["test/auroc"] for line in read_rounds(old.folder)]
    assert len(auroc) == 3
    assert auroc[:2] == pytest.approx(
        [line["test/auroc"] for line in read_rounds(new.folder)]
    )  # p(ok) and p(defect) rank alike
    assert [line["test/auprc"] for line in read_rounds(old.folder)][:2] != [
        line["test/auprc"] for line in read_rounds(new.folder)
    ]
    (one, two), _ = sections([new.folder, old.folder])
    assert {wanted_classes(section, section.bought()) for section in (one, two)} == {(0,), (1,)}


def test_an_unknown_name_is_one_line_of_a_run(arrays):
    arrays("ok/crack")
    with pytest.raises(ConfigError, match="did you mean 'ok'"):
        execute(load([*OPTIONS, "dataset.normal=okk"]))
    assert Arrays("few.npz", normal="crack").load(Path("cache")).defects == (0,)


def test_few_images_are_remarked_once():
    out = io.StringIO()
    table = RoundTable(binary=True, console=Console(file=out, width=200))
    for round in range(2):
        table.row(
            {"round": round, "labels": 8, "test/accuracy": 0.5}, "from 4 images, 1 of them a defect: read with care"
        )
    assert out.getvalue().count("read with care") == 1
