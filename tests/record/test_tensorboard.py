"""What is written is read back from the event files, as TensorBoard would."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from alframe.metrics import evaluate
from alframe.record import tensorboard as module
from alframe.record.planned import Shown
from alframe.record.tensorboard import Board, query_figure

CLASSES = ["good", "scratch", "stain"]


def events(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events(folder).Scalars(tag)]


def picture(folder, tag: str, which: int = 0) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(events(folder).Images(tag)[which].encoded_image_string)))


def evaluation(n: int = 60) -> dict:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(n, 3, generator=generator).log_softmax(1)
    return evaluate(log_probs, torch.randint(3, (n,), generator=generator), CLASSES).as_dict()


def line(labels: int, **more: object) -> dict:
    return {
        "round": 0, "labels": labels, "usable": labels - 1, "train": labels - 11, "validation": 10, "test/accuracy": 0.5,
        "test/recall/scratch": 0.25, "train/loss": 0.1, "fit_s": 1.5, "pool_s": 0.5, "stopped": None, **more,
    }  # fmt: skip


def questions(q: int, score: float | None = 0.5, probs: bool = True) -> list[dict]:
    return [
        {
            "id": f"i{k}", "index": k, "kind": "query", "round": 0, "rank": k, "score": score, "score_name": "entropy (nats)",
            "probs": np.eye(3)[k % 3].tolist() if probs else None, "reason": "",
        }
        for k in range(q)
    ]  # fmt: skip


@pytest.fixture
def board(tmp_path):
    board = Board(tmp_path, None)
    yield board
    board.close()


def test_scalars_stand_at_the_number_of_labels(board, tmp_path):
    board.round(line(100), None)
    board.round(line(150, **{"test/accuracy": 0.75}), None)
    assert scalars(tmp_path, "test/accuracy") == [(100, 0.5), (150, 0.75)]
    assert scalars(tmp_path, "seconds/fit") == [(100, 1.5), (150, 1.5)]
    assert scalars(tmp_path, "counts/usable") == [(100, 99), (150, 149)]
    written = set(events(tmp_path).Tags()["scalars"])
    assert written == {
        "test/accuracy", "test/recall/scratch", "train/loss", "seconds/fit", "seconds/pool",
        "counts/usable", "counts/train", "counts/validation",
    }  # fmt: skip


def test_a_round_is_on_disk_when_the_call_returns(board, tmp_path):
    board.round(line(100), None)  # the writer is still open: a kill here must not lose the round
    assert scalars(tmp_path, "test/accuracy") == [(100, 0.5)]


def test_evaluation_figures_are_pictures(board, tmp_path):
    board.round(line(100), evaluation())
    for tag in ("evaluation/confusion", "evaluation/reliability"):
        pixels = picture(tmp_path, tag)
        assert pixels.ndim == 3
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 10


def test_evaluation_without_class_names_is_numbered(board, tmp_path):
    bare = evaluation()
    del bare["classes"]
    board.round(line(100), bare)
    assert picture(tmp_path, "evaluation/confusion").std() > 10


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("q", [1, 7, 64, 80])
def test_query_figures_for_any_number_of_images(board, tmp_path, channels, q):
    images = np.random.default_rng(0).integers(0, 256, (q, channels, 20, 28), dtype=np.uint8)
    answers = [None if k == 3 else (k // 2) % 3 for k in range(q)]
    scores = {"edges": np.linspace(0, 1, 11).tolist(), "counts": list(range(10))}
    board.query(100, questions(q), scores, Shown(answers, CLASSES, images))
    assert set(events(tmp_path).Tags()["images"]) == {"query/images", "query/classes", "query/scores"}
    assert events(tmp_path).Images("query/images")[0].step == 100


def test_the_grid_shows_the_images_in_rank_order_with_right_and_wrong_marked():
    images = np.stack([np.full((3, 16, 16), value, dtype=np.uint8) for value in (200, 100)])
    figure = query_figure(images, questions(2), [0, 2], CLASSES, 100)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["0.5 good", "✓ good", "0.5 scratch", "✗ stain"]
    colours = [text.get_color() for text in figure.axes[0].texts]
    assert colours[1] == module.GREEN
    assert colours[3] == module.RED
    sheet = figure.axes[0].images[0].get_array()
    middle = sheet[sheet.shape[0] // 2]
    greys = middle[(middle == middle[:, :1]).all(axis=1)][:, 0]
    places = [np.flatnonzero(greys == value) for value in (200, 100)]
    assert len(places[0]) == len(places[1]) == 112
    assert places[0].max() < places[1].min()


def test_query_sorts_by_rank_images_and_answers_alike(board, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        module, "query_figure", lambda *arguments: shown.update(zip("iqa", arguments, strict=False)) or module.Figure()
    )
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    mixed = [question | {"rank": rank} for question, rank in zip(questions(3), (2, 0, 1), strict=True)]
    board.query(100, mixed, None, Shown([10, 11, 12], ["c"] * 13, images))
    assert shown["i"].ravel().tolist() == [1, 2, 0]
    assert [question["rank"] for question in shown["q"]] == [0, 1, 2]
    assert shown["a"] == [11, 12, 10]


def test_features_have_no_grid_and_random_has_no_scores(board, tmp_path):
    board.query(100, questions(5, score=None, probs=False), None, Shown([0, 1, 2, 0, None], CLASSES))
    assert events(tmp_path).Tags()["images"] == ["query/classes"]


def test_scores_without_those_of_the_pool_are_drawn_alone(board, tmp_path):
    board.query(100, questions(5), None, Shown([0] * 5, CLASSES))
    assert "query/scores" in events(tmp_path).Tags()["images"]


def test_many_classes_and_odd_scores_can_be_drawn(board, tmp_path):
    classes = [f"a class with the number {k}" for k in range(100)]
    asked = [question | {"score": math.inf if question["rank"] == 0 else -3.0} for question in questions(10)]
    board.query(100, asked, {"edges": [-3.0, -2.0], "counts": [0]}, Shown(list(range(10)), classes))
    confusion = {"confusion": np.eye(100, dtype=int).tolist(), "classes": classes}
    board.round(line(100), evaluation() | confusion)
    assert set(events(tmp_path).Tags()["images"]) >= {"query/scores", "evaluation/confusion"}


def test_purged_steps_are_forgotten(tmp_path):
    first = Board(tmp_path, None)
    first.round(line(100), None)
    first.round(line(150), None)  # undone: killed before the round was committed
    first.close()
    second = Board(tmp_path, 150)
    second.round(line(150, **{"test/accuracy": 0.625}), None)
    second.close()
    assert scalars(tmp_path, "test/accuracy") == [(100, 0.5), (150, 0.625)]


def test_config_is_a_page_of_text(board, tmp_path):
    board.config("dataset:\n  _target_: alframe.dataset.defects.Defects\n")
    text = events(tmp_path).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "```yaml\ndataset:\n  _target_: alframe.dataset.defects.Defects\n```"


def test_hparams_are_in_the_run_itself(board, tmp_path):
    board.round(line(150), None)
    board.finish(
        {"strategy": "bald", "lr": 0.1, "nesterov": True, "sizes": [1, 2], "none": None}, {"final/accuracy": 0.9}
    )
    board.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    content = events(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    stored = HParamsPluginData.FromString(content).session_start_info.hparams
    assert stored["strategy"].string_value == "bald"
    assert stored["lr"].number_value == 0.1
    assert stored["sizes"].string_value == "[1, 2]"
    assert "none" not in stored
    assert scalars(tmp_path, "final/accuracy") == [(150, 0.9)]
    metadata = events(tmp_path).SummaryMetadata("_hparams_/experiment").plugin_data.content
    assert [info.name.tag for info in HParamsPluginData.FromString(metadata).experiment.metric_infos] == [
        "final/accuracy"
    ]


def test_names_are_cut_in_the_middle():
    assert module.shorten("scratch", 10) == "scratch"
    cut = module.shorten("a class with the number 57", 12)
    assert len(cut) == 12
    assert cut.endswith("57")
    assert "…" in cut


def test_the_nearest_labelled_images_stand_below_the_queried_ones(board, tmp_path):
    images = np.stack([np.full((3, 16, 16), value, dtype=np.uint8) for value in (10, 20, 30)])
    asked = questions(3)
    asked[0]["rank"], asked[2]["rank"] = 2, 0
    board.query(100, asked, None, Shown([0, 1, 2], CLASSES, images, images[:2] + 100))
    seen = picture(tmp_path, "query/nearest")
    assert seen.shape == (2 * 88 + 8, 2 * 88 + 8, 3)
    corners = [[int(seen[y + 40, x + 40, 0]) for x in (8, 96)] for y in (8, 96)]
    assert corners == [[30, 20], [110, 120]]  # the first two in rank order


def test_the_reasons_are_a_table_in_rank_order(board, tmp_path):
    asked = [{**q, "reason": f"good | bad {q['index']}"} for q in questions(3)]
    asked[0]["rank"], asked[2]["rank"] = 2, 0
    board.query(100, asked, None, Shown([0, None, 2], CLASSES))
    text = events(tmp_path).Tensors("query/reasons/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2:] == [
        "| 1 | i2 | good \\| bad 2 | stain |",
        "| 2 | i1 | good \\| bad 1 | no answer |",
        "| 3 | i0 | good \\| bad 0 | good |",
    ]
