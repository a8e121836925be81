"""Failures of loader processes, as the training process sees them."""

import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import pytest

from segdistill.data.worker import plain_failures, with_plain_errors

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGCHLD"),
]


@pytest.fixture
def raising_handler() -> Iterator[Callable[[int, FrameType | None], NoReturn]]:
    """PyTorch's handler of SIGCHLD, in short: it raises wherever the program happens to be."""

    def handler(*_: Any) -> NoReturn:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, handler)
    yield handler
    signal.signal(signal.SIGCHLD, before)


class LoaderThatDies:
    """Fails at the first batch; when it is closed, the system reports that its process has ended."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> "LoaderThatDies":
        return self

    def __next__(self) -> NoReturn:
        held = LoaderThatDies(self.error)  # a local, as PyTorch's iterator is one of its own frames
        held.is_local = True  # type: ignore[attr-defined]
        raise self.error

    def __del__(self) -> None:
        if hasattr(self, "is_local"):
            signal.raise_signal(signal.SIGCHLD)


def test_closing_a_loader_that_died_says_nothing(
    raising_handler: Callable[[int, FrameType | None], NoReturn],
) -> None:
    error = ValueError("Caught ValueError in process 0.\nOriginal Traceback: ...\nValueError: no mask")
    with pytest.raises(ValueError, match=r"^no mask$"):
        next(with_plain_errors(LoaderThatDies(error)))
    assert signal.getsignal(signal.SIGCHLD) is raising_handler


def test_closing_after_the_handler_raised_says_nothing(
    raising_handler: Callable[[int, FrameType | None], NoReturn],
) -> None:
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(ChildProcessError, match="ended from outside"), plain_failures():
        next(with_plain_errors(LoaderThatDies(error)))
    assert signal.getsignal(signal.SIGCHLD) is raising_handler
