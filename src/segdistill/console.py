"""What people see on standard error: messages, progress bars, tables; standard output is for machines."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

console = Console(stderr=True)
"""Where everything meant for people goes; standard output is for machines."""

_times: ContextVar[bool] = ContextVar("times", default=False)
"""Whether each line begins with the time."""

WARNING = "Warning: "
"""How a warning begins."""

LINE_SECONDS = 30.0
"""Seconds between two lines of progress of one task, where there is no terminal."""


class ProgressLines(Progress):
    """Progress for a log: a line for each task that runs longer than `LINE_SECONDS`, and so on."""

    def __init__(self) -> None:
        super().__init__(console=console, disable=True)
        self._last: dict[TaskID, float] = {}

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Begin a task; its first line comes after `LINE_SECONDS`."""
        task = super().add_task(description, *args, **fields)
        self._last[task] = time.monotonic()
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what is done."""
        super().advance(task_id, advance)
        self._write(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Set what is done, and other fields."""
        super().update(task_id, **changes)
        self._write(task_id)

    def _write(self, task_id: TaskID) -> None:
        """Write a line, if the last one is long enough ago."""
        now = time.monotonic()
        if now - self._last[task_id] < LINE_SECONDS:
            return
        self._last[task_id] = now
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = task.time_remaining
        parts = [
            f"{task.description}: {task.completed:,.0f}{total}",
            "" if left is None else f"{timedelta(seconds=round(left))} left",
            str(task.fields.get("numbers", "")),
        ]
        log(", ".join(filter(None, parts)))


def _has_widgets() -> bool:
    """Whether this is a notebook that can show a live bar: rich draws it in a widget of ipywidgets."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


@contextmanager
def progress(visible: bool = True, *, moving: bool = True) -> Iterator[Progress]:
    """A live bar with count, time and the newest `numbers` of a task; lines without terminal or notebook.

    Args:
        visible: show anything at all.
        moving: draw the bar ten times a second, not only where an update says `refresh`.
    """
    if visible and not sys.stderr.isatty() and not _has_widgets():
        yield ProgressLines()
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(
        *columns,
        console=console,
        disable=not visible,
        auto_refresh=moving,
        redirect_stdout=sys.stdout.isatty(),  # what is printed into a file is not for the terminal
    ) as bar:
        yield bar


@contextmanager
def verbosity(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within it, people see less or more than usual; what went wrong they see in any case.

    Args:
        quiet: warnings and errors alone.
        verbose: also the time of each line, what libraries log at level INFO, and where an error was raised.

    Raises:
        ValueError: both are asked for.
    """
    if quiet and verbose:
        raise ValueError("--quiet and --verbose are opposites: choose one")
    root, handler = logging.getLogger(), RichHandler(console=console, show_path=False)
    before = console.quiet, root.level
    console.quiet = quiet
    if verbose:
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    times = _times.set(verbose)
    try:
        yield
    except Exception:
        if verbose:
            console.print_exception(width=None)
        raise
    finally:
        _times.reset(times)
        console.quiet = before[0]
        root.removeHandler(handler)
        root.setLevel(before[1])


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 1,200 images."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def warn(text: str, accelerator: "Accelerator | None" = None) -> None:
    """Print a warning, also where the user wants to see nothing else."""
    quiet, console.quiet = console.quiet, False
    try:
        log(f"{WARNING}{text}", accelerator)
    finally:
        console.quiet = quiet


def log(text: str, accelerator: "Accelerator | None" = None) -> None:
    """Print a line for people, from the main process only where an `accelerator` is given."""
    if accelerator is None or accelerator.is_main_process:
        if _times.get():
            text = f"{datetime.now():%H:%M:%S} {text}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
