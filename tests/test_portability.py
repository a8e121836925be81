"""Windows has no fcntl, resource, fork or sigwaitinfo: training, predicting and scoring need none of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segdistill.config.yaml import to_yaml

pytestmark = pytest.mark.integration

HIDE = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in "fork forkpty getuid killpg sched_getaffinity".split():
    delattr(os, name)
for name in "SIGHUP SIGKILL pthread_kill pthread_sigmask setitimer sigtimedwait sigwaitinfo".split():
    delattr(signal, name)

del os.O_DIRECTORY

def refuse_package(name, call, refused):
    def guarded(*given, **named):
        if sys._getframe(1).f_globals["__name__"].startswith("segdistill") and refused(*given):
            raise PermissionError(13, "not on Windows: " + name)
        return call(*given, **named)
    setattr(os, name, guarded)

refuse_package("register_at_fork", os.register_at_fork, lambda: True)
refuse_package("open", os.open, lambda path, *flags: os.path.isdir(path))
"""
"""What Windows lacks, also where libraries that were built for Linux need it: those may use it."""


def test_commands_need_no_posix(configure: Any, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(to_yaml(configure(tmp_path / "run", steps=2, evaluate_every=2)))
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    run = str(tmp_path / "run")
    commands = [
        ["train", "--config", str(tmp_path / "train.yaml")],
        ["predict", run, str(tmp_path / "red.png"), "--out", str(tmp_path / "masks"), "--device", "cpu"],
        ["label", run, str(tmp_path / "red.png"), "--out", str(tmp_path / "labels"), "--device", "cpu"],
        ["evaluate", run, "--out", str(tmp_path / "scores.json"), "--data.workers", "0", "--device", "cpu"],
    ]
    code = (
        f"{HIDE}\nfrom segdistill import cli\nfor command in {commands}:\n    assert cli.main(command) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trained, predicted, labelled, evaluated = map(json.loads, done.stdout.splitlines())
    assert (trained["run"], trained["step"], predicted["images"]) == (run, 2, 1)
    assert (tmp_path / "masks" / "red.png").is_file()
    assert labelled["images"] == labelled["computed"] == 1
    assert evaluated["miou"] == pytest.approx(trained["miou"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_waiting_threads_soon_sleep_unless_the_user_wants_otherwise(given: Any, expected: str) -> None:
    code = "import os, sys, segdistill; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    waiting = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in waiting} | given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected} False\n"
