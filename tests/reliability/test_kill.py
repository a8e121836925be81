"""That a run killed at any moment goes on to the very weights of the uninterrupted run."""

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill import api
from segdistill.config.train import DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.data.labels import read_yaml
from segdistill.engine.checkpoint import Checkpoints
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""What Python announces before it changes the file system."""


def work(config: TrainConfig, resume: bool, last: int | None, environment: dict[str, str]) -> None:
    """Train in a process of its own, which kills itself at its `last` change of a file of the run."""
    torch.set_num_threads(1)
    os.environ |= environment
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
    api.train(config, resume=resume, report=False)


def start(config: TrainConfig, *, world: int = 1, last: int | None = None) -> list[BaseProcess]:
    """Begin or resume a training; its processes are forked, for then they have imported everything.

    With a `world` of several, each is told of the others as `accelerate launch` does it.
    """
    resume = (Path(config.out) / "config.yaml").is_file()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        environment = {name: str(value) for name, value in told.items()} if world > 1 else {}
        process = get_context("fork").Process(
            target=work, args=(config, resume, None if rank else last, environment)
        )
        process.start()
        processes.append(process)
    return processes


def finish(processes: list[BaseProcess]) -> None:
    """Wait for the first; end the others with it where it was killed, as a launcher does."""
    processes[0].join()
    for process in processes:
        if processes[0].exitcode:
            process.kill()
        process.join()
    assert {process.exitcode for process in processes} <= {0, -signal.SIGKILL}


def plain(value: Any) -> Any:
    """Tensors become lists."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def kept(run: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on kills."""
    found = Checkpoints(run / "checkpoints").load()
    assert found is not None
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "weights": {name: value.tolist() for name, value in load_file(run / "model.safetensors").items()},
        "state": plain(found[1]),
        "step": found[0],
        "card": json.loads((run / "model.json").read_text())["metrics"],
        "metrics": json.loads((run / "metrics.json").read_text()),
        "history": [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines],
    }


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a nested one, with its path."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{name}.{key}")
    else:
        yield name, value


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


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def straight(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, configure: Any, run: Path
) -> tuple[int, TrainConfig, float]:
    """Processes, settings, seconds of a run that nothing interrupted: cached teacher, loader, average."""
    root = tmp_path_factory.mktemp("kills")
    config = configure(
        root / "straight",
        data=DataConfig(root=configure(root).data.root, workers=1),
        teacher=TeacherConfig(spec=str(run), cache=str(root / "cache")),
        optim=OptimConfig(lr=5e-3, ema=0.9),
        checkpoint_every=1,
        trackers=[],
    )
    started = time.monotonic()
    finish(start(config, world=request.param))
    return request.param, config, time.monotonic() - started


def survive(straight: tuple[int, TrainConfig, float], moment: int, tmp_path: Path) -> None:
    """Kill a run, kill it again while it resumes, let it end, and compare."""
    world, like, seconds = straight
    draw = random.Random(moment)
    out = tmp_path / "killed"
    teacher = TeacherConfig(spec=like.teacher.spec, cache=str(tmp_path / "cache"))
    config = TrainConfig(**vars(like) | {"out": str(out), "teacher": teacher})
    for _ in range(2):
        if moment % 2:  # anywhere
            processes = start(config, world=world)
            deadline = time.monotonic() + draw.uniform(0.05, 1.0) * seconds
            while processes[0].is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            for process in processes:
                process.kill()
        else:  # at a change of a file
            processes = start(config, world=world, last=draw.randint(1, 70))
        finish(processes)
        assert_whole(out)
        print(moment, [process.exitcode for process in processes],
              *sorted(path.name for path in out.rglob("*") if path.is_file()))  # fmt: skip
    finish(start(config, world=world))
    ours, theirs = dict(leaves(kept(out))), dict(leaves(kept(Path(like.out))))
    assert {name: (ours.get(name), theirs.get(name)) for name in ours.keys() | theirs.keys()
            if ours.get(name) != theirs.get(name)} == {}  # fmt: skip
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []


def test_a_forked_process_trains_after_an_export() -> None:
    """Otherwise the tests here depend on what ran before them in their process."""

    def backward() -> None:
        torch.ones(1, requires_grad=True).backward()

    torch.export.export(torch.nn.Identity(), (torch.ones(1),))
    backward()
    process = get_context("fork").Process(target=backward)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("straight", [1], indirect=True, ids=["one process"])
@pytest.mark.parametrize("moment", [2, 3])
def test_a_killed_run_goes_on_to_the_same_weights(straight: Any, moment: int, tmp_path: Path) -> None:
    survive(straight, moment, tmp_path)
    assert Checkpoints(tmp_path / "killed" / "checkpoints").load() is not None


@pytest.mark.soak
@pytest.mark.parametrize("moment", range(20))
def test_a_run_killed_at_20_moments(straight: Any, moment: int, tmp_path: Path) -> None:
    survive(straight, moment, tmp_path)
    assert Checkpoints(tmp_path / "killed" / "checkpoints").load() is not None
