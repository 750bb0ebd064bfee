"""What `--tensorboard` writes, read back by TensorBoard's own reader."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from alframe.report.cli import main
from alframe.report.read.section import sections
from alframe.report.statistics.curves import band
from alframe.report.write.tensorboard import write


def sweep(write_run, n_seeds=5, **options):
    rng = np.random.default_rng(0)
    for strategy in ("random", "margin"):
        for seed in range(n_seeds):
            values = (np.array([0.5, 0.6, 0.7]) + rng.normal(0, 0.02, 3)).tolist()
            write_run(strategy, seed, values, more={"validation/accuracy": 0.5, "test/recall/good": 0.9}, **options)


def board(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(accumulator, tag):
    return {event.step: event.value for event in accumulator.Scalars(tag)}


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_mean_and_band_of_each_cell_at_its_label_counts(write_run, tmp_path, n_seeds):
    sweep(write_run, n_seeds)
    (section,), _ = sections([tmp_path])
    root = write([section], tmp_path / "out")
    assert sorted(path.name for path in (root / "elpv").iterdir()) == ["margin", "random"]
    for name in ("random", "margin"):
        values = np.array([[line["test/accuracy"] for line in run.rounds] for run in section.cells[name].values()])
        low, high = band(values, bootstrap=n_seeds == 5)
        read = board(root / "elpv" / name)
        for tag, expected in (("", values.mean(axis=0)), ("low/", low), ("high/", high)):
            found = scalars(read, f"{tag}test/accuracy")
            assert list(found) == [100, 110, 120]
            assert list(found.values()) == pytest.approx(expected, rel=1e-6)
        assert (low < values.mean(axis=0)).all()
        assert scalars(read, "final/accuracy") == {120: pytest.approx(values[:, -1].mean())}
        area = (values[:, 0] + 2 * values[:, 1] + values[:, 2]).mean() / 4
        assert scalars(read, "area/accuracy") == {120: pytest.approx(area)}


def test_the_layout_has_a_margin_chart_for_each_metric(write_run, tmp_path):
    sweep(write_run)
    root = write(sections([tmp_path])[0], tmp_path)
    read = board(root / "elpv/random")
    (event,) = read.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {category.title: [chart.title for chart in category.chart] for category in layout.category}
    assert charts == {
        "Test": ["test/nll", "test/accuracy"],  # the page shows the last one first
        "Recall of each class": ["test/recall/good"],
        "Validation": ["validation/accuracy"],
        "Seconds": ["fit_s"],
    }
    series = [series for category in layout.category for chart in category.chart for series in chart.margin.series]
    tags = set(read.Tags()["scalars"])
    assert {tag for one in series for tag in (one.value, one.lower, one.upper)} <= tags


def hparams(read, tag):
    content = read.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_the_table_has_a_row_a_cell_with_final_and_area(write_run, tmp_path):
    sweep(write_run)
    root = write(sections([tmp_path])[0], tmp_path)
    read = board(root / "elpv/margin")
    experiment = hparams(read, "_hparams_/experiment").experiment
    columns = [info.name.tag for info in experiment.metric_infos]
    assert columns == [f"{what}/{name}" for name in ("accuracy", "nll", "recall/good") for what in ("final", "area")]
    assert set(columns) <= set(read.Tags()["scalars"])
    row = hparams(read, "_hparams_/session_start_info").session_start_info.hparams
    assert row["strategy"].string_value == "margin"
    assert row["seeds"].number_value == 5
    assert {info.name for info in experiment.hparam_infos} == set(row) == {"strategy", "seeds"}


def test_the_table_has_the_choices_that_vary(write_run, tmp_path):
    sweep(write_run)
    sweep(write_run, model="resnet18", n_seeds=3)
    root = write(sections([tmp_path])[0], tmp_path)
    row = hparams(board(root / "elpv/margin - resnet18"), "_hparams_/session_start_info").session_start_info.hparams
    assert {name: value.string_value for name, value in row.items() if name != "seeds"} == {
        "strategy": "margin",
        "model": "resnet18",
    }


def test_writing_again_replaces_what_was_written_and_nothing_else(write_run, tmp_path):
    sweep(write_run)
    compared, _ = sections([tmp_path])
    theirs = tmp_path / "tensorboard" / "events.out.tfevents.1.run"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a run's own board")
    for _ in range(2):
        root = write(compared, tmp_path)
    assert len(list((root / "elpv/random").iterdir())) == 1
    assert theirs.read_bytes() == b"a run's own board"


def test_comparisons_and_cells_have_folders_of_their_own(write_run, tmp_path):
    sweep(write_run)
    sweep(write_run, options={"budget.query_size": 20})
    write_run("a/b", 0, study="odd", dataset="../up")
    write_run("a:b", 0, study="odd", dataset="../up")
    root = write(sections([tmp_path])[0], tmp_path / "out")
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("events.*")}
    assert folders == {
        *(f"elpv (budget.query_size={size})/{name}" for size in (10, 20) for name in ("random", "margin")),
        "-up/a-b",
        "-up/a-b 2",
    }


def test_a_metric_that_some_runs_lack_is_written_for_the_others(write_run, tmp_path):
    for seed in range(3):
        write_run("random", seed)
        write_run("margin", seed, more={"test/auprc": 0.5})
    root = write(sections([tmp_path])[0], tmp_path)
    assert scalars(board(root / "elpv/margin"), "test/auprc") == {100: 0.5, 110: 0.5, 120: 0.5}
    assert "test/auprc" not in board(root / "elpv/random").Tags()["scalars"]


def test_the_command_says_how_to_open_it(write_run, tmp_path, capsys):
    sweep(write_run)
    assert main([str(tmp_path), "--tensorboard"]) == 0
    assert f"tensorboard --logdir '{tmp_path / 'tensorboard'}'" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 0
    assert "--logdir" not in capsys.readouterr().out
