"""Training as a whole: what it leaves, that it learns, stops and resumes to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill import api
from segdistill.config import (
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    TeacherConfig,
    TrainConfig,
    load,
    to_yaml,
)
from segdistill.data.images import list_images
from segdistill.engine import train as loop
from segdistill.engine.checkpoint import load_checkpoint
from segdistill.engine.train import NonFiniteLossError, Stopped

pytestmark = pytest.mark.integration
TERMS = {"loss", "hard", "lr", "images_per_second"}


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Everything that a run's newest checkpoint holds of student and average, by name."""
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    return {f"{k}.{n}": t for k in ("student", "average") for n, t in (found[1][k] or {}).items()}


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(theirs[name])), name


def test_a_run_folder_holds_everything_that_later_verbs_need(distilled: Path) -> None:
    files = "config.yaml environment.json history.jsonl metrics.json model.safetensors model.json".split()
    files += ["cost.json", "report.html"]
    assert [name for name in files if not (distilled / name).is_file()] == []
    assert list((distilled / "figures").glob("*.png"))
    assert list((distilled / "tensorboard").rglob("events.*"))
    assert list((distilled / "checkpoints").glob("*.pt"))
    card = json.loads((distilled / "model.json").read_text())
    assert len(card["teacher"]["fingerprint"]) == 64
    assert card["labels"]["names"][0] == "background"
    assert not any(
        "teacher" in name or "adapter" in name for name in load_file(distilled / "model.safetensors")
    )


def test_history_has_every_term_of_every_step(distilled: Path) -> None:
    records = history(distilled)
    steps = [record for record in records if "evaluation" not in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(record.keys() >= TERMS | {"soft"} for record in steps)
    assert [record["step"] for record in records if "evaluation" in record] == [3, 6]


def test_the_resolved_configuration_loads_to_an_equal_one(run: Path) -> None:
    config = load(TrainConfig, run / "config.yaml")
    assert to_yaml(config) == (run / "config.yaml").read_text()
    assert config.steps == 6


def test_training_learns(tmp_path: Path, configure: Any) -> None:
    config = configure(tmp_path / "run", steps=60, evaluate_every=60, optim=OptimConfig(lr=1e-2, clip=1.0))
    losses = [r["hard"] for r in history(api.train(config)) if "hard" in r]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def interrupted(config: TrainConfig, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train `config` until a signal arrives during step `after`."""
    step = loop.optimizer_step

    def with_signal(number: int, *rest: Any) -> Any:
        if number + 1 == after:
            signal.raise_signal(signal.SIGTERM)
        return step(number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", with_signal)
        with pytest.raises(Stopped) as stopped:
            api.train(config)
    assert stopped.value.exit_code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        pytest.param(3, {}, id="at the end of an epoch"),
        pytest.param(
            2, {"optim": OptimConfig(lr=5e-3, ema=0.9, accumulate=2)}, id="in the middle, with average"
        ),
        pytest.param(4, {"optim": OptimConfig(name="sgd", lr=0.05, clip=1.0, warmup=2)}, id="sgd"),
        pytest.param(4, {"objective": ObjectiveConfig(gamma=1.0), "teacher": "run"}, id="with teacher"),
    ],
)
def test_resume_leads_to_the_same_weights(
    tmp_path: Path, configure: Any, run: Path, monkeypatch: pytest.MonkeyPatch, after: int, changes: Any
) -> None:
    if "teacher" in changes:
        changes = changes | {"teacher": TeacherConfig(spec=str(run))}
    straight = api.train(configure(tmp_path / "straight", **changes))
    config = configure(tmp_path / "resumed", **changes)
    interrupted(config, after, monkeypatch)
    resumed = api.train(config, resume=True)
    assert_same_weights(straight, resumed)
    assert [r["step"] for r in history(resumed)] == [r["step"] for r in history(straight)]
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_the_number_of_workers_changes_nothing(tmp_path: Path, configure: Any) -> None:
    alone = configure(tmp_path / "alone", steps=3)
    helped = replace(alone, data=replace(alone.data, workers=2), out=str(tmp_path / "helped"))
    assert_same_weights(api.train(alone), api.train(helped))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, configure: Any, capsys: Any) -> None:
    config = configure(tmp_path / "run")
    run = api.train(config)
    before = weights(run)
    newest = max((run / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    api.train(config, resume=True)
    assert "is damaged" in capsys.readouterr().err
    assert all(torch.equal(torch.as_tensor(t), torch.as_tensor(before[n])) for n, t in weights(run).items())


def test_a_resumed_run_must_have_the_same_settings(configure: Any, run: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings: batch 4 -> 6"):
        api.train(configure(run, batch=6), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, configure: Any) -> None:
    teacher = tmp_path / "broken.py"
    teacher.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Broken(nn.Module):\n"
        "    def forward(self, x):\n        return torch.full((len(x), 9, *x.shape[2:]), float('nan'))\n"
    )
    config = configure(tmp_path / "run", teacher=TeacherConfig(spec=f"{teacher}:Broken", labels="data"))
    with pytest.raises(NonFiniteLossError, match=r"step 0: the soft loss is nan on shape_"):
        api.train(config)
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert record["step"] == 0
    assert len(record["ids"]) == 4
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_unlabelled_images_join_the_mix(tmp_path: Path, configure: Any, run: Path, shapes: Path) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    data = DataConfig(root=str(shapes), unlabelled=[str(photos)], workers=0)
    config = configure(tmp_path / "run", data=data, teacher=TeacherConfig(spec=str(run)), steps=7)
    assert len(list(list_images(photos))) == 16  # 12 labelled and 16 without: 7 steps of 4 see each once
    assert all(record["soft"] >= 0 for record in history(api.train(config)) if "soft" in record)


def test_a_student_may_start_from_another_run(tmp_path: Path, configure: Any, run: Path) -> None:
    config = configure(tmp_path / "run", steps=1, optim=OptimConfig(lr=1e-12, weight_decay=0))
    config = replace(config, student=replace(config.student, init=str(run)))
    ours, theirs = load_file(api.train(config) / "model.safetensors"), load_file(run / "model.safetensors")
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, configure: Any, number: int, code: int) -> None:
    run = tmp_path / "run"
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(configure(run, steps=100_000, evaluate_every=100_000)))
    command = [sys.executable, "-m", "segdistill.cli", "train", "--config", str(file)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 120
    while not (run / "history.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"segdistill train --config {run / 'config.yaml'} --resume" in err.replace("\n", "")
    assert out == ""
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    assert found[0] > 0
