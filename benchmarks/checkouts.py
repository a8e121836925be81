"""One script in two checkouts of the repository, each in a process of its own: before and after a change."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parents[1]
"""The checkout that this file is in."""


class Checkout:
    """A process that runs a script with the package of one checkout, and answers its requests.

    Args:
        root: the checkout; its `src` holds the package.
        script: is started with `--answer`, and must then call `answer_requests`.
        environment: variables that are set beside the present ones.
    """

    def __init__(self, root: Path, script: str, environment: dict[str, str] | None = None) -> None:
        source = (root / "src").resolve()
        if not (source / "segdistill").is_dir():
            raise SystemExit(f"{root} is no checkout: it has no src/segdistill")
        self.process = subprocess.Popen(
            [sys.executable, script, "--answer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(source)} | (environment or {}),
        )

    def ask(self, **request: Any) -> Any:
        """What the script answers to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def answer_requests(answer: Callable[..., Any]) -> None:
    """Answer each request, a line of standard input, on standard output; prints go to standard error."""
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)
