"""A batch that is not finite: recorded by its own process, and computed again exactly as in the training."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import api
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
)
from segdistill.config.yaml import to_yaml
from segdistill.engine.monitor import LossMonitor, NonFiniteLossError
from segdistill.engine.replay import load_dump
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.trainer import Trainer

CHANGING = ObjectiveConfig(alpha=(1.0, 0.2), beta=(0.1, 0.9), temperature=(1.0, 4.0))


@pytest.mark.unit
def test_each_process_records_in_a_file_of_its_own(tmp_path: Path) -> None:
    for rank in (0, 1):
        with pytest.raises(NonFiniteLossError):
            LossMonitor(RunFolder(tmp_path), rank).record(3, [f"of {rank}"], {"hard": torch.tensor(math.nan)})
    for rank, name in enumerate(("nonfinite.json", "nonfinite-1.json")):
        record = json.loads((tmp_path / name).read_text())
        assert (record["step"], record["rank"], record["ids"]) == (3, rank, [f"of {rank}"])


BROKEN = """
import os
import torch
from torch import nn

class Broken(nn.Module):
    def forward(self, image):
        logits = torch.zeros(len(image), 9, *image.shape[2:])
        if len(image) > 1 and os.environ.get("RANK", "0") in "{ranks}":
            logits[1, 3, 4, 5] = float("nan")
        return logits
"""


@pytest.mark.integration
@pytest.mark.parametrize("ranks", ["1", "01"])
def test_two_processes_dump_a_batch_each(
    configure: Any, launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: str
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN.replace("{ranks}", ranks))
    teacher = TeacherConfig(spec=f"{tmp_path / 'broken.py'}:Broken", labels="data")
    (tmp_path / "config.yaml").write_text(to_yaml(configure(tmp_path / "run", teacher=teacher)))
    assert launch("train", "--config", tmp_path / "config.yaml").returncode != 0
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")
    monkeypatch.setenv("RANK", ranks[-1])
    found = [rank for rank in (0, 1) if folder.nonfinite_file(rank).is_file()]
    assert set(found) <= set(map(int, ranks))
    assert found  # where both fail, one may be ended by the other's end before it has written
    for rank in found:
        dump = load_dump(folder.nonfinite_file(rank))
        assert dump.record["rank"] == rank
        assert dump.record["ids"] == dump.batch.id
        assert api.replay(folder.nonfinite_file(rank))["bad"] == [dump.batch.id[1]]


def stop_at(step: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    """Let the gradient of a step (from 0) be infinite; returns what will hold the terms of that step."""
    terms: dict[str, float] = {}
    record, check = LossMonitor.record, Trainer._check_gradient

    def capture(monitor: LossMonitor, number: int, ids: Any, values: Any, **options: Any) -> None:
        if "loss" in values and not terms and number == step + 1:
            terms.update({name: float(value.detach()) for name, value in values.items()})
        record(monitor, number, ids, values, **options)

    def explode(trainer: Trainer, number: int, batch: Any) -> None:
        if number == step:
            trainer.state.student.head.weight.grad.fill_(math.inf)  # type: ignore[union-attr,operator]
        check(trainer, number, batch)

    patch.setattr(LossMonitor, "record", capture)
    patch.setattr(Trainer, "_check_gradient", explode)
    return terms


@pytest.mark.integration
@pytest.mark.parametrize("case", ["epochs", "class weights", "8 bits", "bf16", "features", "mixing"])
def test_a_replay_computes_what_the_training_computed(
    configure: Any, run: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    photos = str(shapes / "VOCdevkit" / "VOC2012" / "JPEGImages")
    changes: dict[str, Any] = {"teacher": TeacherConfig(spec=str(run)), "objective": CHANGING}
    if case == "epochs":
        data = DataConfig(root=str(shapes), unlabelled=[photos], unlabelled_share=0.25, workers=0)
        changes |= {"data": data, "steps": 0, "epochs": 2.0}
    elif case == "class weights":
        data = DataConfig(root=str(shapes), long_side=20, workers=0)
        changes |= {"data": data, "objective": ObjectiveConfig(class_weights=1.0)}
    elif case == "8 bits":
        shutil.copytree(run, tmp_path / "first")
        student = StudentConfig(width=0.1, init=str(tmp_path / "first"))
        changes |= {"student": student, "quantize": "int8"}
    elif case == "bf16":
        changes |= {"runtime": RuntimeConfig(precision="bf16")}
    elif case == "features":
        changes |= {"objective": ObjectiveConfig(losses={"cosine": 1.0, "mgd": 0.1}, auxiliary=0.4)}
    else:
        changes |= {"augment": AugmentConfig(mixup=1.0), "optim": OptimConfig(accumulate=2)}
    terms = stop_at(3, monkeypatch)
    with pytest.raises(NonFiniteLossError, match="step 4: the gradient's norm is"):
        api.train(configure(tmp_path / "run", **changes), report=False)
    path = RunFolder(tmp_path / "run").nonfinite_file(0)
    shutil.rmtree(tmp_path / "first", ignore_errors=True)  # what a student started from may be gone
    if case == "mixing":  # of the accumulated micro-batches the last is dumped
        assert load_dump(path).batch.lam is not None
        return
    assert api.replay(path)["terms"] == pytest.approx(terms, rel=1e-6)
