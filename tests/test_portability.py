"""Windows has no fcntl, resource, fork or sigwaitinfo: training, predicting and scoring need none of them."""

import json
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

register = os.register_at_fork
def only_of_libraries(**hooks):
    assert not sys._getframe(1).f_globals["__name__"].startswith("segdistill"), "register_at_fork"
    register(**hooks)
os.register_at_fork = only_of_libraries

real_open = os.open
def open_no_folder(path, *rest, **more):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return real_open(path, *rest, **more)
os.open = open_no_folder
"""
"""What Windows lacks (PyTorch itself does without register_at_fork there); it opens no folder either."""


def test_commands_need_no_posix(configure: Any, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(to_yaml(configure(tmp_path / "run", steps=2, evaluate_every=2)))
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    run = str(tmp_path / "run")
    commands = [
        ["train", "--config", str(tmp_path / "train.yaml")],
        ["predict", run, str(tmp_path / "red.png"), "--out", str(tmp_path / "masks"), "--device", "cpu"],
        ["evaluate", run, "--out", str(tmp_path / "scores.json"), "--data.workers", "0", "--device", "cpu"],
    ]
    code = (
        f"{HIDE}\nfrom segdistill import cli\nfor command in {commands}:\n    assert cli.main(command) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trained, predicted, evaluated = map(json.loads, done.stdout.splitlines())
    assert (trained["run"], trained["step"], predicted["images"]) == (run, 2, 1)
    assert (tmp_path / "masks" / "red.png").is_file()
    assert evaluated["miou"] == pytest.approx(trained["miou"])
