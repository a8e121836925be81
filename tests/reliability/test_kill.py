"""That a run killed at any moment goes on to the very weights of the uninterrupted run."""

import json
import os
import random
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill import api
from segdistill.config import DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.data.labels import read_yaml
from segdistill.engine.checkpoint import load_checkpoint
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""What Python announces before it changes the file system."""


def work(config: TrainConfig, resume: bool, last: int | None) -> None:
    """Train in a process of its own, which kills itself at its `last` change of a file of the run."""
    torch.set_num_threads(1)
    left = [last]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or left[0] is None or not str(arguments[0]).startswith(config.out):
            return
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    api.train(config, resume=resume)


def start(config: TrainConfig, *, resume: bool = False, last: int | None = None) -> BaseProcess:
    """Forked, for then it has imported everything."""
    process = get_context("fork").Process(target=work, args=(config, resume, last))
    process.start()
    return process


def kept(run: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on kills."""
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "weights": {name: value.tolist() for name, value in load_file(run / "model.safetensors").items()},
        "state": str(found[1]["student"]) + str(found[1]["optimizer"]) + str(found[1]["best"]),
        "step": found[0],
        "card": json.loads((run / "model.json").read_text())["metrics"],
        "metrics": json.loads((run / "metrics.json").read_text()),
        "history": [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines],
    }


def assert_whole(run: Path) -> None:
    """Whatever is in the folder under its own name can be read to its end."""
    for path in run.rglob("*.json"):
        json.loads(path.read_text())
    if (run / "config.yaml").exists():
        read_yaml(run / "config.yaml")
    if (run / "model.json").exists():
        load_network(str(run))
    for path in (run / "checkpoints").glob("step-*.json"):
        assert path.with_suffix(".pt").is_file()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, configure: Any, run: Path) -> TrainConfig:
    """The settings of a run that nothing interrupted, with a cached teacher, a loader and an average."""
    root = tmp_path_factory.mktemp("kills")
    config = configure(
        root / "straight",
        data=DataConfig(root=configure(root).data.root, workers=1),
        teacher=TeacherConfig(spec=str(run), cache=str(root / "cache")),
        optim=OptimConfig(lr=5e-3, ema=0.9),
        checkpoint_every=1,
        trackers=[],
    )
    api.train(config)
    return config


def survive(straight: TrainConfig, moment: int, tmp_path: Path) -> str:
    """Kill a run once or more, resume it, and compare; returns where it was hit first."""
    draw = random.Random(moment)
    out = tmp_path / "killed"
    teacher = TeacherConfig(spec=straight.teacher.spec, cache=str(tmp_path / "cache"))
    config = TrainConfig(**vars(straight) | {"out": str(out), "teacher": teacher})
    hit = ""
    for attempt in range(2):  # the second kill comes while it resumes
        resume = (out / "config.yaml").is_file()
        if moment % 2:  # between two changes of files
            process = start(config, resume=resume)
            deadline = time.monotonic() + draw.uniform(0.1, 6.0)
            while process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
        else:  # at a change
            process = start(config, resume=resume, last=draw.randint(1, 70))
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        assert_whole(out)
        if attempt == 0:
            hit = ", ".join(sorted(path.name for path in out.rglob("*") if path.is_file()))
    last = start(config, resume=(out / "config.yaml").is_file())
    last.join()
    assert last.exitcode == 0
    assert kept(out) == kept(Path(straight.out))
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []
    return hit


@pytest.mark.parametrize("moment", [2, 3])
def test_a_killed_run_goes_on_to_the_same_weights(straight: Any, moment: int, tmp_path: Path) -> None:
    assert survive(straight, moment, tmp_path) is not None


@pytest.mark.soak
@pytest.mark.parametrize("moment", range(20))
def test_a_run_killed_at_20_moments(straight: Any, moment: int, tmp_path: Path) -> None:
    print(survive(straight, moment, tmp_path))
