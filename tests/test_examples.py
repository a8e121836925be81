"""The notebooks of `examples/` run as they are, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_is_kept_without_outputs(file: Path) -> None:
    cells = nbformat.read(file, as_version=4).cells
    assert all(
        not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code"
    )


@pytest.mark.filterwarnings("default")  # of what runs kernels, none of which is ours
def test_deploy() -> None:
    notebook = nbformat.read(EXAMPLES / "deploy.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    results = [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    shares, overlay, mask, probabilities = results
    assert eval(shares["text/plain"])["cat"] > 0.3
    assert "image/png" in overlay
    assert mask["text/plain"].startswith("((300, 451), dtype('uint8'), ")
    assert all(0 < value < 1 for value in eval(probabilities["text/plain"]))


@pytest.mark.filterwarnings("default")  # of what runs kernels, none of which is ours
def test_quickstart() -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:  # the same cells on less data
        cell.source = cell.source.replace("images, steps = 300, 400", "images, steps = 10, 2")
    assert "images, steps = 10, 2" in "".join(cell.source for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    results = [output.data for output in outputs if output.output_type == "execute_result"]
    teacher, run, scores, comparison, prediction, exported = results[-6:]
    assert all("mean IoU" in shown["text/html"] for shown in (teacher, run, scores, comparison))
    assert run["text/html"].count("data:image/png") == 2
    assert "image/jpeg" in prediction
    assert "student.onnx" in exported["text/html"]
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
