"""Programs in environments of their own, which uv makes: packages there may need other versions than ours."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from segdistill.config.pins import RUNTIME_PACKAGES
from segdistill.models import mobile


def command(packages: tuple[str, ...], program: Path, *arguments: object) -> list[str]:
    """What runs a Python file where these packages are, and nothing of ours.

    Raises:
        ValueError: uv is not installed.
    """
    uv = shutil.which("uv") or os.environ.get("UV")
    if uv is None:
        raise ValueError(
            f"{packages[0]} is run in an environment of its own, which uv makes: install uv (pip install uv)"
        )
    options = ["run", "--isolated", "--no-project", "--quiet", "--python", sys.executable]
    needed = [part for package in packages for part in ("--with", package)]
    # -P: the folder of the file is not searched for modules.
    return [uv, *options, *needed, "python", "-P", str(program), *map(str, arguments)]


def run_isolated(packages: tuple[str, ...], program: Path, *arguments: object) -> None:
    """Run a Python file there to its end.

    Raises:
        ValueError: uv is not installed, or the program fails; the last line of what it printed is in it.
    """
    done = subprocess.run(
        command(packages, program, *arguments), capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, env=_environment(),
    )  # fmt: skip
    if done.returncode:
        raise ValueError(_last_line(done.stderr) or f"{program.name} ended with code {done.returncode}")


class IsolatedRun:
    """A file of `mobile.OPENERS` in the process of an environment that has its runtime.

    Args:
        form: name of the format.
        path: the file.
        threads: of the runtime.
        precision: what it computes in.

    Raises:
        ValueError: uv is not installed.
    """

    def __init__(self, form: str, path: Path, threads: int, precision: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.packages = RUNTIME_PACKAGES[form]
        program = command(self.packages, Path(mobile.__file__), form, path, threads, precision)
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=_environment()
        )

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """One pass.

        Raises:
            ValueError: the process ended; the last line of what it printed is in it.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            mobile.send(self.process.stdin, values)
            answer = mobile.receive(self.process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.process.wait()
            self.errors.seek(0)
            raise ValueError(_last_line(self.errors.read()) or "its runtime ended without a word")
        return answer

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()
        self.process.wait()


def _environment() -> dict[str, str]:
    """This process's variables, without those that would make uv use our own environment."""
    return {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
