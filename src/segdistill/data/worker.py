"""Loader processes: their signals, and their failures as errors of one line."""

import errno
import os
import re
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from segdistill.files import usable_cores

Item = TypeVar("Item")

LOADER_ENDED = (
    "a loader process was ended from outside, most often because memory ran out: "
    "try fewer data.workers, or smaller images"
)

NO_MEMORY = re.compile(r"can(?:'t|not) allocate memory|unable to allocate|MemoryError", re.IGNORECASE)
"""How PyTorch, NumPy and the system word it; from a loader process it comes as text alone."""


def with_plain_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """The items of a loader; an error in a loader process reads as if it had happened here.

    Raises:
        FileNotFoundError, ValueError: what reading a sample raised, without that process's traceback.
        ChildProcessError: the system ended a loader process.
    """
    clean: Exception
    try:
        yield from loader
    except (ValueError, OSError, EOFError) as error:
        text = str(error).strip()
        if "Original Traceback" in text:
            clean = type(error)(text.splitlines()[-1].partition(": ")[2])
        elif isinstance(loader, DataLoader) and loader.num_workers and not isinstance(error, ValueError):
            clean = ChildProcessError(LOADER_ENDED)  # before it could hand over what it had announced
        else:
            raise
        _close_loaders(error)
    else:
        return
    raise clean


@contextmanager
def plain_failures() -> Iterator[None]:
    """Within it, a loader process that was ended, and memory that is not there, are errors of one line.

    Raises:
        ChildProcessError: the system ended a loader process, or another process of the training has ended.
        OSError: (ENOMEM) there is not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if re.search("DataLoader worker .*(exited unexpectedly|killed by signal)", text):
            problem: OSError = ChildProcessError(LOADER_ENDED)
        elif re.search("gloo|NCCL", text) and re.search("[Cc]onnection (reset|closed|refused)", text):
            problem = ChildProcessError(
                "another process of this training has ended: resume it, from its last checkpoint"
            )
        elif isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY.search(text):
            problem = OSError(
                errno.ENOMEM, "not enough memory: try a smaller batch or size, fewer data.workers"
            )
        else:
            raise
        _close_loaders(error)
    else:
        return
    raise problem


def _close_loaders(error: BaseException) -> None:
    """Let go of an error's frames: they hold the loader, and would keep its processes until the program ends.

    PyTorch's handler of SIGCHLD raises wherever the program is, here in the loader's own destructor.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        # A function, not SIG_IGN: a signal that is already on its way still looks for one.
        handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        traceback.clear_frames(error.__traceback__)
        signal.signal(signal.SIGCHLD, handler if handler is not None else signal.SIG_DFL)
    else:
        traceback.clear_frames(error.__traceback__)


def loader_processes(wanted: int) -> int:
    """As many as wanted, at most one per core that this process may use: more only wait for each other."""
    return min(wanted, usable_cores())


def ignore_stop_signals(worker: int) -> None:
    """Leave signals to the training process: sent to all, they would end its loaders before it has saved.

    Only that process itself may end a loader with SIGTERM, as it does when it exits.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo") and hasattr(signal, "pthread_sigmask"):  # on Linux alone
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_asks, daemon=True).start()


def _exit_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
