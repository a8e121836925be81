"""Variants in processes of their own: what one does to the memory of its process is then its own affair."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, ClassVar

import torch


class OwnProcess:
    """An object in a process of its own.

    Args:
        make: makes it there; a class or function of a module.
        arguments: of `make`.
    """

    held: ClassVar[Any]

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        settings = (torch.get_num_threads(), make, arguments)
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), OwnProcess._start, settings)

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of it returns."""
        return self.pool.submit(OwnProcess._call, method, arguments).result()

    def rest(self) -> None:
        """Give its free memory to the others, until it is called again."""
        self.pool.submit(OwnProcess._trim).result()

    @staticmethod
    def _start(threads: int, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        torch.set_num_threads(threads)
        OwnProcess.held = make(*arguments)

    @staticmethod
    def _call(method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(OwnProcess.held, method)(*arguments)

    @staticmethod
    def _trim() -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
