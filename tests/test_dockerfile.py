"""The Dockerfile copies what a build needs, starts a command that exists, and is described as it is.

`.ci/container` runs its steps, for they install; the linter hadolint is part of `make check`.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from markdown_pages import PROJECT, blocks_of
from shell_lines import mistake

from segdistill.config.deploy import ServeConfig

pytestmark = pytest.mark.unit
DOCKERFILE = PROJECT / "Dockerfile"


@pytest.fixture(scope="module")
def container() -> ModuleType:
    """The script that runs the steps, as a module."""
    loader = SourceFileLoader("container", str(PROJECT / ".ci" / "container"))
    spec = spec_from_loader("container", loader)
    assert spec is not None
    loader.exec_module(module := module_from_spec(spec))
    return module


@pytest.fixture(scope="module")
def steps(container: ModuleType) -> list[tuple[str, str]]:
    return container.instructions(DOCKERFILE.read_text())


def test_lines_are_joined_and_comments_left_out(container: ModuleType) -> None:
    text = "# syntax\nFROM python\nRUN a && \\\n    b\n\nUSER 1\n"
    assert container.instructions(text) == [("FROM", "python"), ("RUN", "a &&      b"), ("USER", "1")]


def test_paths_lie_in_the_folder(container: ModuleType, tmp_path: Path) -> None:
    moved = container.Image(tmp_path).put("uv pip --python /opt/segdistill/bin/python ./src/opt")
    assert moved == f"uv pip --python {tmp_path}/opt/segdistill/bin/python ./src/opt"


def test_an_unknown_instruction_is_an_error(container: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="HEALTHCHECK"):
        container.Image(tmp_path).do("HEALTHCHECK", "CMD true")


@pytest.mark.parametrize(("script", "code"), [("input()", -9), ("raise SystemExit(3)", 3)])
def test_a_server_that_never_listens_is_an_error(
    container: ModuleType, monkeypatch: pytest.MonkeyPatch, script: str, code: int
) -> None:
    """It waits for input that does not come until it is killed, or ends by itself."""
    monkeypatch.setattr(container, "START_S", 1.0 if code == -9 else 60)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        with pytest.raises(SystemExit, match=f"did not listen within .* s: it ended with {code}"):
            container.server_url(server)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\ninput()",
            "did not end within 0.5 s",
        ),
        ("print(flush=True)\ninput()", "ended with -15 after SIGTERM"),
    ],
)
def test_a_server_that_does_not_stop_is_an_error(
    container: ModuleType, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(container, "STOP_S", 0.5 if "0.5" in message else 60)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(SystemExit, match=message):
            container.stop(server)


def test_everything_that_the_build_reads_is_copied(steps: list[tuple[str, str]]) -> None:
    copied = {source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    built = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert needed <= copied
    assert all(Path(package).parts[0] in copied for package in built)
    assert all((PROJECT / name).exists() for name in needed)


def test_what_it_starts_is_a_command_on_the_port_that_it_names(steps: list[tuple[str, str]]) -> None:
    found = dict(steps)
    assert mistake(json.loads(found["ENTRYPOINT"])) is None
    assert int(found["EXPOSE"]) == ServeConfig().port
    assert int(found["USER"]) > 0


def test_its_extras_exist(steps: list[tuple[str, str]]) -> None:
    extras = re.search(r"\.\[([\w,]+)\]", " ".join(rest for _, rest in steps))
    assert extras is not None
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


def test_the_docs_have_its_commands() -> None:
    shown = [
        line for block in blocks_of(PROJECT / "docs" / "serve.md") for line in block.code.splitlines()
        if line.startswith("docker ")
    ]  # fmt: skip
    comment = [line.removeprefix("#").strip() for line in DOCKERFILE.read_text().splitlines()[:4]]
    assert shown == [line for line in comment if line.startswith("docker ")]
