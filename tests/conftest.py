"""What several tests share: a tiny drawn data set, a quick configuration, and a run trained with it.

Packages are imported where they are used: the process that hands out tests needs none, and all wait for it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

Configure = Callable[..., Any]
Launch = Callable[..., subprocess.CompletedProcess[str]]

# Networks this small gain nothing from threads, and threads that wait for each other stall a busy machine.
# PyTorch reads it when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def forks_can_train() -> None:
    """Start autograd's engine before an export registers devices: after that, no forked process trains."""
    import torch

    torch.ones(1, requires_grad=True).backward()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a data set of 12 training and 4 validation images of 48 x 48 pixels."""
    from segdistill.data.shapes import write_shapes

    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=12, val=4, size=48)
    return root


@pytest.fixture(scope="session")
def configure(shapes: Path) -> Configure:
    """Makes a configuration of six quick steps on the tiny data set; fields can be replaced."""
    from segdistill.config import train

    def make(out: Path, **changes: Any) -> train.TrainConfig:
        settings: dict[str, Any] = {
            "data": train.DataConfig(root=str(shapes), workers=0),
            "augment": train.AugmentConfig(scale=(0.7, 1.3)),
            "student": train.StudentConfig(width=0.1),
            "optim": train.OptimConfig(lr=5e-3),
            "runtime": train.RuntimeConfig(precision="fp32"),
            "size": 32,
            "batch": 4,
            "steps": 6,
            "evaluate_every": 3,
            "log_every": 1,
            "device": "cpu",
            "out": str(out),
        }
        return train.TrainConfig(**settings | changes)

    return make


def _run_rank(arguments: list[str], environment: dict[str, Any], output: Path) -> None:
    """One of two processes: forked, for then it has imported everything."""
    from segdistill import cli

    os.environ |= {name: str(value) for name, value in environment.items()}
    with (
        output.with_suffix(".out").open("w") as sys.stdout,
        output.with_suffix(".err").open("w") as sys.stderr,
    ):
        try:
            code = cli.main(arguments)
        except Exception:
            traceback.print_exc()  # into this file, before it is closed
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Runs segdistill in two processes, told of each other as `accelerate launch` does, or by that itself.

    `--device cpu` puts them on the CPU (launch's --cpu is for one). Output and errors are those of both.
    """

    def start(*arguments: object, launcher: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "segdistill.cli", *map(str, arguments)]
        if launcher:
            options = "launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
            accelerate = [str(Path(sys.executable).with_name("accelerate")), *options.split()]
            return subprocess.run(
                [*accelerate, "--dynamo_backend", "no", *command[1:]],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with tempfile.TemporaryDirectory() as folder:
            processes = []
            for rank in range(2):
                environment = {**shared, "RANK": rank, "LOCAL_RANK": rank}
                process = get_context("fork").Process(
                    target=_run_rank, args=(command[3:], environment, Path(folder) / str(rank))
                )
                process.start()
                processes.append(process)
            for process in processes:
                process.join()
            out, error = (
                "".join((Path(folder) / f"{rank}.{kind}").read_text() for rank in range(2))
                for kind in ("out", "err")
            )
        code = max(abs(process.exitcode or 0) for process in processes)
        return subprocess.CompletedProcess(command, code, out, error)

    return start


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """The folder of a finished supervised run."""
    from segdistill import api

    return api.train(configure(tmp_path_factory.mktemp("runs") / "tiny"), report=False)


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory, configure: Configure, run: Path) -> Path:
    """The folder of a finished run with `run` as teacher, and its report."""
    from segdistill import api
    from segdistill.config.train import TeacherConfig

    out = tmp_path_factory.mktemp("runs") / "distilled"
    return api.train(configure(out, teacher=TeacherConfig(spec=str(run)), trackers=["tensorboard"]))


@pytest.fixture
def quick(tmp_path: Path, configure: Any) -> list[object]:
    """The beginning of a training command that would run."""
    from segdistill.config.yaml import to_yaml

    file = tmp_path / "quick.yaml"
    file.write_text(to_yaml(configure(tmp_path / "run", steps=2, evaluate_every=2)))
    return ["train", "--config", file]


@pytest.fixture
def copied(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set to spoil."""
    return shutil.copytree(shapes, tmp_path / "copied")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium with a camera that shows a test picture and an emulated graphics processor."""
    from playwright.sync_api import sync_playwright

    from segdistill.exporting.web.browser import find_browser

    command = find_browser()
    if command is None:
        pytest.skip("there is no chromium (apt-get install chromium)")
    options = (
        "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream --enable-unsafe-webgpu "
        "--use-webgpu-adapter=swiftshader --enable-features=Vulkan"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=options.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Callable[..., Any]:
    """Opens an address; fails where it asked any other host, or where a script failed."""

    @contextmanager
    def opened(url: str, script: str = "", **options: Any) -> Iterator[Any]:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        context.add_init_script(script)
        page = context.new_page()
        asked: list[str] = []
        failures: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        yield page
        assert failures == []
        own = (url.partition("#")[0], "blob:", "data:")
        assert [address for address in asked if not address.startswith(own)] == []
        context.close()

    return opened


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: SEGDISTILL_SCREENSHOTS, else pytest's own folder."""
    folder = Path(os.environ.get("SEGDISTILL_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def no_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No runtime for phones counts as installed; in place of the environments that uv makes is this one."""
    from segdistill.models import isolated, mobile

    monkeypatch.setattr(
        isolated, "command", lambda _, program, *rest: [sys.executable, "-P", str(program), *map(str, rest)]
    )
    monkeypatch.setattr(mobile, "is_installed", lambda module: False)
