import nbformat
import pytest
from nbclient import NotebookClient

from alframe import launch

TINY = [
    "run.name=small",
    "progress=false",
    "run.tensorboard=false",
    "dataset.pool_size=80",
    "dataset.test_size=60",
    "dataset.size=32",
    "model.width=4",
    "uncertainty.draws=3",
    "trainer.epochs=1",
    "trainer.min_steps=5",
    "budget.initial=20",
    "budget.query_size=5",
    "budget.rounds=2",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_comparison_runs_from_top_to_bottom_on_a_small_sweep(repository, tmp_path):
    for strategy in ("random", "margin"):
        for seed in range(3):
            launch(f"strategy={strategy}", f"seed={seed}", f"run.root={tmp_path / 'runs'}", *TINY)
    notebook = nbformat.read(repository / "notebooks/compare_strategies.ipynb", as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    runs, objections, curves, verdicts, needed = (c.outputs for c in notebook.cells if c.cell_type == "code")
    assert "defects: 6 runs, test/auroc from 20 to 30 labels" in runs[0]["text"]
    assert "few-seeds: defects, every strategy: 3 seeds" in objections[0]["text"]
    assert "image/png" in curves[0]["data"]
    assert "margin" in verdicts[0]["data"]["text/plain"]
    assert needed[0]["data"]["text/plain"].count("\n") == 4
