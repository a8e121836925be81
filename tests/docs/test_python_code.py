"""The Python code of the documentation runs, on small data and with few steps."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from markdown_pages import PAGES, Block, blocks_of, name_of

import segdistill
from segdistill.config.deploy import ExportConfig

pytestmark = pytest.mark.integration
LARGE = 'import segdistill\n\n\ndef teacher():\n    return segdistill.load_student("runs/large")\n'
QUICK = 'steps=2, size=32, batch=4, student={"width": 0.1}, device="cpu", overwrite=True, report=False'
WITH_CODE = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]


@pytest.fixture
def project(shapes: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the pages' code runs in: data, a teacher, a student and its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")  # a run's card names mynet.py, which the test wrote
    shutil.copytree(shapes, "mydata")
    shutil.copytree(run, "runs/large")
    shutil.copytree(run, "runs/mine")
    images = sorted(Path("mydata").rglob("JPEGImages/*"))
    Path("photos").mkdir()
    shutil.copy(images[0], "photos")
    shutil.copy(images[0], "photo.jpg")
    Path("mynet.py").write_text(LARGE)
    runs = [[0, 5, 1], [5, 7, 2]]
    classes = [{"index": index, "runs": [start, length]} for start, length, index in runs]
    Path("mask.json").write_text(json.dumps({"width": 4, "height": 3, "classes": classes}))
    return tmp_path


def shortened(code: str) -> str:
    """With two steps of a small student, over the run that is there."""
    return re.sub(r"\bsteps=\d+", QUICK, code)


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run a block; one that begins with the comment `# FILE.py` is written to this file, too."""
    if found := re.match(r"# (\w+\.py)\n", block.code):
        Path(found[1]).write_text(block.code)
    exec(compile(shortened(block.code), str(block), "exec"), names)


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_code_runs(page: Path, project: Path, request: pytest.FixtureRequest) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        if block.language != "python":
            continue
        if block.unchecked:
            compile(block.code, str(block), "exec")
            continue
        if "student.onnx" in block.code and not Path("student.onnx").exists():
            segdistill.export("runs/mine", ExportConfig(out="student.onnx"))
        run_block(block, names)
