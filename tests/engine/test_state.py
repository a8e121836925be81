"""Schedules, optimisers, averages and checkpoints, by numbers worked out by hand."""

import json
from pathlib import Path

import pytest
import torch

from segdistill.config import OptimConfig
from segdistill.engine.checkpoint import KEEP, load_checkpoint, save_checkpoint, write_atomic
from segdistill.engine.state import learning_rate, make_optimizer, warmed_up_average
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.25),  # warm-up of 4 steps to 1
        ("cosine", 3, 1.0),
        ("cosine", 4, 1.0),
        ("cosine", 9, 0.5),  # half way from step 4 to step 14
        ("cosine", 14, 0.0),
        ("poly", 9, 0.5**0.9),
        ("constant", 13, 1.0),
    ],
)
def test_learning_rate(schedule: str, step: int, expected: float) -> None:
    config = OptimConfig(lr=1.0, warmup=4, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(config, step, 14) == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(OptimConfig(lr=0.5), 0, 10) == 0.5


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_biases_and_norms_have_no_weight_decay(name: str) -> None:
    network = DSUNet(3, width=0.1)
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.3), network)  # type: ignore[arg-type]
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim <= 1 for p in free["params"])
    assert sum(len(group["params"]) for group in (decayed, free)) == len(list(network.parameters()))


def test_the_average_forgets_its_first_weights() -> None:
    update = warmed_up_average(0.5)
    average = [torch.tensor([0.0]), torch.tensor(0)]
    # Decay min(0.5, (1 + n) / (10 + n)): 0.1 after no update, 2/11 after one.
    update(average, [torch.tensor([1.0]), torch.tensor(7)], 0)
    assert average[0].item() == pytest.approx(0.9)
    assert average[1].item() == 7  # a counter is copied
    update(average, [torch.tensor([0.0]), torch.tensor(8)], 1)
    assert average[0].item() == pytest.approx(0.9 * 2 / 11)
    update(average, [torch.tensor([1.0]), torch.tensor(9)], 1000)
    assert average[0].item() == pytest.approx(0.5 + 0.5 * 0.9 * 2 / 11)


def test_the_newest_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
    assert len(list(tmp_path.glob("*.pt"))) == KEEP
    assert load_checkpoint(tmp_path) == (30, {"x": torch.tensor(30)})


@pytest.mark.parametrize("damage", ["cut", "flip", "unmarked"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
    newest = tmp_path / "step-00000020.pt"
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(data[:-1])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    else:
        newest.with_suffix(".json").unlink()
    assert load_checkpoint(tmp_path) == (10, {"x": torch.tensor(10)})
    assert "step-00000020.pt is damaged" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "x.json"
    write_atomic(path, json.dumps({"old": True}))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, json.dumps({"old": False}))
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
