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
