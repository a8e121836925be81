"""Atomic files and checkpoints: the newest whole one is loaded, whatever happened to the others."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill.data.labels import LabelSet
from segdistill.engine.run_folder import KEEP, load_checkpoint, save_checkpoint, save_student
from segdistill.files import write_atomic
from segdistill.models.card import ModelCard, read_card, read_weights
from segdistill.models.student import DSUNet
from segdistill.models.trained import load_network

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road"))


def full(_: int) -> None:
    raise OSError("no space left on device")


def test_an_atomic_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "first, which is longer")
    write_atomic(path, b"second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, json.dumps({"old": True}))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, json.dumps({"old": False}))
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "absent") is None


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    for step in (90, 100, 2000):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
    assert KEEP == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000100.json", "step-00000100.pt", "step-00002000.json", "step-00002000.pt",
    ]  # fmt: skip
    assert load_checkpoint(tmp_path) == (2000, {"x": torch.tensor(2000)})


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
    save_checkpoint(tmp_path, 1, state)
    found = load_checkpoint(tmp_path)
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
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
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
    assert load_checkpoint(tmp_path) == (10, {"x": torch.tensor(10)})
    assert "step-00000020.pt is damaged" in capsys.readouterr().err


def test_where_all_are_damaged_there_is_nothing_to_load(tmp_path: Path) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"torn")
    assert load_checkpoint(tmp_path) is None


def test_training_on_after_a_damaged_checkpoint_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10, {"x": torch.tensor(10)})
    (tmp_path / "step-00000020.pt").write_bytes(b"torn")
    save_checkpoint(tmp_path, 20, {"x": torch.tensor(20)})
    assert load_checkpoint(tmp_path) == (20, {"x": torch.tensor(20)})


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("step-best.pt", "notes.txt"):
        (tmp_path / name).write_text("mine")
    save_checkpoint(tmp_path, 10, {"x": torch.tensor(10)})
    assert load_checkpoint(tmp_path) == (10, {"x": torch.tensor(10)})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10, {"x": tmp_path})  # a path is an object, and its unpickling runs code
    assert load_checkpoint(tmp_path) is None


def test_a_saved_student_is_a_run_folder(tmp_path: Path) -> None:
    student = DSUNet(2, width=0.1).to(memory_format=torch.channels_last)
    card = ModelCard(spec="dsunet", width=0.1, labels=LABELS, size=64, evaluate_size=None)
    save_student(tmp_path / "run", student, card)
    assert read_card(tmp_path / "run") == card
    state = read_weights(tmp_path / "run" / "model.safetensors")
    assert state.keys() == student.state_dict().keys()
    image = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(load_network(str(tmp_path / "run"))(image), student.eval()(image))
