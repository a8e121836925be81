"""Two processes as `accelerate launch` starts them: one is killed, or both, or Ctrl-C is pressed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_kill import assert_whole, kept, leaves

from segdistill.config.train import DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import to_yaml

pytestmark = [pytest.mark.integration, pytest.mark.soak]
LAUNCH = (
    "launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
    "-m segdistill.cli train"
).split()
END_S = 10.0
"""Seconds within which all processes have ended."""


def launch(config: TrainConfig, *more: str) -> subprocess.Popen[str]:
    """Begin a training in two processes, in a process group as a terminal makes it."""
    file = Path(config.out).with_suffix(".yaml")
    file.write_text(to_yaml(config))
    command = [Path(sys.executable).with_name("accelerate"), *LAUNCH, "--config", file, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


def end(process: subprocess.Popen[str], pids: Sequence[int] = (), seconds: float = 300) -> int:
    """The launcher's exit code, once it and the trainings below it have ended."""
    error = process.communicate(timeout=seconds)[1]
    print(error[-3000:])
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.01)
    return process.returncode


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """The two trainings below a launcher, in the order of their ranks."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        told = dict(
            line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
        )
        found[told["RANK"]] = int(pid)
    return [found["0"], found["1"]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, configure: Any, run: Path) -> TrainConfig:
    """Settings of a run that nothing interrupted."""
    root = tmp_path_factory.mktemp("launched")
    config = configure(
        root / "straight",
        data=DataConfig(root=configure(root).data.root, workers=1),
        teacher=TeacherConfig(spec=str(run)),
        optim=OptimConfig(lr=5e-3, ema=0.9),
        steps=150,
        evaluate_every=75,
        checkpoint_every=10,
        trackers=[],
    )
    assert end(launch(config)) == 0
    return config


@pytest.mark.parametrize(("fault", "code"), [("first", 1), ("second", 1), ("both", 1), ("Ctrl-C", 1)])
def test_what_was_launched_ends_and_goes_on(
    straight: TrainConfig, tmp_path: Path, fault: str, code: int
) -> None:
    out = tmp_path / "struck"
    config = TrainConfig(**vars(straight) | {"out": str(out)})
    process = launch(config)
    history = out / "history.jsonl"
    deadline = time.monotonic() + 300
    while not (history.is_file() and len(history.read_text().splitlines()) >= 7):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pids = ranks(process)
    if fault == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # the trainings have sessions of their own: it is passed on
    else:
        for pid in {"first": pids[:1], "second": pids[1:], "both": pids}[fault]:
            os.kill(pid, signal.SIGKILL)
    struck = time.monotonic()
    ended = end(process, pids)
    seconds = time.monotonic() - struck
    print(f"{fault}: {ended} after {seconds:.1f} s")
    assert ended == code
    assert seconds < END_S
    assert_whole(out)
    assert end(launch(config, "--resume")) == 0
    ours, theirs = dict(leaves(kept(out))), dict(leaves(kept(Path(straight.out))))
    assert {
        name: (ours.get(name), theirs.get(name))
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    } == {}
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []
