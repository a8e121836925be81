"""The run folder: what it holds, whom it lets in, and what of another version it still reads."""

from pathlib import Path

import pytest
import torch

from segdistill.data.labels import LabelSet
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import ModelCard, read_card, read_weights
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road"))


def test_a_saved_student_is_a_run_folder(tmp_path: Path) -> None:
    student = DSUNet(2, width=0.1).to(memory_format=torch.channels_last)
    card = ModelCard(spec="dsunet", width=0.1, labels=LABELS, size=64, evaluate_size=None)
    RunFolder(tmp_path / "run").save_student(student, card)
    assert read_card(tmp_path / "run") == card
    state = read_weights(tmp_path / "run" / "model.safetensors")
    assert state.keys() == student.state_dict().keys()
    image = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(RunFolder(tmp_path / "run").student()(image), student.eval()(image))
