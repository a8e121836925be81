"""Training is stopped, resumed to the same weights, and does not go on with a broken loss."""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill import api, cli
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.config.yaml import load, to_yaml
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.monitor import NonFiniteLossError
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import Stopped
from segdistill.engine.trainer import Trainer

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def steps(run: Path) -> list[dict[str, Any]]:
    return RunFolder(run).history()[0]


def state(run: Path) -> dict[str, Any]:
    """The state that a run would resume from."""
    found = Checkpoints(run / "checkpoints").load()
    assert found is not None
    return found[1]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value of a nested state, with its path."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{name}.{key}")
    else:
        yield name, value


def differing(first: Path, second: Path) -> list[str]:
    """Where the newest checkpoints or the kept students of two runs are not equal bit by bit."""
    both = []
    for run in (first, second):
        both.append(dict(leaves({"state": state(run), "kept": load_file(run / "model.safetensors")})))
    ours, theirs = both
    assert ours.keys() == theirs.keys()
    assert sum(isinstance(value, torch.Tensor) for value in ours.values()) > 100
    return [
        name
        for name, value in ours.items()
        if not (
            torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        )
    ]


# That it stops, and goes on


def interrupted(config: TrainConfig, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train `config` until a signal arrives during step `after`."""
    step = Trainer.optimizer_step

    def with_signal(trainer: Trainer, number: int, batches: Any) -> Any:
        if number + 1 == after:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", with_signal)
        with pytest.raises(Stopped) as stopped:
            api.train(config, report=False)
    assert stopped.value.exit_code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        pytest.param(3, {}, id="at the end of an epoch"),
        pytest.param(2, {"optim": OptimConfig(ema=0.9, accumulate=2)}, id="in its middle, with an average"),
        pytest.param(4, {"optim": OptimConfig(name="sgd", lr=0.05, clip=1.0, warmup=5)}, id="sgd"),
        pytest.param(
            2,
            {"quantize": "int8", "init": "run", "optim": OptimConfig(ema=0.9, lr=1e-3)},
            id="as if in 8 bits",
        ),
        pytest.param(
            5,
            {
                "optim": OptimConfig(name="adam", ema=0.5, accumulate=2, schedule="poly"),
                "objective": ObjectiveConfig(
                    alpha=(1.0, 0.2), losses={"cosine": 1.0, "mgd": (0.0, 1.0)}, auxiliary=0.4
                ),
                "student": StudentConfig(width=0.05),
                "teacher": "run",
            },
            id="features of a teacher",
        ),
        pytest.param(
            3,
            {
                "augment": AugmentConfig(mixup=0.3, cutmix=0.3, copy_paste=0.4, hue=0.1, grey=0.2),
                "optim": OptimConfig(accumulate=2),
                "progressive": [(0.4, 16), (0.8, 24)],
                "data": "shared",
                "teacher": "run",
            },
            id="mixed, growing, with a share of unlabelled images",
        ),
    ],
)
def test_resume_leads_to_the_same_state_bit_by_bit(
    tmp_path: Path,
    configure: Any,
    run: Path,
    shapes: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    changes: Any,
) -> None:
    if "data" in changes:
        photos = str(shapes / "VOCdevkit" / "VOC2012" / "JPEGImages")
        shared = DataConfig(root=str(shapes), unlabelled=[photos], unlabelled_share=0.5, workers=0)
        changes = changes | {"data": shared}
    if "teacher" in changes:
        changes = changes | {"teacher": TeacherConfig(spec=str(run))}
    if changes.get("init"):
        started = StudentConfig(width=0.1, init=str(run))
        changes = {key: value for key, value in changes.items() if key != "init"} | {"student": started}
    api.train(configure(tmp_path / "straight", **changes), report=False)
    config = configure(tmp_path / "resumed", **changes)
    interrupted(config, after, monkeypatch)
    assert [record["step"] for record in steps(tmp_path / "resumed")] == [*range(1, after + 1)]
    resumed = api.train(config, resume=True, report=False)
    assert differing(tmp_path / "straight", resumed) == []
    same = ("step", "loss", "evaluation")
    ours, theirs = (
        [{k: r.get(k) for k in same} for r in records(tmp_path / n)] for n in ("straight", "resumed")
    )
    assert ours == theirs


def test_the_seed_decides_and_the_number_of_workers_does_not(tmp_path: Path, configure: Any) -> None:
    alone = configure(tmp_path / "alone", steps=3)
    helped = replace(alone, data=replace(alone.data, workers=2), out=str(tmp_path / "helped"))
    other = replace(alone, seed=1, out=str(tmp_path / "other"))
    assert differing(api.train(alone, report=False), api.train(helped, report=False)) == []
    assert ".state.student.head.weight" in differing(tmp_path / "alone", api.train(other, report=False))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_saves_and_says_how_to_go_on(
    tmp_path: Path, configure: Any, shapes: Path, capsys: Any, number: int, code: int
) -> None:
    run, file, last = tmp_path / "run", tmp_path / "config.yaml", 150
    data = DataConfig(root=str(shapes), workers=2)
    file.write_text(to_yaml(configure(run, data=data, steps=last, evaluate_every=last)))
    process = subprocess.Popen(
        [PROGRAM, "train", "--config", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (run / "history.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # a terminal's Ctrl-C and a batch system's stop reach the loaders too
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    found = Checkpoints(run / "checkpoints").load()
    assert found is not None
    assert 0 < found[0] < last
    [command] = re.findall(r"^  segdistill (.*--resume)$", err, flags=re.MULTILINE)
    assert cli.main(shlex.split(command)) == 0
    assert json.loads(capsys.readouterr().out)["step"] == last
    assert [record["step"] for record in steps(run)] == [*range(1, last + 1)]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, configure: Any, capsys: Any) -> None:
    config = configure(tmp_path / "run")
    before = dict(leaves(state(api.train(config, report=False))))
    newest = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    api.train(config, resume=True, report=False)
    assert "is damaged" in capsys.readouterr().err
    after = dict(leaves(state(tmp_path / "run")))
    assert all(
        torch.equal(torch.as_tensor(after[n]), torch.as_tensor(v)) for n, v in before.items() if v is not None
    )


def test_a_finished_run_resumes_to_itself(tmp_path: Path, configure: Any) -> None:
    run = api.train(configure(tmp_path / "run", steps=2), report=False)
    before = (run / "model.safetensors").read_bytes(), (run / "history.jsonl").read_bytes()
    api.train(configure(tmp_path / "run", steps=2), resume=True, report=False)
    assert ((run / "model.safetensors").read_bytes(), (run / "history.jsonl").read_bytes()) == before


def test_a_student_in_memory_and_from_its_file_have_the_same_temperature(
    tmp_path: Path, configure: Any
) -> None:
    run = api.train(configure(tmp_path / "run", student=StudentConfig(width=0.2)), report=False)
    before = (run / "metrics.json").read_text(), (run / "model.json").read_text()
    api.train(load(TrainConfig, run / "config.yaml"), resume=True, report=False)
    assert before == ((run / "metrics.json").read_text(), (run / "model.json").read_text())


def test_a_resumed_run_must_have_the_same_settings(configure: Any, run: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings: batch 4 -> 6"):
        api.train(configure(run, batch=6), resume=True, report=False)


def test_a_run_goes_on_without_its_settings(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = api.train(configure(tmp_path / "straight"), report=False)
    run = tmp_path / "resumed"
    interrupted(configure(run), 2, monkeypatch)
    assert f"Continue with:\n  segdistill.train(out={str(run)!r}, resume=True)" in capsys.readouterr().err
    api.train(out=run, resume=True, report=False)
    assert differing(straight, run) == []
    before = (run / "config.yaml").read_bytes(), (run / "history.jsonl").read_bytes()
    assert cli.main(["train", "--out", str(run), "--resume"]) == 0
    assert ((run / "config.yaml").read_bytes(), (run / "history.jsonl").read_bytes()) == before


def test_settings_that_are_typed_are_compared_with_the_run(run: Path, capsys: Any) -> None:
    assert cli.main(["train", "--out", str(run), "--resume", "--optim.lr", "1e-3"]) == 1
    error = capsys.readouterr().err
    assert f"{run} was started with other settings: optim.lr 0.005 -> 0.001. " in error
    assert f"start a new run with --init {run} and another --out\n" in error
    with pytest.raises(ValueError, match=r"other settings: seed 0 -> 1\. .* with init .* and another out$"):
        api.train(out=run, resume=True, seed=1)


def test_a_run_without_a_student_cannot_be_gone_on_from(tmp_path: Path, configure: Any) -> None:
    config = configure(tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(ValueError, match=r"batch 4 -> 2\. It has no student to go on from yet: overwrite st"):
        RunFolder(tmp_path).check(replace(config, batch=2), resume=True, overwrite=False)


def test_a_run_at_a_constant_rate_may_be_given_more_steps(tmp_path: Path, configure: Any) -> None:
    rate = OptimConfig(lr=5e-3, schedule="constant", warmup=2, ema=0.9)
    straight = api.train(configure(tmp_path / "straight", optim=rate, steps=12), report=False)
    longer = tmp_path / "longer"
    api.train(configure(longer, optim=rate), report=False)
    api.train(configure(longer, optim=rate, steps=12), resume=True, report=False)
    assert RunFolder(longer).config.steps == 12
    theirs = dict(leaves(state(Path(straight))))
    assert {name for name, value in leaves(state(longer)) if not equal(value, theirs[name])} == set()
    refused = r"other settings: steps 12 -> 6\. .* init .*; resume takes more steps than its 12$"
    with pytest.raises(ValueError, match=refused):
        api.train(configure(longer, optim=rate), resume=True, report=False)


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"progressive": [(0.5, 16)]},
        {"objective": ObjectiveConfig(alpha=(1.0, 0.5))},
        {"evaluate_every": 4},
    ],
    ids=["cosine", "progressive", "a weight that changes", "an evaluation at the end alone"],
)
def test_steps_that_others_depend_on_stay(tmp_path: Path, configure: Any, changes: dict[str, Any]) -> None:
    rate = OptimConfig(schedule="constant" if changes else "cosine")
    config = configure(tmp_path / "run", **{"optim": rate, "steps": 6, **changes})
    api.train(config, report=False)
    with pytest.raises(ValueError, match=r"other settings: steps 6 -> 12\. .* and another out$"):
        api.train(replace(config, steps=12), resume=True, report=False)


# That it does not go on with a broken loss


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_teacher_that_is_not_finite_stops_the_run(tmp_path: Path, configure: Any, value: str) -> None:
    teacher = tmp_path / "broken.py"
    teacher.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Broken(nn.Module):\n"
        f"    def forward(self, x):\n        return torch.full((len(x), 9, *x.shape[2:]), float('{value}'))\n"
    )
    config = configure(tmp_path / "run", teacher=TeacherConfig(spec=f"{teacher}:Broken", labels="data"))
    with pytest.raises(NonFiniteLossError, match=r"^step 1: the soft loss is nan on shape_"):
        api.train(config, report=False)
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert (record["step"], record["terms"]["soft"]) == (1, "nan")
    assert math.isfinite(float(record["terms"]["hard"]))
    assert len(record["ids"]) == 4
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_weights_that_blow_up_stop_the_run_before_anything_is_saved(tmp_path: Path, configure: Any) -> None:
    with pytest.raises(NonFiniteLossError, match=r"^step 2: the hard loss is (nan|inf) on shape_"):
        api.train(configure(tmp_path / "run", optim=OptimConfig(lr=1e30)), report=False)
    assert [record["step"] for record in steps(tmp_path / "run")] == [1]
    assert not (tmp_path / "run" / "checkpoints").exists()
