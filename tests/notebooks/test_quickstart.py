import re

import nbformat
import pytest
from nbclient import NotebookClient
from tests_support import with_options


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_quickstart_runs_from_top_to_bottom(repository, tmp_path):
    notebook = nbformat.read(repository / "notebooks/quickstart.ipynb", as_version=4)
    with_options(notebook, "trainer.epochs=1", "trainer.min_steps=10", "uncertainty.draws=4")
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "runs/quickstart/curves.png").exists()
    accuracy = float(re.search(r"0\.\d+", outputs[-1]["data"]["text/plain"]).group())
    assert accuracy > 0.6, "one fit to sixty labels"
