"""Variants in processes of their own: what one does to the memory of its process is then its own affair."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from segdistill.profiling.process import WorkerProcess


class OwnProcess(WorkerProcess):
    """A `WorkerProcess` with as many threads as this process, whose free memory can be taken back.

    Args:
        make: makes the object there; a class or function of a module.
        arguments: of `make`.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(_make_with_threads, torch.get_num_threads(), make, arguments)

    def release_memory(self) -> None:
        """Give its free memory to the others, until it is called again."""
        self.pool.submit(_trim).result()


def _make_with_threads(threads: int, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(threads)
    return make(*arguments)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
