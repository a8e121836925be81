"""Checkpoints: the newest whole one is loaded, whatever happened to the others."""

from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill.engine.checkpoint import KEEP, Checkpoints

pytestmark = pytest.mark.unit


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load() is None
    assert Checkpoints(tmp_path / "absent").load() is None


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    for step in (90, 100, 2000):
        Checkpoints(tmp_path).save(step, {"x": torch.tensor(step)})
    assert KEEP == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000100.json", "step-00000100.pt", "step-00002000.json", "step-00002000.pt",
    ]  # fmt: skip
    assert Checkpoints(tmp_path).load() == (2000, {"x": torch.tensor(2000)})


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "student": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": 0.5,
        "scaler": None,
    }
    Checkpoints(tmp_path).save(1, state)
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found[1].keys() == state.keys()
    assert (found[1]["best"], found[1]["scaler"]) == (0.5, None)
    assert torch.equal(found[1]["student"]["weight"], network.weight)
    assert torch.equal(
        found[1]["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "unmarked", "half a mark", "another's mark"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        Checkpoints(tmp_path).save(step, {"x": torch.tensor(step)})
    newest = tmp_path / "step-00000020.pt"
    mark, data = newest.with_suffix(".json"), bytearray(newest.read_bytes())
    if damage in {"cut", "empty"}:
        newest.write_bytes(data[:-1] if damage == "cut" else b"")
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    elif damage == "unmarked":
        mark.unlink()
    else:
        other = (tmp_path / "step-00000010.json").read_text()
        mark.write_text(other if damage == "another's mark" else mark.read_text()[:9])
    assert Checkpoints(tmp_path).load() == (10, {"x": torch.tensor(10)})
    assert "step-00000020.pt is damaged" in capsys.readouterr().err


def test_where_all_are_damaged_there_is_nothing_to_load(tmp_path: Path) -> None:
    for step in (10, 20):
        Checkpoints(tmp_path).save(step, {"x": torch.tensor(step)})
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"torn")
    assert Checkpoints(tmp_path).load() is None


def test_training_on_after_a_damaged_checkpoint_replaces_it(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(10, {"x": torch.tensor(10)})
    (tmp_path / "step-00000020.pt").write_bytes(b"torn")
    Checkpoints(tmp_path).save(20, {"x": torch.tensor(20)})
    assert Checkpoints(tmp_path).load() == (20, {"x": torch.tensor(20)})


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("step-best.pt", "notes.txt"):
        (tmp_path / name).write_text("mine")
    Checkpoints(tmp_path).save(10, {"x": torch.tensor(10)})
    assert Checkpoints(tmp_path).load() == (10, {"x": torch.tensor(10)})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(10, {"x": tmp_path})  # a path is an object, and its unpickling runs code
    assert Checkpoints(tmp_path).load() is None
