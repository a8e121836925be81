"""What people see on standard error: messages, progress bars, tables; standard output is for machines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
"""Where everything meant for people goes; standard output is for machines."""


def progress_columns() -> list[Any]:
    """Bar, count, elapsed and remaining time, and the newest numbers."""
    return [
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    ]


@contextmanager
def progress(visible: bool = True) -> Iterator[Progress]:
    """A progress display on standard error; where that is no terminal it stays silent."""
    with Progress(
        *progress_columns(), console=console, disable=not visible or not sys.stderr.isatty()
    ) as bar:
        yield bar


def log(text: str, accelerator: Accelerator | None = None) -> None:
    """A line for people, from the main process only."""
    if accelerator is None or accelerator.is_main_process:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
