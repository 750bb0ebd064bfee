import nbformat
import pytest
from nbclient import NotebookClient
from tests_support import with_options


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_walk_from_photos_to_an_inspector_runs_from_top_to_bottom(repository, tmp_path):
    notebook = nbformat.read(repository / "notebooks/factory.ipynb", as_version=4)
    with_options(notebook, "trainer.min_steps=10")
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    told = ["".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs) for outputs in cells]
    asked, arrived, exported = (
        next(text for text in told if words in text) for words in ("Waiting for", "budget spent", "model.onnx:")
    )
    assert "200 photos, 80 of them in class folders, 80 of these the test set" in " ".join(asked.split())
    assert "20 new" in arrived
    assert "its test metrics are reproduced exactly" in exported
    assert any("image/png" in output.get("data", {}) for outputs in cells for output in outputs)
    assert any("people/bob/agreement" in text for text in told)
    assert (tmp_path / "factory/today.csv").read_text().count("\n") == 11
    assert (tmp_path / "factory/inspector/labels.csv").read_text().count("\n") == 61
