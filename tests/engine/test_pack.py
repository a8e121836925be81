"""Packing a run folder: half the weight, the same answers, and nothing that only training needs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import api, cli

pytestmark = pytest.mark.integration


def test_a_packed_run_answers_as_the_run_does(capsys: Any, run: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    assert cli.main(["pack", str(run), "--out", str(packed)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"run": str(packed)}
    assert err.startswith(f"Packing {run} into {packed}")
    assert sorted(path.name for path in packed.iterdir()) == [
        "config.yaml",
        "model.json",
        "model.safetensors",
    ]
    whole, half = ((folder / "model.safetensors").stat().st_size for folder in (run, packed))
    assert half < 0.6 * whole
    image = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        ours, theirs = (api.load_student(folder)(image) for folder in (run, packed))
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)
    assert (ours != theirs).any()  # rounded


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        api.pack(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_no_run_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        api.pack(tmp_path, tmp_path / "packed")
