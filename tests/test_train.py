"""Training as a whole: what it leaves, that it learns, stops and resumes to the same weights."""

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segdistill import api, build_model, cli
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.config.yaml import load, to_yaml
from segdistill.data.images import list_images
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.monitor import NonFiniteLossError
from segdistill.engine.runtime import Stopped
from segdistill.engine.trainer import Trainer

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def steps(run: Path) -> list[dict[str, Any]]:
    """The records of optimiser steps."""
    return [record for record in records(run) if "evaluation" not in record]


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


# What a run leaves


def test_a_run_folder_holds_everything_that_later_verbs_need(distilled: Path) -> None:
    files = "config.yaml environment.json history.jsonl metrics.json model.safetensors model.json".split()
    files += ["cost.json", "report.html"]
    assert [name for name in files if not (distilled / name).is_file()] == []
    assert {path.name for path in (distilled / "figures").iterdir()} >= {"curves.png", "examples.png"}
    assert len(list((distilled / "checkpoints").glob("*.pt"))) == 2
    assert not (distilled / "nonfinite.json").exists()


def test_the_card_describes_student_and_teacher(distilled: Path, run: Path) -> None:
    card = json.loads((distilled / "model.json").read_text())
    assert (card["spec"], card["width"], card["size"]) == ("dsunet", 0.1, 32)
    assert card["labels"]["names"][0] == "background"
    assert card["teacher"]["spec"] == str(run)
    assert re.fullmatch("[0-9a-f]{64}", card["teacher"]["fingerprint"])
    assert json.loads((run / "model.json").read_text())["teacher"] is None


def test_the_environment_is_recorded(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert (environment["device"], environment["precision"], environment["processes"]) == ("cpu", "fp32", 1)


def test_history_has_every_term_of_every_step(distilled: Path) -> None:
    assert [record["step"] for record in steps(distilled)] == [1, 2, 3, 4, 5, 6]
    for record in steps(distilled):
        assert record.keys() == {"step", "loss", "hard", "soft", "lr", "images_per_second"}
        assert record["loss"] == pytest.approx(0.7 * record["hard"] + 0.3 * record["soft"], rel=1e-5)
        assert record["images_per_second"] > 0
    assert [record["step"] for record in records(distilled) if "evaluation" in record] == [3, 6]


def test_tensorboard_gets_the_same_numbers(distilled: Path) -> None:
    [events] = (distilled / "tensorboard").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    losses = [event.value for event in board.Scalars("train/loss")]
    assert losses == pytest.approx([record["loss"] for record in steps(distilled)], rel=1e-5)
    assert {"train/hard", "train/soft", "train/lr", "val/miou"} <= set(board.Tags()["scalars"])


def test_the_best_evaluation_is_kept(run: Path) -> None:
    scores = {r["step"]: r["evaluation"]["miou"] for r in records(run) if "evaluation" in r}
    metrics = json.loads((run / "metrics.json").read_text())
    best = max(scores, key=lambda step: scores[step])
    assert (metrics["best"]["step"], metrics["best"]["miou"]) == (best, scores[best])
    assert (metrics["last"]["step"], metrics["last"]["miou"]) == (6, scores[6])
    assert json.loads((run / "model.json").read_text())["metrics"]["step"] == best


def test_the_resolved_configuration_loads_to_an_equal_one(run: Path, configure: Any) -> None:
    assert load(TrainConfig, run / "config.yaml") == configure(run)


# That it learns


def test_a_few_images_are_learnt_by_heart(tmp_path: Path, configure: Any) -> None:
    config = configure(tmp_path / "run", steps=60, evaluate_every=60, optim=OptimConfig(lr=1e-2, clip=1.0))
    history = steps(api.train(config, report=False))
    losses = [record["hard"] for record in history]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(record["gradient_norm"] > 0 for record in history)


def test_a_teacher_alone_can_teach(tmp_path: Path, configure: Any, run: Path) -> None:
    objective = ObjectiveConfig(alpha=0.0, beta=1.0)
    config = configure(tmp_path / "run", objective=objective, teacher=TeacherConfig(spec=str(run)), steps=30)
    history = steps(api.train(replace(config, evaluate_every=30, optim=OptimConfig(lr=1e-2)), report=False))
    assert all("hard" not in record and record["loss"] == record["soft"] for record in history)
    losses = [record["soft"] for record in history]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_features_and_heads_train_along_and_are_no_part_of_the_student(
    tmp_path: Path, configure: Any, run: Path
) -> None:
    out = api.train(
        configure(
            tmp_path / "run",
            student=StudentConfig(width=0.05),
            teacher=TeacherConfig(spec=str(run)),
            objective=ObjectiveConfig(losses={"cosine": 0.5, "mgd": 0.1}, auxiliary=0.4),
        ),
        report=False,
    )
    assert all(0 < record["cosine"] < 2 for record in steps(out))
    assert all(record["mgd"] > 0 and record["auxiliary"] > 0 for record in steps(out))
    assert set(state(out)["adapters"]) == {"cosine", "mgd", "auxiliary_0", "auxiliary_1", "auxiliary_2"}
    assert (
        load_file(out / "model.safetensors").keys()
        == build_model("dsunet", 9, width=0.05).state_dict().keys()
    )


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path, configure: Any) -> None:
    out = api.train(
        configure(tmp_path / "run", steps=2, evaluate_every=2, optim=OptimConfig(ema=0.99)), report=False
    )
    kept, saved = load_file(out / "model.safetensors"), state(out)
    assert all(torch.equal(tensor, saved["average"][f"module.{name}"]) for name, tensor in kept.items())
    assert not torch.equal(kept["head.weight"], saved["student"]["head.weight"])


def test_images_without_masks_join_the_mix(tmp_path: Path, configure: Any, run: Path, shapes: Path) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    config = configure(
        tmp_path / "run",
        data=DataConfig(root=str(shapes), unlabelled=[str(photos)], workers=0),
        teacher=TeacherConfig(spec=str(run)),
        batch=1,
        size=16,
        steps=0,
        epochs=1.0,
        evaluate_every=28,
    )
    history = steps(api.train(config, report=False))
    assert len(history) == 12 + len(list(list_images(photos))) == 28
    unlabelled = [record for record in history if record["hard"] == 0]
    assert len(unlabelled) >= 16
    assert all(record["loss"] == pytest.approx(0.3 * record["soft"]) for record in unlabelled)
    assert all(record["soft"] > 0 for record in unlabelled)


def test_an_epoch_is_a_pass_over_the_labelled_images_where_these_have_a_share(
    tmp_path: Path, configure: Any, run: Path, shapes: Path
) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    config = configure(
        tmp_path / "run",
        data=DataConfig(root=str(shapes), unlabelled=[str(photos)], unlabelled_share=0.25, workers=0),
        teacher=TeacherConfig(spec=str(run)),
        steps=0,
        epochs=1.0,
    )
    history = steps(api.train(config, report=False))
    assert len(history) == 12 / (4 * 0.75)
    assert all(record["hard"] > 0 and record["soft"] > 0 for record in history)


def test_further_data_sets_are_added(tmp_path: Path, configure: Any, shapes: Path) -> None:
    data = DataConfig(root=str(shapes), extra=[f"{shapes}@val"], workers=0)
    out = api.train(configure(tmp_path / "run", data=data, steps=0, epochs=1.0), report=False)
    assert steps(out)[-1]["step"] == (12 + 4) / 4


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {
                "runtime": RuntimeConfig(precision="bf16", channels_last=False),
                "optim": OptimConfig(name="adam", schedule="poly"),
            },
            id="bf16 and adam",
        ),
        pytest.param(
            {
                "augment": AugmentConfig(stretch=True, blur=1.0, jitter=1.0),
                "optim": OptimConfig(schedule="constant"),
            },
            id="stretched and blurred",
        ),
    ],
)
def test_other_settings_train_too(tmp_path: Path, configure: Any, changes: dict[str, Any]) -> None:
    history = steps(api.train(configure(tmp_path / "run", steps=2, **changes), report=False))
    assert [math.isfinite(record["loss"]) for record in history] == [True, True]


def test_a_student_trains_on_as_if_in_eight_bits(tmp_path: Path, configure: Any, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    start = StudentConfig(width=0.1, init=str(run))
    config = configure(
        tmp_path / "qat", student=start, quantize="int8", teacher=TeacherConfig(spec=str(run)),
        optim=OptimConfig(lr=1e-3, ema=0.5),
    )  # fmt: skip
    again = api.train(config, report=False)
    before, after = (load_file(folder / "model.safetensors") for folder in (run, again))
    assert list(before) == list(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "running" not in name and "num_batches" not in name}
    assert {"hard", "soft"} <= steps(again)[0].keys()
    file = tmp_path / "qat.onnx"
    data = EvaluationDataConfig(root=config.data.root, workers=0)
    record = api.export(again, ExportConfig(
        quantize="int8", out=str(file), data=data, calibration_images=4, max_loss=100
    ))  # fmt: skip
    scores = api.evaluate(file, EvaluateConfig(data=data, device="cpu", out=str(tmp_path / "scores.json")))
    assert scores["miou"] == pytest.approx(record["parity"]["miou_after"])


def test_a_student_may_start_from_another_run(tmp_path: Path, configure: Any, run: Path) -> None:
    config = configure(tmp_path / "run", steps=1, optim=OptimConfig(lr=1e-12, weight_decay=0))
    config = replace(config, student=replace(config.student, init=str(run)))
    ours, theirs = (
        load_file(api.train(config, report=False) / "model.safetensors"),
        load_file(run / "model.safetensors"),
    )
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"])


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


def test_a_resumed_run_must_have_the_same_settings(configure: Any, run: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings: batch 4 -> 6"):
        api.train(configure(run, batch=6), resume=True, report=False)


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
