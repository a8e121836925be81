"""Run folders that version 0.1.0 wrote: read, resumed to the same weights, replayed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segdistill import api
from segdistill.config.yaml import load
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.run_folder import RunFolder

pytestmark = pytest.mark.integration
FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def old(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with copies of the old run folders, their data and their teacher."""
    for name in ("run-0.1.0", "nonfinite-0.1.0"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    shutil.copy(FIXTURES / "broken.py", tmp_path)
    (tmp_path / "data").symlink_to(shapes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")
    return tmp_path


def test_records_and_student_are_read(old: Path) -> None:
    folder = RunFolder(old / "run-0.1.0")
    steps, evaluations = folder.history()
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in evaluations] == [3, 6]
    assert len(folder.image_scores) == 4
    assert folder.config.optim.name == "sgd"
    assert folder.student()(torch.zeros(1, 3, 20, 31)).shape == (1, 9, 20, 31)
    assert Path(api.report([folder.path])).is_file()


def test_it_is_resumed_to_the_weights_that_the_old_version_ended_with(old: Path) -> None:
    run = old / "run-0.1.0"
    api.train(load(type(RunFolder(run).config), run / "config.yaml"), resume=True, report=False)
    found = Checkpoints(run / "checkpoints").load()
    assert found is not None
    step, state = found
    assert step == 6
    final = load_file(FIXTURES / "run-0.1.0-final.safetensors")
    assert final.keys() == state["student"].keys()
    for name, value in final.items():  # processors round differently
        torch.testing.assert_close(state["student"][name], value, atol=1e-3, rtol=1e-2)


def test_a_batch_that_was_not_finite_is_replayed(old: Path) -> None:
    found = api.replay(old / "nonfinite-0.1.0" / "nonfinite.json")
    assert found["bad"] == ["shape_000002"]
    assert found["nonfinite"][:2] == ["the teacher's logits", "soft loss"]
    assert found["terms"]["hard"] == pytest.approx(2.3480377197265625, rel=1e-6)
