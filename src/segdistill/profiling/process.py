"""Work in a process of its own: what is done to that process's memory, or ends it, is its own affair."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, ClassVar, Self


def one_process() -> ProcessPoolExecutor:
    """A fresh process that runs one function after the other; it ends with this one, even on a kill."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class WorkerProcess:
    """An object in a process of its own; leaving the `with` block ends the process.

    Args:
        make: makes it there; a class or function of a module.
        arguments: of `make`.

    Raises:
        Exception: what `make` raises, at the first call.
    """

    held: ClassVar[Any]

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self.pool = one_process()
        self.making = self.pool.submit(WorkerProcess._make, make, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of it returns."""
        self.making.result()
        return self.pool.submit(WorkerProcess._call, method, arguments).result()

    @staticmethod
    def _make(make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        WorkerProcess.held = make(*arguments)

    @staticmethod
    def _call(method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(WorkerProcess.held, method)(*arguments)
