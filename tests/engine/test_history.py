"""What a run says: history.jsonl, also after it was torn, the trackers, and lines for people."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from segdistill.console import log, progress
from segdistill.engine.history import History
from segdistill.engine.runtime import make_accelerator

pytestmark = pytest.mark.unit
SUMMARY = {"miou": 0.5, "pixel_accuracy": 0.75, "pixels": 9, "absent": [], "iou": {"a": 0.5, "b": None}}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_for_each_step_and_evaluation(tmp_path: Path, accelerator: Accelerator) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path, 0, accelerator)
    shown = history.log(2, {"loss": 0.25, "lr": 1e-3}, images=8)
    history.evaluation(2, SUMMARY)
    step, evaluation = records(path)
    assert shown == {name: value for name, value in step.items() if name != "step"}
    assert step.pop("images_per_second") > 0
    assert step == {"step": 2, "loss": 0.25, "lr": 1e-3}
    # Of an evaluation the scores are kept, and the IoU of each class.
    assert evaluation == {
        "step": 2,
        "evaluation": {"miou": 0.5, "pixel_accuracy": 0.75, "iou": {"a": 0.5, "b": None}},
    }


def test_speed_is_images_over_time_since_the_last_line(tmp_path: Path, accelerator: Accelerator) -> None:
    history = History(tmp_path / "history.jsonl", 10, accelerator)
    history.clock = time.perf_counter() - 100
    history.log(15, {}, images=8)  # 5 steps of 8 images in 100 seconds
    history.evaluation(15, SUMMARY)  # whose time does not count
    history.clock -= 50
    history.log(16, {}, images=8)  # 8 images in 50 seconds
    speeds = [record["images_per_second"] for record in records(tmp_path / "history.jsonl")[::2]]
    assert speeds == [pytest.approx(0.4, abs=0.02), pytest.approx(0.16, abs=0.01)]


def test_resuming_drops_what_will_be_made_again(tmp_path: Path, accelerator: Accelerator) -> None:
    path = tmp_path / "history.jsonl"
    first = History(path, 0, accelerator)
    for step in (1, 2, 3):
        first.log(step, {"loss": float(step)}, images=1)
        first.evaluation(step, SUMMARY)
    again = History(path, 2, accelerator)
    assert [record["step"] for record in records(path)] == [1, 1, 2, 2]
    again.log(3, {"loss": 9.0}, images=1)
    assert [record.get("loss") for record in records(path)] == [1, None, 2, None, 9]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, accelerator: Accelerator) -> None:
    path = tmp_path / "history.jsonl"
    History(path, 0, accelerator).log(1, {"loss": 1.0}, images=1)
    whole = path.read_text()
    History(path, 1, accelerator).evaluation(1, SUMMARY)
    last = path.read_text()[len(whole) :]
    for kept in range(len(last)):
        path.write_text(whole + last[:kept])
        History(path, 1, accelerator)
        assert path.read_text() == whole, last[:kept]


def test_a_history_begins_without_a_file(tmp_path: Path, accelerator: Accelerator) -> None:
    History(tmp_path / "history.jsonl", 0, accelerator)
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_told(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accelerator = make_accelerator("cpu", "fp32", trackers=["tensorboard"], out=tmp_path)
    accelerator.init_trackers("segdistill")
    history = History(tmp_path / "history.jsonl", 0, accelerator)
    history.log(3, {"loss": 0.25}, images=1)
    history.evaluation(3, SUMMARY)
    accelerator.end_training()
    [folder] = {path.parent for path in (tmp_path / "tensorboard").rglob("events*")}
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    seen = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert seen.keys() == {"train/loss", "train/images_per_second", "val/miou", "val/pixel_accuracy"}
    assert (seen["train/loss"], seen["val/miou"]) == ([(3, 0.25)], [(3, 0.5)])


def test_lines_for_people_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    path = "runs/[bold]/a-path-that-is-much-longer-than-the-terminal-is-wide" * 3
    log(f"saved {path}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"saved {path}\n"


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        task = bar.add_task("train", total=2)
        bar.update(task, completed=2)
    assert capsys.readouterr() == ("", "")
